"""From a platform's name to the platform. Tegra is asked before NVML, which answers there with nothing."""

from __future__ import annotations

from pathlib import Path

from cardlab.core.errors import UsageError
from cardlab.profilers.board.tegra import find_tegra
from cardlab.profilers.devices.device import Platform

NAMES = ("auto", "nvidia", "jetson", "cpu", "simulated:NAME")


def open_platform(
    name: str = "auto", *, index: int = 0, sysfs_root: str | Path = "/", label: str | None = None
) -> Platform:
    """Open the platform of that name.

    Args:
        name: "auto", "nvidia" (or "nvidia:INDEX"), "jetson", "cpu", "simulated:NAME" or "simulated:NAME:LABEL".
        index: which device, on platforms with several.
        sysfs_root: root of /sys, /proc and /etc for platforms that read them.
        label: name given to the device; a host's own name by default.

    Raises:
        UsageError: no such platform; the message lists those there are.
    """
    kind, _, rest = name.partition(":")
    if kind == "simulated":
        from cardlab.profilers.devices.simulated.device import SimulatedPlatform

        model, _, own_label = rest.partition(":")
        return SimulatedPlatform(model, label or own_label or None)
    if kind == "jetson" or (kind == "auto" and find_tegra(Path(sysfs_root)) is not None):
        from cardlab.profilers.devices.jetson.device import JetsonPlatform

        return JetsonPlatform(sysfs_root=sysfs_root, label=label)
    if kind == "nvidia" or (kind == "auto" and _usable_gpu(index)):
        from cardlab.profilers.devices.nvidia.device import NvidiaPlatform

        if rest and not rest.isdigit():
            raise UsageError(f"{rest!r} is not the number of a GPU", remedy="list them with: nvidia-smi -L")
        return NvidiaPlatform(int(rest) if rest else index, label, sysfs_root=sysfs_root)
    if kind in ("auto", "cpu"):
        from cardlab.profilers.devices.cpu.device import CpuPlatform

        return CpuPlatform(sysfs_root=sysfs_root, label=label)
    raise UsageError(f"there is no platform {name!r}", remedy=f"choose one of: {', '.join(NAMES)}")


def _usable_gpu(index: int) -> bool:
    """Whether NVML has the card and torch can compute on it; anything less is a case for the CPU."""
    from cardlab.profilers.devices.nvidia.nvml import gpu_count

    if gpu_count() <= index:
        return False
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())

"""The host's CPU: cpufreq and RAPL."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.profilers.devices.device import HardwareDevice
    from cardlab.profilers.devices.registry import Place

FORM = "cpu"


def found(place: Place) -> bool:
    """Every machine has one."""
    return True


def open_hardware(place: Place) -> HardwareDevice:
    """The processor this process runs on."""
    from cardlab.profilers.devices.cpu.device import CpuDevice

    place.refuse_rest(FORM)
    return CpuDevice(sysfs_root=place.root, label=place.label)

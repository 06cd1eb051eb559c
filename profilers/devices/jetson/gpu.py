"""What is read from the GPU's node in the middle of a measurement: that it went away is an error of the device."""

from __future__ import annotations

from cardlab.core.errors import DeviceLostError
from cardlab.profilers.board.gpu import Gpu


def limits_hz(gpu: Gpu) -> tuple[int, int]:
    """Lowest and highest frequency that are allowed now. Raises DeviceLostError if the node went away."""
    limits = gpu.limits_hz()
    if limits is None:
        raise DeviceLostError(
            f"the GPU's frequency node {gpu.folder.name} went away", remedy="look for nvgpu in dmesg, then reboot"
        )
    return limits


def frequency_hz(gpu: Gpu) -> float | None:
    """The frequency that runs now; None where the GPU is switched off. Raises DeviceLostError."""
    hz = gpu.frequency_hz()
    if hz is None:
        # The node may be gone: this raises the error that says so.
        limits_hz(gpu)
    return hz

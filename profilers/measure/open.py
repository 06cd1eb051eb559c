"""A device by its name, with measuring attached: what `cardlab.open_device` gives."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from cardlab.core.errors import UsageError
from cardlab.core.records.device import Device
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.devices.device import HardwareDevice, Probe
from cardlab.profilers.devices.registry import open_platform
from cardlab.profilers.measure.reading import Reading
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.window import measure


class MeasuringDevice:
    """A device that measures what you give it; a context manager, or closed with `close`.

    Attributes:
        hardware: the device below, which reads and sets only.
    """

    def __init__(self, hardware: HardwareDevice) -> None:
        self.hardware = hardware

    @property
    def identity(self) -> Device:
        """Name, key, platform, cores, frequencies, memory; frozen."""
        return self.hardware.identity

    def frequencies(self) -> tuple[float, ...]:
        """Compute frequencies that can be requested, in Hz, ascending; empty without frequency control."""
        return self.hardware.frequencies()

    def capabilities(self) -> tuple[Probe, ...]:
        """What this device can and cannot do for a profile, with remedies."""
        return self.hardware.capabilities()

    def locked(self, frequency_hz: float | None, memory_hz: float | None = None) -> AbstractContextManager[None]:
        """Hold the compute frequency (and the memory's, where given) for a `with` block, however that ends.

        Raises NotSupportedError without frequency control, or for a frequency that the device does not offer.
        """
        return self.hardware.locked(frequency_hz, memory_hz)

    def measure(self, work: Work | Callable[[], object], seconds: float | None = None) -> Reading:
        """Run work again and again for a window, and say what one iteration took.

        Args:
            work: a callable, or a Work with laps. What a callable queued on a CUDA device through torch is waited for
                after each iteration; a Work says itself how it is waited for.
            seconds: length of the window; None takes what the power meter needs, one iteration without a meter.

        Returns:
            Reading: iterations, seconds_per_iteration, power_w and energy_per_iteration_j (Estimates; None without a
            meter), frequency_hz, throttled, temperature_c, sources.
        """
        if not (isinstance(work, Work) or callable(work)):
            raise UsageError(f"{work!r} cannot be run", remedy="give a callable, or a Work with laps")
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise UsageError(f"a window of {seconds} s", remedy="give a positive number of seconds, or None")
        return measure(self.hardware, work if isinstance(work, Work) else self._waited_for(work), seconds)

    def close(self) -> None:
        """Release handles; the device is not used afterwards."""
        self.hardware.close()

    def __enter__(self) -> MeasuringDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _waited_for(self, run: Callable[[], object]) -> Work:
        laps = (Lap(phase="run", run=run),)
        if not (self.hardware.torch_device or "").startswith("cuda"):
            return Work(segment="load", laps=laps)
        places: list[str | None] = []

        def synchronize() -> None:
            # Only if the callable has used torch by now: importing it here would take seconds and memory for nothing.
            torch = sys.modules.get("torch")
            if torch is None or not torch.cuda.is_initialized():
                return
            if not places:
                places.append(open_runtime(self.hardware).torch_device)
            torch.cuda.synchronize(places[0])

        return Work(segment="load", laps=laps, synchronize=synchronize)


def open_device(name: str = "auto", *, sysfs_root: str | Path = "/", label: str | None = None) -> MeasuringDevice:
    """Open the device of that name, ready to measure.

    Args:
        name: "nvidia:0", "nvidia:GPU-UUID", "jetson", "cpu", "simulated:rtx-4060-ti" ..., or "auto".
        sysfs_root: root of /sys, /proc and /etc, for "jetson" and "cpu".
        label: name given to the device; its own by default.

    Raises UsageError for a name that is none, DeviceError where the device is not here; each with its remedy.
    """
    return MeasuringDevice(open_platform(name, sysfs_root=sysfs_root, label=label))

"""What a device promises: who it is, what it can do, and how its frequency is held.

A device only reads and sets. How work is measured on it (settle, window, verify) is the same for all and stands in
measure/window.py, so that a simulated or fake device is no special case anywhere.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from cardlab.core.errors import NotSupportedError, UsageError
from cardlab.core.quantity import Provenance
from cardlab.core.records.device import Device
from cardlab.profilers.board.host import host_boot
from cardlab.profilers.board.timer import LapTimer, Timer
from cardlab.profilers.devices.guard import FrequencyGuard
from cardlab.profilers.devices.power import PowerMeter


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One capability as found: its name, its state in words, and what would mend a lack.

    `ok` is None where the capability does not apply to this platform.
    """

    name: str
    ok: bool | None
    state: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the device says of itself at one moment; None is not readable here."""

    frequency_hz: float | None = None
    memory_hz: float | None = None
    cpu_hz: float | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    power_mode: str | None = None
    cores_active: int | None = None
    reasons: tuple[str, ...] = ()


class HardwareDevice(ABC):
    """One device that can run and measure work.

    Attributes:
        name: what `open_platform` is given to find it again.
        identity: frozen description of the device.
        timer: the only source of time for everything measured here.
        lap_timer: times single laps of work that nothing else times.
        meter: power rails, None without one.
        guard: locks frequencies and restores them, None without frequency control.
        provenance: of every number measured here.
        torch_remedy: what to do where torch does not find the device, None for the usual words.
        torch_device: where torch runs the work ("cpu", "cuda:0"), None if nothing is really run.
        torch_key: holds the UUID by which torch knows the card, where `torch_device` has the vendor's number of it.
        window_min_s: shortest window of a power reading.
        identity_problem: why the key may not be this hardware's alone, with the remedy; None where it is.
    """

    name: str
    identity: Device
    timer: Timer
    lap_timer: LapTimer
    meter: PowerMeter | None = None
    guard: FrequencyGuard | None = None
    provenance: Provenance
    torch_device: str | None = None
    torch_remedy: str | None = None
    torch_key: str | None = None
    window_min_s: float = 2.0
    identity_problem: str | None = None

    @abstractmethod
    def frequencies(self) -> tuple[float, ...]:
        """Compute frequencies that can be requested, in Hz, ascending; empty without frequency control."""

    @abstractmethod
    def capabilities(self) -> tuple[Probe, ...]:
        """What this device can and cannot do for a profile, with remedies."""

    @abstractmethod
    def state(self) -> State:
        """Frequencies, temperature and throttling as they read now."""

    def memory_frequencies(self) -> tuple[float, ...]:
        """Memory frequencies that can be requested, in Hz, ascending; empty where they cannot be set."""
        return ()

    def frequencies_at(self, memory_hz: float) -> tuple[float, ...]:
        """Compute frequencies that can be requested with the memory held at `memory_hz`."""
        return self.frequencies()

    def memory_available_bytes(self) -> int | None:
        """Memory that is really free for a model now; None if unknown."""
        return self.identity.memory_bytes

    def boot(self) -> str | None:
        """Which start of which host the device is seen on (a digest); None where nothing is real, or nothing says."""
        return host_boot()

    def versions(self) -> dict[str, str]:
        """Versions of driver and firmware by name; none by default."""
        return {}

    def close(self) -> None:  # noqa: B027 - most platforms hold nothing
        """Release handles; the device is not used afterwards."""

    @contextlib.contextmanager
    def locked(self, frequency_hz: float | None, memory_hz: float | None = None) -> Iterator[None]:
        """Hold the frequency at `frequency_hz` while the block runs; None leaves it as it is.

        Raises NotSupportedError without frequency control, or when the device does not offer the frequency.
        """
        if frequency_hz is None:
            if memory_hz is not None:
                raise NotSupportedError(
                    "a memory frequency is held together with a compute frequency", remedy="name one of those too"
                )
            yield
            return
        if not (math.isfinite(frequency_hz) and frequency_hz > 0):
            raise UsageError(f"{frequency_hz:g} Hz is no frequency", remedy="give a positive number of Hz")
        offered = self.frequencies() if memory_hz is None else self.frequencies_at(memory_hz)
        if self.guard is None or not offered:
            raise NotSupportedError(
                f"{self.identity.name} has no frequency control", remedy="measure with --frequencies max"
            )
        # People write whole MHz where tables hold 624750000.
        nearest = min(offered, key=lambda f: abs(f - frequency_hz))
        if abs(nearest - frequency_hz) > 0.5e6:
            raise NotSupportedError(
                f"{self.identity.name} does not offer {frequency_hz / 1e6:.0f} MHz",
                remedy=f"the nearest frequency is {nearest / 1e6:.0f} MHz",
            )
        with self.guard.locked(nearest, memory_hz):
            yield

    def lock_problems(self) -> tuple[str, ...]:
        """What is wrong with a frequency that is held now, in words; looked at when a point begins and ends."""
        return ()

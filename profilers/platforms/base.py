"""What a platform promises: who it is, which clocks it offers, and how work is measured on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from cardlab.profilers.clock import Clock
from cardlab.profilers.stopwatch import Stopwatch
from cardlab.quantity import Provenance
from cardlab.records.device import Device
from cardlab.records.measurement import OperatingPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One capability as found: its name, its state in words, and what would mend a lack.

    `ok` is None where the capability does not apply to this platform.
    """

    name: str
    ok: bool | None
    state: str
    remedy: str | None = None


class Platform(ABC):
    """One device that can run and measure work.

    Attributes:
        identity: frozen description of the device.
        clock: the only source of time for everything measured here.
        stopwatch: times single laps of work.
        provenance: of every number measured here.
        torch_device: where torch runs the work ("cpu", "cuda:0"), None if nothing is really run.
    """

    identity: Device
    clock: Clock
    stopwatch: Stopwatch
    provenance: Provenance
    torch_device: str | None

    @abstractmethod
    def frequencies(self) -> tuple[float, ...]:
        """Compute clocks that can be requested, in Hz, ascending; empty without clock control."""

    @abstractmethod
    def capabilities(self) -> tuple[Probe, ...]:
        """What this device can and cannot do for a profile, with remedies."""

    @abstractmethod
    def operating_point(self) -> OperatingPoint:
        """The state as it reads now; call it under load."""

    def close(self) -> None:
        """Release handles; the platform is not used afterwards."""

"""What users publish of a device: its constants, and the frequency at which a piece of work costs least energy."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.quantity import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """FLOP per core per cycle at one operating point, of one segment and phase."""

    segment: str | None
    phase: str | None
    dtype: str | None
    frequency_hz: float
    memory_hz: float | None
    delta: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaCurve:
    """delta(f) = flop / (cores (stall f + cycles)), from an affine latency.

    Attributes:
        limit: delta at a vanishing frequency, where only cycles count.
        stall_s, cycles: of the latency.
    """

    flop: float
    cores: int
    stall_s: float
    cycles: float

    @property
    def limit(self) -> float:
        """FLOP per core per cycle if no time were lost to anything but cycles."""
        return self.flop / (self.cores * self.cycles)

    def at(self, frequency_hz: float) -> float:
        """FLOP per core per cycle at a frequency."""
        return self.flop / (self.cores * (self.stall_s * frequency_hz + self.cycles))


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A published constant of one power curve.

    Attributes:
        name, unit: of the number.
        about: rail and task or load it holds for.
        low_hz, high_hz: frequencies it was fitted over.
        error: mean relative error of its law there, fraction.
    """

    name: str
    about: str
    value: Estimate
    unit: str
    low_hz: float
    high_hz: float
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Published constants of one device, task, rail and power mode; None was not measured.

    Attributes:
        kappa_w_per_hz3, static_power_w: of static_cubic; `error` is its held-out (else in-sample)
            mean relative error over [frequency_min_hz, frequency_max_hz].
        kappa_paper_w_per_hz3: of the pure cubic; `paper_error` likewise. None, as the others, where the sweep could
            not contradict the law (a single frequency).
        cores: arithmetic cores.
        delta: per operating point, segment and phase.
    """

    device: str
    device_name: str
    task: str | None
    workload: str | None
    execution: str | None
    rail: str | None
    power_mode: str | None
    memory_hz: float | None
    kappa_w_per_hz3: Estimate | None
    static_power_w: Estimate | None
    error: float | None
    kappa_paper_w_per_hz3: Estimate | None
    paper_error: float | None
    cores: int | None
    frequency_min_hz: float
    frequency_max_hz: float
    delta: tuple[Delta, ...] = ()

    def rows(self) -> tuple[Constant, ...]:
        """Each constant as a row of its own; of delta those at the highest frequency measured."""
        about = ", ".join(word for word in (self.workload or "one training step", self.rail, self.power_mode) if word)
        named = (
            ("kappa", self.kappa_w_per_hz3, "W/Hz^3", self.error),
            ("static power", self.static_power_w, "W", self.error),
            ("kappa of the paper's pure cubic", self.kappa_paper_w_per_hz3, "W/Hz^3", self.paper_error),
        )
        found = [
            Constant(
                name=name,
                about=about,
                value=value,
                unit=unit,
                low_hz=self.frequency_min_hz,
                high_hz=self.frequency_max_hz,
                error=error,
            )
            for name, value, unit, error in named
            if value is not None
        ]
        # delta falls with the frequency; the value at the top is the one that compares with a datasheet.
        top = max((d.frequency_hz for d in self.delta), default=0.0)
        newest = {(d.segment, d.phase): d for d in self.delta if d.frequency_hz == top}
        found += [
            Constant(
                name=f"delta of {' '.join(w for w in (d.segment, d.phase, d.dtype) if w)}",
                about=about,
                value=d.delta,
                unit="FLOP per core and cycle",
                low_hz=d.frequency_hz,
                high_hz=d.frequency_hz,
                error=None,
            )
            for d in newest.values()
        ]
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyOptimum:
    """The best frequency and what it costs.

    Attributes:
        frequency_hz: the frequency of least energy.
        frequency_ci95_hz: 95 % range of the best frequency over the parameter draws.
        energy_j: energy of the work at that frequency.
        saving: fraction saved against the highest frequency allowed.
        curve: energy of the work over the frequencies, (Hz, J), to draw.
    """

    frequency_hz: float
    frequency_ci95_hz: tuple[float, float]
    energy_j: Estimate
    saving: float
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The energy-optimal frequency of one device for one step of a task, or one run of a load.

    Attributes:
        device, task, workload, rail, power_mode, memory_hz: whose it is, as in the fit of its power; energy
            is what flows over that rail.
        law: of the power.
    """

    device: str
    device_name: str
    task: str | None
    workload: str | None
    rail: str | None
    power_mode: str | None
    memory_hz: float | None
    work: str
    law: str
    optimum: EnergyOptimum

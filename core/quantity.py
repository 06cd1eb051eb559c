"""Numbers with where they came from: Estimate = value, uncertainty and Provenance.

Provenance is *origins x how*. Origins only accumulate: a plan made of one simulated power curve
and nine measured latencies carries both origins, and every report shows them. `how` says whether
the number was read directly, derived from others by arithmetic, fitted, or transferred to a point
where nothing was measured.

SI inside, with the unit in the name of the variable: `_s _w _j _hz _bytes _flop _bps`. A value that
was not measured is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class Origin(str, Enum):
    """Where a number was born."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    IMPORTED = "imported"
    DATASHEET = "datasheet"
    ASSUMED = "assumed"


class How(str, Enum):
    """How a number was obtained from its origins."""

    DIRECT = "direct"
    DERIVED = "derived"
    FITTED = "fitted"
    TRANSFERRED = "transferred"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origins (a set that only grows) and how the number was obtained from them."""

    origins: frozenset[Origin]
    how: How = How.DIRECT

    def __post_init__(self) -> None:
        # A number from nowhere could pass for a measured one.
        if not self.origins:
            raise ValueError("a provenance needs at least one origin")

    @classmethod
    def of(cls, *origins: Origin | str, how: How | str = How.DIRECT) -> Provenance:
        """Provenance of the named origins, e.g. `Provenance.of("measured", how="fitted")`."""
        return cls(frozenset(Origin(origin) for origin in origins), How(how))

    def joined(self, others: Iterable[Provenance], how: How = How.DERIVED) -> Provenance:
        """Provenance of a number computed from this one and the others."""
        origins = self.origins.union(*(other.origins for other in others))
        return Provenance(origins, how)

    def as_plain(self) -> dict[str, object]:
        """JSON form: origins sorted by name, and how."""
        return {"origins": sorted(o.value for o in self.origins), "how": self.how.value}

    @classmethod
    def from_plain(cls, plain: dict[str, object]) -> Provenance:
        """Inverse of as_plain."""
        origins = plain["origins"]
        if not isinstance(origins, list):
            raise ValueError("provenance origins must be a list")
        return cls.of(*origins, how=str(plain["how"]))

    def __str__(self) -> str:
        return f"{'+'.join(sorted(o.value for o in self.origins))}, {self.how.value}"


MEASURED = Provenance.of(Origin.MEASURED)


def union_of(provenances: Iterable[Provenance], how: How = How.DERIVED) -> Provenance:
    """Provenance of a number computed from all of these; at least one is needed."""
    first, *rest = list(provenances)
    return first.joined(rest, how)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its uncertainty and provenance; `float(estimate)` gives the value.

    Attributes:
        value: in the unit that the name of the variable holding the estimate states.
        stderr: standard error in the same unit, None if unknown.
        ci95: lower and upper end of a 95 % interval, None if unknown.
        n: samples behind it, None if that has no meaning.
        provenance: origins and how.
    """

    value: float
    stderr: float | None = None
    ci95: tuple[float, float] | None = None
    n: int | None = None
    provenance: Provenance = field(default=MEASURED)

    def __float__(self) -> float:
        return float(self.value)

    def scaled(self, factor: float) -> Estimate:
        """This estimate times an exact number (a change of unit or a count)."""
        ci95 = self.ci95
        if ci95 is not None:
            # A negative factor swaps the ends.
            low, high = sorted((ci95[0] * factor, ci95[1] * factor))
            ci95 = (low, high)
        stderr = None if self.stderr is None else self.stderr * abs(factor)
        return Estimate(self.value * factor, stderr, ci95, self.n, self.provenance)


def sum_of(estimates: Iterable[Estimate]) -> Estimate:
    """Sum of independent estimates, how = derived; the standard error is unknown if that of one of them is.

    At least one is needed.
    """
    parts = list(estimates)
    known = [e.stderr for e in parts if e.stderr is not None]
    stderr = sum(e * e for e in known) ** 0.5 if len(known) == len(parts) else None
    value = sum(e.value for e in parts)
    # Sums of many parts are close to normal whatever the parts are.
    ci95 = None if stderr is None else (value - 1.96 * stderr, value + 1.96 * stderr)
    return Estimate(value, stderr, ci95, None, union_of(e.provenance for e in parts))


def product(a: Estimate, b: Estimate) -> Estimate:
    """Product of two independent estimates, first-order error propagation, how = derived."""
    stderr = None
    if a.stderr is not None and b.stderr is not None:
        stderr = math.hypot(a.stderr * b.value, b.stderr * a.value)
    value = a.value * b.value
    ci95 = None if stderr is None else (value - 1.96 * stderr, value + 1.96 * stderr)
    return Estimate(value, stderr, ci95, None, a.provenance.joined([b.provenance]))

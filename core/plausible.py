"""Numbers that no device of this kind has: most often a right number in another unit.

The bounds are wide, so that nothing real is refused: from a microcontroller's clock to twice the fastest one sold,
from a sleeping board to a rack's worth of one accelerator. A number outside is refused with the unit it was read in.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.errors import BadDataError
from cardlab.core.text import si


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a quantity can be.

    Attributes:
        least, most: in `unit`.
        what: the quantity in words.
    """

    what: str
    unit: str
    least: float
    most: float

    def holds(self, value: float) -> bool:
        """Whether a value lies between them, both included; NaN does not."""
        return self.least <= value <= self.most

    def check(self, value: float, *, where: str, given: str, remedy: str) -> None:
        """Raise BadDataError where the value is out of bounds.

        Args:
            where: place in the input, e.g. "row 7".
            given: name and value as the person wrote them.
            remedy: what to change.
        """
        if not self.holds(value):
            raise BadDataError(
                f"{where}: {given} means {si(value, self.unit)}, which is no {self.what} of a device"
                f" ({si(self.least, self.unit)} to {si(self.most, self.unit)})",
                remedy=remedy,
            )


FREQUENCY = Bounds(what="frequency", unit="Hz", least=1e6, most=2e10)
POWER = Bounds(what="power", unit="W", least=1e-3, most=3e3)
LATENCY = Bounds(what="time", unit="s", least=1e-9, most=1e4)
RATE = Bounds(what="rate", unit="bit/s", least=1e2, most=1e13)

"""Numbers that no device of this kind has: most often a right number in another unit.

The bounds are wide, so that nothing real is refused: from a tenth of the slowest clock of a board that trains anything
to twice the fastest one sold, from a sleeping board to a rack's worth of one accelerator. A number outside is refused
with the unit it was read in. (1.200 MHz, whose point groups thousands, is below the least.)
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
        others: units in which people have it at hand, with what one of them is in `unit`, the likeliest first.
    """

    what: str
    unit: str
    least: float
    most: float
    others: tuple[tuple[str, float], ...] = ()

    def holds(self, value: float) -> bool:
        """Whether a value lies between them, both included; NaN does not."""
        return self.least <= value <= self.most

    def problem(self, value: float) -> str | None:
        """What is wrong with a value, in words; None for one that a device may have."""
        if self.holds(value):
            return None
        span = f"{si(self.least, self.unit)} to {si(self.most, self.unit)}"
        return f"is {si(value, self.unit)}, which is no {self.what} of a device ({span})"

    def remedy(self, value: float, name: str) -> str:
        """How to write a value that is out of bounds, from the unit that it was most likely meant in."""
        for unit, size in self.others:
            if self.holds(value * size):
                return f"write {name} in {self.unit}: {value:g} {unit} is {value * size:g}"
        return f"write {name} in {self.unit}"

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


_HERTZ = (("MHz", 1e6), ("GHz", 1e9), ("kHz", 1e3))
FREQUENCY = Bounds(what="frequency", unit="Hz", least=1e7, most=2e10, others=_HERTZ)
BANDWIDTH = Bounds(what="bandwidth", unit="Hz", least=1e3, most=1e11, others=_HERTZ)
POWER = Bounds(what="power", unit="W", least=1e-3, most=3e3, others=(("mW", 1e-3), ("uW", 1e-6)))
# Of a server with eight accelerators.
SERVER_POWER = Bounds(what="power", unit="W", least=1e-3, most=2e4, others=(("mW", 1e-3), ("uW", 1e-6)))
LATENCY = Bounds(what="time", unit="s", least=1e-9, most=1e4)
RATE = Bounds(what="rate", unit="bit/s", least=1e2, most=1e13)
# Over three geostationary hops.
ROUND_TRIP = Bounds(what="round trip", unit="s", least=0.0, most=10.0, others=(("ms", 1e-3), ("us", 1e-6)))
# Of a battery for all rounds of a job: from a coin cell's last joule to a container of cells.
BATTERY = Bounds(what="energy", unit="J", least=1e-3, most=1e11, others=(("Wh", 3.6e3), ("kJ", 1e3), ("mJ", 1e-3)))
# Between a device and its server: from a bad radio to the fastest Ethernet.
LINK_RATE = Bounds(
    what="rate", unit="bit/s", least=1e4, most=9e11, others=(("Mbit/s", 1e6), ("Gbit/s", 1e9), ("kbit/s", 1e3))
)
# From the smallest board that runs Linux to the largest server's.
MEMORY = Bounds(
    what="memory", unit="B", least=2.0**24, most=4e12, others=(("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
)

"""INA3221 monitors as the first source of a Jetson's power."""

from __future__ import annotations

from collections.abc import Mapping

from cardlab.core.errors import DeviceLostError
from cardlab.profilers.board.ina3221 import SOURCE, InaRail, reading_memory_s, reading_update_s


class InaSource:
    """The monitors as a source of power.

    Attributes:
        name: "sysfs".
        words: the sensor, for the record.
        update_s: how often it is worth reading.
        memory_s: how long a reading remembers what was before.
    """

    name = "sysfs"
    words = SOURCE

    def __init__(self, rails: tuple[InaRail, ...]) -> None:
        self._rails = rails
        self.update_s = reading_update_s(rails)
        self.memory_s = reading_memory_s(rails)

    def rails(self) -> tuple[str, ...]:
        """Names of the rails."""
        return tuple(rail.name for rail in self._rails)

    def read(self) -> Mapping[str, float]:
        """Watts by rail; one that does not answer is left out. Raises DeviceLostError if none does any more."""
        values = {rail.name: rail.power_w() for rail in self._rails}
        known = {name: value for name, value in values.items() if value is not None}
        # Channels fail for moments; only a folder that is gone is the end.
        if not known and not any(rail.current.parent.exists() for rail in self._rails):
            raise DeviceLostError("the INA3221's nodes went away", remedy="look for ina3221 in dmesg, then reboot")
        return known

    def steps_w(self) -> Mapping[str, float | None]:
        """Smallest step of each rail's reading now."""
        return {rail.name: rail.step_w() for rail in self._rails}

    def facts(self) -> Mapping[str, Mapping[str, object]]:
        """Averaging, samples and shunt of each rail."""
        return {rail.name: rail.facts() for rail in self._rails}

    def close(self) -> None:
        """Nothing to release."""

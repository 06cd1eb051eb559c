"""The facts of a message: each is taken once, as what it may be, or refused by name.

What nobody took is refused too, so that nothing is dropped unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import WAITING, DeviceReading
from cardlab.split.refusals import FrameError, RefusalCode
from cardlab.split.shaping import PlannedRates

_MAX_TEXT = 4000
_MAX_NORMS = 100_000
_MAX_MODE = 80
_MAX_COUNT = 2**31


class Facts:
    """The facts of one message, each taken once; what nobody took is refused, so that nothing is dropped unseen."""

    def __init__(self, kind: str, head: Mapping[str, object]) -> None:
        self._kind, self._left = kind, dict(head)

    def wrong(self, key: str, why: str, code: RefusalCode = RefusalCode.FIELD) -> FrameError:
        """The refusal of one fact."""
        return FrameError(f"a message {self._kind!r} came with {key[:40]} that is {why}", code=code)

    def take(self, key: str) -> object:
        """A fact of any kind; FrameError where it is missing."""
        if key not in self._left:
            raise self.wrong(key, "missing")
        return self._left.pop(key)

    def whole(self, key: str, low: int = 0, high: int = _MAX_COUNT) -> int:
        """A whole number within bounds."""
        value = self.take(key)
        # JSON's true is an int to Python.
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, f"{str(value)[:40]}, no whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float = -1e300) -> float:
        """A finite number, not below `low`."""
        return self._number(key, self.take(key), low)

    def positive(self, key: str, value: object) -> float:
        """That value of `key`, if it is a finite number above 0."""
        found = self._number(key, value, 0.0)
        if found <= 0.0:
            raise self.wrong(key, f"{found:g}, not above 0")
        return found

    def optional_number(self, key: str, low: float = -1e300) -> float | None:
        """A finite number or null."""
        value = self.take(key)
        return None if value is None else self._number(key, value, low)

    def optional_whole(self, key: str, low: int = 0) -> int | None:
        """A whole number or null."""
        if key in self._left and self._left[key] is None:
            del self._left[key]
            return None
        return self.whole(key, low)

    def norms(self, key: str) -> tuple[float, ...] | None:
        """Finite numbers that are not negative, or null."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > _MAX_NORMS:
            raise self.wrong(key, "no list of norms")
        return tuple(self._number(key, one, 0.0) for one in value)

    def text(self, key: str) -> str:
        """A text of a decent length."""
        value = self.take(key)
        if not isinstance(value, str) or len(value) > _MAX_TEXT:
            raise self.wrong(key, "no text")
        return value

    def terms(self, key: str) -> dict[str, float]:
        """Seconds by term; a term that is not there took none."""
        value = self.take(key)
        if not isinstance(value, dict) or not set(value) <= {*TERMS, WAITING}:
            raise self.wrong(key, "no times by term")
        return {term: self._number(f"{key}.{term}", value[term], -1e300) for term in value}

    def rates(self, key: str) -> PlannedRates | None:
        """Rates of a link, both above 0, or null."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, dict) or set(value) != {"uplink_bps", "downlink_bps"}:
            raise self.wrong(key, "no rates up and down")
        up_bps, down_bps = (self.positive(f"{key}.{name}", value[name]) for name in ("uplink_bps", "downlink_bps"))
        return PlannedRates(uplink_bps=up_bps, downlink_bps=down_bps)

    def reading(self, key: str) -> DeviceReading:
        """What a device read of itself: numbers that are not negative, short words, yes or no; each may be null."""
        value = self.take(key)
        names = {one.name for one in fields(DeviceReading)}
        if not isinstance(value, dict) or set(value) != names:
            raise self.wrong(key, "no reading of a device")
        own = Facts(self._kind, {f"{key}.{name}": value[name] for name in value})
        mode, throttled = own.optional_text(f"{key}.power_mode"), own.take(f"{key}.throttled")
        if not (throttled is None or isinstance(throttled, bool)) or len(mode or "") > _MAX_MODE:
            raise self.wrong(key, "no reading of a device")
        return DeviceReading(
            held_hz=own.optional_number(f"{key}.held_hz", 0.0),
            refusal=own.optional_text(f"{key}.refusal"),
            frequency_hz=own.optional_number(f"{key}.frequency_hz", 0.0),
            memory_hz=own.optional_number(f"{key}.memory_hz", 0.0),
            cpu_hz=own.optional_number(f"{key}.cpu_hz", 0.0),
            temperature_c=own.optional_number(f"{key}.temperature_c", -273.15),
            power_mode=mode,
            throttled=throttled,
            power_w=own.optional_number(f"{key}.power_w", 0.0),
            energy_j=own.optional_number(f"{key}.energy_j", 0.0),
        )

    def optional_text(self, key: str) -> str | None:
        """A text of a decent length, or null."""
        if key in self._left and self._left[key] is None:
            del self._left[key]
            return None
        return self.text(key)

    def close(self) -> None:
        """FrameError for a fact that was not taken."""
        # A fact that nobody reads would be an option that is silently dropped.
        for key in self._left:
            raise self.wrong(key, "not known")

    def _number(self, key: str, value: object, low: float) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 1e300:
            raise self.wrong(key, f"{str(value)[:40]}, no number in its range")
        return float(value)

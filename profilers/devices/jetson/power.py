"""The power meter of a Jetson: one source at a time, a second one beside it as a check.

    sysfs (INA3221)  ->  jtop  ->  tegrastats        the first that works is recorded, the next one checks it

A source that goes away in the middle of a recording is replaced by the next; the trace says so. Nothing is recorded
until `memory_s` after the load began, because the chip's running mean still remembers the time before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Protocol

from cardlab.core.errors import CardlabError, DeviceLostError
from cardlab.profilers.board.ina3221 import systematic
from cardlab.profilers.board.power import sum_step_w
from cardlab.profilers.board.rails import total_name, total_parts
from cardlab.profilers.board.sampler import Sampler
from cardlab.profilers.board.timer import Timer
from cardlab.profilers.devices.jetson.rails import make_rails
from cardlab.profilers.devices.power import PowerMeter, Rail, RailTrace, Recording


class PowerSource(Protocol):
    """Something that gives watts by rail."""

    name: str
    words: str
    update_s: float
    memory_s: float

    def rails(self) -> tuple[str, ...]:
        """Names of the rails."""
        ...

    def read(self) -> Mapping[str, float]:
        """Watts by rail, empty if there is nothing new. Raises DeviceLostError once the source has gone."""
        ...

    def steps_w(self) -> Mapping[str, float | None]:
        """Smallest step of each rail's reading now, None if unknown."""
        ...

    def facts(self) -> Mapping[str, Mapping[str, object]]:
        """What is stored beside the measurements of each rail."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


OpenSource = Callable[[], PowerSource]


class JetsonMeter(PowerMeter):
    """Rails of a Jetson board.

    Args:
        source: what is recorded.
        others: opens the sources that check and replace it, best first; opened when first prepared.
    """

    def __init__(self, source: PowerSource, others: Sequence[OpenSource], timer: Timer, sampler: Sampler) -> None:
        self._sources = [source]
        self._others = list(others)
        self._timer = timer
        self._sampler = sampler
        self.rails = make_rails(source.rails())
        self.lost: list[str] = []

    @property
    def source(self) -> PowerSource:
        """The source that is recorded now."""
        return self._sources[0]

    @property
    def update_s(self) -> float:  # type: ignore[override]
        """Update interval of the source that is recorded now."""
        return self.source.update_s

    @property
    def memory_s(self) -> float:
        """How long a reading remembers what was before; all sources read the same chips."""
        return max(source.memory_s for source in self._sources)

    def prepare(self) -> None:
        """Keep a second source beside the first as long as there are any."""
        self._open_until(2)

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Raises DeviceLostError at the end of the block if no source is left."""
        self._open_until(1)
        recording = _Looks(self, self._timer)
        with self._sampler.during(recording.look):
            yield recording

    def check(self) -> PowerSource | None:
        """The source beside the recorded one, None without any."""
        return self._sources[1] if len(self._sources) > 1 else None

    def drop(self, source: PowerSource, error: DeviceLostError) -> None:
        """A source went away: go on with the next. Raises the error if there is none."""
        self.lost.append(error.message)
        source.close()
        self._sources.remove(source)
        # Only what is needed to go on: opening takes time, and the work is running.
        self._open_until(1)
        if not self._sources:
            raise error

    def close(self) -> None:
        """Release all sources."""
        self._others.clear()
        for source in self._sources:
            source.close()

    def _open_until(self, count: int) -> None:
        while len(self._sources) < count and self._others:
            try:
                self._sources.append(self._others.pop(0)())
            except CardlabError as error:
                self.lost.append(error.message)


class _Looks(Recording):
    def __init__(self, meter: JetsonMeter, timer: Timer) -> None:
        self._meter = meter
        self._timer = timer
        self._end_s: dict[str, list[float]] = {}
        self._power_w: dict[str, list[float]] = {}
        self._check_w: dict[str, list[float]] = {}
        self._steps_w: Mapping[str, float | None] = {}
        self._facts: dict[str, Mapping[str, object]] = {}
        self._words: list[str] = []
        # Sources that went away during earlier recordings are told in those.
        self._lost = len(meter.lost)

    def look(self) -> float:
        source, values = self._read(0)
        if values and source is not None:
            at_s = self._timer.now()
            self._keep(at_s, values)
            if source.words not in self._words:
                # Steps depend on the voltage, which hardly moves: asked for once a recording and source.
                self._words.append(source.words)
                self._steps_w = source.steps_w()
                self._facts.update(source.facts())
        for name, watts in self._with_total(self._read(1)[1]).items():
            self._check_w.setdefault(name, []).append(watts)
        return self._meter.update_s

    def _read(self, index: int) -> tuple[PowerSource | None, Mapping[str, float]]:
        source = self._meter.source if index == 0 else self._meter.check()
        if source is None:
            return None, {}
        try:
            return source, source.read()
        except DeviceLostError as error:
            self._meter.drop(source, error)
            return None, {}

    def _keep(self, at_s: float, values: Mapping[str, float]) -> None:
        for name, watts in self._with_total(values).items():
            self._end_s.setdefault(name, []).append(at_s)
            self._power_w.setdefault(name, []).append(watts)

    def _with_total(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum beside its parts, where all of them answered."""
        parts = self._parts()
        if len(parts) > 1 and all(part in values for part in parts):
            return {**values, total_name(parts): sum(values[part] for part in parts)}
        return dict(values)

    def _parts(self) -> tuple[str, ...]:
        return total_parts([rail.name for rail in self._meter.rails])

    @property
    def traces(self) -> Mapping[str, RailTrace]:
        return {rail.name: self._trace(rail) for rail in self._meter.rails}

    def _trace(self, rail: Rail) -> RailTrace:
        power_w = self._power_w.get(rail.name, [])
        check = self._check_w.get(rail.name, [])
        check_w = fmean(check) if check else None
        words = ", then ".join(self._words)
        second = self._meter.check()
        if check_w is not None and power_w and fmean(power_w) > 0 and second is not None:
            words += f"; {second.name} differs by {check_w / fmean(power_w) - 1:+.1%}"
        for reason in self._meter.lost[self._lost :]:
            words += f"; {reason}"
        return RailTrace(
            rail=rail,
            end_s=tuple(self._end_s.get(rail.name, ())),
            power_w=tuple(power_w),
            update_s=self._meter.update_s,
            quantisation_w=self._step(rail.name),
            source=words,
            check_w=check_w,
            systematic=systematic(fmean(power_w) if power_w else None, self._step(rail.name)),
            facts=self._facts_of(rail.name),
        )

    def _step(self, name: str) -> float | None:
        return sum_step_w([self._steps_w.get(part) for part in name.split("+")])

    def _facts_of(self, name: str) -> Mapping[str, object]:
        return dict(next((self._facts[part] for part in name.split("+") if part in self._facts), {}))

"""A party's frequency and power while a run goes on, by whatever platform it is: the server's, or a device's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from cardlab.core.clocks import offered_as
from cardlab.core.errors import DeviceError
from cardlab.core.records.training import DeviceReading
from cardlab.profilers.devices.device import HardwareDevice, State
from cardlab.profilers.devices.power import Recording
from cardlab.split.laps import now_s

# What a rail may be silent for at the ends of a block, before its mean says nothing of the block.
_UNSEEN_UPDATES, _UNSEEN_SHARE = 3.0, 0.2


class HeldFrequency:
    """Holds the frequency that a plan asks for, else the nearest below it that can be held; says what it does not.

    Attributes:
        platform: of the party.
        held_hz: what is held now, None where nothing is.
        refusal: why it is not what was asked for last, for people; None where it is, or where nothing was asked for.
    """

    def __init__(self, platform: HardwareDevice) -> None:
        self.platform = platform
        self._stack = contextlib.ExitStack()
        self._asked_hz: float | None = None
        # By frequency: a platform that refused one is not asked for it each round.
        self._refused: dict[float, str] = {}
        self.held_hz: float | None = None
        self.refusal: str | None = None

    def hold(self, frequency_hz: float | None) -> str | None:
        """Hold that frequency from now on; None lets it run free.

        Returns why the platform does not, the first time for each frequency; it stays in `refusal`.
        """
        if frequency_hz == self._asked_hz:
            return None
        self.release()
        self._asked_hz = frequency_hz
        if frequency_hz is None:
            return None
        known = self._refused.get(frequency_hz)
        why = known or self._tried(frequency_hz)
        if why is None:
            return None
        other_hz = self._nearest(frequency_hz)
        held = other_hz is not None and self._tried(other_hz) is None
        if known is None:
            at = f"it holds {other_hz / 1e6:.0f} MHz instead" if held and other_hz else "it runs as it was found"
            self._refused[frequency_hz] = f"{why}; {at}"
        self.refusal = self._refused[frequency_hz]
        return self.refusal if known is None else None

    def _tried(self, frequency_hz: float) -> str | None:
        """Why that frequency cannot be held; None where it is held now."""
        try:
            self._stack.enter_context(self.platform.locked(frequency_hz))
        except DeviceError as error:
            return error.message
        self.held_hz = frequency_hz
        return None

    def _nearest(self, frequency_hz: float) -> float | None:
        """The offered frequency that is that one, as clocks are read, else the highest below it, else the lowest."""
        offered = [hz for hz in self.platform.frequencies() if hz != frequency_hz]
        same = offered_as(frequency_hz, offered)
        if same is not None:
            return same
        below = [hz for hz in offered if hz < frequency_hz]
        return max(below) if below else min(offered, default=None)

    def read(self) -> State:
        """Frequencies, temperature and throttling as the platform reads them now."""
        return self.platform.state()

    def release(self) -> None:
        """Restore the frequency as it was found."""
        self._stack.close()
        self.held_hz = self._asked_hz = self.refusal = None


class EnergyMeter:
    """Mean power of a block.

    Attributes:
        power_w: None without a meter, without a whole update, and where the meter was lost for some of the block.
        problem: what was wrong with the meter, in words; None where nothing was, or where there is none.
    """

    def __init__(self, platform: HardwareDevice) -> None:
        self._platform = platform
        self.power_w: float | None = None
        self.problem: str | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[EnergyMeter]:
        """Record the rail that covers the whole device while the block runs; what the block raises passes."""
        meter = self._platform.meter
        if meter is None:
            yield self
            return
        begin_s, ended = self._platform.timer.now(), False
        try:
            with meter.recording() as recording:
                yield self
                ended = True
        except (DeviceError, OSError) as error:
            # Of the meter, once the block has ended: a round is worth more than its joules.
            if not ended:
                raise
            self.problem = str(error)
            return
        self._take(recording, self._platform.timer.now() - begin_s)

    def _take(self, recording: Recording, took_s: float) -> None:
        # The energy of a party is that of the whole device, whatever other rails there are.
        trace = next((t for t in recording.traces.values() if t.rail.total), None)
        mean = None if trace is None else trace.mean(self._platform.provenance)
        if trace is None or mean is None:
            return
        seen_s = trace.end_s[-1] - trace.end_s[0] + trace.update_s
        if took_s - seen_s > max(_UNSEEN_UPDATES * trace.update_s, _UNSEEN_SHARE * took_s):
            self.problem = f"the rail {trace.rail.name} was read for {seen_s:.1f} of {took_s:.1f} s"
            return
        self.power_w = mean.value


class OwnReadings:
    """What a device reads of itself in its rounds, and the frequency that it holds; `note` is told why it does not."""

    def __init__(self, platform: HardwareDevice, note: Callable[[str], None]) -> None:
        self._frequency, self._note = HeldFrequency(platform), note
        self._said: set[str] = set()

    @contextlib.contextmanager
    def round(self, frequency_hz: float | None) -> Iterator[Watched]:
        """Hold that frequency (None: as it is) and record while the block runs; it stays held until `rest`."""
        refused = self._frequency.hold(frequency_hz)
        if refused is not None:
            self._note(f"the frequency of this device is not the planned one: {refused}")
        watched = Watched(self._frequency)
        with watched.recording():
            yield watched
        if watched.problem is not None and not self._said:
            self._said.add(watched.problem)
            self._note(f"the energy of this device is not known: {watched.problem}")

    def rest(self) -> None:
        """Restore the frequency as it was found: while others train, or at the end.

        A device that idles costs less than one that waits with its frequency held, and plans count that. Rounds that
        follow each other at once keep it: a switch each way takes milliseconds.
        """
        self._frequency.release()


class Watched:
    """One round of a device, watched by itself."""

    def __init__(self, frequency: HeldFrequency) -> None:
        self._frequency = frequency
        self._meter, self._state = EnergyMeter(frequency.platform), State()
        self._begin_s = self._end_s = now_s()
        self._looked = False
        # As this round has it: the frequency is restored before anybody asks.
        self._held_hz, self._refusal = frequency.held_hz, frequency.refusal

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record power while the block runs."""
        with self._meter.recording():
            yield
            self._end_s = now_s()

    def look(self) -> None:
        """Read the state, once: to be called under load."""
        if not self._looked:
            self._looked, self._state = True, self._frequency.read()

    @property
    def problem(self) -> str | None:
        """What was wrong with the meter."""
        return self._meter.problem

    @property
    def reading(self) -> DeviceReading:
        """What was read; once the recording has ended."""
        state, power_w = self._state, self._meter.power_w
        return DeviceReading(
            held_hz=self._held_hz,
            refusal=self._refusal,
            frequency_hz=state.frequency_hz,
            memory_hz=state.memory_hz,
            cpu_hz=state.cpu_hz,
            temperature_c=state.temperature_c,
            power_mode=state.power_mode,
            throttled=state.throttled,
            power_w=power_w,
            energy_j=None if power_w is None else power_w * (self._end_s - self._begin_s),
        )

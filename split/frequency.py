"""A party's frequency and power while a run goes on, by whatever platform it is: the server's, or a device's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from cardlab.core.errors import DeviceError
from cardlab.core.records.training import DeviceReading
from cardlab.profilers.devices.device import HardwareDevice, State
from cardlab.split.laps import now_s


class HeldFrequency:
    """Holds the frequency that a plan asks for; where the platform offers none, says at which one it ran.

    Attributes:
        platform: of the party.
        held_hz: what is held now, None where nothing is.
        refusal: why the platform did not hold a frequency, for people; None if it did or was not asked.
    """

    def __init__(self, platform: HardwareDevice) -> None:
        self.platform = platform
        self._stack = contextlib.ExitStack()
        self.held_hz: float | None = None
        self.refusal: str | None = None

    def hold(self, frequency_hz: float | None) -> str | None:
        """Hold that frequency from now on; None lets it run free.

        Returns why the platform does not, the first time; it stays in `refusal`.
        """
        # A platform that refused once is not asked each round.
        if frequency_hz == self.held_hz or (frequency_hz is not None and self.refusal is not None):
            return None
        self.release()
        if frequency_hz is None:
            return None
        try:
            self._stack.enter_context(self.platform.locked(frequency_hz))
            self.held_hz = frequency_hz
        except DeviceError as error:
            self.refusal = str(error)
        return self.refusal

    def read(self) -> State:
        """Frequencies, temperature and throttling as the platform reads them now."""
        return self.platform.state()

    def release(self) -> None:
        """Restore the frequency as it was found."""
        self._stack.close()
        self.held_hz = None


class EnergyMeter:
    """Mean power of a block; `power_w` is None without a meter or without a whole update."""

    def __init__(self, platform: HardwareDevice) -> None:
        self._platform = platform
        self.power_w: float | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[EnergyMeter]:
        """Record the rail that covers the whole device while the block runs."""
        meter = self._platform.meter
        if meter is None:
            yield self
            return
        with meter.recording() as recording:
            yield self
        # The energy of a party is that of the whole device, whatever other rails there are.
        trace = next((t for t in recording.traces.values() if t.rail.total), None)
        mean = None if trace is None else trace.mean(self._platform.provenance)
        self.power_w = None if mean is None else mean.value


class OwnReadings:
    """What a device reads of itself in its rounds, and the frequency that it holds; `note` is told why it does not."""

    def __init__(self, platform: HardwareDevice, note: Callable[[str], None]) -> None:
        self._frequency, self._note = HeldFrequency(platform), note

    @contextlib.contextmanager
    def round(self, frequency_hz: float | None) -> Iterator[Watched]:
        """Hold that frequency (None: as it is) and record while the block runs."""
        refused = self._frequency.hold(frequency_hz)
        if refused is not None:
            self._note(f"the frequency of this device is not the planned one: {refused}")
        watched = Watched(self._frequency, frequency_hz)
        with watched.recording():
            yield watched

    def release(self) -> None:
        """Restore the frequency as it was found."""
        self._frequency.release()


class Watched:
    """One round of a device, watched by itself."""

    def __init__(self, frequency: HeldFrequency, asked_hz: float | None) -> None:
        self._frequency, self._asked_hz = frequency, asked_hz
        self._meter, self._state = EnergyMeter(frequency.platform), State()
        self._begin_s = self._end_s = now_s()
        self._looked = False

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
    def reading(self) -> DeviceReading:
        """What was read; once the recording has ended."""
        state, power_w = self._state, self._meter.power_w
        held = self._asked_hz is not None and self._frequency.held_hz == self._asked_hz
        return DeviceReading(
            held_hz=self._asked_hz if held else None,
            refusal=None if held or self._asked_hz is None else self._frequency.refusal,
            frequency_hz=state.frequency_hz,
            memory_hz=state.memory_hz,
            cpu_hz=state.cpu_hz,
            temperature_c=state.temperature_c,
            power_mode=state.power_mode,
            throttled=state.throttled,
            power_w=power_w,
            energy_j=None if power_w is None else power_w * (self._end_s - self._begin_s),
        )

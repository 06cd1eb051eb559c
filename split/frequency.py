"""The server's frequency and its energy while a run goes on, by whatever platform the server is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cardlab.core.errors import DeviceError
from cardlab.profilers.devices.device import HardwareDevice


class ServerFrequency:
    """Holds the frequency that a plan asks for; where the platform offers none, says at which one it ran.

    Attributes:
        platform: of the server.
        refusal: why the platform did not hold a frequency, for people; None if it did or was not asked.
    """

    def __init__(self, platform: HardwareDevice) -> None:
        self.platform = platform
        self._stack = contextlib.ExitStack()
        self._held_hz: float | None = None
        self.refusal: str | None = None

    def hold(self, frequency_hz: float | None) -> str | None:
        """Hold that frequency from now on; None lets it run free.

        Returns why the platform does not, the first time; it stays in `refusal`.
        """
        # A platform that refused once is not asked each round.
        if frequency_hz == self._held_hz or (frequency_hz is not None and self.refusal is not None):
            return None
        self.release()
        if frequency_hz is None:
            return None
        try:
            self._stack.enter_context(self.platform.locked(frequency_hz))
            self._held_hz = frequency_hz
        except DeviceError as error:
            self.refusal = str(error)
        return self.refusal

    def read_hz(self) -> float | None:
        """The frequency as the platform reads it now, None where it cannot."""
        return self.platform.state().frequency_hz

    def release(self) -> None:
        """Restore the frequency as it was found."""
        self._stack.close()
        self._held_hz = None


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
        # The energy of the server is that of the whole device, whatever other rails there are.
        trace = next((t for t in recording.traces.values() if t.rail.total), None)
        mean = None if trace is None else trace.mean(self._platform.provenance)
        self.power_w = None if mean is None else mean.value

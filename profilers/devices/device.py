"""What a platform promises, and how work is measured on any of them.

    lock -> run until the clock reads what was asked and power is steady -> window of whole sensor
    updates, clock and throttle flags read all the while -> verify -> restore

A platform supplies its clock, stopwatch, meter, clock control and readings; the order of things is
here and the same for all, so that a simulated or fake device is no special case anywhere.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cardlab.core.errors import NotSupportedError
from cardlab.core.quantity import Estimate, Provenance, product
from cardlab.core.records.device import Device
from cardlab.profilers.board.rules import on_request
from cardlab.profilers.board.timer import Clock
from cardlab.profilers.board.work import Work, as_work
from cardlab.profilers.devices.guard import ClockGuard
from cardlab.profilers.devices.power import Meter, RailTrace
from cardlab.profilers.measure.reading import Reading
from cardlab.profilers.runtime.timers import Stopwatch

WINDOW_MIN_S = 2.0
WINDOW_UPDATES = 20
SETTLE_TIMEOUT_S = 120.0
# Power is compared over 8 s: with a cooler's time constant of 10-20 s a change of 0.1 % in 8 s leaves 0.1-0.2 %
# to come, where 0.25 % in 4 s left 0.6-1 %.
SETTLE_HALF_S = 8.0
SETTLE_SHARE = 0.001
SETTLE_WINDOW_S = 1.0
SETTLE_MOST_WINDOWS = 15
STATE_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One capability as found: its name, its state in words, and what would mend a lack.

    `ok` is None where the capability does not apply to this platform.
    """

    name: str
    ok: bool | None
    state: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the device says of itself at one moment; None is not readable here."""

    frequency_hz: float | None = None
    memory_hz: float | None = None
    cpu_hz: float | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    power_mode: str | None = None
    cores_active: int | None = None
    reasons: tuple[str, ...] = ()


class Platform(ABC):
    """One device that can run and measure work.

    Attributes:
        name: what `open_platform` is given to find it again.
        identity: frozen description of the device.
        clock: the only source of time for everything measured here.
        stopwatch: times single laps of work.
        meter: power rails, None without one.
        guard: locks clocks and restores them, None without clock control.
        provenance: of every number measured here.
        torch_remedy: what to do where torch does not find the device, None for the usual words.
        torch_device: where torch runs the work ("cpu", "cuda:0"), None if nothing is really run.
    """

    name: str
    identity: Device
    clock: Clock
    stopwatch: Stopwatch
    meter: Meter | None = None
    guard: ClockGuard | None = None
    provenance: Provenance
    torch_device: str | None = None
    torch_remedy: str | None = None

    @abstractmethod
    def frequencies(self) -> tuple[float, ...]:
        """Compute clocks that can be requested, in Hz, ascending; empty without clock control."""

    @abstractmethod
    def capabilities(self) -> tuple[Probe, ...]:
        """What this device can and cannot do for a profile, with remedies."""

    @abstractmethod
    def state(self) -> State:
        """Clocks, temperature and throttling as they read now."""

    def memory_available_bytes(self) -> int | None:
        """Memory that is really free for a model now; None if unknown."""
        return self.identity.memory_bytes

    def versions(self) -> dict[str, str]:
        """Versions of driver and firmware by name; none by default."""
        return {}

    def close(self) -> None:  # noqa: B027 - most platforms hold nothing
        """Release handles; the platform is not used afterwards."""

    @contextlib.contextmanager
    def locked(self, frequency_hz: float | None, memory_hz: float | None = None) -> Iterator[None]:
        """Hold the clock at `frequency_hz` while the block runs; None leaves it as it is.

        Raises NotSupportedError without clock control, or when the device does not offer the clock.
        """
        if frequency_hz is None:
            yield
            return
        offered = self.frequencies()
        if self.guard is None or not offered:
            raise NotSupportedError(
                f"{self.identity.name} has no clock control", remedy="measure with --frequencies max"
            )
        nearest = min(offered, key=lambda f: abs(f - frequency_hz))
        if abs(nearest - frequency_hz) > 0.5e6:
            raise NotSupportedError(
                f"{self.identity.name} does not offer {frequency_hz / 1e6:.0f} MHz",
                remedy=f"the nearest clock is {nearest / 1e6:.0f} MHz",
            )
        with self.guard.locked(nearest, memory_hz):
            yield

    def measure(
        self, work: Work | Callable[[], object], seconds: float | None = None, timer: Stopwatch | None = None
    ) -> Reading:
        """Run work for a window and say what it took.

        Args:
            work: a Work or a bare callable; every iteration is synchronised.
            seconds: length of the window; None sizes it from the meter (at least 20 updates).
            timer: times its laps; None takes the device's own.

        Returns:
            Reading; powers are None without a meter.
        """
        work = as_work(work)
        self._lead(work, timer)
        return self._window(work, seconds, timer)

    def _lead(self, work: Work, timer: Stopwatch | None) -> None:
        """Run work until the meter has forgotten what was before."""
        if self.meter is not None:
            self.meter.prepare()
        self._iterate(work, timer, self.clock.now() + (0.0 if self.meter is None else self.meter.memory_s))

    def _window(self, work: Work, seconds: float | None, timer: Stopwatch | None) -> Reading:
        """Measure work that is running already."""
        window_s = self.window_s() if seconds is None else seconds
        states: list[State] = []
        with contextlib.ExitStack() as stack:
            recording = None if self.meter is None else stack.enter_context(self.meter.recording())
            start_s = self.clock.now()
            times = self._iterate(work, timer, start_s + window_s, states)
        traces = {} if recording is None else dict(recording.traces)
        return self._reading(times, self.clock.now() - start_s, states, traces)

    def measure_waiting(self, seconds: float | None = None) -> Reading:
        """Power while nothing runs, at whatever clock is held now."""

        def wait() -> None:
            self.clock.sleep(0.25)

        return self.measure(wait, seconds)

    def settle(self, work: Work, frequency_hz: float | None, timer: Stopwatch | None = None) -> None:
        """Run work until the clock under load is the requested one and power is steady.

        Power is steady when the mean of the last 8 s (two windows at least) is within 0.1 % of the 8 s before,
        or within what the windows' own scatter allows: heat approaches its balance so slowly (tens of seconds)
        that one window never differs much from the next. Gives up silently after 120 s of platform time, or
        15 windows of a slow sensor: the operating point says what was reached.
        """
        work = as_work(work)
        self._lead(work, timer)
        length_s = self.settle_window_s()
        deadline = self.clock.now() + max(SETTLE_TIMEOUT_S, SETTLE_MOST_WINDOWS * length_s)
        steady = 0
        powers: list[float] = []
        while self.clock.now() < deadline and (steady < 3 or not power_steady(powers, half_windows(length_s))):
            reading = self._window(work, length_s, timer)
            steady = steady + 1 if on_request(reading.frequency_hz, frequency_hz) else 0
            if steady == 0:
                powers.clear()
            elif reading.power_w is not None:
                powers.append(reading.power_w.value)
            elif steady >= 3:
                return

    def window_s(self) -> float:
        """Length of a power window: many whole updates of the slowest rail."""
        if self.meter is None:
            return 0.0
        return max(WINDOW_MIN_S, (WINDOW_UPDATES + 2) * self.meter.update_s)

    def settle_window_s(self) -> float:
        """Length of one window while waiting for power to settle: two updates of a slow rail."""
        return 0.0 if self.meter is None else max(SETTLE_WINDOW_S, 2.0 * self.meter.update_s)

    def lock_problems(self) -> tuple[str, ...]:
        """What is wrong with a clock that is held now, in words; looked at when a point begins and ends."""
        return ()

    def _iterate(
        self, work: Work, timer: Stopwatch | None, until_s: float, states: list[State] | None = None
    ) -> list[float]:
        """Iterations (at least one) until the platform's clock passes `until_s`; seconds of each."""
        timer = timer or self.stopwatch
        times = []
        look_s = self.clock.now()
        while True:
            times.append(sum(timer.time(lap, work).wall_s for lap in work.laps))
            work.reset()
            now_s = self.clock.now()
            if states is not None and (now_s >= look_s or now_s >= until_s):
                # Reading the sensors takes time itself: not after every short iteration.
                states.append(self.state())
                look_s = now_s + STATE_INTERVAL_S
            if now_s >= until_s:
                return times

    def _reading(
        self, times: list[float], window_s: float, states: list[State], traces: dict[str, RailTrace]
    ) -> Reading:
        spread = float(np.std(times, ddof=1) / np.sqrt(len(times))) if len(times) > 1 else None
        per_iteration = Estimate(float(np.mean(times)), spread, None, len(times), self.provenance)
        total = next((t for t in traces.values() if t.rail.total), None)
        power = None if total is None else total.mean(self.provenance)
        flags = [s.throttled for s in states if s.throttled is not None]
        return Reading(
            iterations=len(times),
            seconds=window_s,
            seconds_per_iteration=per_iteration,
            power_w=power,
            energy_per_iteration_j=None if power is None else product(power, per_iteration),
            frequency_hz=_mean([s.frequency_hz for s in states]),
            throttled=any(flags) if flags else None,
            reasons=tuple(dict.fromkeys(reason for state in states for reason in state.reasons)),
            temperature_c=_mean([s.temperature_c for s in states]),
            traces=traces,
            sources={name: trace.source for name, trace in traces.items()},
        )


def half_windows(window_s: float) -> int:
    """Windows in each of the two stretches that are compared while power settles."""
    return max(2, math.ceil(SETTLE_HALF_S / window_s)) if window_s > 0 else 2


def power_steady(powers_w: Sequence[float], half: int) -> bool:
    """Whether the last `half` windows agree with those before them, to 0.1 % or to their own scatter."""
    if len(powers_w) < 2 * half:
        return False
    late, early = np.array(powers_w[-half:]), np.array(powers_w[-2 * half : -half])
    scatter_w = math.sqrt((late.var(ddof=1) + early.var(ddof=1)) / half)
    return bool(abs(late.mean() - early.mean()) <= max(SETTLE_SHARE * early.mean(), 1.5 * scatter_w))


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None

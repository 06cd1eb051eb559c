"""One lock, one measurement, one restore, each checked on the device itself."""

from __future__ import annotations

from collections.abc import Iterator

from cardlab.core.errors import CardlabError
from cardlab.profilers.board.rules import on_request
from cardlab.profilers.board.timer import LapTimer
from cardlab.profilers.board.work import Work
from cardlab.profilers.devices.device import HardwareDevice, Probe
from cardlab.profilers.measure.reading import Reading
from cardlab.profilers.measure.window import measure, settle

_LOW_SHARE = 0.4
# Both sources stand behind the same board: a tenth apart, one of them is wrong.
_AGREE = 0.1


def selftest(device: HardwareDevice, work: Work, lap_timer: LapTimer | None = None) -> tuple[Probe, ...]:
    """Lock a low frequency, measure the work there, release the frequency, and look whether it is released.

    Args:
        work: keeps the device busy; an unlocked device would run it at a higher frequency.
        lap_timer: times its laps; None takes the device's own.
    """
    return tuple(_checks(device, work, lap_timer))


def _checks(device: HardwareDevice, work: Work, lap_timer: LapTimer | None) -> Iterator[Probe]:
    offered = device.frequencies()
    # Low, so that an unlocked frequency under load is told from a locked one.
    wanted_hz = offered[int(_LOW_SHARE * (len(offered) - 1))] if offered else None
    try:
        with device.locked(wanted_hz):
            settle(device, work, wanted_hz, lap_timer)
            reading = measure(device, work, lap_timer=lap_timer)
    except CardlabError as error:
        yield Probe(name="lock", ok=False, state=error.message, remedy=error.remedy)
        return
    yield _lock(wanted_hz, reading)
    yield _measurement(device, reading)
    yield _restore(device, work, wanted_hz, lap_timer)


def _lock(wanted_hz: float | None, reading: Reading) -> Probe:
    if wanted_hz is None:
        return Probe(name="lock", ok=None, state="no frequency can be set here: measured as found")
    read = "cannot be read" if reading.frequency_hz is None else f"read {reading.frequency_hz / 1e6:.0f} MHz under load"
    state = f"asked for {wanted_hz / 1e6:.0f} MHz, {read}"
    if on_request(reading.frequency_hz, wanted_hz):
        return Probe(name="lock", ok=True, state=state)
    remedy = "look for a power or heat limit with: profile-device doctor"
    return Probe(name="lock", ok=False, state=state, remedy=remedy)


def _measurement(device: HardwareDevice, reading: Reading) -> Probe:
    time = f"{reading.iterations} iterations of {reading.seconds_per_iteration.value * 1e3:.3g} ms"
    if device.meter is None:
        return Probe(name="measurement", ok=None, state=f"{time}; no power meter here")
    if reading.power_w is None:
        return Probe(
            name="measurement",
            ok=False,
            state=f"{time}; the meter gave no whole update",
            remedy="look which source answers with: profile-device doctor",
        )
    checks = [t.check_w for t in reading.traces.values() if t.rail.total and t.check_w is not None]
    state = f"{time}, {reading.power_w.value:.4g} W from {reading.power_w.n} sensor updates"
    if checks:
        apart = checks[0] / reading.power_w.value - 1
        state += f", second source {apart:+.1%}"
        if abs(apart) > _AGREE:
            remedy = "calibrate the sensor against a meter: calibrate meter"
            return Probe(name="measurement", ok=False, state=state, remedy=remedy)
    return Probe(name="measurement", ok=True, state=state)


def _restore(device: HardwareDevice, work: Work, wanted_hz: float | None, lap_timer: LapTimer | None) -> Probe:
    if wanted_hz is None:
        return Probe(name="restore", ok=None, state="nothing was locked")
    after = measure(device, work, 0.0 if device.meter is None else 1.0, lap_timer).frequency_hz
    if after is None:
        return Probe(name="restore", ok=True, state="released; the frequency cannot be read")
    state = f"released; {after / 1e6:.0f} MHz under load"
    if abs(after - wanted_hz) > 0.01 * wanted_hz:
        return Probe(name="restore", ok=True, state=state)
    return Probe(name="restore", ok=False, state=state, remedy="profile-device restore, or load the driver anew")

"""What a prediction was made for, beside what ran: other machines, another execution, another frequency."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields

from cardlab.core.errors import NotFoundError
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import Run, RunKind
from cardlab.core.records.plan import Decision, Plan
from cardlab.core.records.task import Execution
from cardlab.core.records.training import TrainRound
from cardlab.core.text import si
from cardlab.db.store import Store

# A frequency is read back within this of the one that was asked for.
_SAME_HZ = 0.01
# Frequencies that nobody holds wander.
_SAME_STATE_HZ = 0.05
_KINDS = (RunKind.PROFILE,)


def differences(measured: Execution, ran: Execution) -> str | None:
    """What two executions differ in, the measured one first; None where they are the same."""
    pairs = [(f.name, getattr(measured, f.name), getattr(ran, f.name)) for f in fields(Execution)]
    words = [f"{name} {_word(then)} and not {_word(now)}" for name, then, now in pairs if then != now]
    return ", ".join(words) or None


def grounds_of(store: Store, run: Run, rounds: Sequence[TrainRound]) -> tuple[str, ...]:
    """A line for everything in which a run was not what its plan was made for; none for a run without a plan."""
    uid = next((r.plan for r in rounds if r.plan is not None), None)
    if uid is None:
        return ()
    try:
        plan = store.plans.get(uid)
    except NotFoundError:
        return (f"plan {uid[:12]} is no longer here: what it was made for is not known",)
    measured = _runs_of(store, plan)
    lines = [
        *_machines(store, plan, measured, run, rounds),
        *_frequencies(plan, rounds),
        *_states(store, measured, rounds),
    ]
    return tuple(dict.fromkeys(lines))


def other_machines(store: Store, plan: Plan, run: Run, rounds: Sequence[TrainRound]) -> tuple[str, ...]:
    """A line for each party that ran on another machine, or computed otherwise, than the plan was made for."""
    return tuple(dict.fromkeys(_machines(store, plan, _runs_of(store, plan), run, rounds)))


def _runs_of(store: Store, plan: Plan) -> list[Run]:
    """Profiles that the plan rests on and that are still here."""
    found = []
    for uid in plan.runs:
        try:
            found.append(store.runs.get(uid).run)
        except NotFoundError:
            continue
    return [r for r in found if r.kind in _KINDS]


def _machines(
    store: Store, plan: Plan, measured: Sequence[Run], run: Run, rounds: Iterable[TrainRound]
) -> Iterator[str]:
    if not measured:
        yield "the plan rests on no profile in this database: machines and execution of its numbers are not compared"
        return
    serving = _server_key(store, plan)
    server = [r for r in measured if r.device.key == serving]
    if serving is not None and serving != run.device.key:
        yield _other("the server", run.device, server)
    elif server:
        yield from _execution(f"server {run.device.name}", server, run)
    for device in {r.device.name: r.device for r in rounds}.values():
        mine = [r for r in measured if r.device.key == device.key]
        if not mine:
            # Another machine may have had that label when the plan was made.
            label = device.name.partition("@")[0]
            yield _other(device.name, device, [r for r in measured if r.device.name == label])
        elif device.key == run.device.key:
            # Of other devices the run does not say how they computed.
            yield from _execution(f"device {device.name}", mine, run)


def _server_key(store: Store, plan: Plan) -> str | None:
    """The device whose fits the plan took: that is its server."""
    for uid in plan.fits:
        try:
            return store.fits.get(uid).fit.device
        except NotFoundError:
            continue
    return None


def _other(who: str, ran: Device, planned: Sequence[Run]) -> str:
    was = f"{planned[0].device.name} ({_kind(planned[0].device)})" if planned else "a machine that is not known here"
    return (
        f"{who} was planned as {was} and ran on another machine ({_kind(ran)}): its errors say nothing of the model;"
        " profile this machine and plan again"
    )


def _kind(device: Device) -> str:
    return f"{device.platform}, {device.key[:20]}"


def _execution(who: str, measured: Sequence[Run], run: Run) -> Iterator[str]:
    differing = [differences(r.execution, run.execution) for r in measured]
    # One profile of the same execution is enough: the plan may rest on others of the machine too.
    if differing and None not in differing:
        yield f"{who} was measured with {differing[0]}: its errors are those of another execution"


def _frequencies(plan: Plan, rounds: Iterable[TrainRound]) -> Iterator[str]:
    for r in rounds:
        if any(p.predicted_ratio is not None for p in r.phases):
            yield "decisions were made anew between rounds (--adapt): frequencies are not held against the plan's"
            continue
        decision = plan.decision(r.number, r.device.name)
        yield from _own_frequency(decision, r)
        asked = None if decision is None else decision.frequency_hz
        if asked is None:
            continue
        if r.frequency_hz is None:
            yield f"the server was to run at {si(asked, 'Hz')} for {r.device.name}: at which it ran could not be read"
        elif abs(r.frequency_hz / asked - 1.0) > _SAME_HZ:
            yield f"the server was to run at {si(asked, 'Hz')} for {r.device.name}, and did not"


def _own_frequency(decision: Decision | None, r: TrainRound) -> Iterator[str]:
    asked, reading = None if decision is None else decision.device_frequency_hz, r.device_reading
    if asked is None or reading is None:
        return
    if reading.refusal is not None:
        yield f"device {r.device.name} was to run at {si(asked, 'Hz')} and could not be held there: {reading.refusal}"
    elif reading.frequency_hz is None:
        yield f"device {r.device.name} was to run at {si(asked, 'Hz')}: at which it ran could not be read"
    elif abs(reading.frequency_hz / asked - 1.0) > _SAME_HZ:
        yield f"device {r.device.name} was to run at {si(asked, 'Hz')}, and read {si(reading.frequency_hz, 'Hz')}"


def _states(store: Store, measured: Sequence[Run], rounds: Iterable[TrainRound]) -> Iterator[str]:
    """Power mode, memory and CPU frequency of a device that were others than in its profile."""
    for r in rounds:
        reading = r.device_reading
        points = [p for run in measured if run.device.key == r.device.key for p in store.runs.get(run.uid).points]
        states = [point.operating for point in points if point.operating is not None]
        if reading is None or not states:
            continue
        who = f"device {r.device.name}"
        modes = {state.power_mode for state in states}
        if reading.power_mode is not None and reading.power_mode not in modes and None not in modes:
            were = ", ".join(sorted(map(str, modes)))
            yield f"{who} ran in power mode {reading.power_mode}, and was measured in {were}"
        for name, said in (("memory_hz", "its memory at"), ("cpu_hz", "its CPU at")):
            ran = getattr(reading, name)
            known = [hz for state in states if (hz := getattr(state, name)) is not None]
            if ran and known and not any(abs(ran / hz - 1.0) <= _SAME_STATE_HZ for hz in known):
                low, high = si(min(known), "Hz"), si(max(known), "Hz")
                span = low if low == high else f"{low} to {high}"
                yield f"{who} ran with {said} {si(ran, 'Hz')}, and was measured at {span}"


def _word(value: object) -> str:
    return "none" if value is None else str(value)

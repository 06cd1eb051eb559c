"""What a report needs to know of devices and runs, read from the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cardlab.calibrate.constants import delta_curve, delta_from_latency
from cardlab.calibrate.freshness import staleness
from cardlab.calibrate.publishing import energy_optima, published_constants
from cardlab.calibrate.service import KINDS, Group
from cardlab.calibrate.service import gather as gather_groups
from cardlab.core.errors import NotFoundError, UsageError
from cardlab.core.quantity import Estimate
from cardlab.core.records.checks import EnergyCheck, TermCheck, TermOff, check_energies, check_rounds, terms_off
from cardlab.core.records.coverage import Calibration, TermCoverage, calibration_of, coverage_by_term, coverage_of_all
from cardlab.core.records.device import Device
from cardlab.core.records.fit import Fit
from cardlab.core.records.measurement import Profile, Run, RunKind
from cardlab.core.records.meter import MeterCalibration
from cardlab.core.records.plan import Plan
from cardlab.core.records.training import Quality, TrainRound, qualities
from cardlab.core.tables import Cell, Tabular
from cardlab.db.store import Store
from cardlab.db.store.meters import behind_sensors, stored_meters
from cardlab.reports.views.fit import Curve, curve
from cardlab.reports.views.inputs import DeltaLaw, DeviceData
from cardlab.workflows.grounds import grounds_of


def fleet_data(store: Store, *, device: str | None = None, runs: Sequence[Profile] = ()) -> tuple[DeviceData, ...]:
    """Every device with a run, or the one of that key, or those of `runs` with just these runs."""
    keys = {p.run.device.key for p in runs}
    devices = [d for d in store.devices.all() if device in (None, d.key) and (not keys or d.key in keys)]
    fits = tuple(s.fit for s in store.fits.newest(device=device))
    groups = gather_groups(store, device=device)
    constants, optima = published_constants(store, fits), energy_optima(store, fits)
    found = []
    for d in devices:
        mine = tuple(f for f in fits if f.device == d.key)
        asked = [p for p in runs if p.run.device.key == d.key] or newest_runs(store, d.key)
        # Beside the curves, which are of powers behind a calibrated sensor.
        profiles = [behind_sensors(store.runs, p) for p in asked]
        if not profiles and not mine:
            continue
        found.append(
            DeviceData(
                device=d,
                profiles=tuple(profiles),
                fits=mine,
                curves=curves_of(mine, [g for g in groups if g.subject.device == d.key]),
                constants=tuple(c for c in constants if c.device == d.key),
                optima=tuple(o for o in optima if o.device == d.key),
                deltas=deltas_of(d, profiles, mine, groups),
                stale=staleness(store, mine),
            )
        )
    return tuple(found)


def deltas_of(
    device: Device, profiles: Sequence[Profile], fits: Iterable[Fit], groups: Sequence[Group]
) -> tuple[DeltaLaw, ...]:
    """Delta of each segment and phase whose latency has a law of cycles; none where the cores are not known."""
    work = {
        (p.run.task.uid, cost.segment, phase): cost.forward_flop if phase == "forward" else cost.backward_flop
        for p in profiles
        if p.run.task is not None and p.run.analysis is not None
        for cost in p.run.analysis.segments
        for phase in cost.phases
    }
    found = []
    for one in fits:
        flop = work.get((one.task or "", one.segment or "", one.phase or ""), 0.0)
        if not one.selected or one.quantity != "latency" or not device.cores or not flop > 0 or one.x.min is None:
            continue
        law = delta_curve(one, flop, device.cores)
        readings = [r for g in groups if g.subject.key == one.key for r in g.readings]
        points = [(r.frequency_hz, r.value) for r in readings if r.frequency_hz and not r.throttled]
        if law is not None:
            measured = tuple(
                (hz, delta_from_latency(Estimate(value_s), flop, hz, device.cores).value) for hz, value_s in points
            )
            found.append(DeltaLaw(fit=one, law=law, points=measured))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRun(Tabular):
    """A split run with its rounds and what was predicted of them.

    `notes`: in what the run was not what its plan was made for; `expected_notes`: marks of what was predicted of it;
    `judged`: what held-out rows say, by round; 0 is before the first; `coverage`: how many of its rounds lie in the
    intervals that were predicted for them, by device and term, and why where they do not; `coverage_here`,
    `calibration_here`: the same of all runs of the database, by term.
    """

    run: Run
    rounds: tuple[TrainRound, ...]
    checks: tuple[TermCheck, ...]
    coverage: tuple[TermCoverage, ...] = ()
    coverage_here: tuple[TermCoverage, ...] = ()
    calibration_here: tuple[Calibration, ...] = ()
    energies: tuple[EnergyCheck, ...] = ()
    notes: tuple[str, ...] = ()
    expected_notes: tuple[str, ...] = ()
    judged: Mapping[int, Quality] = field(default_factory=dict)

    @property
    def plan(self) -> str | None:
        """Uid of the plan it followed."""
        return next((r.plan for r in self.rounds if r.plan is not None), None)

    @property
    def run_id(self) -> str:
        """Identity of the run in the store."""
        return self.run.uid

    @property
    def off(self) -> tuple[TermOff, ...]:
        """For each device with predictions, the term that is most off."""
        return terms_off(self.checks)

    def rows(self) -> list[dict[str, Cell]]:
        """A row a device and term: medians over rounds, s."""
        return [
            {
                "device": c.device,
                "term": c.term,
                "observed_s": c.observed_s,
                "predicted_s": c.predicted_s,
                "error": c.error,
                "inside_ci95": c.inside,
                "rounds": c.rounds,
            }
            for c in self.checks
        ]


def split_run(store: Store, uid: str) -> SplitRun:
    """The split run of that id, or of its first digits. Raises UsageError if the run is of another kind."""
    profile = store.runs.get(uid)
    if profile.run.kind != RunKind.TRAIN:
        raise UsageError(f"{profile.run.uid[:12]} is a {profile.run.kind.value}, no split run", remedy="see: card run")
    meter = _server_meter(store, profile.run.device)
    rounds = tuple(_behind(meter, r) for r in store.rounds.of_run(profile.run.uid))
    plan = _plan_of(store, rounds)
    every = [
        r for other in store.runs.summaries() if other.kind is RunKind.TRAIN for r in store.rounds.of_run(other.uid)
    ]
    return SplitRun(
        run=profile.run,
        rounds=rounds,
        checks=check_rounds(rounds),
        coverage=coverage_by_term(rounds, plan),
        coverage_here=coverage_of_all(every),
        calibration_here=calibration_of(every),
        energies=check_energies(rounds, plan),
        notes=grounds_of(store, profile.run, rounds),
        expected_notes=profile.run.expected_notes if plan is None else plan.notes,
        judged=qualities(store.rounds.judged_in(profile.run.uid)),
    )


def _server_meter(store: Store, server: Device) -> MeterCalibration | None:
    """The calibration of the rail that a run's power is read on."""
    meters = stored_meters(store.runs, device=server.key)
    rails = (profile.total_rail for profile in store.runs.select(device=server.key)) if meters else ()
    return next((meters[server.key, rail] for rail in rails if rail and (server.key, rail) in meters), None)


def _behind(meter: MeterCalibration | None, r: TrainRound) -> TrainRound:
    """A round with the power and energy behind the server's sensor, as its plan counts them; None where unknown."""
    if meter is None:
        return r
    power_w = None if r.power_w is None else meter.corrected(r.power_w)
    if not r.power_w or power_w is None or not power_w > 0:
        # The offset's share of an energy whose power was not kept is not known.
        return replace(r, power_w=None, energy_j=None)
    return replace(r, power_w=power_w, energy_j=None if r.energy_j is None else r.energy_j * power_w / r.power_w)


def _plan_of(store: Store, rounds: Sequence[TrainRound]) -> Plan | None:
    uid = next((r.plan for r in rounds if r.plan is not None), None)
    try:
        return None if uid is None else store.plans.get(uid)
    except NotFoundError:
        return None


def newest_runs(store: Store, device: str) -> list[Profile]:
    """The newest run of each task or load, complete ones first choice, and of those the ones that held a frequency."""
    newest: dict[object, Profile] = {}
    for kind in KINDS:
        for profile in store.runs.select(kind=kind, device=device):
            run = profile.run
            key = run.workload if run.task is None else (run.task.uid, run.execution.uid)
            # Runs come oldest first: a newer one wins, unless it would push out one that says more.
            if key not in newest or _worth(profile) >= _worth(newest[key]):
                newest[key] = profile
    return list(newest.values())


def _worth(profile: Profile) -> tuple[bool, bool]:
    return profile.complete, profile.holds


def curves_of(fits: Sequence[Fit], groups: Iterable[Group]) -> tuple[Curve, ...]:
    """The curve of each subject whose frequency was read, powers first."""
    drawn = []
    for group in groups:
        mine = [f for f in fits if f.key == group.subject.key]
        if not any(f.selected for f in mine):
            continue
        points = [(r.frequency_hz, r.value, bool(r.throttled)) for r in group.readings if r.frequency_hz]
        made = curve(mine, points)
        if made is not None:
            drawn.append(made)
    return tuple(sorted(drawn, key=lambda c: c.unit != "W"))


def store_curves(store: Store, fits: Sequence[Fit]) -> tuple[Curve, ...]:
    """The curves of stored fits, with the points of the store."""
    return curves_of(fits, gather_groups(store))

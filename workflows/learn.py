"""What a run teaches of its constants: read from its rounds, stored as ratios, used by `card plan --learnt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cardlab.calibrate.learnt import Learner, LearntTerm, observed_in
from cardlab.calibrate.ratio_fits import DRAWS, Taught, ratio_fit, ratio_subject
from cardlab.card.problem.parties import Request
from cardlab.core.errors import NotFoundError, UsageError
from cardlab.core.plain import from_plain
from cardlab.core.quantity import MEASURED, How, union_of
from cardlab.core.records.device import Device
from cardlab.core.records.fit import RATIO, Fit
from cardlab.core.records.measurement import Run, RunKind
from cardlab.core.records.plan import Plan
from cardlab.core.records.training import TrainRound
from cardlab.core.tables import Cell, Tabular
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.workflows.grounds import other_machines
from cardlab.workflows.opening import need_store
from cardlab.workflows.options.calibrate import LearnOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntRow:
    """A term as a run taught it, and the fit that keeps it; None with the reason where none does.

    Attributes:
        device: label of the device, of the server for its own term.
    """

    device: str
    learnt: LearntTerm
    fit: Fit | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntRun(Tabular):
    """Everything that a run taught.

    Attributes:
        run, plan: uids.
        terms: of devices and server.
    """

    run: str
    plan: str
    terms: tuple[LearntRow, ...]

    def rows(self) -> list[dict[str, Cell]]:
        """A row a device and term: ratio to the constants with its 95 % interval, and the rounds it rests on."""
        return [
            {
                "device": row.device,
                "term": row.learnt.term,
                "prior_low": row.learnt.prior_ci95[0],
                "prior_high": row.learnt.prior_ci95[1],
                "ratio": row.learnt.level.ratio,
                "ci95_low": row.learnt.level.ci95[0],
                "ci95_high": row.learnt.level.ci95[1],
                "noise": row.learnt.level.noise,
                "first_round": row.learnt.window[0],
                "last_round": row.learnt.window[1],
                "changed_in_rounds": " ".join(str(change.round) for change in row.learnt.changes) or None,
                "fit_id": None if row.fit is None else row.fit.fit_id,
            }
            for row in self.terms
        ]


def learn(store: Store, options: LearnOptions) -> LearntRun:
    """Filter a run's rounds and store what they taught, all or nothing.

    Raises:
        UsageError: the run is no split run of a plan of scheme card, or nothing of it was predicted.
        NotFoundError: there is no such run, or its plan is no longer here.
    """
    store = need_store(store)
    run = store.runs.get(options.run).run
    if run.kind != RunKind.TRAIN:
        raise UsageError(
            f"{run.uid[:12]} is a {run.kind.value}, no split run", remedy="list split runs with: card runs"
        )
    rounds = store.rounds.of_run(run.uid)
    plan = _plan_of(store, run, rounds)
    others = other_machines(store, plan, run, rounds)
    if others:
        raise UsageError(
            f"run {run.uid[:12]} teaches nothing of its plan's constants: {others[0]}",
            remedy="profile what ran, as it ran, and plan again",
        )
    learner = learner_of(rounds)
    if not learner.terms:
        raise UsageError(
            f"nothing of run {run.uid[:12]} was predicted, so its rounds are held against nothing",
            remedy="run a plan as it was planned for: without --autocast, --batch or another --codec",
        )
    devices = {r.device.key: r.device for r in rounds}
    rows = [_row(store, run, plan, learner, one, devices) for one in learner.terms]
    store.fits.add([(row.fit, ()) for row in rows if row.fit is not None], utc_now())
    return LearntRun(run=run.uid, plan=plan.uid, terms=tuple(rows))


def learner_of(rounds: Sequence[TrainRound]) -> Learner:
    """What the rounds of a run teach, devices by the key of their hardware: two on one machine are one."""
    by_number: dict[int, list[TrainRound]] = {}
    for finished in rounds:
        by_number.setdefault(finished.number, []).append(finished)
    learner = Learner()
    for number, found in sorted(by_number.items()):
        learner.observe(number, [one for r in found for one in observed_in(r, r.device.key)])
    return learner


def _plan_of(store: Store, run: Run, rounds: Sequence[TrainRound]) -> Plan:
    if not rounds:
        raise NotFoundError(f"run {run.uid[:12]} has no finished round", remedy="go on with it: card run --resume")
    uid = next((r.plan for r in rounds if r.plan is not None), None)
    if uid is None:
        raise UsageError(
            f"run {run.uid[:12]} followed no plan in this database, whose constants it could teach something of",
            remedy="plan with: card plan --from-db, and run that with: card run --plan ID",
        )
    plan = store.plans.get(uid)
    if plan.scheme != "card" or not plan.runs:
        what = "of scheme sft, whose devices share server and band" if plan.scheme != "card" else "of a scenario"
        raise UsageError(
            f"plan {uid[:12]} is {what}: no constant of the database is learnt from its rounds",
            remedy="plan with: card plan --from-db --scheme card",
        )
    return plan


def _row(
    store: Store, run: Run, plan: Plan, learner: Learner, one: LearntTerm, devices: Mapping[str, Device]
) -> LearntRow:
    device = devices.get(one.party, run.device)
    base = _base_of(store, plan, one, device.key)
    draws = learner.draws(one.party, one.term, DRAWS)
    if not base or draws is None:
        return LearntRow(device=device.name, learnt=one, fit=None, reason="the plan's rates were given, not measured")
    before = _before(store, plan, device.key, one.term)
    subject = ratio_subject(device.key, device.name, plan.task, one.term)
    origins = union_of([plan.provenance, MEASURED], How.FITTED)
    taught = Taught(run=run.uid, base=base, provenance=origins, before=before)
    return LearntRow(device=device.name, learnt=one, fit=ratio_fit(subject, one, draws, taught), reason=None)


def _base_of(store: Store, plan: Plan, one: LearntTerm, key: str) -> tuple[str, ...]:
    """What the plan's prediction of a term was made of; () where that was given and not measured."""
    if one.term in ("uplink", "downlink"):
        asked = None if plan.request is None else from_plain(Request, plan.request)
        typed = asked is None or any(g.uplink_bps or g.downlink_bps for g in asked.of_each(1))
        return () if typed else plan.links
    if one.term == "device":
        return tuple(uid for uid in plan.runs if store.runs.get(uid).run.device.key == key)
    fits = [store.fits.get(uid).fit for uid in plan.fits]
    return tuple(fit.fit_id for fit in fits if fit.device == key and fit.quantity == "latency")


def _before(store: Store, plan: Plan, key: str, term: str) -> Fit | None:
    """The ratio that the plan's own prediction of a term had in it."""
    fits = [store.fits.get(uid).fit for uid in plan.fits]
    return next((f for f in fits if f.quantity == RATIO and (f.device, f.segment) == (key, term)), None)

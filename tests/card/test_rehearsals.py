"""If these fail, a plan forgets what a run takes beyond its segments, or states an interval that a later run leaves."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from cardlab.calibrate.service import fit_store
from cardlab.card.problem.from_db import UNTIMED, gather
from cardlab.card.problem.parties import Request
from cardlab.card.problem.scenario import Constraints, Objective
from cardlab.card.schemes.card.planning import plan_rounds
from cardlab.card.uncertainty import with_guard
from cardlab.core.identity import new_uid
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import (
    CodecCost,
    Measurement,
    OperatingPoint,
    PlannedPoint,
    Point,
    Profile,
    RunKind,
)
from cardlab.core.records.rehearsal import ADAPTERS, COMPUTE, DECODE, ENCODE, FIRST, LOAD, REHEARSAL
from cardlab.core.records.run_spread import prior_of, spread_of_runs
from cardlab.core.records.task import Task
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.split.schedule import Schedule
from cardlab.workflows.options.card import PlanOptions
from cardlab.workflows.plan import plan
from tests import records
from tests.card.database import add_device

HOST = Device(key="cpu:0001", name="host", platform="cpu", memory_bytes=8 * 2**30)
OTHER = Device(key="cpu:0002", name="laptop", platform="cpu", memory_bytes=8 * 2**30)
# Both sides' segments take 2 ms forward and as much backward.
ASKED = Request(
    server="host",
    devices=("laptop",),
    uplink_bps=1e8,
    downlink_bps=1e8,
    rtt_s=0.0,
    objective=Objective(weight=1.0, local_epochs=3),
)


def add_rehearsal(
    store: Store, device: Device, sitting: str, rows: dict[tuple[str, str, int], float | None], **changes
):
    """Seconds by side, piece of work and cut; None is a value that was not to be trusted."""
    places = sorted({(side, cut) for side, _, cut in rows})
    run = records.run(
        kind=RunKind.REHEARSAL,
        device=device,
        sitting=sitting,
        planned=tuple(PlannedPoint(index=n) for n in range(len(places))),
        analysis=None,
        **changes,
    )
    store.runs.begin(run)
    for planned, (side, cut) in zip(run.planned, places, strict=True):
        point = store.runs.begin_point(run.uid, planned)
        made = [
            Measurement(
                uid=new_uid(),
                quantity=REHEARSAL,
                unit="s",
                segment=what,
                estimate=None if seconds is None else Estimate(seconds, seconds / 500, None, 10, MEASURED),
                flags=() if seconds is not None else ("contended",),
                codec=CodecCost(cut=cut, side=side, encoded_bytes=8192),
            )
            for (here, what, at), seconds in rows.items()
            if (here, at) == (side, cut)
        ]
        store.runs.finish_point(point, OperatingPoint(), *made)
    return run


def hosts(
    path: Path, *, sittings: tuple[str, ...] = ("one",), factor=lambda sitting: 1.0, task: Task = records.TASK
) -> Store:
    """Two CPUs, profiled once in each sitting."""
    store = open_store(path)
    for n, sitting in enumerate(sittings):
        for device in (HOST, OTHER):
            add_device(
                store,
                device,
                seconds=2e-3 * factor(sitting),
                power=None,
                task=task,
                sitting=sitting,
                started_at=f"2026-11-{21 + n:02d}T10:00:00.000000Z",
                offered_hz=(1e9,),
            )
    fit_store(store, created_at="2026-11-25T10:00:00.000000Z")
    return store


def decided(store: Store, request: Request = ASKED):
    gathered = gather(store, request)
    made = plan_rounds(gathered.problems, uncertainty=gathered.uncertainty, inputs=gathered.inputs)
    return made, made.rounds[0].devices[0], gathered


def rehearsed_rows(side: str, more: float, segments_s: dict[int, float]) -> dict[tuple[str, str, int], float | None]:
    """A side whose steps take `more` of their segments, and known times for all else."""
    found: dict[tuple[str, str, int], float | None] = {}
    for cut, seconds in segments_s.items():
        found |= {
            (side, COMPUTE, cut): seconds * (1 + more),
            (side, ENCODE, cut): 2e-4,
            (side, DECODE, cut): 3e-4,
            (side, ADAPTERS, cut): 1e-3 * cut,
            (side, FIRST, cut): 0.02 * cut,
            (side, LOAD, cut): 0.1 + 0.05 * cut,
        }
    return found


def segments_of(store: Store) -> tuple[dict[int, float], dict[int, float]]:
    """Seconds of a mini-batch by cut, as segments say: of the device, and of the server."""
    problem = gather(store, ASKED).problem
    by_cut = {int(cut): n for n, cut in enumerate(problem.cuts)}
    return (
        {cut: float(problem.device_s[0, n]) for cut, n in by_cut.items()},
        {cut: float(problem.server_s[n, 0]) for cut, n in by_cut.items()},
    )


def test_a_plan_counts_what_steps_take_beyond_their_segments(tmp_path: Path) -> None:
    with hosts(tmp_path / "r.db") as store:
        own, server = segments_of(store)
        ends = {cut: own[cut] for cut in (1, 3)}
        add_rehearsal(store, OTHER, "one", rehearsed_rows("device", 0.10, ends))
        add_rehearsal(store, HOST, "one", rehearsed_rows("server", 0.04, {c: server[c] for c in (1, 3)}))
        made, d, gathered = decided(store)
    assert d.delay_terms.device == pytest.approx(3 * 1.10 * own[d.cut], rel=1e-9)
    assert d.delay_terms.server == pytest.approx(3 * 1.04 * server[d.cut], rel=1e-9)
    # What each side packs and unpacks, in each of three mini-batches, and the adapters once a round on both.
    assert d.delay_terms.encode == pytest.approx(3 * 2 * 2e-4)
    assert d.delay_terms.decode == pytest.approx(3 * 2 * 3e-4)
    assert d.delay_terms.adapters == pytest.approx(2 * d.cut * 1e-3 + 2 * 8 * d.cut * 100 / 1e8, rel=1e-9)
    assert UNTIMED not in made.assumptions
    said = [line for line in made.notes if "rehearsed" in line]
    assert said == [
        "steps of laptop (device) against the sum of their segments, rehearsed: +10.0%",
        "steps of host (server) against the sum of their segments, rehearsed: +4.0%",
    ]
    assert {r.uid for r in (*_rehearsals(tmp_path / "r.db"),)} <= set(made.runs)


def _rehearsals(path: Path):
    with open_store(path) as store:
        return [p.run for p in store.runs.select(kind=RunKind.REHEARSAL)]


def test_the_first_round_of_a_run_is_predicted_apart(tmp_path: Path) -> None:
    """It loads everything, takes memory, and sends adapters down that have no optimizer state yet."""
    options = PlanOptions(
        from_db=True, server="host", devices=("laptop",), uplink_mbps=100.0, downlink_mbps=100.0, weight=1.0, rounds=2
    )
    with hosts(tmp_path / "f.db", task=replace(records.TASK, optimizer="adamw")) as store:
        own, server = segments_of(store)
        unknown = plan(store, options)
        for side, device, all_s in (("device", OTHER, own), ("server", HOST, server)):
            rows = rehearsed_rows(side, 0.0, {cut: all_s[cut] for cut in (1, 3)})
            add_rehearsal(store, device, "one", rows, task=replace(records.TASK, optimizer="adamw"))
        made = plan(store, options)
    schedule, usual = Schedule(made), made.rounds[0].devices[0]
    first, second = (schedule.at(n, "laptop").expected for n in (1, 2))
    cut = usual.cut
    more = {t: first.terms[t] - second.terms[t] for t in first.terms}
    assert more.pop("switch") == pytest.approx(2 * (0.1 + 0.05 * cut))
    # AdamW's two moments are in a round's adapters on both ways, but for the first way down.
    assert more.pop("adapters") == pytest.approx(-8 * 2 * cut * 100 / 1e8, rel=1e-6)
    assert more.pop("device") == pytest.approx(0.02 * cut) == more.pop("server")
    assert set(more.values()) == {0.0}
    assert first.delay_ci95[0] < sum(first.terms.values()) < first.delay_ci95[1]
    assert first.delay_ci95[1] - first.delay_ci95[0] > second.delay_ci95[1] - second.delay_ci95[0]
    # A run that goes on at round 5 loads all layers again, and its optimizer has its state.
    again = Schedule(made, first=5)
    assert again.at(1, "laptop").expected.terms["switch"] == 0.0
    later = again.at(5, "laptop").expected.terms
    assert later["switch"] == first.terms["switch"] and later["adapters"] == second.terms["adapters"]
    # Without a rehearsal nobody knows what is loaded: neither the term nor the whole is predicted, the others are.
    bare = Schedule(unknown).at(1, "laptop").expected
    assert "switch" not in bare.terms and bare.delay_ci95 is None and bare.terms["device"] > 0.0


def test_what_was_not_rehearsed_is_assumed_aloud(tmp_path: Path) -> None:
    with hosts(tmp_path / "n.db") as store:
        own, _ = segments_of(store)
        # Of another sitting, of another execution, and disturbed: none of them says anything of this profile.
        add_rehearsal(store, OTHER, "two", rehearsed_rows("device", 0.5, {1: own[1], 3: own[3]}))
        other = replace(records.EXECUTION, threads=2)
        add_rehearsal(store, OTHER, "one", rehearsed_rows("device", 0.5, {1: own[1], 3: own[3]}), execution=other)
        disturbed = dict.fromkeys(rehearsed_rows("device", 0.5, {1: own[1], 3: own[3]}))
        add_rehearsal(store, OTHER, "one", disturbed)
        made, d, _ = decided(store)
    assert d.delay_terms.device == pytest.approx(3 * own[d.cut], rel=1e-9)
    assert d.delay_terms.encode == 0.0 and UNTIMED in made.assumptions
    for name in ("laptop (device)", "host (server)"):
        assert f"steps of {name} take as long as their segments (not rehearsed: profile-device)" in made.assumptions


def test_sittings_pair_each_rehearsal_with_its_own_profile(tmp_path: Path) -> None:
    """The host was twice as slow in the second sitting: the share is the same, and only that counts."""
    slow = {"one": 1.0, "two": 2.0}
    with hosts(tmp_path / "p.db", sittings=("one", "two"), factor=slow.__getitem__) as store:
        _, server = segments_of(store)
        newest, _ = segments_of(store)
        for sitting, factor in slow.items():
            own = {cut: newest[cut] / 2.0 * factor for cut in (1, 3)}
            add_rehearsal(store, OTHER, sitting, rehearsed_rows("device", 0.06, own))
        _, d, _ = decided(store)
    assert d.delay_terms.device == pytest.approx(3 * 1.06 * newest[d.cut], rel=1e-9)


def test_an_interval_is_of_one_round_of_a_later_run(tmp_path: Path) -> None:
    with hosts(tmp_path / "i.db") as store:
        made, d, gathered = decided(store)
    prior = prior_of("cpu")
    low, high = d.terms_ci95["device"]
    # Student's t with four degrees at 97.5 % is 2.78; the profile is a run too, and rounds differ besides.
    half = float(np.hypot(2.776 * np.sqrt(2) * prior.between, 1.96 * prior.within))
    assert (high - low) / 2 / d.delay_terms.device == pytest.approx(half, rel=0.25)
    mean_low, mean_high = d.terms_mean_ci95["device"]
    assert low < mean_low < d.delay_terms.device < mean_high < high
    assert d.delay_ci95[1] - d.delay_ci95[0] > d.delay_mean_ci95[1] - d.delay_mean_ci95[0]
    assert sum("between runs" in line for line in made.notes) == 2
    # A deadline keeps its distance from one round, not from the mean.
    limits = Constraints(deadline_s=10.0, deadline_confidence=0.975)
    asked = replace(gathered.problem, constraints=limits)
    of_round = with_guard(asked, gathered.uncertainty).guard_s
    of_mean = with_guard(asked, gathered.uncertainty.of_means).guard_s
    assert (of_round > 2 * of_mean).all()
    # Which constant a decision hangs on is a question of constants.
    assert made.uncertainty and not any(name.startswith("a round") for name in made.uncertainty)


def test_sittings_of_its_own_tell_how_far_a_machines_runs_differ(tmp_path: Path) -> None:
    steady, wild = ({f"s{n}": 1.0 + spread * (-1.0) ** n for n in range(9)} for spread in (0.001, 0.1))
    widths = {}
    for name, factors in (("steady", steady), ("wild", wild), ("one", {"s0": 1.0})):
        with hosts(tmp_path / f"{name}.db", sittings=tuple(factors), factor=factors.__getitem__) as store:
            spread = spread_of_runs("cpu", store.runs.select(device=OTHER.key))
            _, d, _ = decided(store)
        widths[name] = (d.terms_ci95["device"][1] - d.terms_ci95["device"][0]) / d.delay_terms.device
        assert spread.source.startswith("9 sittings" if name != "one" else "of CPUs")
    assert widths["steady"] < widths["one"] < widths["wild"]


def test_what_is_known_of_cpus_is_what_was_measured_of_one() -> None:
    """Both sides' compute against the prediction: medians of runs about their series, rounds about their run."""
    path = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "run-spread.csv"
    by_run: dict[tuple[str, str], list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            # The first round is predicted apart.
            if row["round"] != "1":
                seen, told = (
                    sum(float(row[f"{s}_{what}_ms"]) for s in ("device", "server"))
                    for what in ("observed", "predicted")
                )
                by_run.setdefault((row["series"], row["run"]), []).append(float(np.log(seen / told)))
    middle = {run: float(np.median(own)) for run, own in by_run.items()}
    series = [[m for (number, _), m in middle.items() if number == one] for one in ("1", "2")]
    between = np.sqrt(np.mean([np.var(own, ddof=1) for own in series]))
    off = np.concatenate([np.array(own) - middle[run] for run, own in by_run.items()])
    within = np.sqrt((off**2).sum() / (off.size - len(by_run)))
    prior = prior_of("cpu")
    assert [len(own) for own in series] == [12, 12] and off.size == 168
    assert 0.0 <= prior.between - between < 0.001 and 0.0 <= prior.within - within < 0.001


def profile_of(sitting: str, factor: float) -> Profile:
    """A finished profile whose step takes so many times the usual."""
    made = records.run(device=OTHER, sitting=sitting)
    rows = tuple(
        records.latency(segment, phase, 1e-3 * factor)
        for segment in ("first_layer", "layer", "head")
        for phase in ("forward", "backward")
    )
    point = Point(uid=new_uid(), index=0, requested_hz=None, operating=OperatingPoint(), measurements=rows)
    return Profile(run=made, points=(point,))


@pytest.mark.parametrize("sittings", [1, 4, 10])
@pytest.mark.parametrize("true", [0.01, 0.016, 0.05])
def test_intervals_hold_later_runs_of_machines_that_the_prior_does_not_know(sittings, true) -> None:
    """A machine's runs are drawn with a spread of its own; where sittings or the prior know it, 19 of 20 are inside."""
    rng = np.random.default_rng([sittings, int(1000 * true)])
    inside = 0
    for _ in range(600):
        own = np.exp(rng.normal(0.0, true, sittings))
        spread = spread_of_runs("cpu", [profile_of(f"s{n}", factor) for n, factor in enumerate(own)])
        later = float(np.exp(rng.normal(0.0, true)))
        half = student.ppf(0.975, spread.freedom) * spread.from_mean_of(1)
        inside += abs(later / own[-1] - 1.0) <= half
    share = inside / 600
    known = true <= prior_of("cpu").between or sittings == 10
    assert share >= (0.90 if known else 0.5)
    # Where ten sittings say that a machine is steady the interval is not as wide as for any.
    assert sittings < 10 or true > 0.02 or share <= 0.999 or half < 2.776 * np.sqrt(2) * prior_of("cpu").between

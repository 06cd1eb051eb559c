"""If these fail, `--frequencies best --for-plan` decides another plan than full knowledge, or measures in vain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from cardlab.calibrate.next_point import KNOWN
from cardlab.calibrate.open_decisions import OpenDecisions
from cardlab.card.problem.being_measured import PartyDraws
from cardlab.card.problem.from_db import gather
from cardlab.card.problem.objective import table
from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.card.open_plan import open_decisions
from cardlab.card.solvers.enumeration import best_choice, extents_of
from cardlab.core.errors import BadDataError, CardlabError, ScenarioError, UsageError
from cardlab.core.records.device import Device
from cardlab.db.store import Store
from cardlab.workflows import for_plan
from cardlab.workflows.best_for_plan import best_for_plan, found_for_plan
from cardlab.workflows.for_plan import plan_search, read_plan
from cardlab.workflows.options.card import PlanOptions
from cardlab.workflows.plan import calibrated_request
from tests.calibrate.conftest import real_sweeps  # noqa: F401
from tests.card.database import MEASURED, SERVER, add_server, layer_s, power_w
from tests.workflows import plan_boards
from tests.workflows.plan_boards import ANALYSIS, PARTS, TASK, Outcome, Truth, run_of, search_board, searched, world

BOARD = Device(key="jetson:new", name="board", platform="jetson", memory_bytes=8 * 2**30)
CARD = Device(key="nvidia:new", name="card", platform="nvidia", memory_bytes=8 * 2**30)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A database with a server and two devices."""
    with world(tmp_path_factory.mktemp("world")) as store:
        yield store


def said(what: str, found: list[Outcome]) -> None:
    lost, paid = np.array([o.lost for o in found]), np.array([o.paid for o in found])
    points = np.array([o.measured for o in found])
    print(
        f"{len(found)} {what}: decisions cost more than the best by (median, 90 %, most) {np.median(paid):.2%},"
        f" {np.quantile(paid, 0.9):.2%}, {paid.max():.2%} of its price and {np.median(lost):.2%},"
        f" {np.quantile(lost, 0.9):.2%}, {lost.max():.2%} of the ranges; points median {np.median(points):g}, most"
        f" {points.max()}, of {sum(o.offered for o in found) / len(found):.0f} on average; within 2 %:"
        f" {np.mean(paid <= KNOWN):.0%}"
    )


@pytest.mark.parametrize("count", [24, pytest.param(100, marks=pytest.mark.accept)])
def test_the_plan_of_a_board_is_decided_with_few_points(known: Store, tmp_path: Path, count: int) -> None:
    """Every other one with a limit on delay or energy, so that neither cut nor frequency is at an end."""
    draw = np.random.default_rng(20241130)
    found = [search_board(known, tmp_path, draw, serves=False, limited=bool(n % 2)) for n in range(count)]
    said("boards", found)
    assert np.mean([max(o.paid, o.lost) <= KNOWN for o in found]) >= 0.95
    # Boards offer 4 to 11 frequencies, and each search begins with three.
    large = [o for o in found if o.offered >= 6]
    assert np.mean([o.measured / o.offered for o in large]) <= 0.6 and all(o.measured < o.offered for o in large)
    assert all(o.regret95 <= KNOWN for o in found if o.measured < o.offered)
    assert len({o.cuts for o in found}) > 2


@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.accept)])
def test_the_plan_of_a_server_is_decided_with_few_points(known: Store, tmp_path: Path, count: int) -> None:
    draw = np.random.default_rng(20241130)
    found = [search_board(known, tmp_path, draw, serves=True, limited=bool(n % 2)) for n in range(count)]
    said("servers", found)
    assert np.mean([max(o.paid, o.lost) <= KNOWN for o in found]) >= 0.8
    assert max(o.measured for o in found) <= 12 and min(o.offered for o in found) > 100


@pytest.mark.parametrize("count", [20, pytest.param(245, marks=pytest.mark.accept)])
def test_public_sweeps_as_servers(known: Store, tmp_path: Path, real_sweeps, count: int) -> None:  # noqa: F811
    """Real cards, whose table is the truth, with work of three kinds of boundness where no times were published."""
    draw, found = np.random.default_rng(3), []
    swept = [one for sweeps in real_sweeps.values() for one in sweeps if len(set(one[0])) >= 8]
    for frequency, power, seconds in swept[:: max(1, len(swept) // count)]:
        stall, top_s = float(draw.choice((0.0, 0.3, 0.7))), float(draw.uniform(0.0008, 0.004))
        times = stall + (1.0 - stall) * frequency.max() / frequency if seconds is None else seconds
        times = times * top_s / times[np.argmax(frequency)]
        truth = {
            float(hz): Truth({(s, p): share * float(t) for s, p, share in PARTS}, float(w), 0.5 * float(w))
            for hz, w, t in sorted(zip(frequency, power, times, strict=True))
        }
        run, path = run_of(CARD, truth), Path(plan_boards.scenario(tmp_path, draw, serves=True))
        # What they draw while waiting was not published.
        path.write_text(path.read_text().replace("[objective]", '[objective]\nenergy = "busy"'))
        search = plan_search(known, read_plan(str(path)), run, metered=True)
        best = found_for_plan(search, searched(search, run, truth, draw))
        lost, paid = plan_boards.true_regret(search, run, truth, best)
        cuts = tuple(d.cut for d in best.decisions)
        found.append(Outcome(lost, paid, best.measured, best.offered, best.regret95, cuts))
    said("public sweeps", found)
    assert np.mean([o.paid <= KNOWN for o in found]) >= 0.85 and np.mean([o.lost <= KNOWN for o in found]) >= 0.98
    assert np.mean([o.measured / o.offered for o in found]) <= 0.6


def asked(folder: Path, text: str) -> str:
    path = folder / "lab.toml"
    path.write_text(text)
    return str(path)


OBJECTIVE = '[objective]\nweight = 0.3\ndevice_energy_weight = 0.4\ndevice_frequencies = "all"\n'
RATES = "uplink_bps = 3e7\ndownlink_bps = 6e7\n"
LAB = f'[server]\nname = "gpu"\n[[devices]]\nname = "board"\n{RATES}{OBJECTIVE}'
TRUTH = {
    hz: Truth({(s, p): share * (0.001 + 2e6 / hz) for s, p, share in PARTS}, 5 + 20 * (hz / 1e9) ** 3, 4 + hz / 1e9)
    for hz in (3e8, 4e8, 5e8, 6e8, 7e8, 8e8, 9e8, 1e9)
}


def test_the_problem_is_that_of_the_plan_but_for_the_device(known: Store, tmp_path: Path) -> None:
    """The fault that it is for: a plan is searched that `card plan` would not make."""
    text = LAB.replace("board", "known-0").replace("gpu", "card")
    path = asked(tmp_path, text.replace('device_frequencies = "all"\n', ""))
    server = replace(SERVER, key="nvidia:new", name="card")
    truth = {
        hz: Truth({(s, p): share * layer_s(hz) for s, p, share in PARTS}, power_w(hz), 25 + 5 * hz / 2.4e9)
        for hz in MEASURED
    }
    search = plan_search(known, read_plan(path), run_of(server, truth), metered=True)
    assert search.part.serves and search.part.allowed_hz == MEASURED
    with world(tmp_path) as store:
        add_server(store, server, task=TASK, analysis=ANALYSIS)
        request = calibrated_request(PlanOptions(from_db=True, scenario=path), read_plan(path).file)
        planned = gather(store, request).problem
    same = [f.name for f in fields(Problem) if f.name not in OF_SERVER]
    for name in same:
        ours, theirs = getattr(search.open.problems[0], name), getattr(planned, name)
        equal = np.array_equal(ours, theirs, equal_nan=True) if isinstance(theirs, np.ndarray) else ours == theirs
        assert equal, (name, ours, theirs)


# What is put in of a server; what its numbers were made of goes with them, and its layers' loading moves no cut here.
OF_SERVER = ("frequency_hz", "server_s", "power_w", "wait_power_w", "idle_power_w", "provenance", "server_layer_s")


@pytest.mark.parametrize("kind", ["box", "common", "cut_only", "per_cut"])
@pytest.mark.parametrize("serves", [False, True])
def test_in_each_draw_the_best_choice_is_the_planners(known: Store, tmp_path: Path, kind: str, serves: bool) -> None:
    """By every rule of ranges, with a limit: what loses nothing is what the exact solver takes."""
    other = f'[[devices]]\nname = "known-0"\n{RATES}'
    text = LAB.replace("[objective]", f'{other}[objective]\nrange = "{kind}"')
    text = text.replace("gpu", "card").replace("board", "known-1") if serves else text
    limit = "[constraints]\ndeadline_s = 0.6\n"
    run = run_of(CARD if serves else BOARD, TRUTH)
    if serves:
        text = text.replace('device_frequencies = "all"\n', "")
    search = plan_search(known, read_plan(asked(tmp_path, text + limit)), run, metered=True)
    draws = two_draws(plan_boards.whole_truth(search, run, TRUTH))
    decisions = open_decisions(search.open, draws)
    assert [d.device for d in decisions] == ([0, 1] if serves else [0])
    for n in (0, 1):
        problem = search.open.with_party(search.open.problems[0], draws, n)
        for decision in decisions:
            extent = extents_of(problem)[decision.device]
            best = best_choice(problem, decision.device, extent)
            t, found = best.table, decision.regrets[n]
            place = int(np.argmin(found))
            assert decision.cut[place] == problem.cuts[best.cut]
            assert decision.server_hz[place] == t.frequency_hz[best.frequency]
            np.testing.assert_equal(decision.device_hz[place], t.device_frequency_hz[best.frequency])
            scale = 1.0 + problem.objective.device_energy_weight
            if kind != "per_cut":
                scale = min(scale, plan_boards.price_of(problem, extent, best.cost))
            for k, cut in enumerate(decision.cut):
                column = np.isclose(t.frequency_hz, decision.server_hz[k])
                column &= np.isclose(t.device_frequency_hz, decision.device_hz[k], equal_nan=True)
                more = (
                    best.costs[int(np.flatnonzero(problem.cuts == cut)[0]), int(np.flatnonzero(column)[0])] - best.cost
                )
                assert found[k] == pytest.approx(min(more / scale, 1.0), abs=1e-6)
    # The two draws have a best choice each, so that what the other one loses is seen.
    assert kind == "cut_only" or all(decision.regrets.max() > 0.001 for decision in decisions)


def two_draws(draws: PartyDraws) -> PartyDraws:
    """As it is, and with the power of the high frequencies at the low ones."""
    assert draws.power_w is not None and draws.wait_power_w is not None
    return replace(
        draws,
        seconds=np.concatenate([draws.seconds, 1.05 * draws.seconds]),
        power_w=np.concatenate([draws.power_w, draws.power_w[:, ::-1]]),
        wait_power_w=np.concatenate([draws.wait_power_w, draws.wait_power_w[:, ::-1]]),
    )


def test_a_choice_that_breaks_a_limit_is_not_taken_for_a_little_less_cost(known: Store, tmp_path: Path) -> None:
    """Half of the draws break the deadline at the cheapest choice: it is the dearest there, not the cheapest."""
    run = run_of(BOARD, TRUTH)
    search = plan_search(known, read_plan(asked(tmp_path, LAB)), run, metered=True)
    draws = plan_boards.whole_truth(search, run, TRUTH)
    twice = replace(
        draws,
        seconds=np.concatenate([draws.seconds, 1.3 * draws.seconds]),
        power_w=np.concatenate([draws.power_w] * 2),
        wait_power_w=np.concatenate([draws.wait_power_w] * 2),
    )
    free = open_decisions(search.open, twice)[0]
    place = int(np.argmin(free.regrets.mean(axis=0)))
    problem = search.open.with_party(search.open.problems[0], draws, 0)
    best = best_choice(problem, 0, extents_of(problem)[0])
    limit = 1.001 * float(best.table.delay_s[best.cut, best.frequency])
    capped = plan_search(
        known, read_plan(asked(tmp_path, f"{LAB}[constraints]\ndeadline_s = {limit}\n")), run, metered=True
    )
    tight = open_decisions(capped.open, twice)[0]
    mean = tight.regrets.mean(axis=0)
    same = (tight.cut == free.cut[place]) & (tight.server_hz == free.server_hz[place])
    same &= tight.device_hz == free.device_hz[place]
    assert mean[same].size == 0 or mean[same][0] >= 0.5
    assert mean.min() < 0.5


def test_whether_there_is_a_plan_at_all_is_measured_too(known: Store, tmp_path: Path) -> None:
    """A deadline that the board may just keep or just miss: three points do not say which."""
    run = run_of(BOARD, TRUTH)
    free = plan_search(known, read_plan(asked(tmp_path, LAB)), run, metered=True)
    problem = free.open.with_party(free.open.problems[0], plan_boards.whole_truth(free, run, TRUTH), 0)
    least_s = float(table(problem, 0).delay_s.min())
    three = searched(free, run, TRUTH, np.random.default_rng(1))
    three = replace(three, points=three.points[:3])
    assert found_for_plan(free, three).regret95 < 0.1
    shares = []
    for factor in (0.95, 1.0, 1.2):
        text = f"{LAB}[constraints]\ndeadline_s = {factor * least_s}\n"
        search = plan_search(known, read_plan(asked(tmp_path, text)), run, metered=True)
        if factor < 1.0:
            with pytest.raises(BadDataError, match="no choice of 'board' keeps the limits of lab.toml"):
                found_for_plan(search, three)
            continue
        found = found_for_plan(search, three)
        shares.append(found.feasible)
        assert (found.regret95 > 0.4) == (found.feasible < 0.95)
    assert 0.05 < shares[0] < 0.95 and shares[1] == 1.0


def some_decisions(decides: int) -> OpenDecisions:
    """Two frequencies whose readings differ; what is best hangs on one of them."""
    readings = np.random.default_rng(1).uniform(1.0, 2.0, (400, 3))
    regrets = np.stack(
        [np.maximum(readings[:, decides] - 1.5, 0.0), np.maximum(1.5 - readings[:, decides], 0.0)], axis=1
    )
    return OpenDecisions(np.array([1e9, 2e9, 3e9]), (readings,), (regrets,), np.array([False, False, True]))


@pytest.mark.parametrize("decides", [0, 1])
def test_the_point_that_the_decision_hangs_on_is_measured(decides: int) -> None:
    found = some_decisions(decides)
    assert not found.known and found.next_hz() == found.offered_hz[decides]


def test_what_decides_nothing_is_not_measured() -> None:
    """Readings that differ by half, and no choice that any of them would change: three points are enough."""
    found = some_decisions(0)
    indifferent = replace(found, regrets=(np.zeros((400, 4)),), measured=np.array([True, True, True]))
    assert indifferent.known and indifferent.regret95 == 0.0
    assert not replace(indifferent, measured=np.array([True, False, True])).known


def test_a_profile_says_what_its_plan_is(known: Store, tmp_path: Path) -> None:
    """From Python: the same record of a profile that is at hand."""
    path, run = asked(tmp_path, LAB), run_of(BOARD, TRUTH)
    search = plan_search(known, read_plan(path), run, metered=True)
    profile = searched(search, run, TRUTH, np.random.default_rng(1))
    found = best_for_plan(known, profile, path)
    assert found == found_for_plan(search, profile)
    assert found.known and not found.serves and found.device == "board" and found.scenario.startswith("lab.toml (")
    assert [row["cut"] for row in found.rows()] == [d.cut for d in found.decisions]
    assert any("uncertainty is not counted" in line for line in found.assumptions)
    with pytest.raises(BadDataError) as caught:
        best_for_plan(known, replace(profile, points=profile.points[:1]), path)
    assert caught.value.remedy


def test_only_frequencies_that_the_scenario_leaves_are_measured(known: Store, tmp_path: Path) -> None:
    text = LAB.replace(RATES, f"{RATES}frequencies_hz = [4e8, 6.01e8, 9e8]\n")
    run = run_of(BOARD, TRUTH)
    search = plan_search(known, read_plan(asked(tmp_path, text)), run, metered=True)
    assert search.part.allowed_hz == (4e8, 6e8, 9e8)
    alone = text.replace("[4e8, 6.01e8, 9e8]", "[6e8]")
    with pytest.raises(ScenarioError, match="one frequency.*--frequencies 600MHz"):
        plan_search(known, read_plan(asked(tmp_path, alone)), run, metered=True)
    with pytest.raises(ScenarioError, match="offers no 1.5 GHz"):
        plan_search(known, read_plan(asked(tmp_path, text.replace("9e8", "1.5e9"))), run, metered=True)


def test_a_device_without_a_meter_is_measured_for_a_plan_that_weighs_none_of_its_energy(
    known: Store, tmp_path: Path
) -> None:
    run = run_of(BOARD, TRUTH)
    with pytest.raises(BadDataError, match="which has no power meter"):
        plan_search(known, read_plan(asked(tmp_path, LAB)), run, metered=False)
    search = plan_search(
        known, read_plan(asked(tmp_path, LAB.replace("device_energy_weight = 0.4\n", ""))), run, metered=False
    )
    profile = searched(search, run, TRUTH, np.random.default_rng(1))
    bare = replace(
        profile,
        points=tuple(
            replace(p, measurements=tuple(m for m in p.measurements if m.unit == "s")) for p in profile.points
        ),
    )
    # Delay and the server's energy alone: the quickest is best.
    assert found_for_plan(search, bare).decisions[0].device_frequency_hz == 1e9


MOVED = f'[server]\nname = "gpu"\n[[devices]]\nname = "known-0"\n{RATES}{OBJECTIVE}'
REFUSED = {
    "no label of it": (MOVED, "knows no 'board': its parties are gpu, known-0"),
    "a server nobody profiled": (LAB.replace("gpu", "nobody"), "knows no 'nobody'"),
    "both sides": (LAB.replace("gpu", "board"), "is the server of lab.toml and one of its devices"),
    "no server": (LAB.replace('[server]\nname = "gpu"\n', ""), "names no server"),
    "no device": ('[server]\nname = "board"\n' + OBJECTIVE, "names no device"),
    "numbers": (LAB.replace("[objective]", "[task]\nlayers = 3\n[objective]"), "comes from the database"),
    "numbers of it": (LAB.replace(RATES, f"{RATES}cores = 512\n"), "comes from the database"),
    "its power": (LAB.replace(RATES, f"{RATES}power_w = 9\n"), "gives power_w of 'board'"),
    "held": (LAB.replace('"all"', '"held"'), "leaves 'board' at its highest frequency"),
    "sft": ('scheme = "sft"\n' + LAB, "is of scheme sft"),
    "a fleet's cap": (LAB + "[constraints]\nfleet_energy_j = 5\n", "without fleet_energy_j"),
    "a mode": (LAB.replace('"board"', '"board@15W"'), "asks for 'board@15W'"),
    "no rates": (LAB.replace(RATES, ""), "link between devices and server is not known"),
    "no radio": (
        LAB.replace("device_freq", 'device_energy = "round"\ndevice_freq'),
        "transmit_power_w of device 'board'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_scenario_that_cannot_be_planned_yet_is_refused(known: Store, tmp_path: Path, name: str) -> None:
    """In one line whose remedy is of this command: not of `card plan`, whose options it does not have."""
    text, words = REFUSED[name]
    with pytest.raises(CardlabError) as caught:
        plan_search(known, read_plan(asked(tmp_path, text)), run_of(BOARD, TRUTH), metered=True)
    assert isinstance(caught.value, UsageError | ScenarioError)
    assert words in caught.value.message and caught.value.remedy and "\n" not in str(caught.value)
    for option in ("--from-db", "--uplink", "--server", "--device ", "--device-", "--channel", "--weight", "--link"):
        assert option not in caught.value.remedy, caught.value.remedy


def test_a_second_device_of_that_name_is_no_party(known: Store, tmp_path: Path) -> None:
    twin = run_of(replace(BOARD, name="known-0"), TRUTH)
    with pytest.raises(ScenarioError, match="knows another 'known-0'"):
        plan_search(known, read_plan(asked(tmp_path, LAB.replace("board", "known-0"))), twin, metered=True)


def test_of_a_million_choices_fewer_draws_are_taken(
    known: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They decide the same: the draws are of one belief, and each is a whole plan."""
    run = run_of(BOARD, TRUTH)
    search = plan_search(known, read_plan(asked(tmp_path, LAB)), run, metered=True)
    profile = searched(search, run, TRUTH, np.random.default_rng(1))
    whole = search.decided(profile, search.part.allowed_hz)
    monkeypatch.setattr(for_plan, "_MANY", 10)
    few = search.decided(profile, search.part.allowed_hz)
    assert whole is not None and few is not None
    assert (whole[0].regrets[0].shape[0], few[0].regrets[0].shape[0]) == (400, 100)
    assert few[0].regret95 == pytest.approx(whole[0].regret95, abs=0.005) and few[0].known


def test_rounds_with_rates_of_their_own_are_decided_each(known: Store, tmp_path: Path) -> None:
    """A drawn channel: every round is a plan of its own, once for equal rates, and they are known together."""
    text = 'rounds = 6\n[link]\nchannel = "normal"\nfading = "rayleigh"\n' + LAB.replace(RATES, "")
    run = run_of(BOARD, TRUTH)
    search = plan_search(known, read_plan(asked(tmp_path, text)), run, metered=True)
    found = found_for_plan(search, searched(search, run, TRUTH, np.random.default_rng(1)))
    assert tuple(d.round for d in found.decisions) == search.rounds and search.rounds[0] == 1 and found.known
    rates = {(float(p.uplink_bps[0]), float(p.downlink_bps[0])) for p in search.open.problems}
    assert len(rates) == len(search.open.problems) == len(search.rounds) > 1
    steady = text.replace("rayleigh", "none")
    assert len(plan_search(known, read_plan(asked(tmp_path, steady)), run, metered=True).open.problems) == 1

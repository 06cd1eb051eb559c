"""What changes a question changes the answer as the world says, and what changes nothing changes nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.matrix import SAME_FOR_ALL, options_of
from tests.cli.run import command
from tests.twin.commands import Measured, done, measure, plan, plan_words, profile_words, scenario_text
from tests.twin.drawing import drawn, usual
from tests.twin.machine import standing
from tests.twin.truth import Asked, Machine, World
from tests.twin.worlds import BOARDS, machines, worlds

pytestmark = pytest.mark.torch

Document = dict[str, Any]
# What tells one plan from another that says the same.
OWN = ("plan_id", "created_at")


@pytest.fixture(scope="module")
def fleet(fleets) -> tuple[World, Measured]:
    """One with two boards that hold every cut, whose server never changed."""
    for world, measured in fleets:
        free = all(b.memory_bytes == 2**33 for b in world.boards)
        if len(world.boards) > 1 and free and world.before is None and world.work.model.layers > 3:
            return world, measured
    raise AssertionError("no such fleet was drawn")


@pytest.fixture
def asked(fleet) -> Asked:
    """A question whose answer lies inside: every term of it counts."""
    return usual(fleet[0])


def said(fleet: tuple[World, Measured], asked: Asked, database: Path | None = None) -> Document:
    """The plan's document without what is its own."""
    world, measured = fleet
    result = plan(world, asked, database or measured.database)
    assert result.code == 0, result.err
    return {key: value for key, value in result.document.items() if key not in OWN}


def at_one_cut(fleet: tuple[World, Measured], asked: Asked) -> Asked:
    """Only delay counts, and one cut is left: what a change does to its terms is seen."""
    return replace(asked, weight=1.0, least_layers=fleet[0].work.model.layers - 1)


def first(document: Document) -> Document:
    """What is decided for the first device."""
    decision: Document = document["rounds"][0]["devices"][0]
    return decision


def without_intervals(value: Any) -> Any:
    """A document's numbers alone."""
    if isinstance(value, dict):
        return {k: without_intervals(v) for k, v in value.items() if k not in ("estimates", "ci95")}
    return [without_intervals(v) for v in value] if isinstance(value, list) else value


def test_the_order_of_devices_changes_their_order_alone(fleet, asked):
    ahead, back = said(fleet, asked), said(fleet, replace(asked, order=asked.order[::-1]))
    assert ahead["rounds"][0]["devices"] == back["rounds"][0]["devices"][::-1]
    assert ahead["summary"]["delay_s"] == pytest.approx(back["summary"]["delay_s"], rel=1e-12)


def test_a_key_is_a_label(fleet, asked):
    world, measured = fleet
    words = plan_words(world, asked)
    for machine in (world.server, *world.boards):
        words = [f"simulated:{machine.kind}:{machine.label}" if w == machine.label else w for w in words]
    by_key = done("card", *words, "--db", str(measured.database))
    assert by_key["rounds"] == said(fleet, asked)["rounds"]


def test_a_measured_link_is_the_rate_that_is_typed(fleet, asked, tmp_path):
    world, measured = fleet
    database = tmp_path / "copy.db"
    shutil.copy(measured.database, database)
    streams = {
        "sum_received": {"seconds": 10.0, "bytes": asked.uplink_bps * 10 / 8, "bits_per_second": asked.uplink_bps}
    }
    back = {
        "sum_received": {"seconds": 10.0, "bytes": asked.downlink_bps * 10 / 8, "bits_per_second": asked.downlink_bps}
    }
    for name, end, reverse in (("up", streams, 0), ("down", back, 1)):
        start = {"version": "iperf 3.12", "test_start": {"protocol": "TCP", "reverse": reverse, "num_streams": 1}}
        sums = end | {"sum_sent": end["sum_received"], "streams": []}
        (tmp_path / f"{name}.json").write_text(json.dumps({"start": start, "intervals": [], "end": sums}))
    files = (str(tmp_path / "up.json"), "--downlink", str(tmp_path / "down.json"))
    done("card", "link", *files, "--name", "lab", "--db", str(database), "--json")
    words = plan_words(world, asked)
    for flag in ("--uplink-mbps", "--downlink-mbps"):
        del words[words.index(flag) : words.index(flag) + 2]
    imported = done("card", *words, "--link", "lab", "--db", str(database))
    decision, typed = first(imported), first(said(fleet, asked))
    assert decision["cut"] == typed["cut"]
    assert decision["delay_terms"] == pytest.approx(typed["delay_terms"], rel=1e-12)
    assert "imported" in imported["provenance"]["origins"]


def test_bundles_merge_in_any_order_and_twice(fleet, asked, tmp_path):
    world, _ = fleet
    bundles = []
    # Each machine is measured into a database of its own, as a fleet does it.
    config = tmp_path / "config.json"
    config.write_text(json.dumps(world.work.model.config()))
    for machine in (world.server, *world.boards):
        own = tmp_path / f"{machine.label}.db"
        with standing(machine):
            done("profile-device", *profile_words(world, machine, config, own))
        bundle = tmp_path / f"{machine.label}.cardlab"
        done("calibrate", "export", "--out", str(bundle), "--db", str(own), "--json")
        bundles.append(str(bundle))
    answers = []
    for index, order in enumerate((bundles, [*bundles[::-1], bundles[0]])):
        database = tmp_path / f"merged-{index}.db"
        done("calibrate", "merge", *order, "--db", str(database), "--json")
        done("calibrate", "fit", "--db", str(database), "--json")
        answers.append(said(fleet, asked, database))
    # Fits are drawn with seeds of their own data; ids are new in each database.
    for answer in answers:
        del answer["fits"]
    assert answers[0]["rounds"] == answers[1]["rounds"]
    assert answers[0]["summary"] == answers[1]["summary"]


def test_an_unrelated_device_and_task_change_nothing(fleet, asked, tmp_path):
    world, measured = fleet
    before = said(fleet, asked)
    database = tmp_path / "more.db"
    shutil.copy(measured.database, database)
    stranger: Machine = drawn(machines("stranger", BOARDS[-1], world.work, 3), 1, 11)[0]
    other = drawn(worlds(), 5, 12)[-1]
    assert other.work != world.work
    config = tmp_path / "config.json"
    for work_of, machine in ((world, stranger), (other, replace(stranger, label=world.boards[0].label + "-twin"))):
        config.write_text(json.dumps(work_of.work.model.config()))
        with standing(machine):
            done("profile-device", *profile_words(work_of, machine, config, database))
    t = world.work.training
    words = [*plan_words(world, asked), "--batch", str(t.batch), "--seq", str(t.sequence), "--db", str(database)]
    result = command("card", *words)
    assert result.code == 0, result.err
    assert result.document["rounds"] == before["rounds"]


def test_a_name_is_no_more_than_a_name(fleet, asked, tmp_path):
    world, _ = fleet
    config = tmp_path / "config.json"
    config.write_text(json.dumps(world.work.model.config()))
    answers = []
    for names in (str, "lab {}".format):
        database = tmp_path / f"{names('named')}.db"
        for machine in (world.server, *world.boards):
            words = [*profile_words(world, machine, config, database), "--name", names(machine.label)]
            with standing(machine):
                done("profile-device", *words)
        done("calibrate", "fit", "--device", names(world.server.label), "--db", str(database), "--json")
        known = {machine.label for machine in (world.server, *world.boards)}
        words = [names(word) if word in known else word for word in plan_words(world, asked)]
        answers.append(done("card", *words, "--db", str(database)))
    # Intervals are made of draws, which begin at another number for another key.
    plain, named = (json.dumps(without_intervals([answer["rounds"], answer["summary"]])) for answer in answers)
    assert "lab board-0" in named
    assert named.replace('"lab ', '"') == plain


def test_a_scenario_in_bits_says_what_megabits_typed_do(fleet, asked):
    limited = replace(asked, server_power_w=fleet[0].server.power_w(fleet[0].server.top_hz), rtt_s=0.01)
    for question in (asked, limited, replace(asked, scheme="sft", energy="busy")):
        typed, written = (said(fleet, replace(question, in_file=where)) for where in (False, True))
        assert written["rounds"] == typed["rounds"]
        assert written["summary"] == typed["summary"]


def test_one_sweep_in_any_units_has_one_fit(fleet, tmp_path):
    server, flop = fleet[0].server, fleet[0].work.flop("layer")[0]
    rows = [(hz, server.power_w(hz), server.seconds(flop, hz)) for hz in server.frequencies_hz]
    found = []
    for index, (head, hertz, watts, seconds) in enumerate(
        (
            ("frequency_hz,power_w,latency_s", 1.0, 1.0, 1.0),
            ("frequency_mhz,power_w,latency_ms", 1e6, 1.0, 1e-3),
            ("frequency_khz,power_mw,latency_us", 1e3, 1e-3, 1e-6),
            ("Frequency [GHz],Power [mW],Latency [ms]", 1e9, 1e-3, 1e-3),
        )
    ):
        file, database = tmp_path / f"{index}.csv", str(tmp_path / f"{index}.db")
        lines = [f"{f / hertz!r},{w / watts!r},{s / seconds!r}" for f, w, s in rows]
        file.write_text("\n".join([head, *lines]) + "\n")
        done("calibrate", "import", str(file), "--device", "lab", "--db", database, "--json")
        fits = done("calibrate", "fit", "--device", "lab", "--db", database, "--json")["fits"]
        found.append(
            {
                (fit["quantity"], fit["law"], name): value["value"]
                for fit in fits
                if fit["selected"]
                for name, value in fit["parameters"].items()
            }
        )
    assert {quantity for quantity, _, _ in found[0]} == {"latency", "power"}
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)


def test_a_faster_uplink_shortens_the_uplink_alone(fleet, asked):
    held = at_one_cut(fleet, asked)
    plain, quick = (first(said(fleet, replace(held, uplink_bps=rate * asked.uplink_bps))) for rate in (1.0, 4.0))
    assert quick["delay_s"] < plain["delay_s"] and quick["cut"] == plain["cut"]
    assert quick["delay_terms"]["uplink"] == pytest.approx(plain["delay_terms"]["uplink"] / 4.0, rel=1e-9)
    assert quick["delay_terms"]["downlink"] == plain["delay_terms"]["downlink"]


def test_more_weight_on_delay_never_makes_it_longer(fleets, asked):
    moved = 0
    for world, measured in fleets[:5]:
        answers = [
            plan(world, replace(asked, weight=w, order=(0,), wire=world.server.dtype), measured.database)
            for w in (0.0, 0.3, 0.7, 1.0)
        ]
        if answers[0].code != 0:
            continue
        delays = [first(a.document)["delay_s"] for a in answers]
        energies = [first(a.document)["server_energy_j"] for a in answers]
        assert delays == sorted(delays, reverse=True)
        assert energies == sorted(energies)
        moved += delays[0] > delays[-1] and energies[0] < energies[-1]
    assert moved >= 2


def test_mini_batches_multiply_what_comes_with_each(fleet, asked):
    once, thrice = (first(said(fleet, replace(at_one_cut(fleet, asked), epochs=n))) for n in (1, 3))
    assert once["cut"] == thrice["cut"]
    for term in ("device", "uplink", "server", "downlink"):
        assert thrice["delay_terms"][term] == pytest.approx(3.0 * once["delay_terms"][term], rel=1e-9)
    assert thrice["delay_terms"]["adapters"] == once["delay_terms"]["adapters"]
    assert thrice["delay_s"] > once["delay_s"]


def test_half_the_numbers_on_the_wire_take_half_the_time(fleet, asked):
    held = at_one_cut(fleet, asked)
    wide = first(said(fleet, held))
    for change in ({"wire": "bfloat16"}, {"compression": 0.5}):
        narrow = first(said(fleet, replace(held, **change)))
        assert narrow["delay_s"] < wide["delay_s"] and narrow["cut"] == wide["cut"]
        assert narrow["delay_terms"]["uplink"] == pytest.approx(wide["delay_terms"]["uplink"] / 2.0, rel=1e-9)


def test_a_limit_is_kept_and_costs(fleet, asked):
    """Where delay alone counts a cap on power or energy bites, where energy alone does a deadline."""
    world, measured = fleet
    for weight, change in (
        (1.0, lambda free: {"server_power_w": 0.99 * world.server.power_w(free["frequency_hz"])}),
        (1.0, lambda free: {"server_energy_j": 0.995 * free["server_energy_j"]}),
        (0.0, lambda free: {"deadline_s": 0.995 * free["delay_s"]}),
    ):
        weighed = replace(asked, order=(0,), weight=weight)
        free = first(said(fleet, weighed))
        limit = change(free)
        kept = first(said(fleet, replace(weighed, **limit)))
        assert kept["cost"] > free["cost"], limit
        assert kept["binding"], limit
        reached = {
            "server_power_w": world.server.power_w(kept["frequency_hz"]),
            "server_energy_j": kept["server_energy_j"],
            "deadline_s": kept["delay_s"],
        }
        assert all(reached[name] <= bound for name, bound in limit.items())
    layers = first(said(fleet, asked))["cut"] + 1
    deeper = plan(world, replace(asked, least_layers=layers), measured.database)
    if layers < world.work.model.layers:
        assert first(deeper.document)["cut"] >= layers and first(deeper.document)["binding"]
    else:
        deeper.failed_in_one_line(1)


def test_what_is_counted_grows_from_above_idle_over_busy_to_the_round(fleet, asked):
    found = {
        kind: first(said(fleet, replace(asked, energy=kind, weight=1.0))) for kind in ("above_idle", "busy", "round")
    }
    energies = [found[kind]["server_energy_j"] for kind in ("above_idle", "busy", "round")]
    assert energies == sorted(energies) and len(set(energies)) == 3


def test_a_round_trip_is_waited_for_by_every_message(fleet, asked):
    held = at_one_cut(fleet, asked)
    near, far = (first(said(fleet, replace(held, rtt_s=rtt)))["delay_terms"] for rtt in (0.0, 0.02))
    for term, waits in (("uplink", 1.0), ("downlink", 1.0)):
        assert far[term] - near[term] == pytest.approx(waits * asked.epochs * 0.01, rel=1e-6)
    assert far["adapters"] - near["adapters"] == pytest.approx(0.02, rel=1e-6)
    assert far["server"] == near["server"] and far["device"] == near["device"]


def test_a_guard_keeps_away_from_a_deadline_that_is_only_just_met(fleet, asked):
    """The fault that it is for: a guard that is dropped, or taken off where it is to be added."""
    world, measured = fleet
    free = first(said(fleet, asked))
    edge = replace(asked, order=(0,), deadline_s=free["delay_s"] * (1.0 + 1e-9))
    assert first(said(fleet, edge))["delay_s"] == free["delay_s"]
    before = free["delay_s"]
    for confidence in (0.9, 0.999):
        guarded = plan(world, replace(edge, confidence=confidence), measured.database)
        if guarded.code != 0:
            guarded.failed_in_one_line(1, "guard")
            continue
        after = first(guarded.document)["delay_s"]
        assert after <= before and after < free["delay_s"]
        before = after


def test_a_cap_on_a_device_gives_layers_back(fleet, asked):
    held = replace(asked, order=(0,))
    deep = first(said(fleet, replace(held, least_layers=3)))
    capped = first(said(fleet, replace(held, device_energy_j=0.9 * deep["device_energy_j"])))
    assert capped["cut"] < deep["cut"] and capped["device_energy_j"] <= 0.9 * deep["device_energy_j"]


def test_a_cap_on_all_devices_is_that_of_the_only_one(fleet, asked):
    """The fault that it is for: a cap on the sum that is taken for one on each, or for none."""
    world, measured = fleet
    held = replace(asked, order=(0,))
    deep = first(said(fleet, replace(held, least_layers=3)))
    limit = 0.9 * deep["device_energy_j"]
    capped = first(said(fleet, replace(held, device_energy_j=limit)))
    words = (*plan_words(world, held), "--max-fleet-energy", repr(limit), "--db", str(measured.database))
    together = first(done("card", *words))
    assert (together["cut"], together["frequency_hz"]) == (capped["cut"], capped["frequency_hz"])
    two = replace(asked, order=(0, 1))
    free = said(fleet, two)
    spent = sum(d["device_energy_j"] for d in free["rounds"][0]["devices"])
    words = (*plan_words(world, two), "--max-fleet-energy", repr(0.99 * spent), "--db", str(measured.database))
    result = command("card", *words)
    if result.code == 0:
        devices = result.document["rounds"][0]["devices"]
        assert sum(d["device_energy_j"] for d in devices) <= 0.99 * spent
    else:
        result.failed_in_one_line(1, "--max-fleet-energy")


def test_a_budget_of_one_round_is_a_cap_and_one_of_several_is_spent_over_them(fleet, asked):
    world, measured = fleet
    held = replace(asked, order=(0,))
    deep = first(said(fleet, replace(held, least_layers=3)))
    limit = 0.9 * deep["device_energy_j"]
    capped = first(said(fleet, replace(held, device_energy_j=limit)))
    words, place = plan_words(world, held), ("--db", str(measured.database))
    one = first(done("card", *words, "--device-budget-j", repr(limit), *place))
    assert (one["cut"], one["frequency_hz"]) == (capped["cut"], capped["frequency_hz"])
    five = done("card", *words, "--rounds", "5", "--device-budget-j", repr(5 * limit), *place)
    assert five["budget"]["kept"] and five["budget"]["spent_j"][0] <= 5 * limit * (1 + 1e-9)
    assert five["summary"]["device_energy_j"] == pytest.approx(five["budget"]["spent_j"][0] / 5)
    # What a cap allows in every round, a budget of all rounds allows too.
    assert five["budget"]["cost"] <= capped["cost"] * (1 + 1e-9)


def test_more_weight_on_a_devices_energy_never_makes_it_more(fleet, asked):
    world, measured = fleet
    place, spent = ("--db", str(measured.database)), []
    for weight in ("0", "0.5", "5"):
        words = (*plan_words(world, replace(asked, order=(0,))), "--device-weight", weight, *place)
        spent.append(first(done("card", *words))["device_energy_j"])
    assert spent == sorted(spent, reverse=True)


def test_a_whole_round_takes_more_than_the_compute_in_it(fleet, asked, tmp_path):
    world, measured = fleet
    text = scenario_text(world, replace(asked, order=(0,))).replace(
        "[objective]", "transmit_power_w = 1.0\nreceive_power_w = 0.5\n[objective]"
    )
    (tmp_path / "radio.toml").write_text(text)
    words = ("plan", "--from-db", "--scenario", str(tmp_path / "radio.toml"), "--json", "--db", str(measured.database))
    compute, whole = (first(done("card", *words, "--device-energy", kind)) for kind in ("compute", "round"))
    assert compute["device_energy_j"] == pytest.approx(compute["device_energy_terms"]["compute"])
    own = {name: value for name, value in whole["device_energy_terms"].items() if name != "idle"}
    if None in own.values():
        assert whole["device_energy_j"] is None and own["waiting"] is None
    else:
        assert whole["device_energy_j"] == pytest.approx(sum(own.values())) and own["transmit"] > 0


def test_a_worse_channel_takes_longer(fleet, asked, tmp_path):
    world, measured = fleet
    # Without fading: a draw that gives no link is drawn again, and then the worse channel may have the luckier round.
    text = scenario_text(world, replace(asked, weight=1.0))
    rates = "".join(line + "\n" for line in text.splitlines() if "link_bps" not in line)
    (tmp_path / "radio.toml").write_text(rates + '[link]\nfading = "none"\n')
    words = ("plan", "--from-db", "--scenario", str(tmp_path / "radio.toml"), "--json", "--db", str(measured.database))
    delays = [done("card", *words, "--channel", name)["summary"]["delay_s"] for name in ("good", "normal", "poor")]
    assert delays == sorted(delays) and len(set(delays)) == 3


def test_what_is_added_to_a_plan_leaves_the_plan_as_it_is(fleet, asked):
    world, measured = fleet
    plain, words, place = said(fleet, asked), plan_words(world, asked), ("--db", str(measured.database))
    for extra in ("--pareto", "--sensitivity"):
        assert done("card", *words, extra, *place)["rounds"] == plain["rounds"]
    # On a link that stays, every round is the first.
    three = done("card", *words, "--rounds", "3", *place)["rounds"]
    assert [r["devices"] for r in three] == 3 * [plain["rounds"][0]["devices"]]
    t = world.work.training
    task = measured.profiles[world.server.label]["task"]["task_id"]
    for named in (("--batch", str(t.batch)), ("--seq", str(t.sequence)), ("--task", task)):
        assert done("card", *words, *named, *place)["rounds"] == plain["rounds"]


# What says in which way an option moves the answer, or changes nothing.
DIRECTIONS = {
    "--scheme": "held in every world of scheme sft",
    "--weight": "test_more_weight_on_delay_never_makes_it_longer",
    "--rounds": "test_what_is_added_to_a_plan_leaves_the_plan_as_it_is",
    "--energy": "test_what_is_counted_grows_from_above_idle_over_busy_to_the_round",
    "--from-db": "everything here",
    "--scenario": "test_a_scenario_in_bits_says_what_megabits_typed_do",
    "--server": "test_a_key_is_a_label",
    "--device": "test_the_order_of_devices_changes_their_order_alone",
    "--deadline": "test_a_limit_is_kept_and_costs",
    "--confidence": "test_a_guard_keeps_away_from_a_deadline_that_is_only_just_met",
    "--max-server-power": "test_a_limit_is_kept_and_costs",
    "--max-server-energy": "test_a_limit_is_kept_and_costs",
    "--max-device-energy": "test_a_cap_on_a_device_gives_layers_back",
    "--max-fleet-energy": "test_a_cap_on_all_devices_is_that_of_the_only_one",
    "--device-budget-j": "test_a_budget_of_one_round_is_a_cap_and_one_of_several_is_spent_over_them",
    "--device-weight": "test_more_weight_on_a_devices_energy_never_makes_it_more",
    "--device-energy": "test_a_whole_round_takes_more_than_the_compute_in_it",
    "--min-device-layers": "test_a_limit_is_kept_and_costs",
    "--batch": "test_what_is_added_to_a_plan_leaves_the_plan_as_it_is",
    "--seq": "test_what_is_added_to_a_plan_leaves_the_plan_as_it_is",
    "--task": "test_what_is_added_to_a_plan_leaves_the_plan_as_it_is",
    "--local-epochs": "test_mini_batches_multiply_what_comes_with_each",
    "--wire-dtype": "test_half_the_numbers_on_the_wire_take_half_the_time",
    "--compression": "test_half_the_numbers_on_the_wire_take_half_the_time",
    "--uplink-mbps": "test_a_faster_uplink_shortens_the_uplink_alone",
    "--downlink-mbps": "held in every world",
    "--rtt-ms": "test_a_round_trip_is_waited_for_by_every_message",
    "--channel": "test_a_worse_channel_takes_longer",
    "--link": "test_a_measured_link_is_the_rate_that_is_typed",
    "--pareto": "test_what_is_added_to_a_plan_leaves_the_plan_as_it_is",
    "--sensitivity": "test_what_is_added_to_a_plan_leaves_the_plan_as_it_is",
    # Not in these worlds: boards profiled at several frequencies, names of one model, profiles at multiples of a
    # batch, curves of accuracy, drawings, runs that taught something.
    "--device-frequencies": None,
    "--learnt": None,
    "--model": None,
    "--server-sharing": None,
    "--min-accuracy": None,
    "--plot": None,
}


def test_every_option_of_a_plan_has_a_direction_or_a_reason():
    options = {flag for flag in options_of(("card", "plan")) if flag.startswith("--")}
    assert options - {*SAME_FOR_ALL, "--json", "--db"} == set(DIRECTIONS)
    assert all(name in globals() for name in DIRECTIONS.values() if name is not None and name.startswith("test_"))


def test_everything_that_rests_on_simulated_numbers_says_so(fleet, asked):
    _, measured = fleet
    document = said(fleet, asked)

    def origins(value: object) -> list[list[str]]:
        if isinstance(value, dict):
            own = [value["origins"]] if "origins" in value else []
            return own + [found for inner in value.values() for found in origins(inner)]
        return [found for inner in value for found in origins(inner)] if isinstance(value, list) else []

    for name, told in (("plan", document), ("fit", measured.fit), *measured.profiles.items()):
        assert origins(told), name
        assert all("simulated" in found for found in origins(told)), name


@pytest.mark.accept
def test_merge_order_and_strangers_change_nothing_in_many_worlds(tmp_path):
    count = 0
    for index, world in enumerate(drawn(worlds(), 40, 31)):
        folder = tmp_path / str(index)
        folder.mkdir()
        measured = measure(world, folder)
        words = ("plan", "--from-db", "--server", world.server.label, "--uplink-mbps", "5", "--downlink-mbps", "5")
        bundle = folder / "all.cardlab"
        done("calibrate", "export", "--out", str(bundle), "--db", str(measured.database), "--json")
        done("calibrate", "merge", str(bundle), "--db", str(folder / "other.db"), "--json")
        devices = [word for board in world.boards for word in ("--device", board.label)]
        plans = [
            command("card", *words, *devices, "--json", "--db", str(database))
            for database in (measured.database, folder / "other.db")
        ]
        assert plans[0].code == plans[1].code
        if plans[0].code == 0:
            assert plans[0].document["rounds"] == plans[1].document["rounds"]
            count += 1
    print(f"plans: {count}")
    assert count > 20

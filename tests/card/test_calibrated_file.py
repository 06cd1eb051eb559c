"""A scenario over calibrated devices: every key that it may hold changes the plan, every other one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cardlab.core.errors import CardlabError, ScenarioError
from tests.card.database import BOARD, add_device, whole
from tests.cli.run import Result, command

SECOND = replace(BOARD, key="jetson:0002", name="second")
PARTIES = """
[server]
name = "gpu"
[[devices]]
name = "board"
uplink_bps = 5e7
downlink_bps = 8e7
[[devices]]
name = "second"
uplink_bps = 2e7
downlink_bps = 3e7
"""
RADIO = '[server]\nname = "gpu"\n[[devices]]\nname = "board"\n[link]\nchannel = "good"\nseed = 4\n'
# A value of each key that is not its default and makes sense for the small database.
OBJECTIVE = {
    "weight": 0.9,
    "weight_on": '"energy"',
    "range": '"common"',
    "energy": '"busy"',
    "local_epochs": 3,
    "compression": 0.3,
    "device_energy_weight": 0.5,
    "benchmark": '"max"',
}
LIMITS = {
    "deadline_s": 0.135,
    "min_device_layers": 2,
    "server_power_w": 33.0,
    "server_energy_j": 4.6,
    "device_energy_j": 1.0,
}
LINK = {
    "channel": '"poor"',
    "bandwidth_hz": 1e7,
    "uplink_tx_dbm": 15.0,
    "downlink_tx_dbm": 20.0,
    "path_loss_db": 110.0,
    "fading": '"none"',
    "snr_mapping": '"shannon-gap:3"',
    "protocol_efficiency": 0.5,
    "seed": 5,
}
SFT = {"spectrum": '"power"', "blocks": '"common"', "bandwidth_hz": 1e7, "bits": 4, "codec": '"dense"'}
OWN = ("plan_id", "created_at")


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A server with fits and two boards."""
    path = tmp_path_factory.mktemp("calibrated") / "kept.db"
    with whole(path) as store:
        add_device(store, SECOND, seconds=0.05, power=9.0)
    return path


def asked(database: Path, folder: Path, text: str, *words: str) -> Result:
    file = folder / "fleet.toml"
    file.write_text(text)
    return command("card", "plan", "--scenario", str(file), "--from-db", *words, "--db", str(database), "--json")


def said(result: Result) -> dict[str, Any]:
    assert result.code == 0, result.err
    return {key: value for key, value in result.document.items() if key not in OWN}


def numbers(document: dict[str, Any]) -> object:
    """What was decided and what is beside it, without words."""
    return document["rounds"], document["summary"]


def test_a_file_is_the_same_as_the_options_that_say_it(kept, tmp_path):
    text = PARTIES.replace("2e7", "5e7").replace("3e7", "8e7") + "[objective]\nweight = 0.6\nlocal_epochs = 2\n"
    options = ("--server", "gpu", "--device", "board", "--device", "second", "--weight", "0.6", "--local-epochs", "2")
    rates = ("--uplink-mbps", "50", "--downlink-mbps", "80", "--db", str(kept), "--json")
    typed = command("card", "plan", "--from-db", *options, *rates)
    assert numbers(said(asked(kept, tmp_path, text))) == numbers(said(typed))


def test_each_device_has_its_own_rates_and_an_option_wins_over_them(kept, tmp_path):
    first, second = said(asked(kept, tmp_path, PARTIES, "--weight", "1"))["rounds"][0]["devices"]
    bits = 8 * 8192
    assert first["delay_terms"]["uplink"] == pytest.approx(bits / 5e7)
    assert second["delay_terms"]["uplink"] == pytest.approx(bits / 2e7)
    assert second["delay_terms"]["downlink"] == pytest.approx(bits / 3e7)
    for decision in said(asked(kept, tmp_path, PARTIES, "--weight", "1", "--uplink-mbps", "1"))["rounds"][0]["devices"]:
        assert decision["delay_terms"]["uplink"] == pytest.approx(bits / 1e6)


@pytest.mark.parametrize(("table", "key"), [("objective", k) for k in OBJECTIVE] + [("constraints", k) for k in LIMITS])
def test_every_key_of_objective_and_constraints_changes_the_plan(kept, tmp_path, table, key):
    value = {**OBJECTIVE, **LIMITS}[key]
    base = said(asked(kept, tmp_path, PARTIES))
    changed = said(asked(kept, tmp_path, f"{PARTIES}[{table}]\n{key} = {value}\n"))
    assert numbers(changed) != numbers(base)
    # What is not given is said to be assumed, what is given is not.
    if key in ("weight", "local_epochs", "compression"):
        assert any(line.startswith(key) for line in base["assumptions"])
        assert not any(line.startswith(key) for line in changed["assumptions"])


@pytest.mark.parametrize("key", LINK)
def test_every_key_of_the_link_changes_the_plan(kept, tmp_path, key):
    base = said(asked(kept, tmp_path, RADIO, "--rounds", "4"))
    lines = RADIO.splitlines()
    text = "\n".join([line for line in lines if not line.startswith(f"{key} =")] + [f"{key} = {LINK[key]}"]) + "\n"
    assert numbers(said(asked(kept, tmp_path, text, "--rounds", "4"))) != numbers(base)


@pytest.mark.parametrize("key", SFT)
def test_every_key_of_sft_changes_the_plan_or_is_refused(kept, tmp_path, key):
    text = f'scheme = "sft"\n{PARTIES}'
    base = asked(kept, tmp_path, text, "--compression", "0.1")
    changed = asked(kept, tmp_path, f"{text}[sft]\n{key} = {SFT[key]}\n", "--compression", "0.1")
    if changed.code != 0:
        changed.failed_in_one_line(changed.code)
    else:
        assert said(changed) != said(base)


def test_a_deadline_with_a_confidence_keeps_its_distance(kept, tmp_path):
    plain = said(asked(kept, tmp_path, f"{PARTIES}[constraints]\ndeadline_s = 0.2\n"))
    sure = said(asked(kept, tmp_path, f"{PARTIES}[constraints]\ndeadline_s = 0.2\ndeadline_confidence = 0.99\n"))
    assert plain["rounds"][0]["devices"][1]["delay_s"] >= sure["rounds"][0]["devices"][1]["delay_s"]


def test_memory_and_power_of_the_file_take_the_place_of_what_was_found_and_are_listed(kept, tmp_path):
    base = said(asked(kept, tmp_path, PARTIES))
    text = PARTIES.replace('name = "board"', 'name = "board"\npower_w = 30.0\nmemory_bytes = 8.1e9')
    changed = said(asked(kept, tmp_path, text))
    for key in ("power_w of board = 30", "memory_bytes of board = 8.1e+09"):
        assert any(line.startswith(key) for line in changed["assumptions"]), changed["assumptions"]
    for document, assumed in ((base, False), (changed, True)):
        assert ("assumed" in document["provenance"]["origins"]) is assumed
    energy = [document["rounds"][0]["devices"][0]["device_energy_j"] for document in (base, changed)]
    assert energy[1] == pytest.approx(2.0 * energy[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[task]\nlayers = 3\n", ("task", "database")),
        ('[server]\nname = "gpu"\ncores = 3072\n', ("line 3", "cores", "database")),
        ('[[devices]]\nname = "board"\nfrequency_hz = 1e9\n', ("line 3", "frequency_hz", "database")),
        ('scheme = "sft"\n[sft]\nencode_bytes_per_s = 1e8\n', ("encode_bytes_per_s", "database")),
        ('[[devices]]\nname = "board"\nuplink_bps = 50.0\n', ("uplink_bps",)),
        ('[[devices]]\nname = "nobody"\nuplink_bps = 5e7\ndownlink_bps = 5e7\n', ("nobody", "known devices")),
        (PARTIES + "[sft]\nbits = 4\n", ("[sft]", "card")),
        (PARTIES + '[link]\nchannel = "good"\n', ("[link]", "no effect")),
        ('scheme = "sft"\n' + PARTIES + "[sft]\nbits = 4\n", ("bits", "compression")),
        ('scheme = "sft"\n' + PARTIES + "[sft]\nbandwidth_hz = 1e7\n", ("bandwidth_hz", "shared by time")),
        (PARTIES + "[objective]\nweigth = 0.5\n", ("weigth", "known keys")),
        ("rounds = 0\n" + PARTIES, ("rounds is 0",)),
        ('scheme = "sft"\n' + PARTIES + "[objective]\nweight = 0.5\n", ("weight", "sft")),
    ],
)
def test_what_is_measured_or_has_no_effect_is_refused(kept, tmp_path, text, words):
    result = asked(kept, tmp_path, text)
    result.failed_in_one_line(result.code, *words)
    assert result.code in (1, 2)


def test_options_that_name_parties_twice_are_refused(kept, tmp_path):
    asked(kept, tmp_path, PARTIES, "--device", "board").failed_in_one_line(2, "--device", "[[devices]]")
    asked(kept, tmp_path, PARTIES, "--server", "board").failed_in_one_line(2, "--server", "[server]")
    # Every device has its rates: a channel would stand in the assumptions alone.
    asked(kept, tmp_path, PARTIES, "--channel", "poor").failed_in_one_line(2, "--channel", "no effect")
    asked(kept, tmp_path, PARTIES, "--server-sharing", "batched").failed_in_one_line(2, "--server-sharing", "card")
    asked(kept, tmp_path, RADIO, "--link", "lab").failed_in_one_line(2, "--link", "[link]")


def test_errors_in_python_are_those_of_the_command_line(kept, tmp_path):
    import cardlab
    from cardlab.workflows import PlanOptions

    file = tmp_path / "x.toml"
    file.write_text("[task]\nlayers = 3\n")
    with cardlab.open_store(kept) as store, pytest.raises(ScenarioError, match="comes from the database"):
        cardlab.plan(store, PlanOptions(scenario=str(file), from_db=True))
    with pytest.raises(CardlabError, match="needs constants"):
        cardlab.plan(None, PlanOptions(scenario=str(file), from_db=True))

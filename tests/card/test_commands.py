"""The card commands from the outside: one JSON document, one line for an error, nothing slow."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from cardlab.cli.apps import card_app
from cardlab.cli.main import run
from cardlab.db import open_store
from tests.card.database import whole


def card(capsys, *words):
    code = run(card_app, "card", [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def document(capsys, *words):
    code, out, err = card(capsys, *words, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


@pytest.mark.alone
def test_the_bundled_scenario_needs_no_database_and_less_than_two_seconds(tmp_path):
    words = [
        sys.executable,
        "-c",
        "from cardlab.cli.main import card; card()",
        "plan",
        "--scenario",
        "card-letter",
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Its own CPU time, of all threads: what else the machine does is no part of it.
    took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0, done.stderr
    assert "device only" in done.stdout and "orin-nano" in done.stdout
    assert took_s < 2.0
    assert list(tmp_path.iterdir()) == []


def test_the_document_has_the_keys_of_the_contract(capsys):
    found = document(capsys, "plan", "--scenario", "card-letter", "--rounds", 2)
    assert {"schema_version", "plan_id", "scheme", "rounds", "summary"} <= set(found)
    assert [r["round"] for r in found["rounds"]] == [1, 2]
    device = found["rounds"][0]["devices"][0]
    assert set(device["delay_terms"]) == {
        "device",
        "encode",
        "uplink",
        "decode",
        "server",
        "downlink",
        "adapters",
        "switch",
    }
    assert sum(device["delay_terms"].values()) == pytest.approx(device["delay_s"])
    assert {
        "device",
        "cut",
        "frequency_hz",
        "delay_s",
        "server_energy_j",
        "device_energy_j",
        "cost",
        "cut_probability",
        "binding",
        "runner_up",
        "estimates",
    } <= set(device)
    assert {
        "delay_s",
        "server_energy_j",
        "delay_vs_device_only",
        "energy_vs_server_only",
        "baselines",
    } <= set(found["summary"])
    assert -1 < found["summary"]["delay_vs_device_only"] < 0


def test_options_change_the_scenario(capsys):
    base = document(capsys, "plan", "--scenario", "card-letter")
    more = document(
        capsys,
        "plan",
        "--scenario",
        "card-letter",
        "--channel",
        "poor",
        "--rounds",
        2,
        "--pareto",
        "--sensitivity",
        "--weight",
        0.8,
        "--local-epochs",
        2,
        "--compression",
        0.5,
    )
    assert more["rounds"][0]["devices"] != more["rounds"][1]["devices"]
    assert more["pareto"] and more["sensitivity"] and not base["pareto"]
    assert any(line.startswith("link bandwidth_hz") for line in more["assumptions"])


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--max-server-power", 0.01, "server power cap"),
        ("--max-server-energy", 0.1, "server energy cap"),
        ("--max-device-energy", 0.1, "device energy cap"),
        ("--deadline", 0.1, "deadline"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_named_with_its_option(capsys, option, value, name):
    code, _, err = card(capsys, "plan", "--scenario", "llama-3.2-1b", option, value)
    assert code == 1
    assert f"{name} of" in err and "the best possible is" in err and option in err


def test_least_layers_are_kept(capsys):
    found = document(capsys, "plan", "--scenario", "card-letter", "--min-device-layers", 7)
    assert [d["cut"] for d in found["rounds"][0]["devices"]] == [31, 31, 31, 7, 7]
    assert found["rounds"][0]["devices"][4]["binding"] == ["least layers on the device"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (
            ("plan", "--scenario", "card-letter", "--weight", "1.5"),
            1,
            "weight is 1.5; give a weight from 0 to 1",
        ),
        (("plan", "--scenario", "card-letter", "--deadline", "1"), 1, "the best possible is"),
        (("plan", "--scenario", "card-letter", "--channel", "bad"), 2, "good, normal, poor"),
        (("plan", "--scenario", "card-letter", "--uplink-mbps", "0"), 2, "--uplink-mbps is 0"),
        (("plan", "--scenario", "nothing.toml"), 1, "card-letter"),
        (("plan",), 2, "--from-db"),
        (("plan", "--from-db", "--scenario", "card-letter"), 1, "cardlab.db"),
        (("plan", "--from-db", "--uplink-mbps", "1", "--downlink-mbps", "1"), 1, "cardlab.db"),
        (("plan", "--scenario", "card-letter", "--link", "lab"), 2, "--from-db"),
        (("simulate", "--scenario", "card-letter", "--channel", "bad"), 1, "good, normal, poor"),
        (("link", "nothing.json"), 1, "iperf3"),
    ],
)
def test_an_error_is_one_line_with_its_code(capsys, monkeypatch, tmp_path, words, code, text):
    monkeypatch.chdir(tmp_path)
    got, out, err = card(capsys, *words)
    assert (got, out) == (code, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert text in err
    assert list(tmp_path.glob("*.db")) == []


def test_a_link_is_imported_listed_and_used(capsys, database, tmp_path):
    whole(database).close()
    file = tmp_path / "up.json"
    file.write_text(json.dumps({"end": {"sum_received": {"bits_per_second": 4e7}}}))
    imported = document(capsys, "link", file, "--name", "lab", "--db", database)
    assert imported["link"]["uplink_bps"] == 4e7 and imported["link"]["downlink_bps"] is None
    code, _, err = card(capsys, "plan", "--from-db", "--db", database)
    assert code == 1 and "--downlink-mbps" in err
    made = document(capsys, "plan", "--from-db", "--db", database, "--downlink-mbps", 80, "--rounds", 2)
    assert made["links"] == [imported["link"]["uid"]]
    assert "imported" in made["provenance"]["origins"]
    assert [link["name"] for link in document(capsys, "link", "--db", database)["links"]] == ["lab"]
    with open_store(database) as store:
        assert store.plans.latest().uid == made["plan_id"]


def test_a_table_names_certainty_and_the_largest_contribution_to_uncertainty(capsys, database):
    whole(database).close()
    code, out, _ = card(capsys, "plan", "--from-db", "--db", database, "--channel", "good")
    assert code == 0
    assert "largest contribution to the uncertainty" in out and "SNR mapping customary-lte" in out
    assert "simulated, no number of these is real: gpu" in out


@pytest.mark.once
def test_simulate_and_reproduce_print_documents(capsys):
    played = document(capsys, "simulate", "--rounds", 2, "--channel", "good", "--fleets", 2)["jobs"]
    assert [p["fleet"] for p in played] == [0, 1]
    claims = document(capsys, "reproduce", "--rounds", 2)["claims"]
    assert len(claims) == 14 and all(c["verdict"] for c in claims)
    code, out, _ = card(capsys, "reproduce", "--rounds", 2)
    assert code == 0 and "like Fig. 4" in out


def test_help_does_not_import_the_planner():
    script = (
        "import sys; from cardlab.cli.apps import card_app; print([m for m in sys.modules if m in "
        "('numpy', 'scipy', 'numba', 'cardlab.card.schemes.card.planning')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

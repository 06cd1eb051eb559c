"""If these fail, what a command does and what the same call from Python does are no longer one thing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cardlab
from cardlab.core.errors import PlanError, UsageError
from cardlab.core.options import declared
from cardlab.core.records.plan import Plan
from cardlab.workflows import FitOptions, PlanOptions, PredictOptions, ProfileOptions, SimulateOptions
from tests.cli.run import command

WORK: dict[str, Any] = {"model": "tiny-llama", "sequence": 32}
WORDS = ("--model", "tiny-llama", "--seq", "32")

pytestmark = pytest.mark.torch


def by_python(path: Path) -> Plan:
    """A server and a board measured, fitted and planned through the API."""
    with cardlab.open_store(path) as store:
        server = cardlab.profile(store, ProfileOptions(**WORK, platform="simulated:rtx-4060-ti", name="server"))
        cardlab.profile(store, ProfileOptions(**WORK, platform="simulated:orin-nano", name="nano", frequencies="max"))
        fits = cardlab.fit(store, device=server.device)
        assert {f.device for f in fits} == {server.device.key} and fits.constants and fits.optima
        return cardlab.plan(store, PlanOptions(uplink_mbps=50, downlink_mbps=100))


def by_command(path: Path) -> dict[str, Any]:
    """The same through the commands; the decision of the one device."""
    db = ("--db", str(path))
    done = command("profile-device", *WORDS, "--platform", "simulated:rtx-4060-ti", "--name", "server", *db)
    assert done.code == 0, done.err
    nano = ("--platform", "simulated:orin-nano", "--name", "nano", "--frequencies", "max")
    assert command("profile-device", *WORDS, *nano, *db).code == 0
    assert command("calibrate", "fit", "--device", "server", *db).code == 0
    planned = command("card", "plan", "--from-db", "--uplink-mbps", "50", "--downlink-mbps", "100", "--json", *db)
    assert planned.code == 0, planned.err
    found = planned.document["rounds"][0]["devices"][0]
    assert isinstance(found, dict)
    return found


def test_python_and_commands_give_the_same_plan_to_the_last_digit(tmp_path: Path) -> None:
    """W1: through the API the offered frequencies were missing and a law was evaluated at 1 Hz, without a word."""
    here = by_python(tmp_path / "api.db").rounds[0].devices[0]
    there = by_command(tmp_path / "cli.db")
    assert (here.cut, here.frequency_hz) == (there["cut"], there["frequency_hz"])
    for name in ("delay_s", "server_energy_j", "device_energy_j", "cost"):
        assert getattr(here, name) == there[name], name
    assert 1e-3 < here.delay_s < 1e-2 and here.server_energy_j is not None and here.server_energy_j < 1.0


def test_a_plan_at_unknown_frequencies_is_refused(tmp_path: Path) -> None:
    import sqlite3

    by_python(tmp_path / "api.db")
    with sqlite3.connect(tmp_path / "api.db") as connection:
        connection.execute("UPDATE run SET offered_hz = NULL")
    with cardlab.open_store(tmp_path / "api.db") as store, pytest.raises(PlanError, match="does not say which freq"):
        cardlab.plan(store, PlanOptions(uplink_mbps=50, downlink_mbps=100))


def test_results_are_tables(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    plan = by_python(tmp_path / "api.db")
    frame = plan.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame["device"]) == ["nano"]
    assert frame["delay_s"][0] == plan.rounds[0].devices[0].delay_s == plan.summary.delay_s
    html = plan._repr_html_()
    assert html.startswith("<table>") and "nano" in html and "server_energy_j" in html
    with cardlab.open_store(tmp_path / "api.db") as store:
        profile = store.runs.latest()
        assert set(profile.to_pandas()["segment"]) == {"embedding", "first_layer", "layer", "head"}
        said = cardlab.predict(store, PredictOptions(device="server", frequency_mhz=1000))
        values = said.to_pandas().set_index(["quantity", "segment", "phase"])["value"]
        assert len(values) == len(said.fits) and (values > 0).all()


def test_no_workflow_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_python(tmp_path / "api.db")
    cardlab.simulate(SimulateOptions(rounds=2))
    cardlab.reproduce()
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_every_declared_option_is_said_once_and_has_a_default_that_works() -> None:
    from cardlab import workflows

    for name in workflows.__all__:
        options = getattr(workflows, name)
        found = declared(options)
        assert {o.name for o in found} == {f.name for f in dataclasses.fields(options)}, name
        flags = [o.flag for o in found]
        assert len(flags) == len(set(flags)), name
        assert all(o.opt.help.endswith(".") and o.opt.help[0].isalpha() or o.opt.help[0] in "J" for o in found), name


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (("--scenario", "card-letter", "--wire-dtype", "float16"), "--wire-dtype"),
        (("--scenario", "card-letter", "--server", "nobody"), "--server"),
        (("--scenario", "card-letter", "--model", "gpt2"), "--model"),
        (("--scenario", "card-letter", "--batch", "7"), "--batch"),
        (("--scenario", "card-letter", "--min-accuracy", "0.9"), "--min-accuracy"),
        (("--scenario", "card-letter", "--scheme", "sft", "--min-accuracy", "0.9"), "--min-accuracy"),
        (("--scenario", "card-letter", "--scheme", "sft", "--weight", "0.9"), "--weight"),
        (("--scenario", "card-letter", "--device", "a"), "--device"),
    ],
)
def test_an_option_without_effect_is_refused(words: tuple[str, ...], unused: str) -> None:
    command("card", "plan", *words).failed_in_one_line(2, unused, "no effect")


def test_python_refuses_the_same(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--batch has no effect"):
        cardlab.plan(None, PlanOptions(scenario="card-letter", batch=7))
    with pytest.raises(UsageError, match="needs constants"):
        cardlab.plan(None, PlanOptions(weight=0.5))
    with cardlab.open_store(tmp_path / "x.db") as store, pytest.raises(UsageError, match="no effect on a load"):
        cardlab.profile(store, ProfileOptions(load_command="true", batch=2))
    assert FitOptions() == FitOptions(device=None, law="auto")


def test_importing_cardlab_is_light() -> None:
    code = (
        "import cardlab, cardlab.workflows, sys, json; from cardlab.workflows import PlanOptions;"
        "print(json.dumps([m for m in ('torch', 'sqlalchemy', 'numpy', 'typer') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []

"""If these fail, what a command does and what the same call from Python does are no longer one thing."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cardlab
from cardlab.core.errors import PlanError, UsageError
from cardlab.core.options import declared
from cardlab.core.records.plan import Plan
from cardlab.workflows import FitOptions, PlanOptions, PredictOptions, ProfileOptions, SimulateOptions
from tests.cli.run import command
from tests.conftest import surround

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


class Measured(NamedTuple):
    """The database of `by_python`, its plan, and whatever was printed while it was made."""

    database: Path
    plan: Plan
    printed: str


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Measured, fitted and planned once for the tests here."""
    folder = tmp_path_factory.mktemp("measured")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        surround(patch, folder)
        plan = by_python(folder / "api.db")
    return Measured(folder / "api.db", plan, said.getvalue())


@pytest.fixture
def api_db(measured: Measured, tmp_path: Path) -> Path:
    """A copy of that database for one test."""
    return Path(shutil.copy(measured.database, tmp_path / "api.db"))


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


def test_python_and_commands_give_the_same_plan_to_the_last_digit(measured: Measured, tmp_path: Path) -> None:
    """W1: through the API the offered frequencies were missing and a law was evaluated at 1 Hz, without a word."""
    here = measured.plan.rounds[0].devices[0]
    there = by_command(tmp_path / "cli.db")
    assert (here.cut, here.frequency_hz) == (there["cut"], there["frequency_hz"])
    for name in ("delay_s", "server_energy_j", "device_energy_j", "cost"):
        assert getattr(here, name) == there[name], name
    assert 1e-3 < here.delay_s < 1e-2 and here.server_energy_j is not None and here.server_energy_j < 1.0


def through_the_agents_writer(source: Path, bundle: Path) -> None:
    """The runs of a store as a bundle that the agent's own writer made, measurement by measurement."""
    import zipfile

    from cardlab.db.bundle import export_bundle
    from cardlab.profilers.agent.bundle import METER, TABLES, Bundle

    with cardlab.open_store(source) as store:
        export_bundle(store, bundle.with_suffix(".full"))
    with zipfile.ZipFile(bundle.with_suffix(".full")) as archive:
        rows = {n: [json.loads(x) for x in archive.read(f"{n}.jsonl").decode().splitlines()] for n in TABLES}
    written = Bundle(str(bundle))
    for name in ("device", "environment", "execution", "task", "run", "point", "operating_point"):
        for row in rows[name]:
            written.add(name, row)
    for row in rows["measurement"]:
        more = {k: row[k] for k in ("segment", "phase", "rail", "stderr", "n", "flags", "repeats", "clean", "details")}
        ci95 = None if row["ci_low"] is None else (row["ci_low"], row["ci_high"])
        meter = {k: row[k] for k in METER}
        origins = ("simulated",)
        written.add_measurement(
            row["point_id"], row["quantity"], row["unit"], row["value"], ci95=ci95, meter=meter, origins=origins, **more
        )
    written.write()


def test_an_agents_bundle_gives_the_same_plan_to_the_last_digit(
    measured: Measured, api_db: Path, tmp_path: Path
) -> None:
    """W1: the agent's runs lacked the offered frequencies too."""
    here = measured.plan.rounds[0].devices[0]
    through_the_agents_writer(api_db, tmp_path / "board.zip")
    assert command("calibrate", "merge", str(tmp_path / "board.zip"), "--db", str(tmp_path / "home.db")).code == 0
    with cardlab.open_store(tmp_path / "home.db") as store:
        assert all(p.run.offered_hz for p in store.runs.select())
        cardlab.fit(store, device="server")
        there = cardlab.plan(store, PlanOptions(uplink_mbps=50, downlink_mbps=100)).rounds[0].devices[0]
    assert (here.cut, here.frequency_hz) == (there.cut, there.frequency_hz)
    for name in ("delay_s", "server_energy_j", "device_energy_j", "cost"):
        assert getattr(here, name) == getattr(there, name), name


def test_a_plan_at_unknown_frequencies_is_refused(api_db: Path) -> None:
    import sqlite3

    with sqlite3.connect(api_db) as connection:
        connection.execute("UPDATE run SET offered_hz = NULL")
    with cardlab.open_store(api_db) as store, pytest.raises(PlanError, match="does not say which freq"):
        cardlab.plan(store, PlanOptions(uplink_mbps=50, downlink_mbps=100))


def test_results_are_tables(measured: Measured, api_db: Path) -> None:
    pandas = pytest.importorskip("pandas")
    plan = measured.plan
    frame = plan.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame["device"]) == ["nano"]
    assert frame["delay_s"][0] == plan.rounds[0].devices[0].delay_s == plan.summary.delay_s
    html = plan._repr_html_()
    assert html.startswith("<table>") and "nano" in html and "server_energy_j" in html
    with cardlab.open_store(api_db) as store:
        profile = store.runs.latest()
        assert set(profile.to_pandas()["segment"]) == {"embedding", "first_layer", "layer", "head"}
        said = cardlab.predict(store, PredictOptions(device="server", frequency_mhz=1000))
        values = said.to_pandas().set_index(["quantity", "segment", "phase"])["value"]
        assert len(values) == len(said.fits) and (values > 0).all()


def test_no_workflow_prints(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    assert measured.printed == ""
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

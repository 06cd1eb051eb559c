# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a split run from the command line hangs, fails in a heap of text, or does not say what it did."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab import __version__
from cardlab.core.records.plan import TERMS, DelayTerms, Outcome, Plan
from cardlab.db import open_store
from tests.card.database import whole
from tests.cli.run import Result, command

QUICK = ("--seq", "32", "--dtype", "float32", "--rounds", "2")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def roles() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def role(started, *words: str) -> subprocess.Popen[str]:
    code = "from cardlab.cli.main import card; card()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    started.append(process)
    return process


def ended(process: subprocess.Popen[str], timeout_s: float = 60.0) -> Result:
    out, err = process.communicate(timeout=timeout_s)
    return Result(process.returncode, out, err)


def listening(port: int) -> None:
    until = time.monotonic() + 40.0
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the server never listened")


def plan_of(tmp_path: Path, **changes: object) -> Plan:
    """A plan for tiny-llama 1 x 32 on two local devices, as it is stored."""
    from dataclasses import replace

    from cardlab.core.quantity import MEASURED
    from cardlab.core.records.plan import Decision, PlannedRound
    from cardlab.profilers.runtime import resolve_task

    task = resolve_task("tiny-llama", sequence=32, lora_alpha=16.0)
    terms = DelayTerms(
        device=0.01, encode=0.001, uplink=0.002, decode=0.001, server=0.02, downlink=0.002, adapters=0.004, switch=0.0
    )

    def decision(device: str, cut: int) -> Decision:
        return Decision(
            device=device,
            cut=cut,
            frequency_hz=1.2e9,
            delay_s=terms.total,
            delay_terms=terms,
            cost=0.0,
            delay_ci95=(0.03, 0.05),
            terms_ci95={"device": (0.009, 0.011)},
            server_energy_j=None,
            provenance=MEASURED,
        )

    rounds = tuple(
        PlannedRound(round=n, devices=(decision("east", a), decision("west", b)))
        for n, (a, b) in ((1, (1, 2)), (2, (3, 2)))
    )
    made = Plan(
        uid="abc" + "0" * 29,
        scheme="card",
        energy=None,
        rounds=rounds,
        outcome=Outcome(delay_s=0.08, server_energy_j=None),
        provenance=MEASURED,
        task=task.uid,
        local_epochs=2,
        compression=1.0,
        wire_dtype="float32",
    )
    made = replace(made, **changes)  # type: ignore[arg-type]
    with open_store(tmp_path / "cardlab.db") as store:
        store.plans.add(made, "2026-11-21T10:00:00.000000Z")
    return made


def test_a_stored_plan_is_followed_round_by_round_and_held_against_the_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps({"text": f"line {n} of a text of my own"}) + "\n" for n in range(40)))
    words = ("--local", "--plan", "abc", "--seq", "32", "--dtype", "float32", "--data", str(data), "--json")
    result = command("card", "run", *words)
    assert result.code == 0, result.err
    document = result.document
    assert {"run_id", "plan_id", "rounds", "adapters", "schema_version"} <= set(document)
    assert document["plan_id"] == plan.uid and "the server sees the text" in result.err
    for entry in (d for r in document["rounds"] for d in r["devices"]):
        assert set(entry["delay_terms"]) == set(TERMS) and entry["loss"] > 0
        assert sum(entry["delay_terms"].values()) == pytest.approx(entry["delay_s"], rel=1e-9)
    assert (Path(document["adapters"]) / "adapter_model.safetensors").is_file()
    with open_store("cardlab.db") as store:
        assert len(store.rounds.of_run(document["run_id"])) == 4
    cuts = [{d["device"]: d["cut"] for d in r["devices"]} for r in document["rounds"]]
    assert cuts == [{"east": 1, "west": 2}, {"east": 3, "west": 2}]
    assert all(len(d["losses"]) == 2 for r in document["rounds"] for d in r["devices"])
    if all(d["frequency_hz"] is None for r in document["rounds"] for d in r["devices"]):
        assert "frequency is not the planned one" in result.err
    checked = command("card", "validate", "--json").document
    terms = {(t["device"], t["term"]): t for t in checked["terms"]}
    assert terms["east", "device"]["predicted_s"] == 0.01 and terms["east", "device"]["ci95"] == [0.009, 0.011]
    assert terms["west", "delay"]["predicted_s"] == pytest.approx(0.04) and terms["west", "delay"]["ci95"] == [
        0.03,
        0.05,
    ]
    for term in terms.values():
        assert term["error"] == pytest.approx((term["predicted_s"] - term["observed_s"]) / term["observed_s"], rel=1e-6)
    assert {o["device"] for o in checked["off"]} == {"east", "west"}
    worst = max(TERMS, key=lambda t: abs(terms["east", t]["predicted_s"] - terms["east", t]["observed_s"]))
    assert next(o["term"] for o in checked["off"] if o["device"] == "east") == worst
    assert f"most off at east: {worst}" in command("card", "validate").out


def test_roles_of_their_own_with_keys_and_a_resumed_end(tmp_path: Path, port, roles) -> None:
    for name in ("hub", "board"):
        assert command("card", "run", "keys", name).code == 0
    assert oct((tmp_path / "hub.key").stat().st_mode & 0o777) == "0o600"
    assert "secret" not in (tmp_path / "hub.pub").read_text()
    where = f"127.0.0.1:{port}"
    server = role(
        roles,
        "run",
        "server",
        "--bind",
        where,
        "--key",
        "hub.key",
        "--allow",
        "board.pub",
        "--cut",
        "1",
        "--name",
        "cellar",
        *QUICK,
        "--json",
    )
    listening(port)
    device = role(
        roles,
        "run",
        "device",
        "--server",
        where,
        "--key",
        "board.key",
        "--server-key",
        "hub.pub",
        "--name",
        "east",
        "--dtype",
        "float32",
        "--lora-rank",
        "8",
        "--json",
    )
    done, theirs = ended(server), ended(device)
    assert (done.code, theirs.code) == (0, 0), (done.err, theirs.err)
    assert theirs.document["rounds"] == 2 and theirs.document["device"] == "east"
    assert [len(r["devices"]) for r in done.document["rounds"]] == [1, 1] and done.document["plan_id"] is None
    checked = command("card", "validate", "--json").document
    assert checked["run_id"] == done.document["run_id"] and checked["off"] == [] and len(checked["terms"]) == 9
    for term in checked["terms"]:
        assert (term["predicted_s"], term["ci95"], term["error"]) == (None, None, None)
        assert term["observed_s"] is not None
    assert "nothing was predicted" in command("card", "validate", checked["run_id"][:8]).out
    assert "cellar" in command("card", "runs").out


@pytest.mark.alone
def test_a_link_is_measured_with_the_transport_and_stored(tmp_path: Path, port, roles) -> None:
    server = role(roles, "link", "--serve", "--bind", f"127.0.0.1:{port}", "--idle", "2", "--json")
    listening(port)
    words = ("--server", f"127.0.0.1:{port}", "--name", "trial", "--link", "40mbit/80mbit,2ms", "--messages", "4")
    result = command("card", "link", *words, "--message-bytes", "200000", "--json")
    assert result.code == 0, result.err
    link = result.document["link"]
    for key, rate in (("uplink_bps", 40e6), ("downlink_bps", 80e6)):
        ideal = 200_000 * 8 / (200_000 * 8 / rate + 2e-3)
        assert ideal * 0.85 < link[key] < ideal * 1.02
        low, high = link["details"][key.replace("_bps", "_range_bps")]
        assert low <= link[key] <= high
    assert link["provenance"]["origins"] == ["measured"]
    assert "trial" in command("card", "link").out
    assert ended(server).document["answered"] == 5


REFUSED_AT_ONCE = [
    (("run",), 2, ["--local"]),
    (("run", "--local"), 2, ["--plan", "--cut"]),
    (("run", "--local", "--cut", "2", "--plan", "x"), 2, ["--plan", "--cut"]),
    (("run", "--local", "--cut", "9"), 2, ["cut 9", "1 to 3"]),
    (("run", "--local", "--cut", "2", "--link", "fast"), 2, ["100mbit,5ms"]),
    (("run", "--local", "--cut", "2", "--model", "no-such"), 1, ["no-such"]),
    (("run", "--local", "--cut", "2", "--optimizer", "lion"), 2, ["lion"]),
    (("run", "--local", "--resume"), 1, ["no run to go on with"]),
    (("run", "--local", "--cut", "2", "--resume"), 2, ["--cut has no effect"]),
    (("run", "--local", "--plan", "nope"), 1, ["nope"]),
    (("run", "server", "--cut", "2", "--bind", "0.0.0.0:0"), 2, ["keys"]),
    (("run", "server", "--cut", "2", "--bind", "here"), 1, ["here"]),
    (("run", "server", "--cut", "2", "--platform", "simulated:rtx-4060"), 2, ["simulated"]),
    (("run", "server", "--cut", "2", "--key", "none.key", "--allow", "none.pub"), 1, ["none.key"]),
    (("run", "server", "--cut", "2", "--key", "none.key"), 2, ["--allow"]),
    (("run", "device", "--server", "192.0.2.1:5560"), 2, ["keys"]),
    (("run", "device", "--server", "127.0.0.1:x"), 2, ["HOST:PORT", "is no address"][1:]),
    (("run", "device", "--server", "127.0.0.1:1", "--wait", "2"), 1, ["no server answers"]),
    (("run", "device", "--server", "127.0.0.1:1", "--shard", "3/2"), 2, ["3/2"]),
    (("run", "--cut", "2", "server"), 2, ["--cut"]),
    (("validate", "nope"), 1, ["cardlab.db"]),
    (("link", "--serve", "--server", "x"), 2, ["--serve"]),
]


@pytest.mark.alone
@pytest.mark.parametrize(
    ("words", "code", "said"), REFUSED_AT_ONCE, ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_bad_input_is_refused_in_one_line_within_seconds(words, code, said) -> None:
    began = time.monotonic()
    command("card", *words).failed_in_one_line(code, *said)
    assert time.monotonic() - began < 8.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "0" * 32}, "another task"),
        ({"compression": 0.1}, "names no codec"),
    ],
    ids=["another model", "compressed"],
)
def test_a_plan_that_cannot_be_followed_is_refused(tmp_path: Path, changes, said) -> None:
    plan_of(tmp_path, **changes)
    command("card", "run", "--local", "--plan", "abc", "--seq", "32").failed_in_one_line(1, said)
    command("card", "run", "--local", "--plan", "abc", "--seq", "64").failed_in_one_line(1)
    assert not (tmp_path / "card-run").exists()


def test_a_local_device_that_cannot_start_ends_the_run_with_its_own_words(tmp_path: Path) -> None:
    began = time.monotonic()
    # Their data are too short for two devices, which each finds out when it has read them.
    (tmp_path / "short.txt").write_text("x" * 40)
    words = ("--local", "--cut", "2", "--devices", "2", "--data", "short.txt", *QUICK)
    command("card", "run", *words).failed_in_one_line(1, "no window of 32")
    assert time.monotonic() - began < 40.0
    # What this process can see itself is named before any device is started.
    command("card", "run", "--local", "--cut", "2", "--data", "missing.txt", *QUICK).failed_in_one_line(
        2, "missing.txt"
    )


def test_a_database_without_a_run_has_nothing_to_validate(tmp_path: Path) -> None:
    whole(tmp_path / "cardlab.db").close()
    command("card", "validate").failed_in_one_line(1, "no split run", "card run")


def test_a_port_in_use_is_refused(port) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        result = command("card", "run", "server", "--cut", "2", "--bind", f"127.0.0.1:{port}", *QUICK)
    result.failed_in_one_line(1, str(port), "in use")
    # Nothing is begun before the port is there.
    assert not Path("card-run").exists()


@pytest.mark.alone
def test_a_server_that_ends_by_an_error_tells_its_devices(tmp_path: Path, port, roles) -> None:
    where = f"127.0.0.1:{port}"
    server = role(roles, "run", "server", "--bind", where, "--cut", "1", "--devices", "2", "--wait", "15", *QUICK)
    listening(port)
    device = role(roles, "run", "device", "--server", where, "--name", "east")
    done = ended(server)
    told = time.monotonic()
    theirs = ended(device)
    # It waits minutes for a server that may come back.
    assert time.monotonic() - told < 5.0
    done.failed_in_one_line(1, "1 of 2 device(s) came within 15 s")
    theirs.failed_in_one_line(1, "the server ends: 1 of 2 device(s) came within 15 s", "card run device")


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    from cardlab.profilers.runtime import resolve_task
    from cardlab.split.adapters import initial_adapters
    from cardlab.split.journal import Journal
    from cardlab.split.settings import RunSettings
    from tests.split.test_parts import turn

    settings = RunSettings(
        run="1" * 32,
        task=resolve_task("tiny-llama", sequence=32),
        rounds=2,
        epochs=1,
        learning_rate=1e-3,
        wire_dtype="float32",
        cut=2,
    )
    journal = Journal.begin(tmp_path / "card-run", settings, "2026-11-21T10:00:00.000000Z")
    journal.commit(initial_adapters(settings.task, 0), turn())
    command("card", "run", "--local", "--cut", "2", *QUICK).failed_in_one_line(1, "unfinished", "--resume")


@pytest.mark.alone
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "gpt2"), "is not the server's"),
        (("--lora-rank", "4"), "lora.rank is 4 on this device and 8"),
        (("--lora-targets", "k_proj"), "lora.targets"),
        (("--optimizer", "sgd"), "optimizer"),
        (("--data", "missing.txt"), "missing.txt"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_sides_that_do_not_agree_part_in_one_line_on_each(tmp_path: Path, port, served, words, said) -> None:
    began = time.monotonic()
    result = command(
        "card", "run", "device", "--server", f"127.0.0.1:{served}", "--name", "odd", "--dtype", "float32", *words
    )
    result.failed_in_one_line(result.code, said)
    assert result.code in (1, 2) and time.monotonic() - began < 10.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server that waits for two devices all the while; it lets anybody try."""
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    code = "from cardlab.cli.main import card; card()"
    environment = {**os.environ, "XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    words = ["run", "server", "--bind", f"127.0.0.1:{port}", "--cut", "2", "--devices", "2", *QUICK]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words], cwd=folder, env=environment, stdout=log, stderr=log
        )
    listening(port)
    yield port
    process.kill()
    process.wait()


@pytest.mark.alone
def test_another_version_is_refused_on_both_sides(served, monkeypatch: pytest.MonkeyPatch) -> None:
    import cardlab.split.device as device_module

    monkeypatch.setattr(device_module, "__version__", "0.0.1")
    result = command("card", "run", "device", "--server", f"127.0.0.1:{served}", "--name", "old")
    result.failed_in_one_line(1, "0.0.1", __version__)


def test_what_is_no_cardlab_server_is_named(port) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        result = command("card", "run", "device", "--server", f"127.0.0.1:{port}")
    result.failed_in_one_line(1, "does not answer as a cardlab server")


@pytest.mark.alone
def test_wrong_keys_are_refused_in_seconds(tmp_path: Path, port, roles) -> None:
    for name in ("hub", "board", "stranger"):
        command("card", "run", "keys", name)
    where = f"127.0.0.1:{port}"
    role(roles, "run", "server", "--bind", where, "--key", "hub.key", "--allow", "board.pub", "--cut", "1", *QUICK)
    listening(port)
    for key, server_key in (("stranger.key", "hub.pub"), ("board.key", "stranger.pub"), (None, None)):
        words = () if key is None else ("--key", key, "--server-key", server_key)
        began = time.monotonic()
        command("card", "run", "device", "--server", where, *words).failed_in_one_line(1, "key")
        assert time.monotonic() - began < 8.0
    command("card", "run", "keys", "hub").failed_in_one_line(1, "is there already")


def test_a_profile_and_a_fit_predict_a_run_with_a_given_cut(tmp_path: Path) -> None:
    """Database rows of another machine: the prediction is theirs, and the run says how far off it is."""
    from dataclasses import asdict

    from cardlab.split.settings import RunSettings
    from cardlab.workflows.expectation import Serving, expected_by_device
    from tests import records
    from tests.card.database import BOARD, SERVER

    with whole(tmp_path / "fits.db") as store:
        settings = RunSettings(
            run="2" * 32, task=records.TASK, rounds=1, epochs=3, learning_rate=1e-3, wire_dtype="float32", cut=2
        )
        found = expected_by_device(store, settings, Serving(SERVER), "10mbit").predictions
        assert set(found) == {BOARD.key, SERVER.key}
        terms = found[BOARD.key].terms
        # Nobody timed packing: it takes time that nothing says. None is not 0, and 0 is what a cut that stays takes.
        assert set(terms) == set(asdict(DelayTerms(**dict.fromkeys(TERMS, 0.0)))) - {"encode", "decode"}
        assert terms["switch"] == 0.0
        assert terms["device"] == pytest.approx(3 * (0.002 + 0.02 + 0.02 + 0.02 + 0.024))
        assert terms["uplink"] == pytest.approx(3 * 8192 * 8 / 10e6)
        # A rate that was typed is a link's mean: a later message differs from it all the same.
        linked = {"device", "server", "uplink", "downlink", "adapters"}
        assert found[BOARD.key].delay_ci95 is None and set(found[BOARD.key].terms_ci95) == linked
        assert set(expected_by_device(store, settings, Serving(SERVER), None).predictions[BOARD.key].terms) == {
            "device",
            "server",
            "switch",
        }


@pytest.mark.alone
def test_a_run_with_a_codec_is_held_against_that_codecs_bytes(tmp_path: Path) -> None:
    """Uncompressed bytes would predict an uplink many times too slow; without a profile of the codec there is none."""
    task = ("--model", "tiny-llama", "--batch", "4", "--seq", "128", "--dtype", "float32")
    codec, link = "topk:0.1:8", "20mbit"
    sized = ("--cut", "2", "--rounds", "3", "--optimizer", "sgd")
    run = ("card", "run", "--local", *task, *sized, "--codec", codec, "--link", link)
    # Named by hand: neither the runs below nor later profiles call it by the host's name again.
    assert command("profile-device", *task, "--name", "here", "--no-whole-step", "--repeats", "3").code == 0
    assert command("calibrate", "fit").code == 0
    unprofiled = command(*run, "--out", str(tmp_path / "first"))
    assert unprofiled.code == 0, unprofiled.err
    assert f"not predicted: encode, decode, uplink, downlink: codec {codec} was not profiled" in unprofiled.err
    checked = command("card", "validate", "--json").document
    terms = {term["term"]: term for term in checked["terms"]}
    assert terms["uplink"]["predicted_s"] is None and terms["device"]["predicted_s"] > 0
    # The marks of a prediction stand beside it also when the run's own screen is long gone.
    assert any("not predicted: encode" in line for line in checked["expected_notes"])
    assert not any("newer data" in line for line in checked["expected_notes"])
    assert command("profile-device", *task, "--no-whole-step", "--repeats", "3", "--compression").code == 0
    page = tmp_path / "here.html"
    assert command("calibrate", "report", "--out", str(page)).code == 0
    assert "of here do not know newer data" in page.read_text("utf-8")
    assert command(*run, "--out", str(tmp_path / "second")).code == 0
    checked = command("card", "validate", "--json").document
    assert any("of here do not know newer data" in line for line in checked["expected_notes"])
    assert "of here do not know newer data" in command("card", "validate").out
    terms = {term["term"]: term for term in checked["terms"]}
    for way in ("uplink", "downlink"):
        # Messages of some kilobytes: what a message costs beside its bytes counts too, but no factor of 20.
        assert 0.4 < terms[way]["predicted_s"] / terms[way]["observed_s"] < 1.5
    assert terms["encode"]["predicted_s"] > 0
    [row] = [line for line in command("cardlab", "db", "info").out.splitlines() if " cpu " in line]
    assert row.split()[0] == "here"


def test_a_local_run_is_held_against_this_machines_profile() -> None:
    """Profile and fit first, then `card run --local --cut`: validate has a prediction, as the demo shows."""
    task = ("--model", "tiny-llama", "--batch", "2", "--seq", "32", "--dtype", "float32")
    assert command("profile-device", *task, "--no-whole-step", "--repeats", "3").code == 0
    assert command("calibrate", "fit").code == 0
    assert command("card", "run", "--local", *task, "--cut", "2", "--rounds", "2", "--optimizer", "sgd").code == 0
    terms = {term["term"]: term for term in command("card", "validate", "--json").document["terms"]}
    for name in ("device", "server"):
        assert terms[name]["predicted_s"] > 0 and terms[name]["error"] is not None

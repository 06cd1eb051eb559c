# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a run that could not start stands in the way of the next, or a full disk takes what was finished."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.split.journal import Journal
from cardlab.workflows.local_devices import LocalDevices
from tests.cli.run import command
from tests.conftest import missing
from tests.split.test_commands import ended, listening, port, role, roles  # noqa: F401 - fixtures
from tests.split.test_resume import unfinished

WORDS = ("run", "--local", "--cut", "1", "--seq", "8", "--batch", "2", "--dtype", "float32")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with room for a few rounds."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        missing("a small disk needs root here")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        missing("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (65536, 4096):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break


def test_a_disk_that_is_full_in_the_middle_is_one_line_and_the_run_goes_on(small_disk: Path, monkeypatch) -> None:
    from cardlab.split import server as serving

    real = serving.Server._round

    def filling(self: Any, number: int) -> bool:
        if number == 2:
            fill(small_disk)
        return real(self, number)

    out = str(small_disk / "run")
    with monkeypatch.context() as patch:
        patch.setattr(serving.Server, "_round", filling)
        stopped = command("card", *WORDS, "--rounds", "2", "--out", out)
    stopped.failed_in_one_line(1, "No space left on device", "make room", "go on with --resume")
    (small_disk / "filler").unlink()
    done = command("card", "run", "--local", "--resume", "--out", out, "--json")
    assert done.code == 0 and [r["round"] for r in done.document["rounds"]] == [1, 2], done.err
    whole = command("card", *WORDS, "--rounds", "2", "--out", "whole", "--json")
    losses = [[d["losses"] for r in x.document["rounds"] for d in r["devices"]] for x in (whole, done)]
    assert losses[0] == losses[1]


def test_a_disk_without_room_is_found_before_anything_is_begun(small_disk: Path) -> None:
    fill(small_disk)
    result = command("card", *WORDS, "--rounds", "1", "--out", str(small_disk / "run"))
    result.failed_in_one_line(1, "has room for 0 MiB", "make room")
    assert not (small_disk / "run").exists()


def test_a_place_that_takes_no_files_is_not_called_full(tmp_path: Path) -> None:
    command("card", *WORDS, "--rounds", "1", "--out", "/proc/run").failed_in_one_line(1, "takes no files", "--out")


def test_a_device_of_a_local_run_that_was_killed_is_named_once(tmp_path: Path) -> None:
    said: list[str] = []
    devices = LocalDevices(["a", "b"], 1, [], [[], []], tmp_path, 1)
    sleeping = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    devices._running = dict(zip("ab", sleeping, strict=True))
    try:
        devices.check(said.append)
        sleeping[0].kill()
        sleeping[0].wait()
        devices.check(said.append)
        devices.check(said.append)
    finally:
        sleeping[1].kill()
        sleeping[1].wait()
    assert said == ["a was killed (signal 9): the run goes on without it"]


def test_a_mini_batch_that_takes_rows_twice_and_a_rate_that_trains_nothing_are_said(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "one one"}\n{"text": "two two"}\n')
    done = command("card", *WORDS, "--rounds", "1", "--batch", "4", "--data", "t.jsonl", "--learning-rate", "1e-12")
    assert done.code == 0 and "a mini-batch of 4 has rows more than once: there are 1" in done.err, done.err
    assert "--learning-rate 1e-12 is far from what trains adapters" in done.err
    assert "1 round(s) of 1 step(s) of each device: 4 pass(es) over 1 row(s)" in done.err


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = command("card", *WORDS, "--rounds", "1", "--out", "file/run")
    result.failed_in_one_line(1, "cannot be written", "--out")
    assert "Errno" not in result.err


def test_what_failed_before_its_first_round_gives_way_to_the_corrected_command(tmp_path: Path) -> None:
    """A tokenizer of another kind is named before anything is begun; a device that fails leaves nothing in the way."""
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    (tmp_path / "t.txt").write_text("\n".join(str(n) for n in range(400)))
    words = (*WORDS, "--rounds", "1", "--data", "t.txt")
    command("card", *words, "--tokenizer", "tokenizer.json").failed_in_one_line(1 + 1, "is no tokenizer.json of the")
    assert not Path("card-run").exists()
    unfinished(tmp_path, closed=0)
    assert command("card", *words, "--out", "run").code == 0


def test_a_port_that_is_taken_changes_no_run_that_goes_on(tmp_path: Path, port: int) -> None:  # noqa: F811
    assert command("card", *WORDS, "--rounds", "1", "--out", "run").code == 0
    before = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        words = ("run", "server", "--resume", "--out", "run", "--rounds", "2", "--bind", f"127.0.0.1:{port}")
        command("card", *words).failed_in_one_line(1, "in use", "--bind")
    assert {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()} == before


@pytest.mark.alone
def test_a_device_waits_for_a_server_that_comes_later_and_both_say_what_is_kept(
    tmp_path: Path,
    port: int,  # noqa: F811
    roles: Any,  # noqa: F811
) -> None:
    where = f"127.0.0.1:{port}"
    device = role(roles, "run", "device", "--server", where, "--name", "east", "--dtype", "float32", "--link", "1mbit")
    time.sleep(8.0)
    server = role(roles, "run", "server", "--bind", where, *WORDS[2:], "--rounds", "100000", "--out", "run")
    listening(port)
    until = time.monotonic() + 60.0
    while time.monotonic() < until and not (Path("run/journal.json").exists() and Journal.resume(Path("run")).turns):
        time.sleep(0.1)
    for process in (device, server):
        process.send_signal(signal.SIGINT)
    theirs, done = ended(device), ended(server)
    theirs.failed_in_one_line(130, "round(s) of east are stored at the server", "give the same command again")
    assert f"waiting for a server at {where}, for 120 s" in theirs.err
    made = len(Journal.resume(Path("run")).turns)
    assert made >= 1
    done.failed_in_one_line(130, f"{made} turn(s) of devices are kept in run", "go on with --resume --out run")

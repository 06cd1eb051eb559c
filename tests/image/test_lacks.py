"""If these fail, docker/README.md quotes what cardlab does not print, and nobody finds his lack in it."""

from __future__ import annotations

import os
import re
import shutil
from functools import partial
from pathlib import Path

import pynvml
import pytest

import cardlab.profilers.board.identity as identity
import cardlab.profilers.devices.nvidia.frequency as nvidia_frequency
import cardlab.workflows.doctor as doctor
from cardlab.profilers.board.errors import BoardError
from cardlab.profilers.board.identity import host_key
from cardlab.profilers.devices import open_platform
from tests.cli.run import command
from tests.conftest import ROOT
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.tree import build, put

README = (ROOT / "docker/README.md").read_text(encoding="utf-8")
TABLE = README.partition("## What each lack looks like")[2].partition("\nHealth is")[0]
# The second cell of each row.
QUOTED = re.findall(r"^\| [^|]+ \| `([^`]+)`", TABLE, re.MULTILINE)
# What is taken away from the tree of a board, and what doctor then prints.
TAKEN = {
    ("proc/device-tree",): "a Jetson in a container: its device tree is hidden, so neither the module nor its identity"
    " is known",
    ("etc/nv_tegra_release",): "L4T release N/A",
    ("etc/nvpmodel.conf", "var/lib/nvpmodel"): "/var/lib/nvpmodel:/var/lib/nvpmodel:ro",
    ("sys/bus/i2c", "sys/class/hwmon", "run/jtop.sock"): "no INA3221 driver: power is N/A",
    ("sys/kernel/debug",): "may not be read: neither held nor recorded",
    ("run/jtop.sock",): "installed, but its service does not run",
}
NO_TREE = "a Jetson in a container without its device tree, cores are N/A"
READ_ONLY = "/sys is read-only here: measured as found"
NO_RIGHTS = "this user may not set frequencies: measured as found"
NO_GROUP = "this user may not ask its service"
NO_GPU = "finds no GPU: no model can be measured on it"
NO_NVML = "nvmlInit finds no libnvidia-ml.so.1"
NO_ADMIN = "root without the right to administer (an unprivileged container): measured as found"
OWN_KEY, LOST_KEY = "key made once in", "it goes with this container: the next one is another device"
NO_KEY = "this host has no identity and none can be made in"
ELSE = (NO_TREE, READ_ONLY, NO_RIGHTS, NO_GROUP, NO_GPU, NO_NVML, NO_ADMIN, OWN_KEY, LOST_KEY, NO_KEY)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree of an Orin Nano where the commands look at /."""
    root = tmp_path / "board"
    build(BOARDS["orin-nano-super"], root)
    put(root / "run/jtop.sock", "")
    monkeypatch.setattr(doctor, "open_platform", partial(open_platform, sysfs_root=root))
    return root


def printed(*words: str) -> str:
    """What doctor says, states and remedies."""
    probes = command("profile-device", "doctor", "--json", *words).document["probes"]
    return "\n".join(f"{probe['name']}: {probe['state']}; {probe['remedy']}" for probe in probes)


def test_every_line_that_the_page_quotes_is_tried_here() -> None:
    assert sorted(QUOTED) == sorted([*TAKEN.values(), *ELSE])


@pytest.mark.torch
@pytest.mark.parametrize("paths", TAKEN, ids=lambda paths: paths[0])
def test_what_is_not_mounted_is_named_as_the_page_says(paths: tuple[str, ...], board: Path) -> None:
    assert TAKEN[paths] not in printed()
    for path in paths:
        shutil.rmtree(board / path) if (board / path).is_dir() else (board / path).unlink()
    assert TAKEN[paths] in printed()


@pytest.mark.torch
def test_a_machine_id_names_a_board_whose_device_tree_is_hidden(board: Path) -> None:
    put(board / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    shutil.rmtree(board / "proc/device-tree")
    assert NO_TREE in printed()


@pytest.mark.torch
def test_rights_that_lack_are_named_as_the_page_says(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *given, **more: False)
    for user, said in ((0, READ_ONLY), (10001, NO_RIGHTS)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        found = printed()
        assert said in found and NO_GROUP in found


@pytest.mark.torch
def test_a_board_without_the_nvidia_runtime_computes_nothing(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert NO_GPU in printed()
    assert command("profile-device", "doctor").code == 1


def test_a_server_without_its_gpus_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    assert NO_NVML in printed("--platform", "nvidia")
    assert command("profile-device", "doctor", "--platform", "nvidia").code == 1


def test_root_that_may_not_administer_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(nvidia_frequency, "read_text", lambda path: "CapEff:\t0000000000000000\n")
    assert f"{nvidia_frequency.find_rights().state}: measured as found" == NO_ADMIN


def test_a_key_that_does_not_last_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "is_mounted", lambda root, path: False)
    put(tmp_path / ".dockerenv", "")
    key = host_key("cpu", tmp_path, tmp_path / "state")
    assert key.source.startswith(OWN_KEY) and key.problem == LOST_KEY
    with pytest.raises(BoardError, match=NO_KEY):
        host_key("cpu", tmp_path, Path("/proc/nothing"))

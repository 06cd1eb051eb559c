"""Where somebody stopped: each has a way on now, and says it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import cardlab.profilers.devices.nvidia.nvml as nvml
import cardlab.workflows.doctor as looking
from cardlab.core.errors import NotSupportedError
from cardlab.profilers.devices import open_platform
from cardlab.split.server_transport import ServerTransport
from tests.cli.run import command
from tests.fakes.nvml.card import FakeCard
from tests.profilers.devices.test_guard import _locked_hz, hold_and_end

pytestmark = pytest.mark.torch

SIMULATED = ("--model", "tiny-llama", "--platform", "simulated:rtx-4060-ti", "--frequencies", "2", "--repeats", "3")


@pytest.fixture
def left_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A simulated card whose frequency a process that was killed left locked; the state folder."""
    hold_and_end("time.sleep(60)", signal.SIGKILL, tmp_path)
    assert _locked_hz(tmp_path) is not None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_resume_takes_its_own_journal_over(left_locked: Path, tmp_path: Path) -> None:
    words = (*SIMULATED, "--db", str(tmp_path / "a.db"))
    command("profile-device", *words).failed_in_one_line(1, "profile-device restore")
    found = command("profile-device", *words, "--resume")
    assert found.code == 0, found.err
    assert "had left locked was put back" in found.err and _locked_hz(left_locked) is None


def test_resume_leaves_the_journal_of_another_device(left_locked: Path, tmp_path: Path) -> None:
    words = ("--model", "tiny-llama", "--platform", "simulated:orin-nano", "--frequencies", "2", "--repeats", "3")
    found = command("profile-device", *words, "--resume", "--db", str(tmp_path / "a.db"))
    assert found.code == 0 and "was left with a locked frequency" in found.err
    assert _locked_hz_of(left_locked) is not None


def _locked_hz_of(state: Path) -> object:
    import json

    return json.loads((state / "cardlab/simulated/rtx-4060-ti-rtx-4060-ti.json").read_text())["locked_hz"]


@pytest.mark.parametrize(
    "words", [("card", "reproduce", "--help"), ("profile-device", "models"), ("calibrate", "show"), ("cardlab", "db")]
)
def test_every_command_says_that_a_frequency_was_left_locked(left_locked: Path, words: tuple[str, ...]) -> None:
    found = command(*words)
    assert found.err.count("was left with a locked frequency; run: profile-device restore") == 1


def test_nothing_is_said_where_nothing_was_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert command("profile-device", "models").err == ""


def test_the_second_card_of_one_is_no_question_of_clocks(fake_card: FakeCard) -> None:
    with pytest.raises(NotSupportedError, match="there is no GPU 1: NVML lists one card here") as refused:
        open_platform("nvidia:1")
    assert refused.value.remedy == "use nvidia:0"


def test_a_card_is_found_by_its_uuid(fake_card: FakeCard) -> None:
    uuid = "GPU-fa4e0000-0000-4000-8000-000000000001"
    for name in (uuid, uuid.lower()):
        assert open_platform(f"nvidia:{name}").identity.key == f"nvidia:{uuid}"
    with pytest.raises(NotSupportedError, match="there is no GPU GPU-0000"):
        open_platform("nvidia:GPU-0000")


def test_a_server_listens_on_an_address_of_ipv6() -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    transport = ServerTransport("::1", 0)
    assert transport.port > 0
    transport.close()


def test_doctor_names_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(nvml, "gpu_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = command("profile-device", "doctor", "--platform", "cpu", "--json")
    [probe] = [p for p in found.document["probes"] if p["name"] == "models on it"]
    assert probe["ok"] is False and "1 GPU(s) that the driver shows are left out" in probe["state"]
    assert "CUDA" in probe["remedy"]
    assert found.code == 0, "the CPU can be measured"


def test_doctor_fails_where_no_model_can_be_measured(monkeypatch: pytest.MonkeyPatch, fake_card: FakeCard) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(looking, "open_platform", lambda name: fake_card.platform())
    found = command("profile-device", "doctor", "--platform", "nvidia", "--json")
    [probe] = [p for p in found.document["probes"] if p["name"] == "models on it"]
    assert found.code == 1 and "no model can be measured on it" in probe["state"]
    monkeypatch.undo()
    assert command("profile-device", "doctor", "--platform", "simulated:orin-nano").code == 0
    assert command("profile-device", "doctor", "--platform", "simulated:nothing").code == 1

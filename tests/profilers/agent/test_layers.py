# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, the agent times layers that are not those of the model, or disagrees with profile-device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.records.task import Execution
from cardlab.db import open_store
from cardlab.db.bundle import merge_bundle
from cardlab.profilers.agent import layers
from cardlab.profilers.agent.latency import latency_row
from cardlab.profilers.agent.pack import pack_agent
from cardlab.profilers.agent.works import Bench
from cardlab.profilers.board.cpu_timer import CpuLapTimer
from cardlab.profilers.board.series import TimingPolicy, take_series
from cardlab.profilers.board.timer import WallTimer
from cardlab.profilers.devices import open_platform
from cardlab.profilers.measure.job import make_job
from cardlab.profilers.runtime import resolve_execution, resolve_task
from cardlab.profilers.runtime.build import build_meta, materialise
from cardlab.profilers.runtime.families import family_named
from cardlab.profilers.runtime.pieces import head_piece
from cardlab.profilers.runtime.skeleton import layer_contexts
from tests.cli.run import command
from tests.profilers.profiling import profile_here
from tests.profilers.runtime.small import small_task

FLOAT32 = Execution(dtype="float32")


def copy_weights(job, agent_layer, layer) -> None:
    """Put the weights of transformers' layer into the agent's."""
    transposed = job["architecture"]["family"] == "gpt2"
    for p in job["projections"]:
        theirs, mine = layer.get_submodule(p["path"]), agent_layer.maps[p["name"]]
        base = theirs.base_layer if p["adapted"] else theirs
        mine.weight.data.copy_(base.weight.t() if transposed else base.weight)
        if p["bias"]:
            mine.bias.data.copy_(base.bias)
        if p["adapted"]:
            mine.lora_a.data.copy_(theirs.lora_A["default"].weight)
            mine.lora_b.data.copy_(theirs.lora_B["default"].weight)
    names = ("ln_1", "ln_2") if transposed else ("input_layernorm", "post_attention_layernorm")
    for mine, name in zip((agent_layer.norm_in, agent_layer.norm_mlp), names, strict=True):
        mine.load_state_dict(getattr(layer, name).state_dict())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_layer_equals_that_of_transformers(family: str, attention: str) -> None:
    task = small_task(family)
    execution = Execution(dtype="float32", attention=attention)
    job: layers.Job = make_job(task, ("float32",), attention)
    built = build_meta(task, execution)
    layer = materialise(built, built.layers[1], "cpu")
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    mine = layers.prepare(layers.DecoderLayer(job, attention), torch.float32, torch.float32, "cpu")
    copy_weights(job, mine, layer)
    shape = (task.batch, task.sequence, task.architecture.hidden_size)
    x = torch.randn(shape, generator=generator)
    x_theirs, x_mine = x.clone().requires_grad_(), x.clone().requires_grad_()
    theirs = family_named(family).call_layer(layer, x_theirs, layer_contexts(built, "cpu")[1])
    got = mine(x_mine, layers.rotary_tables(job, task.sequence, torch.float32, "cpu"))
    torch.testing.assert_close(got, theirs, rtol=1e-4, atol=1e-5)
    gradient = torch.randn(shape, generator=generator)
    theirs.backward(gradient)
    got.backward(gradient)
    torch.testing.assert_close(x_mine.grad, x_theirs.grad, rtol=1e-3, atol=1e-5)
    compared = 0
    for p in job["projections"]:
        if p["adapted"]:
            expected = layer.get_submodule(p["path"]).lora_B["default"].weight.grad
            torch.testing.assert_close(mine.maps[p["name"]].lora_b.grad, expected, rtol=1e-3, atol=1e-4)
            compared += 1
    assert compared == len(task.lora.targets)


def test_head_equals_that_of_transformers() -> None:
    task = small_task("llama")
    built = build_meta(task, FLOAT32)
    piece = head_piece(built)
    norm, head = (materialise(built, module, "cpu") for module in piece.modules)
    mine = layers.prepare(layers.Head(make_job(task, ("float32",), "sdpa")), torch.float32, torch.float32, "cpu")
    mine.weight.data.copy_(head.weight)
    mine.norm.weight.data.copy_(norm.weight)
    hidden, ids = piece.make_inputs("cpu")
    torch.testing.assert_close(mine(hidden, ids), piece.forward(hidden, ids), rtol=1e-5, atol=1e-6)


def test_first_layer_backward_stops_at_its_adapters() -> None:
    job = make_job(small_task("llama"), ("float32",), "sdpa")
    works = {work.segment: work for work in Bench(job, {"dtype": "float32", "attention": "sdpa"}, "cpu").segments()}
    assert list(works) == ["embedding", "first_layer", "layer", "head"]
    assert [lap.phase for lap in works["embedding"].laps] == ["forward"]
    for name in ("first_layer", "layer", "head"):
        series = take_series(works[name], CpuLapTimer(), WallTimer(), TimingPolicy(repeats=2))
        assert all(latency_row(samples, works[name].repeats, True)["value"] > 0 for samples in series.laps)


def test_packed_agent_profiles_this_machine_as_cardlab_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A host without an identity of its own has one that is kept there: of both, or they are two devices.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    task = resolve_task("tiny-llama", sequence=32)
    pack_agent(tmp_path / "agent.pyz", make_job(task, ("float32",)))
    words = [sys.executable, tmp_path / "agent.pyz", "run", "--dtype", "float32", "--repeats", 4]
    words += ["--out", tmp_path / "here.zip", "--device", "cpu"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path / "x.db")
    merge_bundle(store, tmp_path / "here.zip")
    profile = store.runs.latest()
    assert profile.run.task == task and profile.run.task.uid == task.uid
    assert profile.run.execution == resolve_execution(dtype="float32")
    assert profile.run.device.key == open_platform("cpu").identity.key
    assert profile.run.analysis is not None and profile.run.analysis.cuts[0].device_memory_bytes > 50e6
    point = profile.points[0]
    for segment in ("embedding", "first_layer", "layer", "head"):
        assert point.find("latency", segment, "forward").estimate.value > 0
        assert (point.find("latency", segment, "backward") is None) == (segment == "embedding")


def test_a_plan_is_made_of_what_the_agent_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bundle is all that a plan needs of a device: times, memory, what is free, how it was measured."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    task, db = resolve_task("tiny-llama", sequence=32), ("--db", str(tmp_path / "x.db"))
    pack_agent(tmp_path / "agent.pyz", make_job(task, ("float32",)))
    words = [sys.executable, tmp_path / "agent.pyz", "run", "--dtype", "float32", "--repeats", 4, "--name", "board"]
    words += ["--out", tmp_path / "here.zip", "--state", tmp_path / "state", "--device", "cpu"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert command("calibrate", "merge", str(tmp_path / "here.zip"), *db).code == 0
    with open_store(tmp_path / "x.db") as store:
        agents = store.runs.latest()
        assert agents.fits_on_device(1) is True and agents.run.offered_hz == ()
    server = ("--platform", "simulated:rtx-4060", "--frequencies", "5", "--repeats", "5", "--name", "gpu")
    shape = ("--model", "tiny-llama", "--seq", "32")
    assert command("profile-device", *shape, *server, *db, "--json").code == 0
    assert command("calibrate", "fit", *db).code == 0
    plan = command(
        "card", "plan", "--from-db", "--server", "gpu", "--uplink-mbps", "50", "--downlink-mbps", "100", *db, "--json"
    ).document
    [decision] = plan["rounds"][0]["devices"]
    assert decision["device"] == "board" and decision["delay_s"] > 0
    used = agents.points[0].latency("first_layer", "forward").value
    assert decision["delay_terms"]["device"] >= used


@pytest.mark.accept
def test_agent_and_profile_agree_within_5_percent(tmp_path: Path) -> None:
    task = resolve_task("llama-3.2-1b", sequence=128)
    pack_agent(tmp_path / "agent.pyz", make_job(task, ("float32",)))
    names = [(segment, phase) for segment in ("first_layer", "layer", "head") for phase in ("forward", "backward")]
    errors: dict[tuple[str, str], list[float]] = {name: [] for name in names}
    for turn in range(3):
        # Turn about, since a shared host drifts by several per cent over minutes.
        words = [sys.executable, tmp_path / "agent.pyz", "run", "--dtype", "float32", "--device", "cpu"]
        words += ["--out", tmp_path / f"{turn}.zip", "--state", tmp_path / "state"]
        subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
        with open_store(tmp_path / f"{turn}.db") as store:
            merge_bundle(store, tmp_path / f"{turn}.zip")
            point = store.runs.latest().points[0]
        own = profile_here(task, resolve_execution(dtype="float32")).points[0]
        for segment, phase in names:
            agents, mine = point.latency(segment, phase), own.latency(segment, phase)
            assert agents is not None and mine is not None, "contended"
            errors[segment, phase].append(agents.value / mine.value - 1)
    middle = {name: sorted(values)[1] for name, values in errors.items()}
    for (segment, phase), value in middle.items():
        turns = ", ".join(f"{error:+.1%}" for error in errors[segment, phase])
        print(f"{segment} {phase}: agent against profile {value:+.1%} (three turns: {turns})")
    assert max(abs(value) for value in middle.values()) <= 0.05

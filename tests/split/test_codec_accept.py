# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""What compression costs in loss, and whether a compressed round takes as long as it is predicted to."""

from __future__ import annotations

import time
from statistics import median

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.calibrate.accuracy import fit_accuracy
from cardlab.card.sft.queue import waits_serial
from cardlab.profilers.workload import resolve_task
from cardlab.records.fit import FitSubject
from cardlab.split.accuracy import english, kept_of, pretrain, programs, run_trials
from cardlab.split.adapters import initial_adapters
from cardlab.split.codec import pack_tensor, unpack_tensor
from cardlab.split.codec_profile import profile_codecs
from tests.split.models import EXECUTION, batches, halves, model_file
from tests.split.processes import Trial

CODECS = ("dense:8", "dense:4", "dense:2", "topk:0.3:8", "topk:0.2:8", "topk:0.1:8")


def trained(steps: int):
    task = resolve_task("tiny-llama", batch=8, sequence=64, optimizer="adamw")
    return task, pretrain(task, EXECUTION, english(), steps=steps)


def test_a_curve_of_accuracy_is_fitted_and_predicts() -> None:
    points = [(r, 1.0 - 0.8 * 2.718281828 ** (-12.0 * r), 0.01) for r in (0.02, 0.05, 0.1, 0.25, 1.0)]
    fit, left_out = fit_accuracy([*points, (0.01, -0.3, 0.1)], FitSubject())
    assert fit.law == "saturating" and fit.quantity == "accuracy" and left_out == ["rate 0.01 with an accuracy of -0.3"]
    assert fit.parameters["rate"].value == pytest.approx(12.0, rel=0.02)
    assert float(fit.predict(0.15)) == pytest.approx(1.0 - 0.8 * 2.718281828 ** (-1.8), abs=0.01)


def test_codecs_are_profiled_on_real_activations() -> None:
    task, weights = trained(3)
    cuts = list(profile_codecs(task, EXECUTION, weights, programs(), codecs=("dense:4", "topk:0.1:8"), cuts=(1, 3)))
    found = [reading for cut in cuts for reading in cut.codecs]
    assert [(r.cut, r.tensor) for r in found[::2]] == [
        (1, "activation"), (1, "gradient"), (3, "activation"), (3, "gradient"),
    ]  # fmt: skip
    for r in found:
        assert 0.3 < r.bits < 5.0 and 0.0 < r.error < 1.5 and r.encode > 0 and r.decode > 0
    one, three = ({r.side: r for r in cut.handling} for cut in cuts)
    assert three["device"].size_bytes == 3 * one["device"].size_bytes == three["server"].size_bytes
    assert all(seconds > 0 for side in (*one.values(), *three.values()) for seconds in side.seconds)


@pytest.mark.accept
def test_share_of_the_gain_kept_by_each_codec() -> None:
    torch.set_num_threads(1)
    task, weights = trained(400)
    codecs = [*((codec, False) for codec in CODECS), ("topk:0.1:8", True)]
    kept = kept_of(
        run_trials(
            task, EXECUTION, weights, programs(), codecs, seeds=range(3), cut=2, steps=200, learning_rate=1e-3
        )
    )
    for k in kept:
        more = " + feedback" if k.feedback else ""
        print(
            f"{k.codec}{more}: {1 - k.rate:.1%} fewer bytes than float32, keeps {k.share:.1%} +- {k.stderr:.1%} of the"
            f" gain ({k.compressed:.1%} through the codec)"
        )
    by_name = {k.codec: k for k in kept if not k.feedback}
    assert by_name["none"].share == 1.0
    assert by_name["dense:4"].share >= 0.95
    assert median(k.seeds for k in kept) == 3


def stretched(half, multiple: float) -> None:
    """Let a device's compute take a stated multiple of its measured time (all parties share this machine's cores)."""
    for name in ("forward", "backward"):
        work = getattr(half, name)

        def paced(*arguments, work=work):
            start, own = time.perf_counter(), time.thread_time()
            found = work(*arguments)
            spent = time.thread_time() - own
            time.sleep(max(0.0, multiple * spent - (time.perf_counter() - start)))
            return found

        setattr(half, name, paced)


def own_times(task, cut: int, codec: str):
    """Thread seconds of a mini-batch on device and server (its codec included) and of the device's codec, bytes up and
    down; measured alone."""
    device, server = halves(task)
    adapters = initial_adapters(task, 0)
    for half in (device, server):
        half.set_cut(cut)
        half.load(adapters)
    data = batches(task)
    spent: dict[str, list[float]] = {"device": [], "server": [], "codec": []}
    for n in range(14):
        marks = [time.thread_time()]
        activation = device.forward(data.batch(n))
        marks.append(time.thread_time())
        up = pack_tensor(activation, codec)
        middle = time.thread_time()
        coded = middle - marks[-1]
        result = server.train(unpack_tensor(up), data.batch(n))
        down = pack_tensor(result.gradient, codec)
        encoded = time.thread_time()
        gradient = unpack_tensor(down)
        last = time.thread_time()
        spent["codec"].append(coded + last - encoded)
        device.backward(activation, gradient)
        spent["device"].append(marks[1] - marks[0] + time.thread_time() - last)
        spent["server"].append(encoded - middle)
    return *(median(spent[k]) for k in ("device", "server", "codec")), len(up.data), len(down.data)


@pytest.mark.accept
@pytest.mark.parametrize("count", [2, 4])
def test_paced_parallel_devices_take_the_predicted_time(tmp_path, count) -> None:
    pytest.importorskip("zmq")
    torch.set_num_threads(1)
    multiple, epochs, rate_bps, codec = 8.0, 4, 4e6, "topk:0.2:8"
    model = model_file(tmp_path, hidden_size=256, intermediate_size=704)
    task = resolve_task(model, batch=4, sequence=128)
    device_s, server_s, codec_s, up, down = own_times(task, 2, codec)
    labels = task.batch * task.sequence * 4
    before = multiple * device_s / 2 + codec_s + 8.0 * (up + labels) / rate_bps
    after = multiple * device_s / 2 + 8.0 * down / rate_bps
    waits = waits_serial([before] * count, [server_s] * count, [after] * count, epochs)
    predicted = [epochs * (before + server_s + after) + wait for wait in waits]
    names = [f"d{n}" for n in range(count)]
    trial = Trial(
        tmp_path, task, {n: [2] for n in names}, rounds=5, epochs=epochs, parallel=True, codec=codec
    )
    try:
        server = trial.server()
        children = [
            trial.device(n, doom=lambda _d, half: stretched(half, multiple), link="4mbit") for n in names
        ]
        assert [trial.wait(child, 120.0) for child in (*children, server)] == [0] * (count + 1), trial.log("server")
    finally:
        trial.end()
    turns = [t for t in trial.journal().progress.turns if t.round > 1]
    link = {"device", "encode", "decode", "uplink", "downlink", "server"}
    slowest = [
        max(sum(v for k, v in t.terms.items() if k in link) + t.waiting_s for t in turns if t.round == n)
        for n in range(2, 6)
    ]
    error = max(predicted) / median(slowest) - 1.0
    print(
        f"{count} devices, compute stretched {multiple:g} times (simulated), {codec}: predicted"
        f" {max(predicted):.3f} s, measured {median(slowest):.3f} s, {error:+.1%}"
    )
    assert abs(error) < 0.05

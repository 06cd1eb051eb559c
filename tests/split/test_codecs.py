# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, compression changes the training it was measured for: biased, larger, or of another shape."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError
from cardlab.split.codecs.dense import scales_of
from cardlab.split.codecs.feedback import ErrorFeedback
from cardlab.split.codecs.registry import codec_named, pack_tensor, unpack_tensor
from cardlab.split.frames import Frame, pack_frame, unpack_frame
from cardlab.split.refusals import FrameError

LOSSY = ("dense:2", "dense:3", "dense:4", "dense:8", "topk:0.1:8", "topk:0.1:4", "topk:0.3:2", "topk:1:8")
GRID = [(keep, bits) for keep in (0.1, 0.2, 0.3) for bits in (4, 8)]


def normal(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def travelled(tensor, name, wire=None):
    """Through a message, as between two machines."""
    frame = Frame("gradients", {}, {"t": pack_tensor(tensor, name, wire)})
    return unpack_tensor(unpack_frame([bytes(part) for part in pack_frame(frame)]).tensors["t"], tuple(tensor.shape))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 9), max_size=4).map(tuple),
    name=st.sampled_from(LOSSY),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
)
@example(shape=(), name="topk:0.1:8", dtype="float32")
@example(shape=(0, 4), name="dense:4", dtype="float16")
def test_shape_and_dtype_come_back_and_errors_stay_within_a_step(shape, name, dtype) -> None:
    tensor = normal(*shape).to(getattr(torch, dtype)) if shape else normal(1)[0].to(getattr(torch, dtype))
    back = travelled(tensor, name)
    assert back.shape == tensor.shape and back.dtype == tensor.dtype and bool(back.isfinite().all())
    if tensor.numel() and name.startswith("dense"):
        scale = scales_of(tensor.float().reshape(-1, shape[-1] if shape else 1).numpy()).max()
        room = 2.0 * scale / (2 ** int(name.removeprefix("dense:")) - 1) * 1.02 + 1e-6
        assert float((back.float() - tensor.float()).abs().max()) <= room


@pytest.mark.parametrize("name", LOSSY)
def test_zeros_stay_zeros(name) -> None:
    assert torch.equal(travelled(torch.zeros(5, 7), name), torch.zeros(5, 7))


@pytest.mark.parametrize("name", LOSSY)
def test_what_is_not_finite_comes_back_as_it_was_and_spoils_nothing_else(name) -> None:
    tensor = normal(16, 32)
    plain = travelled(tensor, name)
    tensor[0, 0], tensor[3, 4], tensor[7, 31] = float("nan"), float("inf"), float("-inf")
    back = travelled(tensor, name)
    assert bool(back[0, 0].isnan()) and back[3, 4] == math.inf and back[7, 31] == -math.inf
    assert int((~back.isfinite()).sum()) == 3
    assert float(back[back.isfinite()].abs().max()) <= float(plain.abs().max()) * 1.02
    assert int((~travelled(torch.full((4, 4), float("nan")), name).isnan()).sum()) == 0


def test_top_k_keeps_exactly_the_largest() -> None:
    tensor = normal(8, 250)
    tensor[0] = 0.0
    back = travelled(tensor, "topk:0.1:8")
    packed = pack_tensor(tensor, "topk:0.1:8")
    assert packed.more["kept"] == 200
    limit = tensor.abs().flatten().kthvalue(2000 - 200 + 1).values
    assert not bool((back != 0)[tensor.abs() < limit].any())
    assert bool((back != 0)[tensor.abs() >= limit].all())


@pytest.mark.parametrize("keep", [0.01, 0.05, 0.2])
def test_no_token_is_left_without_a_value(keep) -> None:
    """A token of zeros would pass RMSNorm with the gradient 1 / sqrt(eps), and training would break."""
    tensor = normal(64, 32) * torch.logspace(-0.5, 0.0, 64)[:, None]
    tensor[5] = 0.0
    packed = pack_tensor(tensor, f"topk:{keep}:8")
    kept = travelled(tensor, f"topk:{keep}:8") != 0
    assert [bool(row.any()) for row in kept] == [n != 5 for n in range(64)]
    assert all(kept[n, tensor[n].abs().argmax()] for n in range(64) if n != 5)
    # At most one for each row beyond those that are largest of all.
    assert round(keep * tensor.numel()) <= packed.more["kept"] <= round(keep * tensor.numel()) + 63


def test_ties_and_few_values_that_are_not_zero() -> None:
    assert pack_tensor(torch.ones(100), "topk:0.25:8").more["kept"] == 25
    few = torch.zeros(100)
    few[7] = -3.0
    back = travelled(few, "topk:0.25:8")
    assert torch.equal(back, few)


def test_encoding_again_gives_the_same_bytes() -> None:
    for name in LOSSY:
        one, other = (bytes(pack_tensor(normal(8, 64), name).data) for _ in range(2))
        assert one == other


def _rounding(count: int, bits: int) -> tuple[float, float]:
    """Mean error in steps, and variance against theory, of `count` quantised values."""
    values = normal(count // 1000, 1000)
    scales = torch.from_numpy(scales_of(values.numpy()))[:, None]
    step = 2.0 * scales / (2**bits - 1)
    error = ((travelled(values, f"dense:{bits}") - values) / step).double()
    fraction = ((values + scales) / step).double() % 1.0
    return float(error.mean()), float(error.pow(2).mean() / (fraction * (1 - fraction)).mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_is_unbiased_with_the_variance_of_theory(bits) -> None:
    mean, ratio = _rounding(1_000_000, bits)
    # Standard error of the mean is at most 0.5 / sqrt(n).
    assert abs(mean) < 2e-3 and ratio == pytest.approx(1.0, abs=0.01)


@pytest.mark.accept
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_over_ten_million_values(bits) -> None:
    mean, ratio = _rounding(10_000_000, bits)
    print(f"dense:{bits}: mean error {mean:+.1e} step, variance / theory {ratio:.4f}")
    assert abs(mean) < 1e-3 and ratio == pytest.approx(1.0, abs=0.01)


@pytest.mark.accept
@pytest.mark.parametrize("bits", [4, 8])
def test_top_k_rounding_over_ten_million_values(bits) -> None:
    values = normal(10_000, 1000)
    packed = pack_tensor(values, f"topk:1:{bits}")
    step = packed.more["scale"] / (2 ** (bits - 1) - 1)
    error = ((unpack_tensor(packed) - values) / step).double()
    fraction = (values.abs() / step).double() % 1.0
    ratio = float(error.pow(2).mean() / (fraction * (1 - fraction)).mean())
    print(f"topk:1:{bits}: mean error {float(error.mean()):+.1e} step, variance / theory {ratio:.4f}")
    assert abs(float(error.mean())) < 1e-3 and ratio == pytest.approx(1.0, abs=0.01)


def test_one_value_many_times_is_right_on_average() -> None:
    values = torch.full((2000, 500), 0.3)
    values[:, 0] = 1.0
    back = travelled(values, "dense:2")[:, 1:]
    assert back.unique().tolist() == pytest.approx([-1 / 3, 1 / 3])
    assert float(back.mean()) == pytest.approx(0.3, abs=2e-3)


def size_against_bound(tensor, keep: float, bits: int) -> float:
    """Bits sent over n H2(kept / n) + kept H(levels)."""
    packed = pack_tensor(tensor, f"topk:{keep}:{bits}")
    kept, scale = packed.more["kept"], packed.more["scale"]
    assert isinstance(kept, int) and isinstance(scale, float)
    size = tensor.numel()
    level = np.rint(unpack_tensor(packed).numpy().ravel() / (scale / (2 ** (bits - 1) - 1)))
    _, counts = np.unique(level, return_counts=True)
    counts = counts.astype(float)
    counts[np.argmax(counts)] -= size - kept
    shares = counts[counts > 0] / kept
    share = kept / size
    mask = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    bound = size * mask - kept * float((shares * np.log2(shares)).sum())
    return len(packed.data) * 8.0 / bound


@pytest.mark.parametrize(("keep", "bits"), GRID)
def test_size_is_within_three_percent_of_the_entropy(keep, bits) -> None:
    ratio = size_against_bound(normal(512, 1024), keep, bits)
    print(f"topk:{keep}:{bits} bits / entropy bound {ratio:.4f}")
    assert ratio < 1.03


@pytest.mark.accept
@pytest.mark.parametrize(("keep", "bits"), [(0.05, 4), (0.05, 8), *GRID])
def test_size_against_entropy_at_full_size(keep, bits) -> None:
    ratio = size_against_bound(normal(2048, 1024), keep, bits)
    print(f"topk:{keep}:{bits} bits / entropy bound {ratio:.4f}")
    assert keep == 0.05 or ratio < 1.03


@pytest.mark.accept
@pytest.mark.parametrize("zeros", [0.0, 0.008])
@pytest.mark.parametrize("name", ["dense:2", "dense:4", "dense:8", *(f"topk:{k}:{b}" for k, b in GRID)])
def test_speed_of_one_core(name, zeros) -> None:
    torch.set_num_threads(1)
    tensor = normal(8, 256, 1024)
    tensor[:, : int(256 * zeros + 0.5)] = 0.0
    taken: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(8):
        start = time.perf_counter()
        packed = pack_tensor(tensor, name)
        middle = time.perf_counter()
        unpack_tensor(packed)
        taken["encode"].append(middle - start)
        taken["decode"].append(time.perf_counter() - middle)
    rate = {what: tensor.numel() * 4 / min(times[1:]) for what, times in taken.items()}
    print(f"{name}, zeros {zeros:.1%}: " + ", ".join(f"{what} {r / 1e6:.0f} MB/s" for what, r in rate.items()))
    assert min(rate.values()) >= 300e6


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(["dense:4", "topk:0.1:8", "topk:0.02:4"]))
def test_damaged_bytes_never_give_more_than_a_named_error(seed, name) -> None:
    chance = np.random.default_rng(seed)
    packed = pack_tensor(normal(16, 64), name)
    data = bytearray(packed.data)
    for _ in range(chance.integers(1, 5)):
        data[chance.integers(len(data))] ^= 1 << chance.integers(8)
    del data[len(data) - int(chance.integers(0, 3)) :]
    hurt = type(packed)(packed.codec, packed.dtype, packed.shape, bytes(data), 0, packed.more)
    try:
        back = codec_named(name).decode(hurt)
    except FrameError:
        return
    assert tuple(back.shape) == (16, 64)


@pytest.mark.parametrize(
    "more",
    [
        {"kept": 10**9},
        {"kept": -1},
        {"kept": True},
        {"scale": -1.0},
        {"scale": float("inf")},
        {"scale": None},
        {"mask": ["zip", 3]},
        {"mask": [1, 2, 3]},
        {"values": ["zstd", 10**9]},
        {"values": None},
        {"mask": ["raw", True]},
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(more) -> None:
    packed = pack_tensor(normal(16, 64), "topk:0.1:8")
    lying = type(packed)(packed.codec, packed.dtype, packed.shape, packed.data, packed.crc32, {**packed.more, **more})
    with pytest.raises(FrameError):
        unpack_tensor(lying)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("topk:0:8", "keeps 0"),
        ("topk:1.5:8", "keeps 1.5"),
        ("topk:-0.1:8", "keeps -0.1"),
        ("topk:nan:8", "nan"),
        ("topk:0.1:9", "9 bits"),
        ("dense:1", "1 bits"),
        ("dense:x", "no codec"),
        ("topk", "topk:KEEP:BITS"),
        ("zip", "zip"),
    ],
)
def test_a_codec_that_cannot_be_is_named(name, words) -> None:
    with pytest.raises(RunError, match=words):
        codec_named(name)


def test_labels_are_not_compressed() -> None:
    with pytest.raises(RunError, match="int32"):
        pack_tensor(torch.ones(4, dtype=torch.int32), "dense:8")


def test_feedback_sends_in_time_what_one_gradient_lost() -> None:
    gradient = normal(32, 64)
    feedback, plain, fed = ErrorFeedback(), torch.zeros(32, 64), torch.zeros(32, 64)
    for _ in range(40):
        plain += travelled(gradient, "topk:0.1:8")
        fed += unpack_tensor(feedback.pack(gradient, "topk:0.1:8", "float32"))
    lost = [float((sent / 40 - gradient).norm() / gradient.norm()) for sent in (plain, fed)]
    assert lost[0] > 0.6 and lost[1] < 0.25
    gradient[0, 0] = float("nan")
    feedback.pack(gradient, "topk:0.1:8", "float32")
    assert bool(feedback.residual.isfinite().all())


@pytest.mark.parametrize(("codec", "feedback"), [("dense:4", False), ("topk:0.2:8", True)])
def test_a_run_sends_what_the_codec_makes_and_still_learns(tmp_path, codec, feedback) -> None:
    pytest.importorskip("zmq")
    from tests.split.models import small_task
    from tests.split.processes import Trial

    sizes, losses = {}, {}
    for name in ("none", codec):
        folder = tmp_path / name.replace(":", "-")
        folder.mkdir()
        trial = Trial(
            folder,
            small_task(tmp_path),
            {"a": [2], "b": [1]},
            rounds=3,
            epochs=4,
            parallel=True,
            codec=name,
            error_feedback=feedback,
        )
        try:
            server = trial.server()
            devices = [trial.device(n) for n in trial.names]
            assert [trial.wait(child) for child in (*devices, server)] == [0, 0, 0], trial.log("server")
        finally:
            trial.end()
        turns = trial.journal().progress.turns
        assert len(turns) == 6 and {t.codec for t in turns} == {name}
        sizes[name] = sum(t.up_bytes + t.down_bytes for t in turns)
        losses[name] = [t.losses[-1] for t in turns]
        assert all(t.terms["encode"] > 0 and t.terms["decode"] > 0 for t in turns)
    assert sizes[codec] < 0.4 * sizes["none"]
    assert np.mean(losses[codec][-2:]) < np.mean(losses["none"][:2])

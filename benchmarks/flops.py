"""FLOPs of one LoRA training step counted by cardlab and by its peers, side by side against the closed formula.

    python benchmarks/flops.py [--model llama-3.2-1b] [--batch 1] [--sequence 512] [--attention sdpa|eager]

Everything runs on the meta device, so no weights are needed. FLOP = 2 x MAC; a tool that reports MACs is doubled. A
peer without a backward count is taken by its own convention (2 x forward, as its documentation says), because that
is what its user would plan with. A peer that is not installed, or fails, is N/A with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cardlab.core.records.task import Execution
from cardlab.core.records.workload import Analysis
from cardlab.profilers.runtime import analyse, resolve_task
from cardlab.profilers.runtime.build import BuiltModel, build_meta


@dataclass(frozen=True)
class Count:
    """FLOPs that a tool reports, None where it has no number, and a remark."""

    forward_flop: float | None
    backward_flop: float | None
    remark: str = ""


class Logits(torch.nn.Module):  # type: ignore[misc]
    """The model as a function of token numbers alone, with the mask that keeps transformers off `.item()`."""

    def __init__(self, built: BuiltModel) -> None:
        super().__init__()
        self.model = built.model
        task = built.task
        self.register_buffer("mask", torch.zeros((task.batch, 1, task.sequence, task.sequence), device="meta"))

    def forward(self, ids: Any) -> Any:
        """Logits [B, S, V]."""
        return self.model(input_ids=ids, attention_mask=self.mask, use_cache=False).logits


def token_ids(built: BuiltModel) -> Any:
    """Token numbers [B, S] on the meta device."""
    return torch.zeros((built.task.batch, built.task.sequence), dtype=torch.int64, device="meta")


def by_method(analysis: Analysis, method: str) -> Count:
    """Whole-model totals of one of cardlab's own methods."""
    counts = [(s.count, s.flop_by_method[method]) for s in analysis.segments if method in s.flop_by_method]
    if not counts:
        return Count(None, None, "not installed")
    totals = []
    for phase in ("forward_flop", "backward_flop"):
        values = [(n, getattr(c, phase)) for n, c in counts]
        known = all(v is not None for _, v in values)
        totals.append(sum(n * v for n, v in values) if known else None)
    return Count(*totals)


def fvcore_alone(built: BuiltModel) -> Count:
    """fvcore as it comes: MACs, attention not counted."""
    import logging

    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    counter = FlopCountAnalysis(Logits(built), (token_ids(built),))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    forward = 2.0 * counter.total()
    return Count(forward, 2 * forward, "backward: 2 x forward")


def calflops(built: BuiltModel) -> Count:
    """calflops with its own backward factor."""
    from calflops import calculate_flops

    ids = token_ids(built)
    mask = Logits(built).mask
    values = []
    for backward in (False, True):
        with contextlib.redirect_stdout(io.StringIO()):
            flops, _, _ = calculate_flops(
                built.model,
                kwargs={"input_ids": ids, "attention_mask": mask},
                include_backPropagation=backward,
                print_results=False,
                output_as_string=False,
            )
        values.append(float(flops))
    return Count(values[0], values[1] - values[0], "backward: fixed factor 2")


def deepspeed(built: BuiltModel) -> Count:
    """DeepSpeed's FlopsProfiler without its engine."""
    from deepspeed.profiling.flops_profiler import FlopsProfiler

    module = Logits(built)
    profiler = FlopsProfiler(module)
    profiler.start_profile()
    try:
        module(token_ids(built))
        forward = float(profiler.get_total_flops())
    finally:
        profiler.end_profile()
    return Count(forward, 2 * forward, "backward: 2 x forward")


def torch_profiler(built: BuiltModel) -> Count:
    """torch.profiler with_flops: matrix products it knows, forward and backward."""
    from torch.profiler import ProfilerActivity, profile

    module, ids = Logits(built), token_ids(built)

    def counted(run: Callable[[], Any]) -> tuple[float, Any]:
        with profile(activities=[ProfilerActivity.CPU], with_flops=True, record_shapes=True) as recorded:
            result = run()
        return float(sum(event.flops or 0 for event in recorded.key_averages())), result

    forward, logits = counted(lambda: module(ids))
    backward, _ = counted(lambda: logits.backward(gradient=torch.ones_like(logits)))
    return Count(forward, backward, "without per-layer split")


PEERS: Mapping[str, Callable[[BuiltModel], Count]] = {
    "fvcore alone": fvcore_alone,
    "calflops": calflops,
    "DeepSpeed FlopsProfiler": deepspeed,
    "torch.profiler": torch_profiler,
}


def attempt(peer: Callable[[BuiltModel], Count], built: BuiltModel) -> Count:
    """What a peer says; a failure becomes the reason for N/A."""
    try:
        return peer(built)
    except ImportError as error:
        return Count(None, None, f"N/A: {error.name or error} is not installed")
    except Exception as error:  # noqa: BLE001 - peers fail in their own ways, and the table says so
        return Count(None, None, f"N/A: {type(error).__name__}: {str(error).splitlines()[0][:60]}")


def error_text(value: float | None, truth: float | None) -> str:
    """Relative error in percent, N/A without a value."""
    return "N/A" if value is None or not truth else f"{value / truth - 1:+.3%}"


def main() -> None:
    """Print the table for one model and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-3.2-1b")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"))
    options = parser.parse_args()
    task = resolve_task(options.model, batch=options.batch, sequence=options.sequence)
    execution = Execution(dtype="bfloat16", attention=options.attention)
    analysis = analyse(task, execution)
    truth = by_method(analysis, "formula")
    assert truth.forward_flop is not None and truth.backward_flop is not None
    rows = {f"cardlab {method}": by_method(analysis, method) for method in ("torch", "fvcore", "formula")}
    rows |= {name: attempt(peer, build_meta(task, execution)) for name, peer in PEERS.items()}
    print(f"{options.model} {options.batch} x {options.sequence} {options.attention}, LoRA r={task.lora.rank}")
    print(f"{'tool':26}{'forward GFLOP':>15}{'error':>10}{'backward':>12}{'error':>10}{'both':>10}  remark")
    for name, count in rows.items():
        parts = (count.forward_flop, count.backward_flop)
        both = None if None in parts else sum(p or 0.0 for p in parts)
        shown = ["N/A" if p is None else f"{p / 1e9:.3f}" for p in parts]
        print(
            f"{name:26}{shown[0]:>15}{error_text(parts[0], truth.forward_flop):>10}{shown[1]:>12}"
            f"{error_text(parts[1], truth.backward_flop):>10}"
            f"{error_text(both, truth.forward_flop + truth.backward_flop):>10}  {count.remark}"
        )


if __name__ == "__main__":
    main()

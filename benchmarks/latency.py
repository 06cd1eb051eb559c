"""Time of one LoRA training step by cardlab (sum of segments) and by its peers, against the plain whole step.

    python benchmarks/latency.py [--model tiny-llama] [--sequence 128] [--dtype auto] [--repeats 7]

The whole step runs in this process, pinned, and is interleaved with nothing; peers that instrument the model run on
the same one. Reported are the medians of all repeats, clean or not, because peers do not say which are. fvcore and
calflops count operations and time nothing. A peer that is not installed, or fails, is N/A with the reason.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cardlab.core.records.measurement import Point
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.board.cpu_timer import CpuLapTimer
from cardlab.profilers.measure.samples import measurements
from cardlab.profilers.measure.segments import time_segments
from cardlab.profilers.measure.timing import TimingTools
from cardlab.profilers.runtime import analyse, resolve_execution, resolve_task
from cardlab.profilers.runtime.build import build_meta, materialise_whole
from cardlab.profilers.runtime.pieces import token_ids
from cardlab.profilers.runtime.runtime import TorchRuntime
from cardlab.profilers.runtime.workbench import Workload


@dataclass(frozen=True)
class Times:
    """Seconds by phase, None where a tool has none; rows of its own per layer or not; a remark."""

    forward_s: float | None
    backward_s: float | None
    per_layer: str
    remark: str = ""


@dataclass(frozen=True)
class Step:
    """A materialised model and its input [B, S]."""

    model: Any
    ids: Any
    repeats: int

    def forward(self) -> Any:
        """The loss."""
        return self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss

    def timed(self) -> tuple[float, float]:
        """Wall seconds of one forward and one backward pass."""
        start = time.perf_counter()
        loss = self.forward()
        middle = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
        self.model.zero_grad(set_to_none=True)
        return middle - start, end - middle

    def median(self) -> tuple[float, float]:
        """Medians over the repeats after one warm-up."""
        self.timed()
        samples = [self.timed() for _ in range(self.repeats)]
        return statistics.median(s[0] for s in samples), statistics.median(s[1] for s in samples)


def segments(task: Task, execution: Execution) -> Times:
    """cardlab's own: each segment apart, times how often it occurs."""
    analysis = analyse(task, execution, overhead_bytes=0)
    runtime = TorchRuntime("cpu")
    bench = runtime.workbench(Workload(execution=execution, task=task, analysis=analysis))
    timings = time_segments(bench, TimingTools(lap_timer=runtime.lap_timer(execution.threads)))
    records = tuple(record for timing in timings for record in measurements(timing))
    point = Point(uid="here", index=0, requested_hz=None, measurements=records)
    sums = [point.sum_of_segments(analysis, phase) for phase in ("forward", "backward")]
    forward_s, backward_s = (None if e is None else e.value for e in sums)
    return Times(forward_s, backward_s, "yes", "one layer in memory")


def plain(step: Step) -> Times:
    """Nothing attached: the truth of this table."""
    return Times(*step.median(), "no", "reference of the errors")


def hooks(step: Step) -> Times:
    """Hooks on every module that only look at the clock: what a hand-written profiler does."""
    marks: list[float] = []
    handles = []
    for module in step.model.modules():
        handles.append(module.register_forward_hook(lambda *_: marks.append(time.perf_counter())))
        handles.append(module.register_full_backward_pre_hook(lambda *_: marks.append(time.perf_counter())))
    try:
        return Times(*step.median(), "yes", "needs the whole model in memory")
    finally:
        for handle in handles:
            handle.remove()


def torch_profiler(step: Step) -> Times:
    """torch.profiler around the step."""
    from torch.profiler import ProfilerActivity, profile

    samples = []
    for _ in range(step.repeats):
        with profile(activities=[ProfilerActivity.CPU]):
            samples.append(step.timed())
    forward, backward = (statistics.median(s[i] for s in samples) for i in range(2))
    return Times(forward, backward, "no", "operators only; backward not attributed to modules")


def deepspeed(step: Step) -> Times:
    """DeepSpeed's FlopsProfiler without its engine: forward only."""
    from deepspeed.profiling.flops_profiler import FlopsProfiler

    profiler = FlopsProfiler(step.model)
    samples = []
    for _ in range(step.repeats):
        profiler.start_profile()
        step.forward()
        samples.append(float(profiler.get_total_duration()))
        profiler.end_profile()
    return Times(statistics.median(samples), None, "forward", "backward only inside its engine")


def counts_only(step: Step) -> Times:
    """A peer that has no clock."""
    return Times(None, None, "no", "counts operations, times nothing")


PEERS: dict[str, Callable[[Step], Times]] = {
    "plain whole step": plain,
    "module hooks": hooks,
    "torch.profiler": torch_profiler,
    "DeepSpeed FlopsProfiler": deepspeed,
    "fvcore": counts_only,
    "calflops": counts_only,
}


def attempt(peer: Callable[[Step], Times], step: Step) -> Times:
    """What a peer says; a failure becomes the reason for N/A."""
    try:
        return peer(step)
    except ImportError as error:
        return Times(None, None, "N/A", f"N/A: {error.name or error} is not installed")
    except Exception as error:  # noqa: BLE001 - peers fail in their own ways, and the table says so
        return Times(None, None, "N/A", f"N/A: {type(error).__name__}: {str(error).splitlines()[0][:60]}")


def main() -> None:
    """Print the table for one model and shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llama")
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    task = resolve_task(options.model, sequence=options.sequence)
    execution = resolve_execution(dtype=options.dtype)
    rows = {"cardlab segments": segments(task, execution)}
    built = build_meta(task, execution)
    step = Step(materialise_whole(built, "cpu"), token_ids(built, "cpu"), options.repeats)
    torch.set_num_threads(execution.threads)
    with CpuLapTimer(execution.threads).held():
        rows |= {name: attempt(peer, step) for name, peer in PEERS.items()}
    truth = rows["plain whole step"]
    print(f"{options.model} 1 x {options.sequence} {execution.dtype}, {execution.threads} thread")
    print(f"{'tool':26}{'forward ms':>12}{'error':>9}{'backward ms':>13}{'error':>9}  {'per layer':10} remark")
    for name, times in rows.items():
        cells = ""
        for value, real, width in (
            (times.forward_s, truth.forward_s, 12),
            (times.backward_s, truth.backward_s, 13),
        ):
            shown = "N/A" if value is None else f"{value * 1e3:.1f}"
            cells += f"{shown:>{width}}{'N/A' if value is None or not real else f'{value / real - 1:+.1%}':>9}"
        print(f"{name:26}{cells}  {times.per_layer:10} {times.remark}")


if __name__ == "__main__":
    main()

"""Time of a layer and of a LoRA training step on a real NVIDIA card, by cardlab and by its peers. Nothing is set.

    python benchmarks/cuda_timing.py [--model llama-3.2-1b] [--shapes 1x128,1x512,4x512] [--json FILE]

Two times of a layer differ on a fast card: `kernels` is what the GPU computes (the kernels queued behind a long one, so
that the CPU is ahead), the others hold what the CPU needs to launch them too. A layer whose time is far above its
kernels is bound by the host: another GPU frequency does not change it. The whole step is the plain loop, synchronised
after each phase; its quartiles show what two steps differ by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cardlab.core.records.measurement import Point
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.board.work import Work
from cardlab.profilers.devices.nvidia.nvml import Card
from cardlab.profilers.measure.samples import measurements
from cardlab.profilers.measure.segments import time_segments
from cardlab.profilers.measure.timing import TimingTools
from cardlab.profilers.runtime import analyse, resolve_execution, resolve_task
from cardlab.profilers.runtime.runtime import TorchRuntime
from cardlab.profilers.runtime.wholestep import whole_step_work
from cardlab.profilers.runtime.workbench import Workbench, Workload

DEVICE = "cuda:0"
REPEATS = 25


def median_ms(samples: Sequence[float]) -> float:
    """Median of seconds, in ms."""
    return statistics.median(samples) * 1e3


def by_events(work: Work, before: Callable[[], object] = lambda: None) -> list[list[float]]:
    """Seconds of each lap between two events, `before` run ahead of the first."""
    found: list[list[float]] = [[] for _ in work.laps]
    for count in range(REPEATS + 3):
        for lap, times in zip(work.laps, found, strict=True):
            assert lap.run is not None
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            work.synchronize()
            before()
            start.record()
            lap.run()
            end.record()
            end.synchronize()
            if count >= 3:
                times.append(start.elapsed_time(end) / 1e3)
        work.reset()
    return found


def by_wall(work: Work) -> list[list[float]]:
    """Seconds of each lap by the wall, synchronised at both ends."""
    found: list[list[float]] = [[] for _ in work.laps]
    for count in range(REPEATS + 3):
        for lap, times in zip(work.laps, found, strict=True):
            assert lap.run is not None
            work.synchronize()
            start_s = time.perf_counter()
            lap.run()
            work.synchronize()
            if count >= 3:
                times.append(time.perf_counter() - start_s)
        work.reset()
    return found


def launch_s(work: Work) -> list[float]:
    """Seconds the CPU needs to hand each lap over while the GPU is busy with something else."""
    samples: list[list[float]] = [[] for _ in work.laps]
    ahead = queue_ahead()
    for _ in range(REPEATS):
        for lap, times in zip(work.laps, samples, strict=True):
            assert lap.run is not None
            work.synchronize()
            ahead()
            start_s = time.perf_counter()
            lap.run()
            times.append(time.perf_counter() - start_s)
        work.synchronize()
        work.reset()
    return [statistics.median(times) for times in samples]


def queue_ahead() -> Callable[[], None]:
    """Queues some milliseconds of products, so that the CPU gets ahead of the GPU."""
    matrix = torch.randn((8192, 8192), device=DEVICE, dtype=torch.bfloat16)

    def run() -> None:
        for _ in range(8):
            matrix @ matrix

    run()
    torch.cuda.synchronize()
    return run


def read_all_the_time(run: Callable[[], list[list[float]]]) -> list[list[float]]:
    """What a timing gives while a thread reads the energy counter as the power meter does."""
    card, stop = Card(0), threading.Event()

    def read() -> None:
        while not stop.wait(0.001):
            card.energy_j()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        return run()
    finally:
        stop.set()
        thread.join()


def kernel_profile_s(work: Work) -> tuple[float, int]:
    """Seconds of all kernels of one iteration and their number, by torch.profiler."""
    from torch.profiler import ProfilerActivity, profile

    work.run_once()
    work.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        work.run_once()
        work.synchronize()
    kernels = [e for e in profiler.events() if str(e.device_type).endswith("CUDA")]
    return sum(e.device_time for e in kernels) / 1e6, len(kernels)


def peers(work: Work) -> dict[str, float | str]:
    """Forward time of a layer by tools made for it, ms."""
    forward = work.laps[0]
    assert forward.run is not None
    found: dict[str, float | str] = {}
    try:
        from triton.testing import do_bench

        found["triton do_bench"] = float(do_bench(forward.run, return_mode="median"))
    except Exception as error:  # noqa: BLE001 - a peer that fails is named
        found["triton do_bench"] = f"N/A: {error}"
    from torch.utils.benchmark import Timer

    found["torch.utils.benchmark"] = Timer("f()", globals={"f": forward.run}).blocked_autorange().median * 1e3
    work.reset()
    return found


def one_layer(bench: Workbench) -> dict[str, object]:
    """The layer by every method, ms."""
    with bench.segment("layer") as work:
        kernels_s, count = kernel_profile_s(work)
        return {
            "event ms": [median_ms(s) for s in by_events(work)],
            "event ms, counter read beside": [median_ms(s) for s in read_all_the_time(lambda: by_events(work))],
            "wall ms": [median_ms(s) for s in by_wall(work)],
            "kernels ms": [median_ms(s) for s in by_events(work, queue_ahead())],
            "launch ms": [s * 1e3 for s in launch_s(work)],
            "profiler, both phases ms": kernels_s * 1e3,
            "kernels of both phases": count,
            "peers, forward ms": peers(work),
        }


def chain(task: Task, execution: Execution) -> list[list[float]]:
    """Seconds of the plain whole step by the wall."""
    return by_wall(whole_step_work(task, execution, DEVICE))


def quartiles_ms(samples: Sequence[float]) -> list[float]:
    """Quartiles, ms."""
    return [round(1e3 * q, 2) for q in statistics.quantiles(samples, n=4)]


def measure(model: str, batch: int, sequence: int) -> dict[str, object]:
    """One shape by every method."""
    task = resolve_task(model, batch=batch, sequence=sequence)
    execution = resolve_execution(DEVICE, "bfloat16", "sdpa", 1)
    analysis = analyse(task, execution, overhead_bytes=0)
    runtime = TorchRuntime(DEVICE)
    bench = runtime.workbench(Workload(execution=execution, task=task, analysis=analysis))
    timer = runtime.lap_timer(1)
    with timer.held():
        layer = one_layer(bench)
    timings = time_segments(bench, TimingTools(lap_timer=timer), extras=False)
    records = tuple(record for timing in timings for record in measurements(timing))
    point = Point(uid="here", index=0, requested_hz=None, measurements=records)
    sums = {phase: point.sum_of_segments(analysis, phase) for phase in ("forward", "backward")}
    steps = chain(task, execution)
    whole = whole_step_work(task, execution, DEVICE)
    kernels_s, count = kernel_profile_s(whole)
    return {
        "shape": f"{batch} x {sequence}",
        "layer": layer,
        "sum of segments ms": {phase: None if e is None else round(e.value * 1e3, 2) for phase, e in sums.items()},
        "whole step, quartiles ms": {p: quartiles_ms(s) for p, s in zip(("forward", "backward"), steps, strict=True)},
        "whole step, kernels ms": kernels_s * 1e3,
        "whole step, kernels": count,
    }


def main() -> None:
    """Print one JSON line a shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-3.2-1b")
    parser.add_argument("--shapes", default="1x128,1x512,4x512")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(torch.cuda.get_device_name(0), torch.__version__)
    rows = []
    for shape in options.shapes.split(","):
        batch, sequence = map(int, shape.split("x"))
        rows.append(measure(options.model, batch, sequence))
        print(json.dumps(rows[-1], default=float))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1, default=float))


if __name__ == "__main__":
    main()

"""How long a segment takes: the protocol of cardlab's own timing, in the standard library.

Warm-up, then samples of every phase in turn with a fixed product before each; garbage collection off; the
median of the clean samples, and no value (`contended`) with fewer than five of them.
"""

import gc
import math
import os
import resource
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

WARMUPS = 3
MIN_SAMPLES = 8
MAX_SAMPLES = 40
MIN_CLEAN = 5
WANTED_SPREAD = 0.015
PATIENCE_S = 20.0

Phase = Tuple[str, Callable[[], None]]
Sample = Tuple[float, Optional[float], bool]


def hold_freed_memory() -> None:
    """Keep freed memory in the process (glibc's mallopt), as cardlab does when it times a CPU."""
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-1, 2**31 - 1)
        libc.mallopt(-4, 0)


def pin_to_quiet_core(threads: int) -> None:
    """Bind this process to the least busy cores, where the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        return
    before = _idle_ticks()
    time.sleep(0.1)
    after = _idle_ticks()
    allowed = sorted(os.sched_getaffinity(0), key=lambda cpu: (before.get(cpu, 0) - after.get(cpu, 0), -cpu))
    os.sched_setaffinity(0, allowed[:threads])


def _idle_ticks() -> Dict[int, int]:
    ticks = {}  # type: Dict[int, int]
    try:
        with open("/proc/stat") as file:
            lines = file.read().splitlines()
    except OSError:
        return ticks
    for line in lines:
        words = line.split()
        if words and words[0][:3] == "cpu" and words[0][3:].isdigit():
            ticks[int(words[0][3:])] = int(words[4]) + int(words[5])
    return ticks


class CpuClock:
    """Wall time of one thread, and whether something disturbed it."""

    def time(self, run: Callable[[], None]) -> Sample:
        """Wall seconds, CPU seconds, clean (by the rule of profilers/stopwatch.py)."""
        before = resource.getrusage(resource.RUSAGE_THREAD)
        start = time.perf_counter()
        run()
        wall_s = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_THREAD)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        switches = after.ru_nivcsw - before.ru_nivcsw
        clean = switches <= 1 + int(wall_s / 0.025) and wall_s <= 1.03 * cpu_s + 1e-4
        return wall_s, cpu_s, clean


class CudaClock:
    """GPU time between two events on the current stream."""

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda

    def time(self, run: Callable[[], None]) -> Sample:
        """Seconds between events; every sample counts as clean."""
        start, end = self._cuda.Event(enable_timing=True), self._cuda.Event(enable_timing=True)
        self._cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, None, True


def measure(
    phases: List[Phase],
    reset: Callable[[], None],
    clock: Any,
    reference: Optional[Callable[[], None]] = None,
    repeats: Optional[int] = None,
    patience_s: float = PATIENCE_S,
) -> Tuple[Dict[str, List[Sample]], List[float]]:
    """Samples by phase, and seconds of the reference product before each."""
    samples = {name: [] for name, _ in phases}  # type: Dict[str, List[Sample]]
    reference_s = []  # type: List[float]
    gc.collect()
    gc.disable()
    try:
        for _ in range(WARMUPS):
            for _, run in phases:
                clock.time(run)
            reset()
        start = time.perf_counter()
        while not _enough(samples, time.perf_counter() - start, repeats, patience_s):
            if reference is not None:
                reference_s.append(clock.time(reference)[0])
            for name, run in phases:
                samples[name].append(clock.time(run))
            reset()
    finally:
        gc.enable()
    return samples, reference_s


def _enough(samples: Dict[str, List[Sample]], spent_s: float, repeats: Optional[int], patience_s: float) -> bool:
    count = min(len(laps) for laps in samples.values())
    if repeats is not None:
        return count >= repeats
    if count < MIN_SAMPLES:
        return False
    clean = [[wall for wall, _, good in laps if good] for laps in samples.values()]
    if min(len(walls) for walls in clean) < MIN_CLEAN:
        return spent_s > 2 * patience_s or count >= MAX_SAMPLES
    spread = max(1.96 * stderr(walls) / median(walls) for walls in clean)
    return spread <= WANTED_SPREAD or spent_s > patience_s or count >= MAX_SAMPLES


def median(values: List[float]) -> float:
    """Middle value; the mean of the two middle ones of an even number."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


def stderr(values: List[float]) -> float:
    """Standard error of the median from the median absolute deviation."""
    centre = median(values)
    return 1.2533 * 1.4826 * median([abs(value - centre) for value in values]) / math.sqrt(len(values))


def summary(laps: List[Sample], repeats: int, exact: bool) -> Dict[str, Any]:
    """Arguments of a latency row: value per occurrence with its uncertainty, or none and the flag."""
    clean = [wall for wall, _, good in laps if good]
    contended = 2 * len(clean) < len(laps) if exact else len(clean) < MIN_CLEAN
    names = {"wall_s": [wall for wall, _, _ in laps], "clean": [float(good) for _, _, good in laps]}
    if all(cpu is not None for _, cpu, _ in laps):
        names["cpu_s"] = [float(cpu or 0.0) for _, cpu, _ in laps]
    row = {
        "value": None,
        "samples": names,
        "flags": ["contended"] if contended else [],
        "details": {"repeats": repeats, "clean": len(clean)},
    }  # type: Dict[str, Any]
    values = clean
    if contended and exact:
        # Disturbances only add time: the 10th percentile of all samples is the best guess there is.
        ordered = sorted(wall for wall, _, _ in laps)
        values = [ordered[int(0.1 * (len(ordered) - 1))]]
    if contended and not exact:
        return row
    value, error = median(values) / repeats, None
    if len(values) > 1:
        error = stderr(values) / repeats
        row["ci95"] = (value - 1.96 * error, value + 1.96 * error)
    row.update(value=value, stderr=error, n=len(values))
    return row

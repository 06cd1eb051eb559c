"""How long a segment takes: the protocol of cardlab's own timing, in the standard library.

Warm-up, then samples of every phase in turn with a fixed product before each; garbage collection off; the
median of the clean samples, and no value (`contended`) with fewer than five of them.
"""

import gc
import os
import resource
import time
from typing import Callable, Dict, List, Optional, Tuple

from ..board.rules import (
    MAX_SAMPLES,
    MIN_CLEAN,
    MIN_SAMPLES,
    PATIENCE_S,
    WANTED_SPREAD,
    WARMUPS,
    is_clean,
    is_contended,
    low_value,
    median,
    median_stderr,
    relative_spread,
)
from .bundle import Row

Phase = Tuple[str, Callable[[], None]]
Sample = Tuple[float, Optional[float], bool]


def hold_freed_memory() -> None:
    """Keep freed memory in the process (glibc's mallopt), as cardlab does when it times a CPU."""
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # M_TRIM_THRESHOLD and M_MMAP_MAX: no block is handed back to the system, and none is mapped on its own.
        libc.mallopt(-1, 2**31 - 1)
        libc.mallopt(-4, 0)


def pin_to_quiet_core(threads: int) -> None:
    """Bind this process to the least busy cores, where the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        return
    before = _idle_ticks()
    # The kernel counts in ticks of 10 ms or less: a tenth of a second tells a busy core from an idle one.
    time.sleep(0.1)
    after = _idle_ticks()
    # Of equally idle cores the last one, because the first serves most interrupts.
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


class LapTimer:
    """Times one lap."""

    def time(self, run: Callable[[], None]) -> Sample:
        """Wall seconds, CPU seconds (None where they have no meaning), and whether nothing disturbed it."""
        raise NotImplementedError


class CpuTimer(LapTimer):
    """Wall time of one thread, and whether something disturbed it."""

    def time(self, run: Callable[[], None]) -> Sample:
        """Wall seconds, CPU seconds, clean (by the rule of board/rules.py)."""
        switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        # Nanoseconds, where rusage counts in ticks on old kernels: a short lap needs no allowance.
        cpu_start = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
        start = time.perf_counter()
        run()
        wall_s = time.perf_counter() - start
        cpu_s = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - cpu_start
        switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - switches
        return wall_s, cpu_s, is_clean(wall_s, cpu_s, switches)


class CudaTimer(LapTimer):
    """GPU time between two events on the current stream."""

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda

    def time(self, run: Callable[[], None]) -> Sample:
        """Seconds between events; every sample counts as clean."""
        start, end = self._cuda.Event(enable_timing=True), self._cuda.Event(enable_timing=True)
        # Nothing that was queued before may run between the two events.
        self._cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3, None, True


def measure(
    phases: List[Phase],
    reset: Callable[[], None],
    timer: LapTimer,
    reference: Optional[Callable[[], None]] = None,
    repeats: Optional[int] = None,
    patience_s: float = PATIENCE_S,
) -> Tuple[Dict[str, List[Sample]], List[float]]:
    """Samples by phase, and seconds of the reference product before each."""
    samples = {name: [] for name, _ in phases}  # type: Dict[str, List[Sample]]
    reference_s = []  # type: List[float]
    # One collection takes longer than a layer and would fall into some sample.
    gc.collect()
    gc.disable()
    try:
        # First passes allocate, choose kernels and fill caches: they take 3 to 13 % longer.
        for _ in range(WARMUPS):
            for _, run in phases:
                timer.time(run)
            reset()
        start = time.perf_counter()
        while not _enough(samples, time.perf_counter() - start, repeats, patience_s):
            if reference is not None:
                reference_s.append(timer.time(reference)[0])
            for name, run in phases:
                samples[name].append(timer.time(run))
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
    # On a busy host clean samples are rare: twice the patience, since without five there is no value at all.
    if min(len(walls) for walls in clean) < MIN_CLEAN:
        return spent_s > 2 * patience_s or count >= MAX_SAMPLES
    spread = max(relative_spread(walls) or 0.0 for walls in clean)
    return spread <= WANTED_SPREAD or spent_s > patience_s or count >= MAX_SAMPLES


def summary(laps: List[Sample], repeats: int, exact: bool) -> Row:
    """Arguments of a latency row: value per occurrence with its uncertainty, or none and the flag."""
    clean = [wall for wall, _, good in laps if good]
    contended = is_contended(len(clean), len(laps), exact)
    names = {"wall_s": [wall for wall, _, _ in laps], "clean": [float(good) for _, _, good in laps]}
    if all(cpu is not None for _, cpu, _ in laps):
        names["cpu_s"] = [float(cpu or 0.0) for _, cpu, _ in laps]
    row = {
        "value": None,
        "samples": names,
        "flags": ["contended"] if contended else [],
        "repeats": repeats,
        "clean": len(clean),
    }  # type: Row
    values = clean
    if contended and exact:
        values = [wall for wall, _, _ in laps]
    if contended and not exact:
        return row
    value, error = (low_value(values) if contended else median(values)) / repeats, None
    if len(values) > 1:
        error = median_stderr(values) / repeats
        row["ci95"] = (value - 1.96 * error, value + 1.96 * error)
    row.update(value=value, stderr=error, n=len(values))
    return row

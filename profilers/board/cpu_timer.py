"""How laps on a CPU are timed: by a thread pinned to the quietest core, with garbage collection off.

A sample says too what it needs to be judged clean (rules.py). Among shared-host samples only the clean ones repeat
from run to run; the plain median of all does not.
"""

import gc
import os
import resource
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence, Tuple

from .timer import LapSample
from .work import Lap, Work, code_of

# The kernel counts in ticks of 10 ms or less: a tenth of a second tells a busy core from an idle one.
_PROBE_S = 0.1


class CpuLapTimer:
    """Wall and CPU time of a thread pinned to the quietest core.

    Args:
        threads: CPU threads that the work uses; as many cores are taken.
        cpus: cores to use; None chooses the least loaded ones at the start of each series.
        pin: False leaves the scheduler free, e.g. where pinning is not allowed.
    """

    def __init__(self, threads: int = 1, cpus: Optional[Sequence[int]] = None, pin: bool = True) -> None:
        self.threads = threads
        self.cpus = None if cpus is None else tuple(cpus)
        self.pin = pin
        # With several threads only the process knows them all.
        self._who = resource.RUSAGE_THREAD if threads == 1 else resource.RUSAGE_SELF
        # In nanoseconds, where rusage counts in ticks on old kernels: a short lap needs no allowance.
        self._cpu_time = time.CLOCK_THREAD_CPUTIME_ID if threads == 1 else time.CLOCK_PROCESS_CPUTIME_ID

    @contextmanager
    def held(self) -> Iterator[None]:
        """Pin the calling thread; threads it starts later inherit the cores."""
        if not self.pin or not hasattr(os, "sched_setaffinity"):
            with gc_off():
                yield
            return
        before = os.sched_getaffinity(0)
        chosen = self.cpus or quietest_cpus(self.threads)
        os.sched_setaffinity(0, chosen)
        try:
            with gc_off():
                yield
        finally:
            os.sched_setaffinity(0, before)

    def time(self, lap: Lap, work: Work) -> LapSample:
        """Wall time, CPU time and involuntary switches of one lap."""
        run = code_of(lap, work)
        switches = resource.getrusage(self._who).ru_nivcsw
        cpu_start_s, start_s = time.clock_gettime(self._cpu_time), time.perf_counter()
        run()
        work.synchronize()
        wall_s = time.perf_counter() - start_s
        # Spread over its threads, so that work which fills all of them compares with the wall.
        cpu_s = (time.clock_gettime(self._cpu_time) - cpu_start_s) / self.threads
        switches = resource.getrusage(self._who).ru_nivcsw - switches
        return LapSample(wall_s=wall_s, cpu_s=cpu_s, involuntary_switches=switches)


@contextmanager
def gc_off() -> Iterator[None]:
    """Collect garbage once, then not again until the block ends: a collection takes longer than a layer."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def quietest_cpus(count: int, probe_s: float = _PROBE_S) -> Tuple[int, ...]:
    """The `count` least busy cores this process may use, by a short look at the kernel's idle counters."""
    allowed = sorted(os.sched_getaffinity(0))
    if count >= len(allowed):
        return tuple(allowed)
    before = _idle_ticks()
    time.sleep(probe_s)
    after = _idle_ticks()
    idle = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in allowed}
    # Of equally idle cores the last ones, because the first serves most interrupts.
    return tuple(sorted(allowed, key=lambda cpu: (-idle[cpu], -cpu))[:count])


def _idle_ticks(stat: Path = Path("/proc/stat")) -> Dict[int, int]:
    """Idle plus I/O-wait ticks by core; empty where the kernel does not say."""
    if not stat.is_file():
        return {}
    ticks = {}
    for line in stat.read_text("ascii").splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            ticks[int(name[3:])] = int(values[3]) + int(values[4])
    return ticks

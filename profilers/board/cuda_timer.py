"""How laps on a CUDA device are timed: by two events on the current stream. Torch is handed in, never imported."""

from contextlib import contextmanager
from typing import Any, Iterator, Optional

from .cpu_timer import gc_off
from .timer import LapSample
from .work import Lap, Work, code_of

_TRIAL_CYCLES = 2000000


class CudaLapTimer:
    """GPU time between two CUDA events.

    Args:
        torch: the module, with a CUDA device that it sees (1.10 and later).
        device: torch's name of the device.
    """

    def __init__(self, torch: Any, device: str = "cuda") -> None:
        self._cuda = torch.cuda
        self._cycles_per_s: Optional[float] = None
        self.device = torch.device(device)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the device current and finish what was queued before."""
        # Events are recorded on the stream of the current device.
        with self._cuda.device(self.device), gc_off():
            self._cuda.synchronize()
            yield

    def time(self, lap: Lap, work: Work) -> LapSample:
        """Seconds between events, the CPU's launching of kernels included where the GPU waits for it, as in a step."""
        run = code_of(lap, work)
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        # Nothing that was queued before may run between the two events.
        work.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return LapSample(wall_s=start.elapsed_time(end) / 1e3)

    def queued(self, lap: Lap, work: Work, lead_s: float) -> Optional[float]:
        """Seconds that the GPU alone needs: the kernels wait behind another until the CPU has launched them all.

        Args:
            lead_s: time the CPU needs for that; longer does no harm.

        None where this torch has no kernel that waits.
        """
        run, cycles = code_of(lap, work), self._cycles(lead_s)
        if cycles is None:
            return None
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        work.synchronize()
        self._cuda._sleep(cycles)
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def _cycles(self, seconds: float) -> Optional[int]:
        """Cycles that the waiting kernel takes for at least that long.

        It is one thread that counts: products of matrices would draw the card's full power, and a card that reaches its
        power limit meanwhile is throttled by the measurement.
        """
        if not hasattr(self._cuda, "_sleep"):
            return None
        if self._cycles_per_s is None:
            start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
            # The first one loads the kernel.
            self._cuda._sleep(_TRIAL_CYCLES)
            start.record()
            self._cuda._sleep(_TRIAL_CYCLES)
            end.record()
            end.synchronize()
            self._cycles_per_s = _TRIAL_CYCLES / (float(start.elapsed_time(end)) / 1e3)
        return int(seconds * self._cycles_per_s) + 1

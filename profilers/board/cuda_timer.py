"""How laps on a CUDA device are timed: by two events on the current stream. Torch is handed in, never imported."""

from contextlib import contextmanager
from typing import Any, Iterator

from .cpu_timer import gc_off
from .timer import LapSample
from .work import Lap, Work, code_of


class CudaLapTimer:
    """GPU time between two CUDA events.

    Args:
        torch: the module, with a CUDA device that it sees (1.10 and later).
        device: torch's name of the device.
    """

    def __init__(self, torch: Any, device: str = "cuda") -> None:
        self._cuda = torch.cuda
        self.device = torch.device(device)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the device current and finish what was queued before."""
        # Events are recorded on the stream of the current device.
        with self._cuda.device(self.device), gc_off():
            self._cuda.synchronize()
            yield

    def time(self, lap: Lap, work: Work) -> LapSample:
        """Milliseconds between events, converted; the CPU's part is hidden behind the queue."""
        run = code_of(lap, work)
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        # Nothing that was queued before may run between the two events.
        work.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return LapSample(wall_s=start.elapsed_time(end) / 1e3)

"""What runs the works of a task, chosen outright for a device: torch on one of its devices, or descriptions only.

A runtime has no state that a question changes: whatever is asked, in whatever order, the next answer is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cardlab.core.errors import NotSupportedError, UsageError
from cardlab.core.records.task import Execution
from cardlab.profilers.board.cpu_timer import CpuLapTimer
from cardlab.profilers.board.timer import LapTimer
from cardlab.profilers.board.work import Lap, Work, as_work
from cardlab.profilers.runtime.execution import DTYPES, import_torch, resolve_execution
from cardlab.profilers.runtime.timers import cuda_lap_timer
from cardlab.profilers.runtime.workbench import LoadWorkbench, Workbench, Workload

# Eight products of side 4096 take a small GPU a tenth of a second: too few iterations in a window.
_LARGE_GPU_SM = 32


class Runtime(Protocol):
    """Runs the works of a task on one device, or describes them."""

    @property
    def torch_device(self) -> str | None:
        """Torch's name of the device, None if nothing is really run."""
        ...

    def resolve_execution(self, dtype: str, attention: str, threads: int, quantization: str | None = None) -> Execution:
        """The execution these options mean here; raises NotSupportedError for what the device lacks."""
        ...

    def workbench(self, workload: Workload) -> Workbench:
        """Works of a task that can be run and timed here."""
        ...

    def overhead_bytes(self, execution: Execution) -> int | None:
        """Memory held by context and framework before any weight is there; None takes the usual value."""
        ...

    def trial_work(self) -> Work:
        """A small load that keeps the device busy, for a self-test."""
        ...

    def lap_timer(self, threads: int = 1) -> LapTimer | None:
        """Times works that run here; None leaves it to the device."""
        ...


@dataclass(frozen=True, slots=True)
class TorchRuntime:
    """Torch on the CPU or on one CUDA device.

    Attributes:
        torch_device: "cpu" or "cuda:N".
        remedy: what to do where torch finds no CUDA device.
    """

    torch_device: str
    remedy: str = "install a CUDA build of torch, or use --platform cpu"

    def resolve_execution(self, dtype: str, attention: str, threads: int, quantization: str | None = None) -> Execution:
        """As torch resolves it. Raises NotSupportedError, UsageError, MissingDependencyError."""
        self._need_cuda()
        return resolve_execution(self.torch_device, dtype, attention, threads, quantization)

    def workbench(self, workload: Workload) -> Workbench:
        """Real works of a task, or the load that was named."""
        if workload.load is not None:
            return LoadWorkbench(workload.load)
        from cardlab.profilers.runtime.torch_workbench import TorchWorkbench

        return TorchWorkbench(workload, self.torch_device, self.lap_timer(workload.execution.threads))

    def overhead_bytes(self, execution: Execution) -> int | None:
        """Bytes held by a fresh process that imported everything and computed once."""
        from cardlab.profilers.runtime.overhead import measure_overhead

        return measure_overhead(execution, self.torch_device)

    def trial_work(self) -> Work:
        """Matrix products, some milliseconds each time on a GPU; without torch on a CPU."""
        if not self._cuda:
            # NumPy is always there, and a self-test of a board without torch still has to load its CPU.
            small = np.random.default_rng(0).standard_normal((256, 256), dtype=np.float32)
            return as_work(lambda: small @ small, "trial")
        self._need_cuda()
        torch, device = import_torch(), self.torch_device
        large = torch.cuda.get_device_properties(device).multi_processor_count > _LARGE_GPU_SM
        side = 4096 if large else 2048
        matrix = torch.randn((side, side), device=device, dtype=torch.float16)

        def run() -> None:
            for _ in range(8):
                matrix @ matrix

        lap = Lap(phase="run", run=run)
        return Work(segment="trial", laps=(lap,), synchronize=lambda: torch.cuda.synchronize(device))

    def lap_timer(self, threads: int = 1) -> LapTimer:
        """CUDA events, or pinned CPU threads."""
        return cuda_lap_timer(self.torch_device) if self._cuda else CpuLapTimer(threads=max(1, threads))

    @property
    def _cuda(self) -> bool:
        return self.torch_device.startswith("cuda")

    def _need_cuda(self) -> None:
        if self._cuda and not import_torch().cuda.is_available():
            raise NotSupportedError("torch finds no CUDA device", remedy=self.remedy)


@dataclass(frozen=True, slots=True)
class DescribedRuntime:
    """Works by their size, for a device whose physics needs no code; a load is run for real."""

    @property
    def torch_device(self) -> None:
        """Nothing is really run."""
        return

    def resolve_execution(self, dtype: str, attention: str, threads: int, quantization: str | None = None) -> Execution:
        """bfloat16 unless told otherwise; no torch runs. UsageError for quantised weights, which cost what they cost on
        real kernels only."""
        if quantization is not None:
            raise UsageError(
                "a simulated device has no kernels for quantised weights", remedy="leave --quantization out"
            )
        resolved = "bfloat16" if dtype == "auto" else dtype
        if resolved not in DTYPES:
            raise UsageError(f"unknown dtype {dtype!r}", remedy="use auto, float32, bfloat16 or float16")
        return Execution(dtype=resolved, attention=attention, threads=threads, accelerator="simulated")

    def workbench(self, workload: Workload) -> Workbench:
        """Descriptions of the task's works, or the load that was named."""
        if workload.load is not None:
            return LoadWorkbench(workload.load)
        from cardlab.profilers.runtime.described import DescribedWorkbench

        return DescribedWorkbench(workload)

    def overhead_bytes(self, execution: Execution) -> None:
        """The usual value."""
        return

    def trial_work(self) -> Work:
        """A layer's worth of arithmetic, by its size."""
        return Work(segment="trial", laps=(Lap(phase="run", run=None, flop=1e11, traffic_bytes=1e8),))

    def lap_timer(self, threads: int = 1) -> None:
        """The device's own."""
        return


def cuda_name(index: int, key: str) -> str:
    """Torch's name of the card with that UUID: torch orders cards by speed, NVML by bus.

    Args:
        index: NVML's number of the card.
        key: device key that holds the UUID.

    Raises NotSupportedError if torch may not see this card.
    """
    import os

    cuda = import_torch().cuda
    if not cuda.is_available():
        raise NotSupportedError(
            "torch finds no CUDA device", remedy="install a CUDA build of torch, or use --platform cpu"
        )
    for number in range(cuda.device_count()):
        # Older torch does not tell it.
        uuid = getattr(cuda.get_device_properties(number), "uuid", None)
        if uuid is not None and str(uuid).removeprefix("GPU-") in key:
            return f"cuda:{number}"
    # Without UUIDs the order is a guess, which a hidden card would shift.
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None and index < cuda.device_count():
        return f"cuda:{index}"
    raise NotSupportedError(f"torch does not see GPU {index}", remedy="check CUDA_VISIBLE_DEVICES")

"""How laps that torch runs are timed here: the board's timers, and what stands in the way of CUDA events."""

from __future__ import annotations

from cardlab.core.errors import MissingDependencyError, NotSupportedError
from cardlab.profilers.board.cuda_timer import CudaLapTimer


def cuda_lap_timer(device: str = "cuda") -> CudaLapTimer:
    """Times laps between CUDA events.

    Raises MissingDependencyError without torch, NotSupportedError without a CUDA device.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "timing a GPU needs torch, which is not installed", remedy="pip install 'cardlab[models]'"
        ) from error
    if not torch.cuda.is_available():
        raise NotSupportedError("torch finds no CUDA device", remedy="use the CPU or install a CUDA torch")
    return CudaLapTimer(torch, device)

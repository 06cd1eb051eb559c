"""How a task is computed on this device: `auto` resolved, and what the device lacks refused.

`auto` takes bfloat16 where the arithmetic unit computes it natively, else float16 on a GPU and float32 on
a CPU: the rule is in board/execution.py, which the agent follows too.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from cardlab.core.errors import MissingDependencyError, NotSupportedError, UsageError
from cardlab.core.records.task import Execution
from cardlab.profilers.board.execution import accelerator, cpu_dtypes, cpu_flags, cuda_dtypes, torch_release
from cardlab.profilers.board.files import read_text
from cardlab.profilers.board.host import usable_cpus

DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager")


def native_dtypes(device: str, flags: frozenset[str] | None = None) -> tuple[str, ...]:
    """Compute dtypes the device has arithmetic for; the first is what `auto` takes."""
    if device.startswith("cuda"):
        return _torch_dtypes(device)
    return cpu_dtypes(cpu_flags(read_text(Path("/proc/cpuinfo"))) if flags is None else flags)


def _torch_dtypes(device: str) -> tuple[str, ...]:
    torch = import_torch()
    if not torch.cuda.is_available():
        raise NotSupportedError("torch finds no CUDA device", remedy="install a CUDA build of torch or use cpu")
    return cuda_dtypes(torch.cuda.get_device_capability(torch.device(device)))


def resolve_execution(device: str = "cpu", dtype: str = "auto", attention: str = "sdpa", threads: int = 1) -> Execution:
    """The execution these options mean on this device.

    Raises UsageError for unknown names, threads < 1 or more than there are processors, NotSupportedError for a dtype
    that the device does not compute natively or a missing CUDA device, MissingDependencyError without torch.
    """
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"unknown dtype {dtype!r}", remedy=f"use auto, {', '.join(DTYPES)}")
    if attention not in ATTENTIONS:
        raise UsageError(f"unknown attention {attention!r}", remedy=f"use {' or '.join(ATTENTIONS)}")
    if isinstance(threads, bool) or threads < 1:
        raise UsageError(f"{threads!r} threads", remedy="use at least 1 thread")
    usable = usable_cpus()
    if device == "cpu" and threads > usable:
        # They would wait for each other, and no time would be one that the device takes.
        raise UsageError(
            f"{threads} threads, and this process may use {usable} processor(s)",
            remedy=f"use --threads {usable}, or give the process or its container more processors",
        )
    torch = import_torch()
    native = native_dtypes(device)
    if dtype != "auto" and dtype not in native:
        raise NotSupportedError(
            f"{device} does not compute {dtype} natively", remedy=f"use --dtype auto or {', '.join(native)}"
        )
    cuda = torch.version.cuda if device.startswith("cuda") else None
    return Execution(
        dtype=native[0] if dtype == "auto" else dtype,
        attention=attention,
        threads=threads,
        torch=torch_release(torch.__version__),
        accelerator=accelerator(cuda),
    )


def import_torch() -> ModuleType:
    """The torch module; MissingDependencyError naming the extra when it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "this needs torch, which is not installed", remedy="pip install 'cardlab[models]'"
        ) from error
    module: ModuleType = torch
    return module

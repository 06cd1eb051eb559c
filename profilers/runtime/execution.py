"""How a task is computed on this device: `auto` resolved, and what the device lacks refused.

`auto` takes bfloat16 where the arithmetic unit computes it natively, else float16 on a GPU and float32 on
a CPU. On a CPU that is read from the kernel's flags: a format that is only emulated is many times slower
and says nothing about the device.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from cardlab.core.errors import MissingDependencyError, NotSupportedError, UsageError
from cardlab.core.records.task import Execution

DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager")

# The kernel's names on x86, and last in each set on AArch64.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_FLOAT16_FLAGS = {"avx512_fp16", "amx_fp16", "asimdhp"}
_AMPERE = (8, 0)


def cpu_flags(cpuinfo: str | None = None) -> frozenset[str]:
    """Feature flags of the first CPU, from the text of /proc/cpuinfo; empty where there is none."""
    if cpuinfo is None:
        path = Path("/proc/cpuinfo")
        cpuinfo = path.read_text("utf-8", "replace") if path.is_file() else ""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        # x86 has a line of flags, ARM one of Features.
        if name.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def native_dtypes(device: str, flags: frozenset[str] | None = None) -> tuple[str, ...]:
    """Compute dtypes the device has arithmetic for; the first is what `auto` takes."""
    if device.startswith("cuda"):
        return _cuda_dtypes(device)
    flags = cpu_flags() if flags is None else flags
    bfloat16 = ("bfloat16",) if flags & _BFLOAT16_FLAGS else ()
    float16 = ("float16",) if flags & _FLOAT16_FLAGS else ()
    return (*bfloat16, "float32", *float16)


def _cuda_dtypes(device: str) -> tuple[str, ...]:
    torch = import_torch()
    if not torch.cuda.is_available():
        raise NotSupportedError("torch finds no CUDA device", remedy="install a CUDA build of torch or use cpu")
    # Not is_bf16_supported(), which also says yes to emulation.
    if torch.cuda.get_device_capability(torch.device(device)) >= _AMPERE:
        return ("bfloat16", "float16", "float32")
    return ("float16", "float32")


def resolve_execution(device: str = "cpu", dtype: str = "auto", attention: str = "sdpa", threads: int = 1) -> Execution:
    """The execution these options mean on this device.

    Raises UsageError for unknown names or threads < 1, NotSupportedError for a dtype that the device
    does not compute natively or a missing CUDA device, MissingDependencyError without torch.
    """
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"unknown dtype {dtype!r}", remedy=f"use auto, {', '.join(DTYPES)}")
    if attention not in ATTENTIONS:
        raise UsageError(f"unknown attention {attention!r}", remedy=f"use {' or '.join(ATTENTIONS)}")
    if isinstance(threads, bool) or threads < 1:
        raise UsageError(f"{threads!r} threads", remedy="use at least 1 thread")
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
        torch=".".join(torch.__version__.split("+")[0].split(".")[:2]),
        accelerator=None if cuda is None else f"cuda-{cuda.split('.')[0]}",
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

"""How a task is computed on this device: `auto` resolved, and what the device lacks refused.

`auto` takes bfloat16 where the arithmetic unit computes it natively, else float16 on a GPU and float32 on
a CPU: the rule is in board/execution.py, which the agent follows too.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from cardlab.core.errors import MissingDependencyError, NotSupportedError, UsageError
from cardlab.core.records.task import QUANTIZATIONS, Execution
from cardlab.profilers.board.execution import accelerator, cpu_dtypes, cpu_flags, cuda_dtypes, torch_release
from cardlab.profilers.board.files import read_text
from cardlab.profilers.board.host import usable_cpus

DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager")
# As pyproject.toml states it. With an older torch nothing can be checkpointed on the meta device.
TORCH_FLOOR = (2, 6)


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


def resolve_execution(
    device: str = "cpu",
    dtype: str = "auto",
    attention: str = "sdpa",
    threads: int = 1,
    quantization: str | None = None,
) -> Execution:
    """The execution these options mean on this device.

    Raises UsageError for unknown names, threads < 1 or more than there are processors, NotSupportedError for a dtype
    that the device does not compute natively, a missing CUDA device or kernels of a quantization that do not run,
    MissingDependencyError without torch, or without bitsandbytes where something is quantised.
    """
    check_quantization(quantization)
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
    resolved = native[0] if dtype == "auto" else dtype
    if quantization is not None:
        try_kernels(device, resolved, quantization)
    return Execution(
        dtype=resolved,
        attention=attention,
        threads=threads,
        torch=torch_release(torch.__version__),
        accelerator=accelerator(cuda),
        quantization=quantization,
    )


def check_quantization(quantization: str | None) -> None:
    """Raise UsageError for a name that is no form of quantised weights."""
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise UsageError(f"unknown quantization {quantization!r}", remedy=f"use {', '.join(QUANTIZATIONS)}")


def try_kernels(device: str, dtype: str, quantization: str) -> None:
    """Launch one product of quantised weights; bitsandbytes may import where its kernels do not run.

    Raises MissingDependencyError where it is not installed, NotSupportedError naming what failed.
    """
    try:
        from cardlab.profilers.runtime.quantised import launch
    except ModuleNotFoundError as error:
        if error.name != "bitsandbytes":
            raise
        raise MissingDependencyError(
            "quantised weights need bitsandbytes, which is not installed", remedy="pip install 'cardlab[quant]'"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise _no_kernels(device, quantization, error) from error
    try:
        launch(device, dtype, quantization)
    # A library without its kernels fails in many ways: missing symbols, no image for the device, wrong shapes.
    except (RuntimeError, AttributeError, OSError, ValueError, TypeError, NotImplementedError) as error:
        raise _no_kernels(device, quantization, error) from error


def _no_kernels(device: str, quantization: str, error: Exception) -> NotSupportedError:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return NotSupportedError(
        f"bitsandbytes does not compute with {quantization} weights on {device}: {said}",
        remedy="install a bitsandbytes that is built for this device, or leave --quantization out",
    )


def import_torch() -> ModuleType:
    """The torch module.

    Raises MissingDependencyError, naming what to install, where torch is not there, does not load, or is older than
    cardlab or the installed transformers can work with.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise _broken(error) from error
        raise MissingDependencyError(
            "this needs torch, which is not installed", remedy="pip install 'cardlab[models]'"
        ) from error
    except (ImportError, OSError) as error:
        # A build for another CUDA, or a board's without one of its libraries.
        raise _broken(error) from error
    lack = torch_lack(torch.__version__)
    if lack is not None:
        raise MissingDependencyError(lack.message, remedy=lack.remedy)
    module: ModuleType = torch
    return module


def _broken(error: Exception) -> MissingDependencyError:
    said = " ".join(str(error).split())[:200]
    return MissingDependencyError(
        f"the installed torch does not load: {said}", remedy="install a torch that is built for this machine"
    )


class Lack(NamedTuple):
    """What is wrong with an installed package, and what mends it."""

    message: str
    remedy: str


def torch_lack(version: str) -> Lack | None:
    """Why this release of torch cannot be used here, None where it can.

    transformers switches itself off beside a torch that is too old for it, and then says that torch is missing.
    """
    found = _numbers(version)
    if found < TORCH_FLOOR:
        floor = ".".join(map(str, TORCH_FLOOR))
        return Lack(
            f"torch {version} is too old: cardlab needs {floor} or newer",
            f"pip install 'torch>={floor}', or measure this machine by the agent: profile-device agent --help",
        )
    wanted = _wanted_by_transformers()
    if wanted is not None and found < _numbers(wanted):
        release = metadata.version("transformers")
        return Lack(
            f"torch {version} is too old for transformers {release}, which needs {wanted}",
            f"pip install 'torch>={wanted}', or an older transformers",
        )
    return None


def _wanted_by_transformers() -> str | None:
    """The oldest torch that the installed transformers works with, by its own metadata."""
    try:
        stated = metadata.requires("transformers") or []
    except metadata.PackageNotFoundError:
        return None
    found = [re.match(r"torch\s*\(?>=\s*([0-9.]+)", line) for line in stated]
    return max((match[1] for match in found if match), key=_numbers, default=None)


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor: (2, 6) of "2.6.1+cu124"."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])

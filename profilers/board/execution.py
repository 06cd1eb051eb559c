"""What a device computes natively, and how torch and its accelerator are named: what an execution is made of.

On a CPU the formats are read from the kernel's flags: one that is only emulated is many times slower and says nothing
about the device.
"""

from typing import FrozenSet, Iterable, Optional, Tuple

# The kernel's names on x86, and last in each set on AArch64.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_FLOAT16_FLAGS = {"avx512_fp16", "amx_fp16", "asimdhp"}
_AMPERE = (8, 0)


def cpu_flags(cpuinfo: Optional[str]) -> FrozenSet[str]:
    """Feature flags of the first CPU, from the text of /proc/cpuinfo; empty where there is none."""
    for line in (cpuinfo or "").splitlines():
        name, _, value = line.partition(":")
        # x86 has a line of flags, ARM one of Features.
        if name.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def cpu_dtypes(flags: Iterable[str]) -> Tuple[str, ...]:
    """Compute dtypes a CPU has arithmetic for; the first is what `auto` takes."""
    known = set(flags)
    bfloat16 = ("bfloat16",) if known & _BFLOAT16_FLAGS else ()
    float16 = ("float16",) if known & _FLOAT16_FLAGS else ()
    return (*bfloat16, "float32", *float16)


def cuda_dtypes(capability: Tuple[int, ...]) -> Tuple[str, ...]:
    """Compute dtypes a GPU of this compute capability has arithmetic for; the first is what `auto` takes."""
    # Not torch's is_bf16_supported(), which also says yes to emulation.
    if tuple(capability) >= _AMPERE:
        return ("bfloat16", "float16", "float32")
    return ("float16", "float32")


def torch_release(version: str) -> str:
    """Major and minor version of torch: "2.3" of "2.3.1+cu121"."""
    return ".".join(version.split("+")[0].split(".")[:2])


def accelerator(cuda: Optional[str]) -> Optional[str]:
    """Name of the runtime that computed, from torch's version of CUDA; None for the CPU.

    The major version only: it names the libraries that computed, and the card stands in the device record.
    """
    return None if cuda is None else f"cuda-{cuda.split('.')[0]}"

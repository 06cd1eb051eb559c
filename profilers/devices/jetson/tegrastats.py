"""Lines of tegrastats, whose format changed with every release.

    JetPack 4    POM_5V_IN 2545/2547                   now/mean, no unit
    JetPack 5    VDD_IN 4824mW/4824mW                  a time stamp in front; zones in capitals
    JetPack 6    zones in small letters
    JetPack 7.2  VDD_GPU_SOC 4385mW/3787mW/4385mW      now/mean/highest; tj@51.9C/51.9C

The first number of a rail is the newest reading; the mean counts from the start of tegrastats and is not used.
Without root, EMC_FREQ and the frequencies of engines are missing. -256 C is a zone that is switched off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.core.errors import DeviceError

_MIB = 2**20
_RAM = re.compile(r"(?:^|\s)RAM ([0-9]{1,9})/([0-9]{1,9})MB(?=\s|$)")
_CPUS = re.compile(r"(?:^|\s)CPU \[([^\]]*)\]")
_CPU = re.compile(r"([0-9]{1,3})%@([0-9]{1,6})")
_EMC = re.compile(r"(?:^|\s)EMC_FREQ (?:([0-9]{1,3})%)?(?:@([0-9]{1,6}))?(?=\s|$)")
_GPU = re.compile(r"(?:^|\s)GR3D_FREQ (?:([0-9]{1,3})%)?(?:@(?:([0-9]{1,6})|\[([0-9,]{1,60})\]))?(?=\s|$)")
_RAIL = re.compile(
    r"(?:^|\s)([A-Z][A-Z0-9_]{1,40}) ([0-9]{1,9})(?:mW)?/([0-9]{1,9})(?:mW)?(?:/([0-9]{1,9})(?:mW)?)?(?=\s|$)"
)
_ZONE = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z0-9_]{0,30})@(-?[0-9]{1,4}(?:\.[0-9]{1,6})?)C(?:/\S*)?(?=\s|$)")
# Memory has the form of a rail where rails have no unit (JetPack 4); NC is a channel without one.
_NO_RAILS = ("RAM", "SWAP", "IRAM", "NC")
_OFF_C = -256.0
# Real lines have below 2,000 characters: the expressions are not let loose on anything much longer.
_LONGEST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TegraLine:
    """What one line says; None is not said.

    Attributes:
        ram_used_bytes, ram_total_bytes: as tegrastats counts them.
        cpus: (load as a fraction, frequency in Hz) of each core, None for one that is off.
        emc_load, emc_hz: memory.
        gpu_load: fraction.
        gpu_hz: frequency of each GPC, or of the whole GPU.
        power_w: newest power by rail.
        temperature_c: by zone; zones that are off are left out.
    """

    ram_used_bytes: int
    ram_total_bytes: int
    cpus: tuple[tuple[float, float] | None, ...] = ()
    emc_load: float | None = None
    emc_hz: float | None = None
    gpu_load: float | None = None
    gpu_hz: tuple[float, ...] = ()
    power_w: Mapping[str, float] = field(default_factory=dict)
    temperature_c: Mapping[str, float] = field(default_factory=dict)


def parse_line(text: str) -> TegraLine:
    """The meaning of one line. Raises DeviceError if it is not one of tegrastats."""
    ram = _RAM.search(text) if len(text) <= _LONGEST else None
    if ram is None:
        raise DeviceError(
            f"not a line of tegrastats: {text[:40]!r}", remedy="look at what tegrastats prints on this board"
        )
    emc, gpu = _EMC.search(text), _GPU.search(text)
    return TegraLine(
        ram_used_bytes=int(ram[1]) * _MIB,
        ram_total_bytes=int(ram[2]) * _MIB,
        cpus=_cpus(text),
        emc_load=None if emc is None else _fraction(emc[1]),
        emc_hz=None if emc is None else _hz(emc[2]),
        gpu_load=None if gpu is None else _fraction(gpu[1]),
        gpu_hz=() if gpu is None else _gpu_hz(gpu[2] or gpu[3]),
        power_w={m[1]: int(m[2]) * 1e-3 for m in _RAIL.finditer(text) if m[1] not in _NO_RAILS},
        temperature_c={m[1]: float(m[2]) for m in _ZONE.finditer(text) if float(m[2]) > _OFF_C},
    )


def _cpus(text: str) -> tuple[tuple[float, float] | None, ...]:
    match = _CPUS.search(text)
    if match is None:
        return ()
    cores = [_CPU.fullmatch(part.strip()) for part in match[1].split(",")]
    return tuple(None if c is None else (int(c[1]) / 100, int(c[2]) * 1e6) for c in cores)


def _gpu_hz(text: str | None) -> tuple[float, ...]:
    return tuple(int(mhz) * 1e6 for mhz in (text or "").split(",") if mhz)


def _fraction(percent: str | None) -> float | None:
    return None if percent is None else int(percent) / 100


def _hz(mhz: str | None) -> float | None:
    return None if mhz is None else int(mhz) * 1e6

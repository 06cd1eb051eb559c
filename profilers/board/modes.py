"""Power modes of nvpmodel: which one is on, and what it caps.

    < POWER_MODEL ID=2 NAME=MODE_30W >      ids mean nothing between boards: 0 is the largest mode on an
    CPU_ONLINE CORE_8 0                     AGX Orin and 15 W on an Orin Nano
    TPC_POWER_GATING TPC_PG_MASK 240        TPCs switched off
    GPU MAX_FREQ 612000000                  -1: no cap
    EMC MAX_FREQ 0                          0: no cap

NVIDIA's own files hold `NAME=EMC >` without its first space and names with a suffix `_KNEXT`; anything that is not
understood is passed over.
"""

import re
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .files import read_text

CONFIGURATION = "etc/nvpmodel.conf"
STATUS = "var/lib/nvpmodel/status"
_SECTION = re.compile(r"^\s*<\s*([A-Z_]+)\b([^>]*)>?")
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*([^\s>]+)")
# A cap and a table may round differently.
_CAP_TOLERANCE_HZ = 0.5e6
_NUMBER = re.compile(r"-?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,18})")


class PowerMode(NamedTuple):
    """One power mode; None is no cap, or not said.

    Attributes:
        number: nvpmodel's id.
        name: e.g. "MAXN", "15W".
        gpu_max_hz, emc_max_hz: caps.
        tpc_mask: bits of TPCs that are switched off.
        cpus: CPU cores switched on, None where the mode does not say.
    """

    number: int
    name: str
    gpu_max_hz: Optional[float] = None
    emc_max_hz: Optional[float] = None
    tpc_mask: Optional[int] = None
    cpus: Optional[int] = None


class Modes(NamedTuple):
    """All modes of a configuration by id, and the id of the default."""

    modes: Mapping[int, PowerMode]
    default: Optional[int] = None


def parse_modes(text: str) -> Modes:
    """Modes of an nvpmodel configuration; lines that are not understood are passed over."""
    sections: List[Tuple[int, str, List[List[str]]]] = []
    default = None
    inside = False
    for line in text.splitlines():
        match = _SECTION.match(line)
        if match is None:
            if inside and not line.lstrip().startswith("#"):
                sections[-1][2].append(line.split())
            continue
        attributes = dict(_ATTRIBUTE.findall(match[2]))
        number = _number(attributes.get("ID"))
        inside = match[1] == "POWER_MODEL" and number is not None
        if inside and number is not None:
            sections.append((number, attributes.get("NAME", str(number)), []))
        elif match[1] == "PM_CONFIG":
            default = _number(attributes.get("DEFAULT"))
    return Modes({number: _mode(number, name, lines) for number, name, lines in sections}, default)


def _mode(number: int, name: str, lines: List[List[str]]) -> PowerMode:
    values: Dict[Tuple[str, str], int] = {}
    online: List[int] = []
    for words in lines:
        value = _number(words[2]) if len(words) >= 3 else None
        if value is None:
            continue
        what = re.sub("_KNEXT$", "", words[0])
        if what == "CPU_ONLINE":
            online.append(value)
        else:
            values[what, words[1]] = value
    mask = values.get(("TPC_POWER_GATING", "TPC_PG_MASK"))
    return PowerMode(
        number=number,
        name=name,
        gpu_max_hz=_cap(values.get(("GPU", "MAX_FREQ"))),
        emc_max_hz=_cap(values.get(("EMC", "MAX_FREQ"))),
        tpc_mask=mask if mask is not None and mask >= 0 else None,
        cpus=sum(value == 1 for value in online) or None,
    )


def current_mode(root: Path) -> Optional[PowerMode]:
    """The mode that is on; only its number as a name where no configuration tells more; None if unknown."""
    # The file reads "pmode:0002 fmode:...".
    match = re.search(r"pmode:\s*(\d{1,4})", read_text(root / STATUS) or "")
    if match is None:
        return None
    number = int(match[1])
    modes = parse_modes(read_text(root / CONFIGURATION) or "").modes
    return modes.get(number) or PowerMode(number=number, name=f"mode {number}")


def offered_hz(table_hz: Sequence[int], mode: Optional[PowerMode]) -> Tuple[float, ...]:
    """Frequencies of the GPU's table up to the power mode's cap, ascending; the lowest one where all are above it."""
    cap_hz = None if mode is None else mode.gpu_max_hz
    below = [hz for hz in table_hz if cap_hz is None or hz <= cap_hz + _CAP_TOLERANCE_HZ]
    return tuple(float(hz) for hz in below or table_hz[:1])


def gated_tpcs(gpu_mask: Optional[int], mode: Optional[PowerMode]) -> Optional[int]:
    """Bits of TPCs that are switched off: as the GPU says, else as the power mode says."""
    # What is gated now comes first: a mode that gates other TPCs takes effect at the next boot only.
    return mode.tpc_mask if gpu_mask is None and mode is not None else gpu_mask


def _cap(value: Optional[int]) -> Optional[float]:
    # nvpmodel reads -1 as the largest int; its files hold either.
    return float(value) if value is not None and 0 < value < 2**31 - 1 else None


def _number(text: Optional[str]) -> Optional[int]:
    if text is None or _NUMBER.fullmatch(text) is None:
        return None
    return int(text, 16) if "x" in text.lower() else int(text)

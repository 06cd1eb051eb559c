"""What is known of each Jetson module by its part number: multiprocessors, cores, compute capability, memory.

Part numbers (p3701-0005...) stand in the device tree. Marketing strings and L4T's BOARD field do not tell modules
apart. Sources: NVIDIA's module data sheets and the nvpmodel tables of L4T R32 to R36.
"""

import re
from typing import Iterable, NamedTuple, Optional, Tuple

GIB = 2**30


class Soc(NamedTuple):
    """A Tegra generation.

    Attributes:
        name: the device tree's name of it.
        words: what people call it.
        cores_per_sm: CUDA cores of a multiprocessor.
        sm_per_tpc: multiprocessors that are gated together.
        tpc_bits: bits of tpc_pg_mask that mean something; 0 where there is no mask.
        capability: CUDA compute capability.
    """

    name: str
    words: str
    cores_per_sm: int
    sm_per_tpc: int
    tpc_bits: int
    capability: Tuple[int, int]


class Board(NamedTuple):
    """A module.

    Attributes:
        name: vendor's name without the memory size.
        soc: its generation.
        sm_max: multiprocessors with nothing gated.
        memory_buckets: (least bytes that Linux sees, size in the name); the first that fits is it.
        power_monitor: whether the module carries an INA3221.
    """

    name: str
    soc: Soc
    sm_max: int
    memory_buckets: Tuple[Tuple[float, str], ...]
    power_monitor: bool = True

    @property
    def cores(self) -> int:
        """CUDA cores with nothing gated."""
        return self.sm_max * self.soc.cores_per_sm


T210 = Soc(name="nvidia,tegra210", words="Tegra X1", cores_per_sm=128, sm_per_tpc=1, tpc_bits=0, capability=(5, 3))
T194 = Soc(name="nvidia,tegra194", words="Xavier", cores_per_sm=64, sm_per_tpc=2, tpc_bits=4, capability=(7, 2))
T234 = Soc(name="nvidia,tegra234", words="Orin", cores_per_sm=128, sm_per_tpc=2, tpc_bits=8, capability=(8, 7))
SOCS = {soc.name: soc for soc in (T210, T194, T234)}
# Tegra X2 has no module here: nothing but this is known of it.
_CORES_PER_SM = {(6, 2): 128, **{soc.capability: soc.cores_per_sm for soc in SOCS.values()}}

# Linux sees less than the module has, because firmware and video keep their share: the limits lie an eighth
# below the names.
_AGX = ((56 * GIB, "64GB"), (0.0, "32GB"))
_NX = ((14 * GIB, "16GB"), (0.0, "8GB"))
_NANO = ((7 * GIB, "8GB"), (0.0, "4GB"))

_AGX_ORIN = Board(name="Jetson AGX Orin", soc=T234, sm_max=16, memory_buckets=_AGX)
_AGX_ORIN_32 = Board(name="Jetson AGX Orin", soc=T234, sm_max=14, memory_buckets=((0.0, "32GB"),))
_AGX_INDUSTRIAL = Board(name="Jetson AGX Orin Industrial", soc=T234, sm_max=16, memory_buckets=((0.0, "64GB"),))
_ORIN_NX = Board(name="Jetson Orin NX", soc=T234, sm_max=8, memory_buckets=_NX)
_ORIN_NANO_8 = Board(name="Jetson Orin Nano", soc=T234, sm_max=8, memory_buckets=_NANO)
_ORIN_NANO_4 = Board(name="Jetson Orin Nano", soc=T234, sm_max=4, memory_buckets=((0.0, "4GB"),))
_XAVIER_NX = Board(name="Jetson Xavier NX", soc=T194, sm_max=6, memory_buckets=_NX)
_AGX_XAVIER = Board(name="Jetson AGX Xavier", soc=T194, sm_max=8, memory_buckets=_AGX)
_NANO_4 = Board(name="Jetson Nano", soc=T210, sm_max=1, memory_buckets=((0.0, "4GB"),))
_NANO_2 = Board(name="Jetson Nano 2GB", soc=T210, sm_max=1, memory_buckets=((0.0, "2GB"),), power_monitor=False)

BOARDS = {
    # The first developer kit: the full GPU, with 32 or 64 GB.
    "p3701-0000": _AGX_ORIN,
    "p3701-0004": _AGX_ORIN_32,
    "p3701-0005": _AGX_ORIN,
    "p3701-0008": _AGX_INDUSTRIAL,
    "p3767-0000": _ORIN_NX,
    "p3767-0001": _ORIN_NX,
    "p3767-0003": _ORIN_NANO_8,
    "p3767-0004": _ORIN_NANO_4,
    "p3767-0005": _ORIN_NANO_8,
    "p3448-0000": _NANO_4,
    "p3448-0002": _NANO_4,
    "p3448-0003": _NANO_2,
}
# All part numbers of these two have the same GPU.
_FAMILIES = {"p3668": _XAVIER_NX, "p2888": _AGX_XAVIER}
_PART = re.compile(r"p\d{4}-\d{4}")


def find_board(compatible: Iterable[str]) -> Tuple[Optional[str], Optional[Board]]:
    """Part number and module that the strings of the device tree name; (None, None) for an unknown one.

    Carrier boards stand in the same strings and are passed over.
    """
    parts = [part for text in compatible for part in _PART.findall(text)]
    for part in parts:
        board = BOARDS.get(part) or _FAMILIES.get(part[:5])
        if board is not None:
            return part, board
    return None, None


def cores_of(capability: Tuple[int, int], sm_count: int) -> Optional[int]:
    """CUDA cores of a Tegra GPU by what it says of itself, None for a capability that no Tegra has."""
    per_sm = _CORES_PER_SM.get(capability)
    return None if per_sm is None else per_sm * sm_count


def active_sm(soc: Soc, sm_max: Optional[int], tpc_mask: Optional[int]) -> Optional[int]:
    """Multiprocessors that a mask of gated TPCs leaves; every one without a mask; None if nothing is known.

    A mask counts from the full die: a module with fewer multiprocessors always has some bits set.
    """
    if tpc_mask is None or soc.tpc_bits == 0:
        return sm_max
    left = soc.tpc_bits - bin(tpc_mask & (2**soc.tpc_bits - 1)).count("1")
    running = left * soc.sm_per_tpc
    # Should a mask not name what the module lacks, the module's own number still holds.
    return running if sm_max is None else min(running, sm_max)


def memory_bucket(board: Board, total_bytes: Optional[int]) -> Optional[str]:
    """Size in the module's name, from the memory that Linux sees; None if unknown."""
    if total_bytes is None:
        return None
    # The last bucket begins at 0, so that one always fits.
    return next(size for least, size in board.memory_buckets if total_bytes >= least)

"""The integrated GPU's nodes: devfreq for its frequency, the device folder for power gating.

    min_freq = lowest of the table, max_freq = f, min_freq = f

is the one order of writing that both kernels take: 4.9 refuses a minimum above the maximum, and from 5.10 on a
crossing pair is no error but runs at another frequency. So both limits are to be read back.

The node is found by the name in its `of_node`, or by the end of its own name where the kernel has none
(17000000.gv11b): paths differ from one release to the next. `load` is not read: reading it wakes a sleeping GPU.
"""

from pathlib import Path
from typing import NamedTuple, Optional, Tuple

from .files import read_number, read_text, whole_number
from .rules import is_gpu_node

DEVFREQ = "sys/class/devfreq"
# From 5.10 on the kernel keeps these limits in whole kHz.
LIMIT_TOLERANCE_HZ = 1000


class Gpu(NamedTuple):
    """A GPU by its devfreq folder.

    Attributes:
        folder: below /sys/class/devfreq.
        table_hz: `available_frequencies`, ascending.
    """

    folder: Path
    table_hz: Tuple[int, ...]

    def read(self, name: str) -> Optional[int]:
        """A number of the devfreq folder, None if it cannot be read."""
        return read_number(self.folder / name)

    def limits_hz(self) -> Optional[Tuple[int, int]]:
        """Lowest and highest frequency that are allowed now; None where the node went away."""
        low, high = self.read("min_freq"), self.read("max_freq")
        return None if low is None or high is None else (low, high)

    def frequency_hz(self) -> Optional[float]:
        """The frequency that runs now; None where the GPU is switched off, or its node went away."""
        hz = self.read("cur_freq")
        return float(hz) if hz else None

    def lock_steps(self, hz: int) -> Tuple[Tuple[str, int], ...]:
        """Files and values, in the order of writing, that hold the GPU at this frequency."""
        return self._steps(hz, hz)

    def restore_steps(self, low_hz: float, high_hz: float) -> Tuple[Tuple[str, int], ...]:
        """Files and values, in the order of writing, that put limits back which were found before."""
        # What the kernel showed may lie outside the table (no limit): its ends mean the same.
        return self._steps(self._listed(low_hz), self._listed(high_hz))

    def holds(self, hz: float) -> bool:
        """Whether both limits are at this frequency: a service may have undone them without a word."""
        limits = self.limits_hz()
        return limits is not None and all(abs(limit - hz) <= LIMIT_TOLERANCE_HZ for limit in limits)

    def tpc_mask(self) -> Optional[int]:
        """Bits of TPCs that are switched off, None where there is no such file."""
        return read_number(self.folder / "device" / "tpc_pg_mask")

    def switched_off(self) -> Optional[bool]:
        """Whether the GPU is power-gated at this moment; None if it does not say."""
        gated = read_number(self.folder / "device" / "is_railgated")
        if gated is not None:
            return bool(gated)
        powered = read_number(self.folder / "device" / "gpu_powered_on")
        return None if powered is None else not powered

    def _steps(self, low_hz: int, high_hz: int) -> Tuple[Tuple[str, int], ...]:
        # The lowest of the table is allowed at any time, so that the first write cannot cross the maximum as found.
        return ("min_freq", self.table_hz[0]), ("max_freq", high_hz), ("min_freq", low_hz)

    def _listed(self, hz: float) -> int:
        return min(self.table_hz, key=lambda listed: abs(listed - hz))


def find_gpu(root: Path) -> Optional[Gpu]:
    """The integrated GPU, None if the kernel publishes none."""
    base = root / DEVFREQ
    for folder in sorted(base.iterdir()) if base.is_dir() else ():
        name = read_text(folder / "device" / "of_node" / "name") or folder.name.split(".")[-1]
        if is_gpu_node(name):
            # Sorted here, although kernels list it in ascending order: the first and last entries are used as
            # its ends.
            table = (whole_number(word) for word in (read_text(folder / "available_frequencies") or "").split())
            return Gpu(folder, tuple(sorted(hz for hz in table if hz is not None)))
    return None

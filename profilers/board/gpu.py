"""The integrated GPU's nodes: devfreq for its frequency, the device folder for power gating.

The node is found by the name in its `of_node`, never by its path: paths differ from one release to the next.
`load` is not read: reading it wakes a sleeping GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import DeviceLostError
from cardlab.profilers.board.files import read_number, read_text
from cardlab.profilers.board.rules import is_gpu_node

DEVFREQ = "sys/class/devfreq"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its devfreq folder.

    Attributes:
        folder: below /sys/class/devfreq.
        table_hz: `available_frequencies`, ascending.
    """

    folder: Path
    table_hz: tuple[int, ...]

    def read(self, name: str) -> int | None:
        """A number of the devfreq folder, None if it cannot be read."""
        return read_number(self.folder / name)

    def limits_hz(self) -> tuple[int, int]:
        """Lowest and highest frequency that are allowed now. Raises DeviceLostError if the node went away."""
        low, high = self.read("min_freq"), self.read("max_freq")
        if low is None or high is None:
            raise DeviceLostError(
                f"the GPU's frequency node {self.folder.name} went away", remedy="look for nvgpu in dmesg, then reboot"
            )
        return low, high

    def frequency_hz(self) -> float | None:
        """The frequency that runs now; None where the GPU is switched off. Raises DeviceLostError."""
        hz = self.read("cur_freq")
        if hz is None:
            # The node may be gone: this raises the error that says so.
            self.limits_hz()
        return float(hz) if hz else None

    def tpc_mask(self) -> int | None:
        """Bits of TPCs that are switched off, None where there is no such file."""
        return read_number(self.folder / "device" / "tpc_pg_mask")

    def switched_off(self) -> bool | None:
        """Whether the GPU is power-gated at this moment; None if it does not say."""
        gated = read_number(self.folder / "device" / "is_railgated")
        if gated is not None:
            return bool(gated)
        powered = read_number(self.folder / "device" / "gpu_powered_on")
        return None if powered is None else not powered


def find_gpu(root: Path) -> Gpu | None:
    """The integrated GPU, None if the kernel publishes none."""
    base = root / DEVFREQ
    for folder in sorted(base.iterdir()) if base.is_dir() else ():
        name = read_text(folder / "device" / "of_node" / "name") or ""
        if is_gpu_node(name):
            # Sorted here, although kernels list it in ascending order: the first and last entries are used as
            # its ends.
            table = (read_text(folder / "available_frequencies") or "").split()
            return Gpu(folder, tuple(sorted(int(hz) for hz in table if hz.isascii() and hz.isdigit())))
    return None

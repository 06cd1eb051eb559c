"""The memory frequency (EMC) of a Jetson: held at its highest during a lock, because a layer's time depends on it.

    bpmp (Xavier, Orin)   mrq_rate_locked = 1, then rate = max_rate; rate is read back
    Nano                  clk_update_rate = the highest, then clk_state = 1

The power mode's cap of the memory frequency, where there is one, is the highest.
Both lie in debugfs, which only root may look into: another user reads them through the helper, or not at all.
"""

from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Tuple, Type

from .files import read_number, read_text, whole_number, write_text

Read = Callable[[Path], Optional[str]]
Write = Callable[[Path, str], None]
# What was found before a lock: the rate that was asked for ("request"), and whether it was locked ("lock"); None if
# unreadable.
EmcState = Dict[str, Optional[int]]


class EmcFiles(NamedTuple):
    """Where a generation keeps its memory frequency; names relative to sys/kernel/debug."""

    rate: str
    request: str
    lock: str
    lowest: str
    highest: str
    lock_first: bool


LAYOUTS = (
    EmcFiles(
        "bpmp/debug/clk/emc/rate",
        "bpmp/debug/clk/emc/rate",
        "bpmp/debug/clk/emc/mrq_rate_locked",
        "bpmp/debug/clk/emc/min_rate",
        "bpmp/debug/clk/emc/max_rate",
        True,
    ),
    EmcFiles(
        "clk/override.emc/clk_rate",
        "clk/override.emc/clk_update_rate",
        "clk/override.emc/clk_state",
        "tegra_bwmgr/emc_min_rate",
        "tegra_bwmgr/emc_max_rate",
        False,
    ),
)


CAPS = ("sys/kernel/nvpmodel_emc_cap/emc_iso_cap", "sys/kernel/nvpmodel_clk_cap/emc")


class Emc:
    """The memory frequency behind one layout."""

    def __init__(self, root: Path, files: EmcFiles, read: Read, write: Write) -> None:
        self._root = root
        self._debug = root / "sys/kernel/debug"
        self._files = files
        self._read = read
        self._write = write

    def rate_hz(self) -> Optional[float]:
        """The frequency now, None if it may not be read."""
        number = self._number(self._files.rate)
        return None if number is None else float(number)

    def saved_state(self) -> EmcState:
        """Request and lock as found."""
        return {"request": self._number(self._files.request), "lock": self._number(self._files.lock)}

    def highest_hz(self) -> Optional[int]:
        """The highest frequency that the power mode allows, None if it cannot be read."""
        caps = [read_number(self._root / name) for name in CAPS]
        # A cap of 0 is none.
        return min((value for value in (self._number(self._files.highest), *caps) if value), default=None)

    def lowest_hz(self) -> Optional[int]:
        """The lowest frequency of the memory, None if it cannot be read."""
        return self._number(self._files.lowest)

    def offers(self, hz: int) -> bool:
        """Whether the memory can be held at this frequency."""
        low, high = self._number(self._files.lowest), self._number(self._files.highest)
        return high is not None and (low or 0) <= hz <= high

    def hold(self, hz: int) -> None:
        """Hold the memory at a frequency that it offers."""
        steps = [(self._files.lock, 1), (self._files.request, hz)]
        for name, value in steps if self._files.lock_first else reversed(steps):
            self._write(self._debug / name, str(value))

    def restore(self, saved: EmcState) -> None:
        """Put request and lock back, the lock last."""
        for name, value in ((self._files.request, saved["request"]), (self._files.lock, saved["lock"])):
            if value is not None:
                self._write(self._debug / name, str(value))

    def _number(self, name: str) -> Optional[int]:
        return whole_number(self._read(self._debug / name))


def find_emc(
    root: Path, read: Read = read_text, write: Write = write_text, refusals: Tuple[Type[Exception], ...] = ()
) -> Optional[Emc]:
    """The memory frequency, None where none can be read.

    Args:
        read, write: one file; others than the plain ones ask somebody who may.
        refusals: what `read` raises where it is refused; the next layout is tried then.
    """
    for files in LAYOUTS:
        emc = Emc(root, files, read, write)
        try:
            if emc.rate_hz() is not None:
                return emc
        except refusals:
            continue
    return None

"""The memory frequency (EMC) of a Jetson: held at its highest during a lock, because a layer's time depends on it.

    bpmp (Xavier, Orin)   mrq_rate_locked = 1, then rate = max_rate; rate is read back
    Nano                  clk_update_rate = the highest, then clk_state = 1

The power mode's cap of the memory frequency, where there is one, is the highest.
Both lie in debugfs, which only root may look into: another user reads them through the helper, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from cardlab.core.errors import CardlabError, NotSupportedError
from cardlab.profilers.board.files import read_number

Read = Callable[[Path], str | None]
Write = Callable[[Path, str], None]


@dataclass(frozen=True, slots=True)
class EmcFiles:
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


class EmcState(TypedDict):
    """What was found before a lock: the rate that was asked for, and whether it was locked; None if unreadable."""

    request: int | None
    lock: int | None


class Emc:
    """The memory frequency behind one layout."""

    def __init__(self, root: Path, files: EmcFiles, read: Read, write: Write) -> None:
        self._root = root
        self._debug = root / "sys/kernel/debug"
        self._files = files
        self._read = read
        self._write = write

    def rate_hz(self) -> float | None:
        """The frequency now, None if it may not be read."""
        number = self._number(self._files.rate)
        return None if number is None else float(number)

    def saved_state(self) -> EmcState:
        """Request and lock as found."""
        return {"request": self._number(self._files.request), "lock": self._number(self._files.lock)}

    def hold(self, memory_hz: float | None) -> None:
        """Hold the frequency at `memory_hz`, or at its highest. Raises NotSupportedError for one out of range."""
        low, high = self._number(self._files.lowest), self._number(self._files.highest)
        wanted = self._highest(high) if memory_hz is None else round(memory_hz)
        if wanted is None or high is None or not (low or 0) <= wanted <= high:
            raise NotSupportedError(
                f"the memory frequency cannot be {(wanted or 0) / 1e6:.0f} MHz", remedy="leave the memory frequency out"
            )
        steps = [(self._files.lock, 1), (self._files.request, wanted)]
        for name, value in steps if self._files.lock_first else reversed(steps):
            self._write(self._debug / name, str(value))

    def restore(self, saved: EmcState) -> None:
        """Put request and lock back, the lock last."""
        for name, value in ((self._files.request, saved["request"]), (self._files.lock, saved["lock"])):
            if value is not None:
                self._write(self._debug / name, str(value))

    def _highest(self, high: int | None) -> int | None:
        caps = [read_number(self._root / name) for name in CAPS]
        # A cap of 0 is none.
        return min((value for value in (high, *caps) if value), default=None)

    def _number(self, name: str) -> int | None:
        text = self._read(self._debug / name) or ""
        return int(text) if text.isascii() and text.isdigit() else None


def find_emc(root: Path, read: Read, write: Write) -> Emc | None:
    """The memory frequency, None where none can be read."""
    for files in LAYOUTS:
        emc = Emc(root, files, read, write)
        try:
            if emc.rate_hz() is not None:
                return emc
        except CardlabError:
            continue
    return None

"""Locked frequencies of an NVIDIA card, and whether this user may lock them.

NVML has no call that tells which frequencies are locked, so what is put back is the default. A lock outlives the
process, until it is reset or the driver is loaded anew.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import NotSupportedError
from cardlab.profilers.board.files import read_text
from cardlab.profilers.devices import helper
from cardlab.profilers.devices.guard import Saved
from cardlab.profilers.devices.nvidia.nvml import Card

# Its number in linux/capability.h. NVML's setters ask for it: uid 0 in a container does not do.
_CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True)
class Rights:
    """How frequencies can be set: directly, through the helper, or (route None) not at all, with a remedy."""

    route: str | None
    state: str
    remedy: str | None = None


def find_rights(root: Path = Path("/")) -> Rights:
    """What this user may do, found without writing anything."""
    if "microsoft" in (read_text(root / "proc/version") or "").lower():
        remedy = "lock it in Windows, as administrator: nvidia-smi --lock-gpu-clocks=MHZ,MHZ"
        return Rights(None, "WSL2 cannot set frequencies", remedy)
    if os.geteuid() == 0:
        match = re.search(r"^CapEff:\s*([0-9a-f]+)", read_text(Path("/proc/self/status")) or "", re.MULTILINE)
        if match is None or int(match[1], 16) >> _CAP_SYS_ADMIN & 1:
            return Rights("direct", "root")
        remedy = "start the container with --cap-add SYS_ADMIN"
        return Rights(None, "root without the right to administer (an unprivileged container)", remedy)
    if helper.helper_answers():
        return Rights("helper", f"through {helper.NAME}")
    return Rights(None, "this user may not set frequencies", helper.remedy())


class NvidiaFrequency:
    """FrequencyControl of one card."""

    def __init__(self, card: Card, rights: Rights) -> None:
        self._card = card
        self._rights = rights
        # None until this process has saved a state: after another one died nobody knows what it locked.
        self._memory_touched: bool | None = None

    def saved_state(self) -> Saved:
        """Nothing can be read back: restoring means the default."""
        self._memory_touched = False
        return {"locked": None}

    def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
        """Lock the SM frequency, and the memory frequency where one is given."""
        mhz = round(frequency_hz / 1e6)
        memory_mhz = None if memory_hz is None else round(memory_hz / 1e6)
        self._memory_touched = memory_mhz is not None
        if self._rights.route == "helper":
            words = [str(self._card.index), str(mhz), *([] if memory_mhz is None else [str(memory_mhz)])]
            helper.call_helper("nvml-lock", *words)
            return
        self._card.call("nvmlDeviceSetGpuLockedClocks", mhz, mhz)
        if memory_mhz is not None:
            self._card.call("nvmlDeviceSetMemoryLockedClocks", memory_mhz, memory_mhz)

    def restore(self, saved: Saved) -> None:
        """Reset to the default; the memory frequency too unless it is known that it was left alone."""
        memory = self._memory_touched is not False
        if self._rights.route == "helper":
            helper.call_helper("nvml-reset", str(self._card.index), *(["memory"] if memory else []))
            return
        self._card.call("nvmlDeviceResetGpuLockedClocks")
        if memory:
            try:
                self._card.call("nvmlDeviceResetMemoryLockedClocks")
            except NotSupportedError:
                return  # A card without a memory lock has none to release.

"""Frequency control of a Jetson: GPU, memory and CPU, through the helper's list of allowed files only.

    min_freq = lowest of the table, max_freq = f, min_freq = f

is the one order that both kernels take: 4.9 refuses a minimum above the maximum, and from 5.10 on a crossing pair
is no error but runs at another frequency. So both limits are read back, at the start and at the end of each point:
`nvpmodel`, started again by another service, undoes a lock without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import CardlabError, DeviceLostError, NotSupportedError
from cardlab.profilers.board.emc import Emc, find_emc
from cardlab.profilers.board.files import read_text
from cardlab.profilers.board.gpu import Gpu
from cardlab.profilers.devices import helper
from cardlab.profilers.devices.cpu.frequency import CpuFrequency, through_helper
from cardlab.profilers.devices.guard import Saved

# From 5.10 on the kernel keeps these limits in whole kHz.
_TOLERANCE_HZ = 1000
Writer = Callable[[Path, str], None]


@dataclass(frozen=True, slots=True)
class Rights:
    """How frequencies can be set: directly, through the helper, or (route None) not at all, with a remedy."""

    route: str | None
    state: str
    remedy: str | None = None


def find_rights(root: Path, gpu: Gpu) -> Rights:
    """What this user may do, found without writing anything."""
    if os.access(gpu.folder / "max_freq", os.W_OK):
        return Rights("direct", "root" if os.geteuid() == 0 else "this user may write them")
    # Root that may not write is in a container.
    if os.geteuid() == 0:
        remedy = "start the container with --privileged, or with -v /sys:/sys"
        return Rights(None, "/sys is read-only here", remedy)
    # Asking the helper starts a process: only where it would help.
    if root == Path("/") and helper.helper_answers():
        return Rights("helper", f"through {helper.NAME}")
    return Rights(None, "this user may not set frequencies", helper.remedy())


def make_writer(root: Path, rights: Rights) -> Writer:
    """Writes a setting by the way that the rights allow; the helper's list holds for both."""
    if rights.route == "helper":
        return through_helper

    def write(path: Path, value: str) -> None:
        helper.run(["write", str(path.relative_to(root)), value], root)

    return write


class JetsonFrequency:
    """FrequencyControl of GPU, memory and CPU together.

    Args:
        root: root of /sys.
        gpu: its nodes.
        rights: found with find_rights.
        writer: writes one file.
    """

    def __init__(self, root: Path, gpu: Gpu, rights: Rights, writer: Writer) -> None:
        self._root = root
        self._gpu = gpu
        self._rights = rights
        self._write = writer
        self._held_hz: int | None = None
        self.cpu = CpuFrequency(root, through_helper if rights.route == "helper" else None)
        self.emc: Emc | None = find_emc(root, self._read_emc, writer)
        self.notes: tuple[str, ...] = ()

    def saved_state(self) -> Saved:
        """Limits of the GPU, request and lock of the memory, governors and limits of the CPU."""
        low, high = self._gpu.limits_hz()
        return {
            "gpu": {"min_freq": low, "max_freq": high},
            "emc": None if self.emc is None else self.emc.saved_state(),
            "cpu": self.cpu.saved_state(),
        }

    def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
        """Hold GPU, memory and CPU, and read the GPU's limits back.

        Raises NotSupportedError if the kernel refuses or holds something above the request, DeviceLostError if the
        node went away. A limit below the request is the device's own: `problems` tells of it.
        """
        hz = round(frequency_hz)
        # Before the GPU, whose driver raises the memory frequency along with its own.
        self.notes = tuple(self._hold_others(memory_hz))
        self._held_hz = hz
        lowest = self._gpu.table_hz[0]
        self._set("min_freq", lowest)
        self._set("max_freq", hz)
        self._set("min_freq", hz)
        low, high = self._gpu.limits_hz()
        if high > hz + _TOLERANCE_HZ:
            raise NotSupportedError(
                f"the kernel allows {low / 1e6:.0f} .. {high / 1e6:.0f} MHz after {hz / 1e6:.0f} MHz was set",
                remedy="look whether another program sets frequencies: systemctl status nvpmodel",
            )

    def restore(self, saved: Saved) -> None:
        """Put everything back; what cannot be put back does not keep the rest from it. Raises the first error."""
        self._held_hz = None
        self.notes = ()
        errors: list[CardlabError] = []
        for part in (self._restore_gpu, self._restore_emc, self._restore_cpu):
            try:
                part(saved)
            except CardlabError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the frequency that is held: limits that moved, or never became what was asked."""
        if self._held_hz is None:
            return ()
        low, high = self._gpu.limits_hz()
        held = self._held_hz
        if max(abs(low - held), abs(high - held)) <= _TOLERANCE_HZ:
            return ()
        # Both limits at one lower value are a cap (power mode, heat); two different ones were written by
        # somebody.
        if low == high < held:
            return (f"held at {high / 1e6:.0f} MHz by a cap of the board, not at {held / 1e6:.0f} MHz",)
        return (f"lock undone by another program: {low / 1e6:.0f} .. {high / 1e6:.0f} MHz allowed",)

    def _hold_others(self, memory_hz: float | None) -> list[str]:
        """Memory and CPU are held where they can be; where not, the record says so."""
        notes = []
        if self.emc is not None:
            try:
                self.emc.hold(memory_hz)
            except NotSupportedError as error:
                if memory_hz is not None:
                    raise
                notes.append(f"memory frequency recorded, not held: {error.message}")
        elif memory_hz is not None:
            raise NotSupportedError("the memory frequency cannot be set", remedy="run as root, or leave it out")
        else:
            notes.append("memory frequency neither held nor readable by this user")
        try:
            # The CPU feeds the GPU: a slow one would look like a slow GPU.
            self.cpu.hold_highest()
        except CardlabError as error:
            notes.append(f"CPU frequency recorded, not held: {error.message}")
        return notes

    def _set(self, name: str, hz: int) -> None:
        """A node that is gone and a value that is refused are two things."""
        try:
            self._write(self._gpu.folder / name, str(hz))
        except CardlabError:
            self._gpu.limits_hz()
            raise

    def _restore_gpu(self, saved: Saved) -> None:
        table = self._gpu.table_hz
        if not table:
            raise DeviceLostError("the GPU's frequency node went away", remedy="reboot, which releases every frequency")
        # What the kernel showed may lie outside the table (no limit): its ends mean the same.
        low, high = (_listed(table, saved["gpu"][name]) for name in ("min_freq", "max_freq"))
        self._set("min_freq", table[0])
        self._set("max_freq", high)
        self._set("min_freq", low)

    def _restore_emc(self, saved: Saved) -> None:
        if saved["emc"] is not None and self.emc is not None:
            self.emc.restore(saved["emc"])

    def _restore_cpu(self, saved: Saved) -> None:
        self.cpu.restore(saved["cpu"])

    def _read_emc(self, path: Path) -> str | None:
        text = read_text(path)
        if text is None and self._rights.route == "helper":
            return helper.call_helper("read", str(path))
        return text


def _listed(table_hz: tuple[int, ...], hz: int) -> int:
    """The frequency of the table nearest to one that the kernel showed."""
    return min(table_hz, key=lambda listed: abs(listed - hz))

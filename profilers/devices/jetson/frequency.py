"""Frequency control of a Jetson: GPU, memory and CPU, through the helper's list of allowed files only.

The GPU's limits are written in the order that board/gpu.py has, and read back at the start and at the end of each
point: `nvpmodel`, started again by another service, undoes a lock without a word.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import CardlabError, DeviceLostError, NotSupportedError
from cardlab.profilers.board.emc import Emc, find_emc
from cardlab.profilers.board.files import read_text
from cardlab.profilers.board.gpu import LIMIT_TOLERANCE_HZ, Gpu
from cardlab.profilers.devices import helper
from cardlab.profilers.devices.cpu.frequency import CpuFrequency, through_helper
from cardlab.profilers.devices.guard import Saved
from cardlab.profilers.devices.jetson.gpu import limits_hz

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
        self.emc: Emc | None = find_emc(root, self._read_emc, writer, (CardlabError,))
        self.notes: tuple[str, ...] = ()

    def saved_state(self) -> Saved:
        """Limits of the GPU, request and lock of the memory, governors and limits of the CPU."""
        low, high = limits_hz(self._gpu)
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
        self._set(self._gpu.lock_steps(hz))
        low, high = limits_hz(self._gpu)
        if high > hz + LIMIT_TOLERANCE_HZ:
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
        low, high = limits_hz(self._gpu)
        held = self._held_hz
        if self._gpu.holds(held):
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
                _hold_memory(self.emc, memory_hz)
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

    def _set(self, steps: tuple[tuple[str, int], ...]) -> None:
        """A node that is gone and a value that is refused are two things."""
        try:
            for name, hz in steps:
                self._write(self._gpu.folder / name, str(hz))
        except CardlabError:
            limits_hz(self._gpu)
            raise

    def _restore_gpu(self, saved: Saved) -> None:
        if not self._gpu.table_hz:
            raise DeviceLostError("the GPU's frequency node went away", remedy="reboot, which releases every frequency")
        self._set(self._gpu.restore_steps(saved["gpu"]["min_freq"], saved["gpu"]["max_freq"]))

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


def _hold_memory(emc: Emc, memory_hz: float | None) -> None:
    """Hold the memory at `memory_hz`, or at its highest. Raises NotSupportedError for one out of range."""
    wanted = emc.highest_hz() if memory_hz is None else round(memory_hz)
    if wanted is None or not emc.offers(wanted):
        raise NotSupportedError(
            f"the memory frequency cannot be {(wanted or 0) / 1e6:.0f} MHz", remedy="leave the memory frequency out"
        )
    emc.hold(wanted)

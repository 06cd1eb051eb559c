"""The CPU's frequency through cpufreq: every policy at once, through the guard.

Where the driver has a `userspace` governor the frequency is set outright. intel_pstate and amd-pstate have none:
minimum and maximum are set to one value, which the hardware takes as a request, so the frequency is read back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cardlab.core.errors import NotSupportedError, PermissionDeniedError
from cardlab.profilers.board.cpufreq import find_cpu
from cardlab.profilers.board.files import read_text
from cardlab.profilers.devices import helper
from cardlab.profilers.devices.guard import Saved

# Ratios of most CPUs are multiples of a bus clock of 100 MHz.
_STEP_KHZ = 100_000
_SETTINGS = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")


class CpuFrequency:
    """FrequencyControl of all cpufreq policies below a root.

    Args:
        root: folder that holds sys/.
        elevated: writes a setting where this user may not; None if there is no such way.
    """

    def __init__(self, root: Path, elevated: Callable[[Path, str], None] | None = None) -> None:
        self._files = find_cpu(root)
        self._policies = self._files.policies
        self._elevated = elevated

    @property
    def present(self) -> bool:
        """Whether the kernel publishes any policy."""
        return bool(self._policies)

    @property
    def writable(self) -> bool:
        """Whether frequencies can be set, by this user or through the helper."""
        if self._elevated is not None:
            return self.present
        names = ("scaling_min_freq", "scaling_max_freq", *(("scaling_governor",) if self._userspace() else ()))
        return self.present and all(os.access(p / n, os.W_OK) for p in self._policies for n in names)

    def frequencies(self) -> tuple[float, ...]:
        """Frequencies that every policy takes, Hz, ascending; steps of 100 MHz where the driver lists none."""
        offered = [self._offered_khz(policy) for policy in self._policies]
        # Large and small cores have tables of their own, and one request has to suit all.
        common = set.intersection(*map(set, offered)) if offered else set()
        return tuple(khz * 1e3 for khz in sorted(common))

    def read_hz(self) -> float | None:
        """Mean frequency over the policies now, None if none is published."""
        return self._files.asked_hz()

    def saved_state(self) -> Saved:
        """Governor and limits of every policy."""
        names = (*_SETTINGS, "scaling_setspeed")
        return {p.name: {name: read_text(p / name) for name in names} for p in self._policies}

    def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
        """Set or request the frequency on every policy. Raises NotSupportedError for a memory frequency."""
        if memory_hz is not None:
            raise NotSupportedError("a CPU's memory frequency cannot be set", remedy="leave the memory frequency out")
        khz = str(round(frequency_hz / 1e3))
        userspace = self._userspace()
        for policy in self._policies:
            # Limits under `userspace` too: one that was left by somebody else would clip the speed.
            self._limits(policy, khz, khz)
            if userspace:
                self._write(policy / "scaling_governor", "userspace")
                self._write(policy / "scaling_setspeed", khz)

    def hold_highest(self) -> None:
        """Raise every policy's minimum to its maximum: the CPU stays at the highest frequency that is allowed now."""
        for policy in self._policies:
            high = _khz(policy / "scaling_max_freq")
            if high is not None:
                self._write(policy / "scaling_min_freq", str(high))

    def restore(self, saved: Saved) -> None:
        """Put governors and limits back."""
        for policy in self._policies:
            old = saved.get(policy.name)
            if old is None:
                continue
            if old["scaling_min_freq"] and old["scaling_max_freq"]:
                self._limits(policy, old["scaling_min_freq"], old["scaling_max_freq"])
            if old["scaling_governor"]:
                self._write(policy / "scaling_governor", old["scaling_governor"])
            # Last, because no other governor takes a speed.
            if old["scaling_governor"] == "userspace" and (old["scaling_setspeed"] or "").isdigit():
                self._write(policy / "scaling_setspeed", old["scaling_setspeed"])

    def _limits(self, policy: Path, low: str, high: str) -> None:
        """The kernel refuses a minimum above the maximum, at any moment."""
        order = [("scaling_max_freq", high), ("scaling_min_freq", low)]
        current_low = _khz(policy / "scaling_min_freq")
        if current_low is not None and int(high) < current_low:
            order.reverse()
        for name, value in order:
            self._write(policy / name, value)

    def _write(self, path: Path, value: str) -> None:
        # What is right already may be read-only, as the one governor of a driver; and the helper is not started
        # for nothing.
        if read_text(path) == value:
            return
        try:
            helper.write_value(path, value)
        except PermissionDeniedError:
            if self._elevated is None:
                raise
            self._elevated(path, value)

    def _userspace(self) -> bool:
        governors = [(read_text(p / "scaling_available_governors") or "").split() for p in self._policies]
        return bool(governors) and all("userspace" in names for names in governors)

    def _offered_khz(self, policy: Path) -> list[int]:
        listed = (read_text(policy / "scaling_available_frequencies") or "").split()
        if listed:
            return [int(khz) for khz in listed if khz.isdigit()]
        low, high = _khz(policy / "cpuinfo_min_freq"), _khz(policy / "cpuinfo_max_freq")
        if low is None or high is None:
            return []
        return sorted({low, *range(-(-low // _STEP_KHZ) * _STEP_KHZ, high + 1, _STEP_KHZ), high})


def through_helper(path: Path, value: str) -> None:
    """Let the helper write a setting as root. Raises PermissionDeniedError if it may not."""
    helper.call_helper("write", str(path), value)


def _khz(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text and text.isdigit() else None

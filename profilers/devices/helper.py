"""The helper: the only part that needs root, and all that it can do.

    cardlab-clock-helper check
    cardlab-clock-helper nvml-lock INDEX MHZ [MEMORY_MHZ]
    cardlab-clock-helper nvml-reset INDEX [memory]
    cardlab-clock-helper write PATH VALUE          PATH and VALUE from the list below
    cardlab-clock-helper read PATH                 the memory frequency of a Jetson, which only root may see

Everything else of cardlab runs as the user, who calls it through `sudo -n`. It takes no root folder, no shell and
no environment; a path is resolved before it is compared with the list, so that no link leads outside.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import CardlabError, NotSupportedError, PermissionDeniedError, UsageError
from cardlab.profilers.board.files import read_text, write_text
from cardlab.profilers.board.rules import GPU_NODES

NAME = "cardlab-clock-helper"
# Above every clock there is: keeps nonsense away from the driver.
_MAX_MHZ = 20_000
# Without persistence mode the first call of NVML loads the driver, which takes seconds.
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Rule:
    """A file that may be written, and which values it may take."""

    path: re.Pattern[str]
    allows: Callable[[Path, str], bool]


def _governor(path: Path, value: str) -> bool:
    offered = read_text(path.parent / "scaling_available_governors") or ""
    return value in offered.split()


def _cpu_khz(path: Path, value: str) -> bool:
    return _within(value, read_text(path.parent / "cpuinfo_min_freq"), read_text(path.parent / "cpuinfo_max_freq"))


def _within(value: str, low: str | None, high: str | None) -> bool:
    numbers = (value, low or "", high or "")
    # isdigit() alone is true of other scripts' digits too, which int() takes.
    if not all(text.isascii() and text.isdigit() for text in numbers):
        return False
    return int(low or "") <= int(value) <= int(high or "")


def _listed_hz(path: Path, value: str) -> bool:
    listed = (read_text(path.parent / "available_frequencies") or "").split()
    return value in listed


def _emc_hz(path: Path, value: str) -> bool:
    return _within(value, read_text(path.parent / "min_rate"), read_text(path.parent / "max_rate"))


def _emc_nano_hz(path: Path, value: str) -> bool:
    limits = path.parents[2] / "tegra_bwmgr"
    return _within(value, read_text(limits / "emc_min_rate"), read_text(limits / "emc_max_rate"))


def _flag(path: Path, value: str) -> bool:
    return value in ("0", "1")


_POLICY = r"sys/devices/system/cpu/cpufreq/policy\d+"
_TEGRA_GPU = r"sys/devices/(?:[\w@.:-]+/)*[0-9a-f]+\.(?:" + "|".join(GPU_NODES) + r")/devfreq/[0-9a-f]+\.\w+"
_EMC = "sys/kernel/debug/bpmp/debug/clk/emc"
_EMC_NANO = r"sys/kernel/debug/clk/override\.emc"
RULES = (
    Rule(re.compile(rf"{_POLICY}/scaling_governor"), _governor),
    Rule(re.compile(rf"{_POLICY}/scaling_(setspeed|min_freq|max_freq)"), _cpu_khz),
    Rule(re.compile(rf"{_TEGRA_GPU}/(min|max)_freq"), _listed_hz),
    Rule(re.compile(rf"{_EMC}/rate"), _emc_hz),
    Rule(re.compile(rf"{_EMC}/mrq_rate_locked"), _flag),
    Rule(re.compile(rf"{_EMC_NANO}/clk_update_rate"), _emc_nano_hz),
    Rule(re.compile(rf"{_EMC_NANO}/clk_state"), _flag),
)
READABLE = re.compile(
    rf"(?:{_EMC}/(?:rate|min_rate|max_rate|mrq_rate_locked)|{_EMC_NANO}/(?:clk_rate|clk_update_rate|clk_state)"
    r"|sys/kernel/debug/tegra_bwmgr/emc_(?:min|max)_rate)"
)


def run(words: Sequence[str], root: Path = Path("/")) -> str:
    """Carry out one allowed operation; returns what to print.

    Raises UsageError for anything not on the list, and errors of the device.
    """
    match list(words):
        case ["check"]:
            return "ok"
        case ["nvml-lock", index, mhz, *memory] if len(memory) <= 1:
            return _nvml_lock(_number(index, 64), *(_number(m, _MAX_MHZ) for m in (mhz, *memory)))
        case ["nvml-reset", index, *memory] if memory in ([], ["memory"]):
            return _nvml_reset(_number(index, 64), bool(memory))
        case ["write", path, value]:
            return _write(root, path, value)
        case ["read", path]:
            return _read(root, path)
    raise UsageError(f"{NAME} does not know this operation", remedy="update cardlab")


def _number(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise UsageError(f"{text!r} is not a number up to {most}", remedy="update cardlab")
    return int(text)


def _nvml_lock(index: int, mhz: int, memory_mhz: int | None = None) -> str:
    from cardlab.profilers.devices.nvidia.nvml import Card

    card = Card(index)
    card.call("nvmlDeviceSetGpuLockedClocks", mhz, mhz)
    if memory_mhz is not None:
        card.call("nvmlDeviceSetMemoryLockedClocks", memory_mhz, memory_mhz)
    return "locked"


def _nvml_reset(index: int, memory: bool) -> str:
    from cardlab.profilers.devices.nvidia.nvml import Card

    card = Card(index)
    card.call("nvmlDeviceResetGpuLockedClocks")
    if memory:
        try:
            card.call("nvmlDeviceResetMemoryLockedClocks")
        except NotSupportedError:
            return "reset; this card has no memory lock"
    return "reset"


def _inside(root: Path, path: str) -> tuple[Path, str]:
    """The file behind all links, and its name below the root; no name if it lies outside."""
    base = root.resolve()
    resolved = (base / path.lstrip("/")).resolve()
    return resolved, str(resolved.relative_to(base)) if resolved.is_relative_to(base) else ""


def _read(root: Path, path: str) -> str:
    resolved, inside = _inside(root, path)
    if READABLE.fullmatch(inside) is None:
        raise UsageError(f"{path} may not be read", remedy="only the memory frequency of a Jetson may be")
    text = read_text(resolved)
    if text is None:
        raise NotSupportedError(f"the kernel does not publish {path}", remedy="measure without it")
    return text


def _write(root: Path, path: str, value: str) -> str:
    resolved, inside = _inside(root, path)
    rule = next((r for r in RULES if r.path.fullmatch(inside)), None)
    if rule is None:
        raise UsageError(f"{path} may not be written", remedy="only frequency settings below /sys may be")
    if not rule.allows(resolved, value):
        raise UsageError(f"{path} may not be set to {value!r}", remedy="use a value that the kernel offers")
    write_value(resolved, value)
    return "written"


def write_value(path: Path, value: str) -> None:
    """Write a kernel setting. Raises PermissionDeniedError, or NotSupportedError if the kernel refuses."""
    try:
        write_text(path, value)
    except PermissionError as error:
        raise PermissionDeniedError(f"{path} needs root to be written", remedy=remedy()) from error
    except OSError as error:
        raise NotSupportedError(
            f"the kernel refuses {value!r} for {path} ({error.strerror})", remedy="use --frequencies max"
        ) from error


def remedy() -> str:
    """How to get the rights, in one line."""
    # As in an image, whose users are told nothing by a line that begins with sudo.
    if shutil.which("sudo") is None:
        return f"run as root (in a container: --user 0), or install sudo and allow {NAME}: docs/nvidia.md"
    rule = f'"$USER ALL=(root) NOPASSWD: {_program()}"'
    return f"run as root, or allow the helper: echo {rule} | sudo tee /etc/sudoers.d/cardlab"


def helper_answers() -> bool:
    """Whether `sudo -n` may run the helper without a password."""
    try:
        return call_helper("check") == "ok"
    except CardlabError:
        return False


def call_helper(*words: str) -> str:
    """Let the helper do it as root. Raises PermissionDeniedError with what it said."""
    sudo = shutil.which("sudo")
    if sudo is None:
        raise PermissionDeniedError("this needs root, and there is no sudo", remedy="run as root")
    try:
        # -n: no question for a password in the middle of a sweep.
        done = subprocess.run(
            [sudo, "-n", _program(), *words], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PermissionDeniedError(f"{NAME} does not answer through sudo", remedy=remedy()) from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise PermissionDeniedError(f"{NAME} through sudo: {said[-1] if said else 'refused'}", remedy=remedy())
    return done.stdout.strip()


def _program() -> str:
    # Beside this Python first: sudo searches a path of its own and would find another installation or none.
    beside = Path(sys.executable).parent / NAME
    return str(beside) if beside.exists() else shutil.which(NAME) or NAME


def main() -> int:
    """Entry point of the helper; 0 when done, 1 with one line of reason."""
    try:
        print(run(sys.argv[1:]))
    except CardlabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0

"""The devices of `card run --local`: one process each, ended with the run, heard when one fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from cardlab.core.errors import RunError, UsageError
from cardlab.split.journal_files import writing
from cardlab.split.schedule import Schedule
from cardlab.split.shaping import PLANNED

# Python hears a signal between two operators of torch, and a large layer takes seconds.
_END_S = 20.0


def local_link(schedule: Schedule, given: str | None) -> tuple[str | None, str | None]:
    """`--link` of the devices of a local run and the line that says so; None leaves the link as fast as it goes.

    What the user gave wins; else the shares of a plan are made real, if it holds their rates.
    Raises UsageError where planned rates are asked for and there are none.
    """
    imposed = "links are shaped as planned for each device and round (simulated inside the transport)"
    if given == PLANNED and not schedule.gives_rates:
        raise UsageError(
            "no plan gives the rates of the links", remedy="plan with --scheme sft, or give --link 100mbit,5ms"
        )
    if given is not None and given != PLANNED:
        beside = "; the planned shares of the band are not imposed" if schedule.shares_band else ""
        return given, f"the link is shaped inside the transport: {given}{beside}"
    if given == PLANNED or (schedule.shares_band and schedule.gives_rates):
        return PLANNED, imposed
    if schedule.shares_band:
        return None, "the plan holds shares of the band without their rates: none is imposed; plan again to have them"
    return None, None


class LocalDevices:
    """Device processes that connect to a port of this machine; use as a context manager.

    Args:
        words: further options of `card run device`, the same for all.
        own: those of each device alone, in the order of the names.
        out: folder for their logs.
        threads: CPU threads of each.
    """

    def __init__(
        self,
        names: Sequence[str],
        port: int,
        words: Sequence[str],
        own: Sequence[Sequence[str]],
        out: Path,
        threads: int,
    ) -> None:
        self._names, self._port, self._out, self._threads = names, port, out, threads
        self._killed: set[str] = set()
        self._words = {name: [*mine, *words] for name, mine in zip(names, own, strict=True)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> LocalDevices:
        # OpenMP reads this once, when torch is loaded. More threads than cores wait for each other in spin
        # loops: measured 5 to 15 times slower.
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        for name in self._names:
            # By this interpreter and not by the name `card`, which may be another installation's.
            command = [sys.executable, "-c", "from cardlab.cli.main import card; card()", "run", "device"]
            command += ["--server", f"127.0.0.1:{self._port}", "--name", name, "--threads", str(self._threads)]
            command += self._words[name]
            # A file and no pipe: a pipe that nobody empties fills up and stops the device.
            with writing(self._log(name)), self._log(name).open("wb") as log:
                self._running[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All are told before any is waited for, so that they end side by side.
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def check(self, note: Callable[[str], None]) -> None:
        """Raise RunError when a device ended by an error of its own, or none is left; a killed one may come back.

        `note` is told once of each that was killed.
        """
        codes = {name: process.poll() for name, process in self._running.items()}
        # Negative codes are signals: whoever killed a device may start it again.
        failed = [name for name, code in codes.items() if code is not None and code > 0]
        if not failed and any(code is None for code in codes.values()):
            for name, code in codes.items():
                if code is not None and code < 0 and name not in self._killed:
                    self._killed.add(name)
                    note(f"{name} was killed (signal {-code}): the run goes on without it")
            return
        name = (failed or list(codes))[0]
        raise RunError(
            f"{name} has ended: {self._last_words(name)}",
            remedy=f"see {self._log(name)}; finished rounds are kept for --resume",
        )

    def wait(self) -> None:
        """Let the devices come to their end."""
        for process in self._running.values():
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                return

    def _log(self, name: str) -> Path:
        return self._out / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.log"

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text("utf-8", "replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["nothing"])[-1].removeprefix("error: ")

"""Sensors that are programs of their own: one line of text for each reading, read by a thread.

tegrastats is such a program. jtop becomes one (jtop_child.py): importing it changes how the whole process starts
others, and its client dies with its service; in a child neither reaches us.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cardlab.core.errors import DeviceError, DeviceLostError
from cardlab.profilers.board.ina3221 import MEMORY_UPDATES, USUAL_UPDATE_S

Parse = Callable[[str], Mapping[str, float]]
"""Watts by rail of one line. Raises DeviceError for a line that cannot be used."""

# On a small board importing jtop and reaching its service takes seconds.
_FIRST_LINE_S = 20.0
# jtop's answers come late under full load; after twenty intervals it is no delay any more.
_SILENT_INTERVALS = 20.0
_END_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that prints power.

    Attributes:
        name: "jtop" or "tegrastats".
        words: the sensor, for the record.
        command: what to start.
        parse: reads a line.
        update_s: how often a line comes.
        remedy: what to do when it does not work.
    """

    name: str
    words: str
    command: Sequence[str]
    parse: Parse
    update_s: float
    remedy: str


class ChildSource:
    """Power by rail from the lines of a child process, which `close` ends.

    Args:
        program: what to start and how to read it.
        patience_s: how long to wait for the first line.

    Raises:
        DeviceError: it does not start, or says nothing that can be used.
    """

    def __init__(self, program: Program, patience_s: float = _FIRST_LINE_S) -> None:
        name, update_s, remedy = program.name, program.update_s, program.remedy
        self.name = name
        self.words = program.words
        self.update_s = update_s
        # Both print the INA3221's running mean, with 64 averages unless sysfs says otherwise.
        self.memory_s = 2.0 * update_s + MEMORY_UPDATES * USUAL_UPDATE_S
        self._parse = program.parse
        self._remedy = remedy
        self._news = threading.Condition()
        self._latest: Mapping[str, float] | None = None
        self._fresh = False
        self._ended = False
        self._reason = "it says nothing"
        try:
            self._process = subprocess.Popen(
                list(program.command),
                # What is typed at the terminal is for the session and not for the sensor.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise DeviceError(f"{name} does not start ({error.strerror})", remedy=remedy) from error
        self._thread = threading.Thread(target=self._listen, name=f"cardlab-{name}", daemon=True)
        self._thread.start()
        self._names = tuple(self._first(patience_s))

    def rails(self) -> tuple[str, ...]:
        """Names of the rails."""
        return self._names

    def read(self) -> Mapping[str, float]:
        """The newest line, empty if there was none since the last call. Raises DeviceLostError once it has ended."""
        with self._news:
            if self._fresh and self._latest is not None:
                self._fresh = False
                self._heard_s = time.monotonic()
                return self._latest
            silent_s = time.monotonic() - self._heard_s
            if self._ended or silent_s > max(_END_S, _SILENT_INTERVALS * self.update_s):
                raise DeviceLostError(f"{self.name} went away: {self._reason}", remedy=self._remedy)
            return {}

    def steps_w(self) -> Mapping[str, float | None]:
        """Both print whole milliwatts of a coarser sensor: the step is not known here."""
        return dict.fromkeys(self._names)

    def facts(self) -> Mapping[str, Mapping[str, object]]:
        """How often it speaks."""
        return {name: {"interval_s": self.update_s} for name in self._names}

    def close(self) -> None:
        """End the child."""
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_END_S)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _first(self, patience_s: float) -> Mapping[str, float]:
        with self._news:
            self._news.wait_for(lambda: self._latest is not None or self._ended, timeout=patience_s)
            self._heard_s = time.monotonic()
            if self._latest is not None:
                return self._latest
        self.close()
        raise DeviceError(f"{self.name} gives no power: {self._reason}", remedy=self._remedy)

    def _listen(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None
        for line in self._process.stdout:
            try:
                values = self._parse(line)
            except DeviceError as error:
                # A line that cannot be read is not the end of a source; silence is.
                self._reason = error.message
                continue
            if values:
                with self._news:
                    self._latest, self._fresh = values, True
                    self._news.notify_all()
        # Only at the end: what these programs write there fits a pipe.
        said = self._process.stderr.read().strip().splitlines()
        with self._news:
            self._reason = said[-1] if said else self._reason if self._latest is None else "it ended"
            self._ended = True
            self._news.notify_all()

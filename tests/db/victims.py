"""Work on a database that a test kills at a random moment, in a fork of the test process.

Each victim writes a line to a pipe when the store has said that something is done; what stood in the pipe
when it died must be in the database afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cardlab.calibrate.service import fit_store
from cardlab.db import open_store
from cardlab.db.bundle import merge_bundle
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.devices import open_platform
from cardlab.profilers.measure.session import Request, restore, run_session
from cardlab.profilers.measure.sweep import choose_frequencies, plan_points
from cardlab.profilers.runtime.workbench import Workload
from tests import records

Say = Callable[[str], None]


class Reporter:
    """An observer that says which points the session reported as done."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def run_started(self, run, resumed: bool) -> None:
        self._say(f"run {run.uid}")

    def point_started(self, planned, number: int, count: int) -> None: ...

    def timing(self, progress) -> None: ...

    def measured(self, measurements) -> None:
        for m in measurements:
            self._say(f"measured {m.uid}")

    def point_finished(self, planned, operating) -> None:
        self._say(f"done {planned.index}")


def sweep(path: Path, say: Say) -> None:
    """A sweep of a simulated board through the real session; goes on with an unfinished one."""
    platform = open_platform("simulated:orin-nano")
    restore(platform)
    workload = Workload(execution=records.EXECUTION, task=records.TASK, analysis=records.ANALYSIS)
    request = Request(
        workload=workload,
        planned=plan_points(choose_frequencies(platform.frequencies(), "all"), seed=1),
        policy=TimingPolicy(repeats=3),
        environment=records.ENVIRONMENT,
        whole_step=False,
        resume=True,
    )
    with open_store(path) as store:
        run_session(store, platform, request, Reporter(say))
    platform.close()


def fit(path: Path, say: Say) -> None:
    """Fits of everything stored, again and again."""
    for number in range(8):
        with open_store(path) as store:
            for made in fit_store(store, created_at=f"2026-11-21T12:00:{number:02d}.000000Z"):
                say(f"fit {made.fit_id}")


def merge(path: Path, say: Say) -> None:
    """Merges of all bundles beside the database."""
    with open_store(path) as store:
        for bundle in sorted(path.parent.glob("*.bundle")):
            merge_bundle(store, bundle)
            say(f"merged {bundle.name}")


def killed(work: Callable[[Path, Say], None], path: Path, after_s: float | None) -> list[str]:
    """What a fork that did `work` had said when it was killed after that time (None: lives to its end)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.close(reader)
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), 1)
                os.dup2(nothing.fileno(), 2)

            def say(line: str) -> None:
                os.write(writer, f"{line}\n".encode())

            work(path, say)
            code = 0
        os._exit(code)
    os.close(writer)
    if after_s is not None:
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, encoding="ascii") as pipe:
        said = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    if after_s is None:
        assert os.waitstatus_to_exitcode(status) == 0, f"{work.__name__} failed"
    return said

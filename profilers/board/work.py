"""Work: something a device can run and measure, in named laps.

A lap is the smallest piece timed on its own. The laps of one iteration run in order, so a backward
lap finds the graph that its forward lap left. `repeats` says how many occurrences of the segment one
lap contains (a chain of layers), and the time of one occurrence is the lap's time divided by it.

`flop` and `traffic_bytes` let a device without the ability to run the work (a simulated one) know how
much it is; the callables may then be absent.
"""

import shlex
import subprocess
from typing import Callable, NamedTuple, Optional, Tuple, Union

from .errors import BoardError


def _nothing() -> None:
    return None


class Lap(NamedTuple):
    """One timed piece of an iteration.

    Attributes:
        phase: "forward", "backward", or another name for work without phases.
        run: does the work once; None when only its size is known.
        flop: FLOPs of the whole lap, None if unknown.
        traffic_bytes: bytes the lap moves at least, None if unknown.
    """

    phase: str
    run: Optional[Callable[[], object]]
    flop: Optional[float] = None
    traffic_bytes: Optional[float] = None


class Work(NamedTuple):
    """One iteration of something measurable.

    Attributes:
        segment: what it is ("layer", "head", "equivalent_step", "load"...).
        laps: in running order.
        repeats: occurrences of the segment in each lap.
        synchronize: returns when everything queued has finished.
        reset: called after each iteration, outside the timed laps.
    """

    segment: str
    laps: Tuple[Lap, ...]
    repeats: int = 1
    synchronize: Callable[[], None] = _nothing
    reset: Callable[[], None] = _nothing

    def run_once(self) -> None:
        """All laps in order, without timing. Raises BoardError for one without code."""
        for lap in self.laps:
            code_of(lap, self)()
        self.reset()


def code_of(lap: Lap, work: Work) -> Callable[[], object]:
    """What runs the lap; BoardError when it only describes work that cannot run here."""
    if lap.run is None:
        raise BoardError(
            f"{work.segment} {lap.phase} has no code to run on this device",
            remedy="build the work for this device first",
        )
    return lap.run


def as_work(work: Union[Work, Callable[[], object]], segment: str = "load") -> Work:
    """A Work as it is; a bare callable as a Work of one lap named "run"."""
    if isinstance(work, Work):
        return work
    return Work(segment=segment, laps=(Lap(phase="run", run=work),))


def command_work(command: str) -> Work:
    """Work that runs an external command to its end once per iteration, without a shell.

    Raises BoardError when the command line is empty, and when run, if it cannot be started or fails.
    """
    words = shlex.split(command)
    if not words:
        raise BoardError("the load command is empty", remedy="give a program and its arguments")

    def run() -> None:
        try:
            # Its output would mix with the result; of its errors only the last line is shown.
            done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        except OSError as error:
            raise BoardError(
                f"cannot start {words[0]!r}: {error.strerror}", remedy="check the path of the program"
            ) from error
        if done.returncode != 0:
            tail = done.stderr.decode("utf-8", "replace").strip().splitlines()
            reason = tail[-1] if tail else "no message"
            raise BoardError(
                f"{words[0]!r} ended with exit code {done.returncode}: {reason}",
                remedy="run it once by hand and mend it",
            )

    return Work(segment="load", laps=(Lap(phase="run", run=run),))

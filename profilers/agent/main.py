"""Command line of the agent."""

import argparse
import os
import pkgutil
import signal
import sys
from typing import List, Optional

from ..board.cpu_timer import quietest_cpus
from ..board.errors import BoardError
from ..board.heap import hold_freed_memory
from .board import Board
from .run import USUAL_FREQUENCIES, Agent, doctor, load_job, say


def parser() -> argparse.ArgumentParser:
    """run, doctor, restore."""
    top = argparse.ArgumentParser(prog="card-agent", description="Measure this board into a bundle for cardlab.")
    commands = top.add_subparsers(dest="command")
    run = commands.add_parser("run", help="measure and write a bundle")
    run.add_argument("--out", default="card-agent.zip", help="the bundle, written anew after every point")
    run.add_argument("--name", help="label of this board; its host name by default")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    run.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    run.add_argument("--threads", type=int, default=1, help="CPU threads that compute")
    run.add_argument("--frequencies", default=USUAL_FREQUENCIES, help="all, max, or a number of GPU frequencies")
    run.add_argument("--repeats", type=int, help="take exactly so many samples")
    run.add_argument("--window", type=float, help="seconds of a power reading, taken without waiting for steady power")
    run.add_argument("--readonly", action="store_true", help="measure at the frequency as found")
    run.add_argument("--resume", action="store_true", help="go on with the unfinished run of the bundle")
    run.add_argument("--load-command", help="measure power under this program instead of a model")
    for command in (
        run,
        commands.add_parser("doctor", help="what was found"),
        commands.add_parser("restore", help="release a frequency that a killed run left locked"),
    ):
        command.add_argument("--root", default="/", help=argparse.SUPPRESS)
        command.add_argument("--state", help=argparse.SUPPRESS)
    return top


def main(arguments: Optional[List[str]] = None) -> int:
    """Exit code: 0 done, 1 a fault in one line, 2 usage, 130 interrupted."""
    top = parser()
    options = top.parse_args(arguments)
    if options.command is None:
        top.print_help()
        return 2
    # As an exception, so that every `finally` runs and the frequency goes back.
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        return _do(options)
    except BoardError as error:
        say("card-agent: %s" % error)
        return 1
    except MemoryError:
        say("card-agent: out of memory: pack a job with a smaller batch or sequence")
        return 1
    except KeyboardInterrupt:
        say("card-agent: interrupted; finished points are in the bundle, --resume goes on")
        return 130


def _do(options: argparse.Namespace) -> int:
    if options.command == "doctor":
        for line in doctor(Board(options.root, options.state)):
            print(line)
        return 0
    if options.command == "restore":
        restored = Board(options.root, options.state).restore()
        print("the frequency was restored" if restored else "nothing was locked")
        return 0
    job = None
    if options.load_command is None:
        job = load_job(_packed_job())
        if job is None:
            raise BoardError("this file was packed without a model", remedy="pack one, or give --load-command")
    if job is not None and options.device != "cuda":
        import torch

        # Before the first tensor: the C library's switches count for what is allocated later.
        hold_freed_memory()
        torch.set_num_threads(options.threads)
        # Before torch starts its threads, which stay on the cores that they find.
        if hasattr(os, "sched_setaffinity") and (options.device == "cpu" or not torch.cuda.is_available()):
            os.sched_setaffinity(0, quietest_cpus(options.threads))
    # Before anything is read, or the lock of a killed run would pass for the frequency as found.
    if Board(options.root, options.state).restore():
        say("a frequency that an earlier run left locked was restored")
    Agent(options, job, say).run()
    return 0


def _packed_job() -> Optional[bytes]:
    # Through the module's loader: the file lies inside a zip, where open() does not reach.
    try:
        return pkgutil.get_data(__package__, "job.json")
    except OSError:
        return None


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

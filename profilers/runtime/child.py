"""Run a function of this package in a fresh process: JSON in, JSON out, and its peak resident memory.

A whole step or a split side is measured in a process of its own, so that its memory is its own and given
back. `python -m cardlab.profilers.runtime.child MODULE:FUNCTION` reads one JSON object from stdin and
writes one to stdout. Only functions inside `cardlab.profilers` are accepted.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cardlab.core.errors import OutOfMemoryError, ProfileError

_PACKAGE = "cardlab.profilers"
# Libraries print what they like to stdout: the result is found by its mark.
_RESULT_MARK = "cardlab-result "
# A code that neither Python nor a shell nor a signal uses.
_EXIT_NO_MEMORY = 77


def call_in_child(function: str, arguments: Mapping[str, object], timeout_s: float | None = None) -> Any:
    """Result of `MODULE:FUNCTION` (below cardlab.profilers) called with these keyword arguments.

    Raises OutOfMemoryError when the child ran out of memory or was killed for it, ProfileError with the
    last line it said when it failed otherwise or took longer than `timeout_s`.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"{_PACKAGE}.runtime.child", function],
            input=json.dumps(arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise ProfileError(
            f"{function} took longer than {timeout_s:g} s", remedy="use a smaller model or sequence"
        ) from error
    # SIGKILL is what the kernel sends when memory runs out.
    if done.returncode in (_EXIT_NO_MEMORY, -signal.SIGKILL):
        raise OutOfMemoryError(
            f"{function} does not fit in memory", remedy="use a smaller batch or sequence, or leave it out"
        )
    for line in done.stdout.splitlines():
        if line.startswith(_RESULT_MARK):
            return json.loads(line[len(_RESULT_MARK) :])
    said = done.stderr.strip().splitlines()
    raise ProfileError(
        f"{function} failed in its own process: {said[-1] if said else f'exit code {done.returncode}'}",
        remedy="run again with a smaller model to see whether it is the model",
    )


def main(arguments: list[str]) -> int:
    """Entry of the child process."""
    from cardlab.profilers.runtime.segments import is_out_of_memory

    module, _, name = arguments[0].partition(":")
    function = getattr(import_module(f"{_PACKAGE}.{module}"), name)
    try:
        result = function(**json.load(sys.stdin))
    except (MemoryError, OutOfMemoryError):
        return _EXIT_NO_MEMORY
    except RuntimeError as error:
        if is_out_of_memory(error):
            return _EXIT_NO_MEMORY
        raise
    sys.stdout.write(_RESULT_MARK + json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

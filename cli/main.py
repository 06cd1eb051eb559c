"""Entry points, each of which loads its own commands only.

Errors become one line on stderr and an exit code; nothing else decides either.

0 done, 1 a failure in the domain, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import typer

from cardlab.cli.console import error_line
from cardlab.core.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, CardlabError


def profile_device() -> NoReturn:
    """Entry point of `profile-device`."""
    from cardlab.cli.profile import app as profile_app

    sys.exit(run(profile_app, "profile-device"))


def calibrate() -> NoReturn:
    """Entry point of `calibrate`."""
    from cardlab.cli.calibrate import app as calibrate_app

    sys.exit(run(calibrate_app, "calibrate"))


def card() -> NoReturn:
    """Entry point of `card`."""
    from cardlab.cli.card import app as card_app

    sys.exit(run(card_app, "card"))


def cardlab() -> NoReturn:
    """Entry point of `cardlab`."""
    from cardlab.cli.apps import cardlab_app

    sys.exit(run(cardlab_app, "cardlab"))


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run an app and return the exit code; every error ends here, in one line."""
    # By default SIGTERM ends the process without running any `finally`, and a frequency would stay locked.
    signal.signal(signal.SIGTERM, _terminated)
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _say_leftovers(name, words)
        # In standalone mode typer would print errors in its own form and leave by itself.
        code = app(args=words, prog_name=name, standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        error_line("interrupted; what was measured is kept", "go on with --resume where the command has it")
        return EXIT_INTERRUPTED
    except CardlabError as error:
        return _failed(error.message, error.remedy, error.exit_code)
    except typer.TyperException as error:
        return _failed(error.format_message().rstrip("."), f"see: {_help_command(error, name)}", EXIT_USAGE)
    except BrokenPipeError:
        # The reader has gone (head, less). What is flushed at exit goes nowhere, so that it cannot fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:  # noqa: BLE001 - the one place where an unforeseen fault ends
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _failed(
                f"the disk is full: {error.filename or error.strerror}",
                "make room, then give the command again, with --resume where it has that",
                EXIT_FAILURE,
            )
        return _failed(
            f"internal error: {type(error).__name__}: {error}",
            "set CARDLAB_DEBUG=1 for the traceback and report it",
            EXIT_FAILURE,
        )
    return int(code) if isinstance(code, int) else 0


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# These say it themselves, or mend it.
_OWN_WORDS = ("restore", "doctor")
_SUBCOMMANDS = ("agent", "capture", "doctor", "models", "restore", "selftest", "show")


def _say_leftovers(name: str, words: Sequence[str]) -> None:
    """One line for each frequency that a dead process left locked: whatever is done next runs at it."""
    measuring = name == "profile-device" and not any(word in _SUBCOMMANDS for word in words)
    if measuring or any(word in _OWN_WORDS for word in words) or os.environ.get("COMP_WORDS"):
        return
    from cardlab.profilers.board.identity import state_folder

    # Listed first: to most people there never is one, and reading it loads what commands do without.
    try:
        left = any(entry.suffix == ".json" for entry in (state_folder() / "clocks").iterdir())
    except OSError:
        return
    if left:
        from cardlab.cli.console import note
        from cardlab.workflows.profile import abandoned_locks

        for line in abandoned_locks():
            note(f"warning: {line}")


def _failed(message: str, remedy: str, code: int) -> int:
    if os.environ.get("CARDLAB_DEBUG"):
        traceback.print_exc()
    error_line(message, remedy)
    return code


def _help_command(error: typer.TyperException, name: str) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context is not None else name} --help"

"""Runs a command in this process, as its entry point does, and keeps what it prints."""

from __future__ import annotations

import contextlib
import io
import json
import signal
from dataclasses import dataclass
from typing import Any

from cardlab.cli import apps
from cardlab.cli.main import run as run_app

APPS = {
    "profile-device": apps.profile_app,
    "calibrate": apps.calibrate_app,
    "card": apps.card_app,
    "cardlab": apps.cardlab_app,
}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        parsed = json.loads(self.out)
        assert isinstance(parsed, dict)
        return parsed

    def failed_in_one_line(self, code: int, *words: str) -> None:
        """Assert an error: exit code, exactly one line on stderr with a remedy, nothing on stdout."""
        assert self.code == code, (self.out, self.err)
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        assert "Traceback" not in self.err
        assert "; " in errors[0], f"no remedy: {errors[0]}"
        for word in words:
            assert word in errors[0], f"{word!r} not in {errors[0]!r}"


def command(name: str, *words: str) -> Result:
    out, err = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_app(APPS[name], name, list(words))
    finally:
        signal.signal(signal.SIGTERM, before)
    return Result(code, out.getvalue(), err.getvalue())

"""`card run`: the split run itself. `--local` starts every role here; `server` and `device` are roles of their own."""

from cardlab.cli.run.commands import app

__all__ = ["app"]

"""`cardlab db`: look after a database."""

from cardlab.cli.db import commands
from cardlab.cli.db.app import app

__all__ = ["app", "commands"]

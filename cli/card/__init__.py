"""`card`: one file a command, in the order in which help lists them."""

from cardlab.cli.card import plan, simulate, reproduce, link, lists, accuracy, report, validate  # isort: skip
from cardlab.cli.card.app import app
from cardlab.cli.run import app as run_app

__all__ = ["accuracy", "app", "link", "lists", "plan", "report", "reproduce", "simulate", "validate"]

app.add_typer(run_app, name="run")

"""`calibrate`: one file a command, in the order in which help lists them."""

from cardlab.cli.calibrate import exchange, fit, learn, predict, report
from cardlab.cli.calibrate.app import app

__all__ = ["app", "exchange", "fit", "learn", "predict", "report"]

"""`profile-device`: measure a device, and look at what was measured."""

from cardlab.cli.profile import measure, doctor, agent, models, list, show, restore, selftest  # isort: skip
from cardlab.cli.profile.measure import app

__all__ = ["agent", "app", "doctor", "list", "measure", "models", "restore", "selftest", "show"]

"""The command trees. A command imports its workflow inside the function, so that help is quick."""

from __future__ import annotations

import typer

from cardlab.cli.calibrate import app as calibrate_app
from cardlab.cli.card import app as card_app
from cardlab.cli.db import app as db_app
from cardlab.cli.options import VersionOption, new_app
from cardlab.cli.profile import app as profile_app

__all__ = ["calibrate_app", "card_app", "cardlab_app", "profile_app"]

cardlab_app = new_app("Profile, calibrate and plan split fine-tuning of language models.")


@cardlab_app.callback()
def cardlab(ctx: typer.Context, version: VersionOption = False) -> None:
    """Profile, calibrate and plan split fine-tuning of language models."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


cardlab_app.add_typer(profile_app, name="profile", help="The same as profile-device.")
cardlab_app.add_typer(calibrate_app, name="calibrate", help="The same as calibrate.")
cardlab_app.add_typer(card_app, name="card", help="The same as card.")
cardlab_app.add_typer(db_app, name="db")

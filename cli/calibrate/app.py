"""The `calibrate` group."""

from __future__ import annotations

import typer

from cardlab.cli.options import VersionOption, new_app, refuse_options_before_subcommand

app = new_app("Fit laws to what was measured, with their uncertainty, and predict with them.")


@app.callback()
def calibrate(ctx: typer.Context, version: VersionOption = False) -> None:
    """Fit laws to what was measured, with their uncertainty, and predict with them."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        return
    refuse_options_before_subcommand(ctx)

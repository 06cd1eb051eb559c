"""The `card` group."""

from __future__ import annotations

import typer

from cardlab.cli.options import VersionOption, new_app, refuse_options_before_subcommand

app = new_app("Choose the cut layer and the server's frequency that trade round delay against server energy.")


@app.callback()
def card(ctx: typer.Context, version: VersionOption = False) -> None:
    """Choose the cut layer and the server's frequency that trade round delay against server energy."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        return
    refuse_options_before_subcommand(ctx)

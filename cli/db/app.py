"""The `cardlab db` group."""

from __future__ import annotations

import typer

from cardlab.cli.options import new_app

app = new_app("Look after a database.")


@app.callback()
def db(ctx: typer.Context) -> None:
    """Look after a database."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())

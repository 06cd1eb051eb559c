"""`cardlab db`: look after a database."""

from __future__ import annotations

import typer

from cardlab.cli.options import DbOption, JsonOption, new_app

app = new_app("Look after a database.")


@app.callback()
def db(ctx: typer.Context) -> None:
    """Look after a database."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command()
def upgrade(db: DbOption = None, json: JsonOption = False) -> None:
    """Bring an older database to this version's schema; a backup is made first."""
    from cardlab.cli.console import print_json, print_line
    from cardlab.cli.settings import database
    from cardlab.db.migrate import upgrade_existing

    location = database(db)
    before, after, backup = upgrade_existing(location)
    if json:
        print_json({"database": location, "from": before, "to": after, "backup": backup and str(backup)})
    elif backup is None:
        print_line(f"{location} already has schema {after}")
    else:
        print_line(f"{location}: {before} -> {after}; the old one is kept as {backup}")

"""`cardlab db`: look after a database."""

from __future__ import annotations

from typing import Annotated

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


@app.command()
def info(db: DbOption = None, json: JsonOption = False) -> None:
    """Say what is in it: devices, runs, samples, fits, plans, and what is unfinished or out of date."""
    from cardlab.cli.keeping import show_info

    show_info(db, json)


@app.command()
def check(db: DbOption = None, json: JsonOption = False) -> None:
    """Check the file, references, samples, and what fits and plans rest on."""
    from cardlab.cli.keeping import run_check

    run_check(db, json)


@app.command()
def prune(
    run: Annotated[list[str] | None, typer.Option(help="Id of a run to remove; may be repeated.")] = None,
    device: Annotated[str | None, typer.Option(help="Only runs of this device (label or key).")] = None,
    before: Annotated[str | None, typer.Option(help="Only runs begun before this UTC date, 2026-11-21.")] = None,
    samples: Annotated[bool, typer.Option("--samples", help="Remove raw samples only; values stay.")] = False,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Also fits that a later one replaced and no plan uses.")
    ] = False,
    with_dependents: Annotated[
        bool, typer.Option("--with-dependents", help="Also the fits and plans that rest on the runs.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really remove; without it only say what would go.")] = False,
    backup: Annotated[bool, typer.Option(help="Keep a copy of an SQLite database first.")] = True,
    db: DbOption = None,
    json: JsonOption = False,
) -> None:
    """Remove runs, raw samples or replaced fits; nothing that something else rests on."""
    from cardlab.cli.keeping import run_prune
    from cardlab.db.prune import Selection

    selection = Selection(
        runs=tuple(run or ()),
        before=before,
        samples_only=samples,
        superseded_fits=superseded,
        with_dependents=with_dependents,
    )
    run_prune(db, selection, device, yes, backup, json)


@app.command()
def vacuum(db: DbOption = None, json: JsonOption = False) -> None:
    """Give freed space back to the file system."""
    from cardlab.cli.keeping import run_vacuum

    run_vacuum(db, json)

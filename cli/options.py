"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from typing import Annotated

import typer

from cardlab import __version__
from cardlab.core.errors import UsageError

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DbOption = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="Database file or URL; default: CARD_DB, else cardlab.db here.",
        show_default=False,
    ),
]

PlotOption = Annotated[
    str | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Also draw it as a PNG, SVG or PDF file; with --json the drawn data are under charts.",
        show_default=False,
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cardlab {__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    # Eager, so that it works where required options are missing.
    typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
]


def refuse_options_before_subcommand(ctx: typer.Context) -> None:
    """Raise UsageError if an option stands before a subcommand, where it would be dropped silently."""
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        # By its name: the enum itself has moved between versions of typer.
        if source is not None and source.name == "COMMANDLINE" and name != "version":
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option} stands before the subcommand {ctx.invoked_subcommand!r}",
                remedy=f"write it behind: {ctx.command_path} {ctx.invoked_subcommand} {option} ...",
            )


def new_app(help_text: str) -> typer.Typer:
    """A typer app in the house style: no boxes, no tracebacks of its own."""
    return typer.Typer(
        help=help_text,
        # Brackets in a help text are brackets.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

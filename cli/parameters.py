"""Typer commands from options dataclasses: each option is declared once, there, and grouped in help by its panel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from cardlab.cli.options import DbOption, JsonOption, PlotOption, VersionOption, refuse_options_before_subcommand
from cardlab.core.options import Declared, declared, repeated
from cardlab.core.plain import Document

Options = TypeVar("Options")
_SHARED: dict[str, tuple[Any, Any]] = {
    "plot": (PlotOption, None),
    "db": (DbOption, None),
    "json": (JsonOption, False),
    "version": (VersionOption, False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What commands have beside the options of their workflow: database, form of the output, picture."""

    db: str | None = None
    json: bool = False
    plot: str | None = None


class _Panels:
    """Writes options under the headings of their panels, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options panel by panel, then commands."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                heading = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                panels.setdefault(heading, []).append(record)
        # sorted() is stable: the other panels keep the order in which the dataclass has them.
        order = sorted(panels, key=lambda name: {"Arguments": 0, "Options": 1}.get(name, 2))
        for heading in order:
            with formatter.section(heading):
                formatter.write_dl(panels[heading])
        if hasattr(self, "format_commands"):
            self.format_commands(ctx, formatter)


class PanelCommand(_Panels, TyperCommand):
    """A command whose help has panels."""


class PanelGroup(_Panels, TyperGroup):
    """A group whose help has panels."""


def command(
    app: typer.Typer,
    options: type[Options],
    *,
    name: str,
    shared: tuple[str, ...] = ("db", "json"),
) -> Callable[[Callable[[Options, Shared], None]], Callable[..., None]]:
    """Register a function of (options, shared) as the command `name`; its docstring is the help."""

    def register(show: Callable[[Options, Shared], None]) -> Callable[..., None]:
        made = _callable(options, shared, show, group=False)
        app.command(name=name, cls=PanelCommand)(made)
        return made

    return register


def callback(
    app: typer.Typer,
    options: type[Options],
    *,
    shared: tuple[str, ...] = ("db", "json"),
) -> Callable[[Callable[[Options, Shared], None]], Callable[..., None]]:
    """The same for a group that does something of its own when no subcommand is named."""

    def register(show: Callable[[Options, Shared], None]) -> Callable[..., None]:
        made = _callable(options, shared, show, group=True)
        app.callback(cls=PanelGroup)(made)
        return made

    return register


def _callable(
    options: type[Options], shared: tuple[str, ...], show: Callable[..., None], *, group: bool
) -> Callable[..., None]:
    mine = declared(options)

    def call(**values: Any) -> None:
        if group:
            ctx = values.pop("ctx")
            if ctx.invoked_subcommand is not None:
                refuse_options_before_subcommand(ctx)
                return
        # Its callback has done its work before this.
        values.pop("version", None)
        own = {o.name: _value(o, values.pop(o.name)) for o in mine}
        show(options(**own), Shared(**values))

    parameters = [inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, **_parameter(o)) for o in mine]
    if group:
        parameters.insert(0, inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    for word in shared:
        kind, default = _SHARED[word]
        parameters.append(inspect.Parameter(word, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default))
    # Typer takes names and defaults from the signature and types from the annotations: it wants both.
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__doc__, call.__name__ = show.__doc__, show.__name__
    return call


def _value(o: Declared, value: Any) -> Any:
    """Lists become tuples; what was not given keeps the default of the dataclass."""
    if repeated(o.kind) is not None:
        return tuple(value) if value else o.default if o.default is not MISSING else ()
    return value


def _parameter(o: Declared) -> Document:
    """Annotation and default of the parameter of one option."""
    kind, required = o.kind, o.default is MISSING
    # An option that may be repeated is a list to typer; a tuple would be a fixed number of words.
    several = repeated(kind)
    if several is not None:
        kind = list[several] if required else list[several] | None  # type: ignore[valid-type]
    default = inspect.Parameter.empty if required else (None if several is not None else o.default)
    bounds = {"min": o.opt.low, "max": o.opt.high}
    if o.kind in (int, int | None):
        bounds = {k: None if v is None else int(v) for k, v in bounds.items()}
    common: Document = {"help": o.opt.help, "metavar": o.opt.metavar, **bounds}
    if o.opt.argument:
        return {"annotation": Annotated[kind, typer.Argument(**common)], "default": default}
    # A switch that is off gets its one name, or typer would add a --no-NAME without effect; one that is on
    # needs both.
    words = (o.flag,) if o.kind is bool and not o.default or o.opt.flag else ()
    shown: Any = o.opt.shown if o.opt.shown is not None else o.default not in (None, ()) and not required
    option = typer.Option(*words, show_default=shown, rich_help_panel=o.opt.panel, **common)
    return {"annotation": Annotated[kind, option], "default": default}

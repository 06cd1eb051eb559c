"""How an option is declared: once, as the annotation of a field of an options dataclass.

The command line makes its parameters from these declarations, and Python users read them as documentation. A
declaration holds what is said of the option, never what it does.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cardlab.core.plain import Document


@dataclass(frozen=True, slots=True)
class Opt:
    """What is said of one option.

    Attributes:
        help: one sentence.
        flag: its name on the command line; by default the field's.
        shown: the default in words, where the value itself says nothing.
        metavar: what stands for the value in help.
        low, high: bounds of a number, inclusive.
        panel: heading that it stands under in help.
        argument: it is given by its place and not by a name.
    """

    help: str
    flag: str | None = None
    shown: str | None = None
    metavar: str | None = None
    low: float | None = None
    high: float | None = None
    panel: str | None = None
    argument: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One option of a dataclass: field, type without its annotation, declaration, and default (MISSING: required)."""

    name: str
    kind: Any
    opt: Opt
    default: Any

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.opt.flag or "--" + self.name.replace("_", "-")


def declared(options: type) -> tuple[Declared, ...]:
    """The options of a dataclass in order; fields without a declaration are no options."""
    hints = get_type_hints(options, include_extras=True)
    found = []
    for field in fields(options):
        hint = hints[field.name]
        # Fields for the workflow alone are no options.
        if get_origin(hint) is not Annotated:
            continue
        kind, *marks = get_args(hint)
        opt = next((mark for mark in marks if isinstance(mark, Opt)), None)
        if opt is not None:
            # A required option has MISSING, which is different from None.
            default = field.default if field.default is not MISSING else MISSING
            found.append(Declared(name=field.name, kind=kind, opt=opt, default=default))
    return tuple(found)


def given(options: Any) -> Document:
    """Options that differ from their default, by flag: what the caller really asked for."""
    return {
        o.flag: value
        for o in declared(type(options))
        if (value := getattr(options, o.name)) != o.default and value is not None
    }

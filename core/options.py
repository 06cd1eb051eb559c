"""How an option is declared: once, as the annotation of a field of an options dataclass.

The command line makes its parameters from these declarations, and Python users read them as documentation. A
declaration holds what is said of the option, never what it does.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from cardlab.core.errors import UsageError
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


def repeated(kind: Any) -> Any:
    """Type of one value of an option that may be given several times, None for any other."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return next((get_args(one)[0] for one in kinds if get_origin(one) is tuple), None)


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


class Checked:
    """Base of options dataclasses: what does not fit its declaration is refused when it is made, by anybody."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for option in declared(type(self)):
            _check(option, getattr(self, option.name))


def _check(o: Declared, value: object) -> None:
    """Raise UsageError naming the option where the value has another type, is not finite, or is out of bounds."""
    kinds = get_args(o.kind) if isinstance(o.kind, UnionType) else (o.kind,)
    if not any(_fits(kind, value) for kind in kinds):
        names = " or ".join("nothing" if k is type(None) else getattr(k, "__name__", str(k)) for k in kinds)
        raise UsageError(f"{o.name} is {value!r}", remedy=f"give {o.flag} a value of type {names}")
    if isinstance(value, float) and math.isinf(value):
        raise UsageError(f"{o.name} is {value}", remedy=f"give {o.flag} a finite number")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = o.opt.low, o.opt.high
        if (low is not None and value < low) or (high is not None and value > high):
            ends = f"at least {low:g}" if high is None else f"from {low or 0:g} to {high:g}"
            raise UsageError(f"{o.name} is {value:g}", remedy=f"give {o.flag} a number of {ends}")


def _fits(kind: Any, value: object) -> bool:
    """Whether a value is of a declared type; a whole number may stand for a float, True for nothing but itself."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, get_args(kind)[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, kind)


def given(options: Any) -> Document:
    """Options that differ from their default, by flag: what the caller really asked for."""
    return {
        o.flag: value
        for o in declared(type(options))
        if (value := getattr(options, o.name)) != o.default and value is not None
    }

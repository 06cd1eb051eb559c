"""Frozen records to plain JSON data and back, driven by their annotations.

`to_plain` and `from_plain` are inverse for dataclasses made of str, int, float, bool, None, enums,
Provenance, tuples, str-keyed mappings and other such dataclasses. Used wherever a record leaves the
process: database documents, bundles, `--json`.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cardlab.core.quantity import Provenance

T = TypeVar("T")
# A JSON object: what its keys hold is known to who wrote it, and to no type.
Document = dict[str, Any]
# Key of a field's metadata: its default is not written, so that documents of earlier releases stay as they were.
UNSAID = "unsaid"


def to_plain(value: Any) -> Any:
    """JSON-ready form of a record or a container of records."""
    if isinstance(value, Provenance):
        return value.as_plain()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(item) for f in _fields(type(value)) if _is_said(f, item := getattr(value, f.name))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")


def _is_said(of: Field[Any], value: Any) -> bool:
    """Whether a field is part of the plain form: one that is `UNSAID` at its default is not."""
    return not (of.metadata.get(UNSAID) and value == of.default)


def from_plain(kind: type[T], plain: Any) -> T:
    """The record of class `kind` that `plain` describes.

    Fields that `plain` lacks take their default; unknown keys are ignored, so that a newer minor
    version's document still opens. Raises ValueError naming the class and key on anything else.
    """
    result: T = _revive(kind, plain, kind.__name__)
    return result


@cache
def _fields(kind: type) -> tuple[Field[Any], ...]:
    return fields(kind)


@cache
def _hints(kind: type) -> Document:
    return get_type_hints(kind)


def _revive(kind: Any, plain: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _revive_union(kind, plain, where)
    if kind is Any or kind is object:
        return plain
    if origin is tuple:
        return _revive_tuple(kind, plain, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(plain, Mapping):
            raise ValueError(f"{where}: expected an object, got {plain!r}")
        item_kind = get_args(kind)[1]
        return {k: _revive(item_kind, v, f"{where}.{k}") for k, v in plain.items()}
    if kind is Provenance:
        return Provenance.from_plain(plain)
    if isinstance(kind, type) and is_dataclass(kind):
        return _revive_record(kind, plain, where)
    return _revive_scalar(kind, plain, where)


def _revive_union(kind: Any, plain: Any, where: str) -> Any:
    options = get_args(kind)
    if plain is None and type(None) in options:
        return None
    problems = []
    # The first member of a union that fits: members here never overlap.
    for option in options:
        if option is type(None):
            continue
        try:
            return _revive(option, plain, where)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(problems[0] if problems else f"{where}: unexpected {plain!r}")


def _revive_tuple(kind: Any, plain: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(plain, (list, tuple)):
        raise ValueError(f"{where}: expected a list, got {plain!r}")
    args = get_args(kind)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_revive(args[0], item, f"{where}[{i}]") for i, item in enumerate(plain))
    if len(args) != len(plain):
        raise ValueError(f"{where}: expected {len(args)} items, got {len(plain)}")
    return tuple(_revive(a, item, where) for a, item in zip(args, plain, strict=True))


def _revive_record(kind: Any, plain: Any, where: str) -> Any:
    if not isinstance(plain, Mapping):
        raise ValueError(f"{where}: expected an object, got {plain!r}")
    hints = _hints(kind)
    values: Document = {}
    for f in _fields(kind):
        if f.name in plain:
            values[f.name] = _revive(hints[f.name], plain[f.name], f"{where}.{f.name}")
        # A field that an older version did not know takes its default.
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}: key {f.name!r} is missing")
    return kind(**values)


def _revive_scalar(kind: Any, plain: Any, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    if kind is float and isinstance(plain, (int, float)) and not isinstance(plain, bool):
        return float(plain)
    # True is an int in Python, and no count.
    if kind is int and isinstance(plain, bool):
        raise ValueError(f"{where}: expected int, got {plain!r}")
    if isinstance(kind, type) and isinstance(plain, kind):
        return plain
    raise ValueError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {plain!r}")

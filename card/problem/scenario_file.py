"""Scenario files: TOML to Scenario, with the key and the line of whatever is wrong."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cardlab.card.problem.check import MisfitError, check_scenario
from cardlab.card.problem.scenario import (
    Constraints,
    DeviceSpec,
    LinkSpec,
    Objective,
    Scenario,
    ServerSpec,
    SftSpec,
    TaskSpec,
)
from cardlab.core.errors import BadDataError, ScenarioError
from cardlab.core.files import decode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = TypeVar("S")
_TABLES = {
    "task": TaskSpec,
    "server": ServerSpec,
    "objective": Objective,
    "constraints": Constraints,
    "link": LinkSpec,
    "sft": SftSpec,
}
# Options that do nothing unless they are given.
_QUIET = ("device_energy_weight", "device_energy", "device_frequencies", "benchmark")
_TOP = ("scheme", "rounds", "devices", *_TABLES)


def bundled_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with cardlab."""
    folder = resources.files("cardlab.card") / "scenarios"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_scenario(name_or_path: str | Path) -> Scenario:
    """The bundled scenario of that name, or the one in a TOML file.

    Raises ScenarioError naming file, line and key of what is wrong.
    """
    return parse_scenario(*scenario_text(name_or_path))


def scenario_text(name_or_path: str | Path) -> tuple[str, str]:
    """Text and name of the bundled scenario of that name, or of a file. Raises ScenarioError."""
    name = str(name_or_path)
    if name in bundled_scenarios():
        return (resources.files("cardlab.card") / "scenarios" / f"{name}.toml").read_text(encoding="utf-8"), name
    path = Path(name)
    try:
        return decode(path.read_bytes(), name), name
    except (OSError, BadDataError) as error:
        raise ScenarioError(
            f"scenario {name!r} cannot be read: {getattr(error, 'strerror', None) or error}",
            remedy=f"give a TOML file or one of: {', '.join(bundled_scenarios())}",
        ) from error


def parse_scenario(text: str, source: str = "scenario") -> Scenario:
    """The scenario that a TOML text describes; `source` names it in messages."""
    document, reader = read_toml(text, source), Reader(text, source)
    scenario = reader.scenario(document)
    with reader.placed():
        check_scenario(scenario)
    return scenario


def read_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ScenarioError."""
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{source} is not TOML: {error}", remedy="correct that line") from error
    return document


def assumed_of(document: dict[str, Any], link: LinkSpec | None) -> tuple[str, ...]:
    """Defaults that a reader of the plan would want to know, of what a file leaves out."""
    given, usual = document.get("objective", {}), Objective()
    assumed = [f"{f.name} = {getattr(usual, f.name)}" for f in fields(Objective) if f.name not in {*given, *_QUIET}]
    if link is not None:
        assumed += [
            f"link {f.name} = {getattr(link, f.name)}" for f in fields(LinkSpec) if f.name not in document["link"]
        ]
    return tuple(assumed)


class Reader:
    """Turns tables into specs and knows on which line a key stands."""

    def __init__(self, text: str, source: str) -> None:
        self._lines = text.splitlines()
        self._source = source

    def scenario(self, document: dict[str, Any]) -> Scenario:
        """The scenario of a document that gives every number."""
        for key in document:
            if key not in _TOP:
                raise self.error("", key, "is no key of a scenario", f"known keys: {', '.join(_TOP)}")
        values: dict[str, Any] = {}
        for table, kind in _TABLES.items():
            if table in document:
                values[table] = self.spec(kind, document[table], table)
            elif table in ("task", "server"):
                raise ScenarioError(f"{self._source}: table [{table}] is missing", remedy="add it")
        values["devices"] = self.tables(DeviceSpec, document.get("devices"), "devices")
        for key, kind in (("scheme", str), ("rounds", int)):
            if key in document:
                values[key] = self.value(kind, document[key], "", key)
        return Scenario(**values, assumed=assumed_of(document, values.get("link")))

    @contextmanager
    def placed(self) -> Iterator[None]:
        """While it lasts a ScenarioError gets the file and the line of the key, else of its table, that it is about."""
        try:
            yield
        except ScenarioError as error:
            at = ""
            if isinstance(error, MisfitError):
                at = self._at(error.table, error.key, error.index) or self._at(error.table, None, error.index)
            raise ScenarioError(f"{self._source}{at}: {error.message}", remedy=error.remedy) from error

    def tables(self, kind: type[S], found: object, name: str) -> tuple[S, ...]:
        """Specs of an array of tables; ScenarioError without any."""
        if not isinstance(found, list) or not found:
            raise ScenarioError(f"{self._source}: no [[{name}]]", remedy=f"add at least one [[{name}]] table")
        return tuple(self.spec(kind, table, name, i) for i, table in enumerate(found))

    def spec(self, kind: type[S], table: object, name: str, index: int = 0) -> S:
        """One table as a record; ScenarioError for a key that it does not have or lacks."""
        if not isinstance(table, dict):
            raise self.error("", name, "must be a table", f"write [{name}]")
        hints = get_type_hints(kind)
        for key in table:
            if key not in hints:
                raise self.error(name, key, "is no key here", f"known keys: {', '.join(hints)}", index)
        for f in fields(kind):  # type: ignore[arg-type]
            if f.default is MISSING and f.default_factory is MISSING and f.name not in table:
                raise ScenarioError(
                    f"{self._source}{self._at(name, None, index)}: [{name}] lacks {f.name}",
                    remedy=f"add {f.name} = ...",
                )
        return kind(**{k: self.value(hints[k], v, name, k, index) for k, v in table.items()})

    def value(self, kind: Any, value: object, table: str, key: str, index: int = 0) -> Any:
        """One value of the kind that its field has; ScenarioError for another."""
        if get_origin(kind) in (Union, types.UnionType):
            # Optional in a record means the key may be left out; TOML has no null to write.
            kind = next(k for k in get_args(kind) if k is not type(None))
        if get_origin(kind) is tuple:
            if not isinstance(value, list):
                raise self.error(table, key, "must be a list of numbers", f"write {key} = [...]", index)
            return tuple(self.value(float, item, table, key, index) for item in value)
        # TOML's true is an int in Python, and no number here.
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value):
            return float(value)
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind is str and isinstance(value, str):
            return value
        words = {float: "a finite number", int: "a whole number", str: "text"}[kind]
        raise self.error(table, key, f"must be {words}, not {value!r}", f"correct {key}", index)

    def error(self, table: str, key: str, problem: str, remedy: str, index: int = 0) -> ScenarioError:
        """What is wrong with a key, with the file and the line that it stands on."""
        where = f"[{table}] {key}" if table else key
        return ScenarioError(f"{self._source}{self._at(table, key, index)}: {where} {problem}", remedy=remedy)

    def _at(self, table: str, key: str | None, index: int) -> str:
        """ ", line N" of a key in the index-th table of that name; empty if it is written another way."""
        current, count = "", -1
        for number, line in enumerate(self._lines, start=1):
            # The parser gives values without their lines, so the lines are looked up in the text.
            stripped = line.strip()
            if stripped.startswith("["):
                current = stripped.split("]")[0].strip("[ ")
                count = count + 1 if current == table else count
                if key is None and current == table and count == index:
                    return f", line {number}"
            elif key is not None and current == table and max(count, 0) == index:
                found = stripped.split("=")[0].strip().strip('"')
                if found == key:
                    return f", line {number}"
        return ""


def _is_finite(value: float) -> bool:
    """Whether a double can hold it: TOML's whole numbers may have any number of digits."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False

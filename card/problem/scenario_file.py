"""Scenario files: TOML to Scenario, with the key and the line of whatever is wrong."""

from __future__ import annotations

import math
import sys
import types
from dataclasses import MISSING, fields, replace
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
_QUIET = ("device_energy_weight", "benchmark")
_TOP = ("scheme", "rounds", "devices", *_TABLES)


def bundled_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with cardlab."""
    folder = resources.files("cardlab.card") / "scenarios"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_scenario(name_or_path: str | Path) -> Scenario:
    """The bundled scenario of that name, or the one in a TOML file.

    Raises ScenarioError naming file, line and key of what is wrong.
    """
    name = str(name_or_path)
    if name in bundled_scenarios():
        text = (resources.files("cardlab.card") / "scenarios" / f"{name}.toml").read_text(encoding="utf-8")
        return parse_scenario(text, name)
    path = Path(name)
    try:
        text = decode(path.read_bytes(), name)
    except (OSError, BadDataError) as error:
        raise ScenarioError(
            f"scenario {name!r} cannot be read: {getattr(error, 'strerror', None) or error}",
            remedy=f"give a TOML file or one of: {', '.join(bundled_scenarios())}",
        ) from error
    return parse_scenario(text, name)


def parse_scenario(text: str, source: str = "scenario") -> Scenario:
    """The scenario that a TOML text describes; `source` names it in messages."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{source} is not TOML: {error}", remedy="correct that line") from error
    reader = _Reader(text, source)
    scenario = reader.scenario(document)
    try:
        check_scenario(scenario)
    except ScenarioError as error:
        at = reader.line(error) if isinstance(error, MisfitError) else ""
        raise ScenarioError(f"{source}{at}: {error.message}", remedy=error.remedy) from error
    return scenario


class _Reader:
    """Turns tables into specs and knows on which line a key stands."""

    def __init__(self, text: str, source: str) -> None:
        self._lines = text.splitlines()
        self._source = source

    def scenario(self, document: dict[str, Any]) -> Scenario:
        for key in document:
            if key not in _TOP:
                raise self._error("", key, "is no key of a scenario", f"known keys: {', '.join(_TOP)}")
        values: dict[str, Any] = {}
        for table, kind in _TABLES.items():
            if table in document:
                values[table] = self._spec(kind, document[table], table)
            elif table in ("task", "server"):
                raise ScenarioError(f"{self._source}: table [{table}] is missing", remedy="add it")
        values["devices"] = self._devices(document.get("devices"))
        for key, kind in (("scheme", str), ("rounds", int)):
            if key in document:
                values[key] = self._value(kind, document[key], "", key)
        return self._with_assumptions(Scenario(**values), document)

    def line(self, error: MisfitError) -> str:
        """ ", line N" of the key an error is about, else of its table, else nothing."""
        return self._at(error.table, error.key, error.index) or self._at(error.table, None, error.index)

    def _devices(self, tables: object) -> tuple[DeviceSpec, ...]:
        if not isinstance(tables, list) or not tables:
            raise ScenarioError(f"{self._source}: no [[devices]]", remedy="add at least one [[devices]] table")
        return tuple(self._spec(DeviceSpec, table, "devices", i) for i, table in enumerate(tables))

    def _spec(self, kind: type[S], table: object, name: str, index: int = 0) -> S:
        if not isinstance(table, dict):
            raise self._error("", name, "must be a table", f"write [{name}]")
        hints = get_type_hints(kind)
        for key in table:
            if key not in hints:
                raise self._error(name, key, "is no key here", f"known keys: {', '.join(hints)}", index)
        for f in fields(kind):  # type: ignore[arg-type]
            if f.default is MISSING and f.default_factory is MISSING and f.name not in table:
                raise ScenarioError(
                    f"{self._source}{self._at(name, None, index)}: [{name}] lacks {f.name}",
                    remedy=f"add {f.name} = ...",
                )
        return kind(**{k: self._value(hints[k], v, name, k, index) for k, v in table.items()})

    def _value(self, kind: Any, value: object, table: str, key: str, index: int = 0) -> Any:
        if get_origin(kind) in (Union, types.UnionType):
            # Optional in a record means the key may be left out; TOML has no null to write.
            kind = next(k for k in get_args(kind) if k is not type(None))
        if get_origin(kind) is tuple:
            if not isinstance(value, list):
                raise self._error(table, key, "must be a list of numbers", f"write {key} = [...]", index)
            return tuple(self._value(float, item, table, key, index) for item in value)
        # TOML's true is an int in Python, and no number here.
        if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind is str and isinstance(value, str):
            return value
        words = {float: "a finite number", int: "a whole number", str: "text"}[kind]
        raise self._error(table, key, f"must be {words}, not {value!r}", f"correct {key}", index)

    def _with_assumptions(self, scenario: Scenario, document: dict[str, Any]) -> Scenario:
        given = document.get("objective", {})
        assumed = [
            f"{f.name} = {getattr(scenario.objective, f.name)}"
            for f in fields(Objective)
            if f.name not in given and f.name not in _QUIET
        ]
        if scenario.link is not None:
            assumed += [
                f"link {f.name} = {getattr(scenario.link, f.name)}"
                for f in fields(LinkSpec)
                if f.name not in document["link"]
            ]
        return replace(scenario, assumed=tuple(assumed))

    def _error(self, table: str, key: str, problem: str, remedy: str, index: int = 0) -> ScenarioError:
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

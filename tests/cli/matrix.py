"""Every option of every command tried beside commands that work: does it change the answer, or is it refused?

The options come from the commands themselves, so a new one without a value to try it with is an error of the test.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from tests.cli.run import APPS, Result, command

# What tells one run from another that says the same: ids, times, places, and how long it took. Words about the inputs
# are left out too: an option that changes those alone was named and not used.
OWN_KEYS = re.compile(
    r"^(.*_id|.*uid|created_at|started_at|measured_at|ended_at|plan_id|run_id|fit_id|assumptions|notes|fits|runs|links|seconds|elapsed_s|path|"
    r"location|database|adapters|out|started_utc|written|file)$"
)
SAME_FOR_ALL = ("--help", "--version", "--install-completion", "--show-completion")
# How something is done and not what: the answer must not change, which other tests hold.
HOW = {
    "--json": "one document instead of text",
    "--db": "where it is kept",
    "--workers": "how many processes compute it",
    "--scheduler": "where it is computed",
    "--yes": "asked beforehand instead of then",
}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A command that works, and the values that its options are tried with.

    Attributes:
        words: the command line, without --db and --json.
        values: value of a flag where the general one does not fit; None leaves the flag out of this base, with
            the reason beside it in the source.
        file: name of what it writes beside its document; that is part of the answer.
        store: whether it takes a database.
        steady: whether it answers twice alike; where not, numbers that were measured are left out.
        timed: keys whose numbers a real clock made, where the others are the same each time.
        before: a command that is run first, in the same folder and database.
        partner: the other side of a run between two, started beside the command; given its folder, called to end it.
    """

    name: str
    words: tuple[str, ...]
    values: Mapping[str, str | None] = field(default_factory=dict)
    file: str | None = None
    store: bool = True
    steady: bool = True
    timed: str | None = None
    before: tuple[str, ...] = ()
    partner: Callable[[Path], AbstractContextManager[None]] | None = None


@dataclass(frozen=True)
class Cell:
    """One option beside one base."""

    base: str
    flag: str
    outcome: str
    said: str


def options_of(words: tuple[str, ...]) -> dict[str, Any]:
    """Parameters of the command that the words name, by their flag or metavar."""
    node = typer.main.get_command(APPS[words[0]])
    for word in words[1:]:
        inner = getattr(node, "commands", {}).get(word)
        if inner is None:
            break
        node = inner
    return {p.opts[-1] if p.param_type_name == "option" else p.name: p for p in node.params}


def all_commands() -> Iterator[tuple[str, ...]]:
    """Every command that does something, by its words."""

    def inside(node: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        inner = getattr(node, "commands", {})
        if not inner or any(p.opts[-1] not in SAME_FOR_ALL for p in node.params):
            yield words
        for name, child in inner.items():
            yield from inside(child, (*words, name))

    for name in ("profile-device", "calibrate", "card"):
        yield from inside(typer.main.get_command(APPS[name]), (name,))
    database = getattr(typer.main.get_command(APPS["cardlab"]), "commands", {})["db"]
    yield from inside(database, ("cardlab", "db"))


def answer(base: Base, folder: Path, database: Path, words: tuple[str, ...]) -> tuple[Result, object]:
    """What a command says and writes, in a fresh copy of the folder."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    own = folder / "own.db"
    if database.exists():
        shutil.copy(database, own)

    def placed(words: tuple[str, ...]) -> list[str]:
        line = [word.replace("{folder}", str(folder)).replace("{data}", str(folder.parent)) for word in words]
        return [*line, *(["--db", str(own)] if base.store else []), "--json"]

    if base.before:
        first = command(*placed(base.before))
        assert first.code == 0, first.err
    with base.partner(folder) if base.partner else nullcontext():
        result = command(*placed(words))
    if result.code != 0:
        return result, None
    document = plain(timeless(result.document, base.timed) if base.steady else unmeasured(result.document))
    # What is said beside the document is said; its times of day and places are its own.
    said = re.sub(r"[0-9a-f]{12,32}|\d{4}-\d\d-\d\d[T ][\d:.]+Z?|/\S+|[\d.]+ m?s", "", result.err)
    written = None
    if base.file is not None:
        path = folder / base.file
        written = re.sub(
            r"[0-9a-f]{12,32}|\d{4}-\d\d-\d\d[T ][\d:.]+", "", path.read_bytes().decode("utf-8", "replace")
        )
    return result, (document, said, written)


def plain(value: Any) -> Any:
    """A document without what is one run's own."""
    if isinstance(value, dict):
        # A backup is made or not; where is its own.
        return {k: bool(v) if k == "backup" else plain(v) for k, v in value.items() if not OWN_KEYS.match(k)}
    return [plain(v) for v in value] if isinstance(value, list) else value


def timeless(value: Any, timed: str | None) -> Any:
    """A document without the keys whose numbers a real clock made."""
    if timed is None:
        return value
    if isinstance(value, dict):
        return {k: timeless(v, timed) for k, v in value.items() if not re.match(timed, k)}
    return [timeless(v, timed) for v in value] if isinstance(value, list) else value


def unmeasured(value: Any) -> Any:
    """A document without numbers that a real clock made."""
    if isinstance(value, dict):
        return {k: unmeasured(v) for k, v in value.items() if k not in ("value", "stderr", "ci95", "energy_j", "n")}
    return [unmeasured(v) for v in value] if isinstance(value, list) else None if isinstance(value, float) else value


def without(words: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """The words with a flag and its values left out; a flag that may be repeated goes each time."""
    out, skip = [], False
    for index, word in enumerate(words):
        if skip:
            skip = False
            continue
        if word == flag:
            follows = words[index + 1] if index + 1 < len(words) else ""
            skip = not follows.startswith("--") and follows != ""
            continue
        out.append(word)
    return tuple(out)


def cells(base: Base, values: Mapping[str, str], folder: Path, database: Path) -> Iterator[Cell]:
    """Every option of the base's command, tried once."""
    result, plainly = answer(base, folder, database, base.words)
    assert result.code == 0, f"{base.name}: {result.err}"
    again, same = answer(base, folder, database, base.words)
    assert same == plainly, f"{base.name} does not answer twice alike: {first_difference(same, plainly)}"
    for flag, parameter in options_of(base.words).items():
        if flag in SAME_FOR_ALL or flag in HOW or not flag.startswith("--"):
            continue
        value = base.values.get(flag, values.get(flag))
        if value is None:
            if flag in base.values:
                continue
            raise AssertionError(f"{base.name}: no value to try {flag} with")
        is_flag = bool(getattr(parameter, "is_flag", False))
        if flag in base.words and value in ("", flag):
            # It is in the base: what is tried is to leave it out.
            words = without(base.words, flag)
        else:
            # Of two commands, one may have a switch where the other has a value.
            extra = (*(value.split() if value.startswith("--") else (flag,)),) if is_flag else (flag, *value.split())
            words = (*(base.words if parameter.multiple else without(base.words, flag)), *extra)
        tried, found = answer(base, folder, database, words)
        if tried.code != 0:
            lines = [line for line in tried.err.splitlines() if line.startswith("error: ")]
            good = len(lines) == 1 and "; " in lines[0] and "internal error" not in lines[0]
            yield Cell(base.name, flag, "refused" if good else "refused badly", tried.err.strip()[-300:])
        elif found == plainly:
            yield Cell(base.name, flag, "neither", " ".join(words))
        else:
            yield Cell(base.name, flag, "changes", first_difference(plainly, found))


def first_difference(a: Any, b: Any, path: str = "") -> str:
    """The first place where two answers differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            if a.get(key) != b.get(key):
                return first_difference(a.get(key), b.get(key), f"{path}.{key}")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            if x != y:
                return first_difference(x, y, f"{path}[{index}]")
    return f"{path}: {str(a)[:60]} -> {str(b)[:60]}"

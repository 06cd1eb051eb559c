"""Runs the commands whose answers are kept, masks what differs from run to run, and compares the rest."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cli.run import command
from tests.golden.answers_commands import GROUPS, Case, Group

FOLDER = Path(__file__).parent / "answers"
RELATIVE, ABSOLUTE = 1e-9, 1e-14
# What lies between these is a coefficient in W/Hz^3 and no rounding error of 0: there ABSOLUTE would hide everything.
CUBIC = (1e-35, 1e-20)

# What differs between runs or machines, by the path of a value: GROUP.CASE.document.key.index.key. Only the value is
# masked: that it is there, and is not null, is compared.
MASKED = (
    r".*\.document\.(.*\.)?(run_id|plan_id|fit_id|link_id|uid|runs\.\d+\.uid)",
    r".*\.(started_at|created_at|ended_at|last_at|measured_at)",
    r".*\.environment\.\w+[\w-]*",  # versions and system of whoever runs this
    r".*\.document\.size_bytes",  # pages of the database file
    r"local\.run_info\.document\.boards\.\d+\.(key|names\.\d+)",  # this machine
    # Real time of real processes.
    r"local\.run\.document\.rounds\.\d+\.devices\.\d+\.(delay_s|elapsed_s|waiting_s|delay_terms\.\w+)",
    r"local\.validate\.document\.terms\.\d+\.(observed_s|observed_range_s\.\d+)",
)
# The same inside texts. The folder of a group is told apart by its name before these.
IN_TEXTS = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?", "<time>"),
    (r"\b([Pp]lan|[Rr]un|validate|show) [0-9a-f]{12,32}\b", r"\1 <uid>"),
    (r"at most [\d.e+-]+ above the exact", "at most <rounding> above the exact"),
    (r"sqlite, schema (\w+), [\d.]+ [KM]iB", r"sqlite, schema \1, <size>"),
)
# Of longer lists of numbers, such as drawn curves, only a summary is kept.
LONG = 12
# What depends on the version of BLAS or SciPy is compared less closely.
LOOSE = (
    (r".*\.fits\.\d+\.parameters\.\w+\.(stderr|ci95\.\d)", 1e-7),
    (r"local\.run\.document\..*\.loss(es\.\d+)?", 1e-6),
)


def run_group(group: Group, folder: Path) -> dict[str, dict[str, Any]]:
    """What each command of a group answered, masked, by the name of the case; `folder` must be empty."""
    found: dict[str, dict[str, Any]] = {}
    documents: dict[str, Any] = {}
    with alone_in(folder):
        group.prepare(folder)
        for case in group.cases:
            answer, document = _answer(case, documents)
            documents[case.name] = document
            found[case.name] = masked(answer, f"{group.name}.{case.name}", str(folder))
    return found


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """In that folder, with settings and state of its own, so that no path of the machine is in an answer."""
    before, environment = Path.cwd(), dict(os.environ)
    for variable in ("CARD_DB", "CARDLAB_NAME", "CARDLAB_DEBUG"):
        os.environ.pop(variable, None)
    os.environ.update(XDG_STATE_HOME=str(folder / "state"), XDG_CONFIG_HOME=str(folder / "config"), NO_COLOR="1")
    os.environ["COLUMNS"] = "200"
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


@contextlib.contextmanager
def same_uids(seed: str) -> Iterator[None]:
    """Random uids from a seed of the case: the draws that give a plan its intervals are seeded by uids of fits."""
    draw = random.Random(seed)
    with mock.patch.object(uuid, "uuid4", lambda: uuid.UUID(int=draw.getrandbits(128), version=4)):
        yield


def _answer(case: Case, earlier: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    words = [word.format(**earlier) for word in case.words]
    with same_uids(case.name):
        result = command(*words)
    answer: dict[str, Any] = {"command": shlex.join(case.words), "exit_code": result.code}
    if result.code != case.code:
        raise AssertionError(f"{case.name}: exit code {result.code}, not {case.code}: {result.err[-2000:]}")
    document = None
    if result.code:
        answer["error"] = [line for line in result.err.splitlines() if line.startswith("error: ")]
        answer["out"] = result.out
    elif case.text:
        answer["text"] = [line.rstrip() for line in result.out.splitlines()]
    else:
        document = answer["document"] = json.loads(result.out)
    return answer, document


def masked(value: Any, path: str, folder: str) -> Any:
    """The value without what differs from run to run."""
    if any(re.fullmatch(pattern, path) for pattern in MASKED):
        return None if value is None else "<masked>"
    if isinstance(value, dict):
        return {key: masked(item, f"{path}.{key}", folder) for key, item in value.items()}
    if isinstance(value, list) and len(value) > LONG and all(type(item) in (int, float) for item in value):
        return _summary([float(item) for item in value])
    if isinstance(value, list):
        return [masked(item, f"{path}.{index}", folder) for index, item in enumerate(value)]
    if isinstance(value, str):
        value = value.replace(folder, "<folder>")
        for pattern, instead in IN_TEXTS:
            value = re.sub(pattern, instead, value)
    return value


def _summary(numbers: list[float]) -> dict[str, Any]:
    """What is kept of a long list of numbers, for small files; weights tell its order."""
    return {
        "numbers": len(numbers),
        "first": numbers[0],
        "last": numbers[-1],
        "size": math.fsum(map(abs, numbers)),
        "weighted": math.fsum((index + 1) * abs(number) for index, number in enumerate(numbers)),
    }


def differences(golden: Any, found: Any, path: str) -> list[tuple[str, Any, Any]]:
    """Where two answers differ: path, golden, found. Numbers may differ by RELATIVE, or near 0 by ABSOLUTE."""
    if isinstance(golden, dict) and isinstance(found, dict):
        missing = object()
        return [
            difference
            for key in [*golden, *(key for key in found if key not in golden)]
            for difference in (
                [(f"{path}.{key}", "<not there>", found[key])] if key not in golden
                else [(f"{path}.{key}", golden[key], "<not there>")] if found.get(key, missing) is missing
                else differences(golden[key], found[key], f"{path}.{key}")
            )
        ]  # fmt: skip
    if isinstance(golden, list) and isinstance(found, list):
        if len(golden) != len(found):
            return [(f"{path} (length)", len(golden), len(found))]
        pairs = enumerate(zip(golden, found, strict=True))
        return [d for index, (a, b) in pairs for d in differences(a, b, f"{path}.{index}")]
    if isinstance(golden, float) and isinstance(found, float):
        return [] if _close(golden, found, path) else [(path, golden, found)]
    return [] if type(golden) is type(found) and golden == found else [(path, golden, found)]


def _close(golden: float, found: float, path: str) -> bool:
    relative = next((limit for pattern, limit in LOOSE if re.fullmatch(pattern, path)), RELATIVE)
    cubic = CUBIC[0] < abs(golden) < CUBIC[1]
    return math.isclose(golden, found, rel_tol=relative, abs_tol=0.0 if cubic else ABSOLUTE)


def golden_file(case: Case) -> Path:
    """Where the answer of a case is kept."""
    return FOLDER / f"{case.name}.json"


def all_cases() -> list[tuple[Group, Case]]:
    """Every case with its group."""
    return [(group, case) for group in GROUPS.values() for case in group.cases]

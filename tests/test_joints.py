"""What passes between rooms is typed: no room computes with a key of a free dictionary, and each rule stands once.

If these fail, a missing key can again change a plan without a word, as `options["offered_hz"]` did.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.once

ROOMS = ("core", "db", "profilers", "calibrate", "card", "split", "workflows")
# Rows go in and come out with what is written for people in them; nothing there looks inside.
CARRIES = {"db/store/convert.py", "db/store/devices.py", "db/store/links.py", "db/store/rounds.py", "db/store/runs.py"}


def _modules(rooms: tuple[str, ...] = ROOMS) -> Iterator[tuple[str, ast.Module]]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8"))


def reads(tree: ast.AST) -> list[int]:
    """Lines that read `X.details`, or `.options` of a run."""
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)):
            continue
        if node.attr == "details" or (node.attr == "options" and _is_run(node.value)):
            found.append(node.lineno)
    return found


def _is_run(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name == "run" or name.endswith("_run") or name == "profile"


def test_no_room_computes_with_details_or_options() -> None:
    found = {f"{name}:{line}" for name, tree in _modules() if name not in CARRIES for line in reads(tree)}
    assert found == set()


def test_the_rule_sees_what_it_is_for() -> None:
    guilty = "def f(profile, m):\n    a = profile.run.options.get('offered_hz')\n    return m.details['total'], a\n"
    assert reads(ast.parse(guilty)) == [2, 3]
    assert reads(ast.parse("r = Run(options={}, details={})\nproblem.options[0]")) == []


def test_stores_only_carry_details() -> None:
    """A store that subscripts what is for people computes with it."""
    for name in CARRIES:
        tree = ast.parse((ROOT / name).read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript | ast.Call):
                target = node.value if isinstance(node, ast.Subscript) else node.func
                inside = target.value if isinstance(target, ast.Attribute) else target
                assert not (isinstance(inside, ast.Attribute) and inside.attr in ("details", "options")), name


def _definitions() -> dict[str, list[str]]:
    """Where each name of a module is assigned."""
    found: dict[str, list[str]] = {}
    for name, tree in _modules((*ROOMS, "reports", "cli")):
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(name)
    return found


def test_a_constant_that_rooms_share_stands_once() -> None:
    found = _definitions()
    for name in ("DTYPE_BYTES", "TERMS", "PHASES", "SHARINGS", "POWERS", "SUBJECT"):
        assert len(found.get(name, [])) == 1, (name, found.get(name))


def test_folders_that_are_no_rooms_hold_no_product_code() -> None:
    known = {*ROOMS, "reports", "cli", "tests", "benchmarks", "docs", "examples", "build", "demo", "dist", "docker"}
    others = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")} - known
    assert {name for name in others if any(Path(ROOT / name).rglob("*.py"))} == set()

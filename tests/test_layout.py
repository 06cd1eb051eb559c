"""The house: what ships is what stands here, under one import package, and every room is guarded.

If these fail, an installed cardlab lacks a folder that the checkout has, or a folder exists whose imports no rule
watches.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
SETTINGS = CONFIGURATION["setuptools"]
NOT_SHIPPED = {"tests", "benchmarks", "build", "docker", "docs", "examples", "demo", "dist"}


def _folders() -> list[Path]:
    """Top-level folders that hold modules of the product: found, not listed, so that a new one cannot be missed."""
    return sorted(
        folder
        for folder in ROOT.iterdir()
        if folder.is_dir()
        and not folder.name.startswith(".")
        and folder.name not in NOT_SHIPPED
        and any(folder.rglob("*.py"))
    )


def _packages_on_disk() -> set[str]:
    found = {"cardlab"}
    for room in _folders():
        for init in room.rglob("__init__.py"):
            found.add(".".join(("cardlab", *init.parent.relative_to(ROOT).parts)))
    return found


def test_every_package_on_disk_ships() -> None:
    assert SETTINGS["package-dir"] == {"cardlab": "."}
    assert set(SETTINGS["packages"]) == _packages_on_disk()


def test_every_folder_with_modules_is_a_package() -> None:
    for room in _folders():
        for module in room.rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} lacks __init__.py"


def test_every_room_stands_in_the_one_layers_contract() -> None:
    contracts = CONFIGURATION["importlinter"]["contracts"]
    layers = [c for c in contracts if c["type"] == "layers"]
    assert len(layers) == 1
    guarded = {name.strip(" ()") for layer in layers[0]["layers"] for name in layer.replace(":", "|").split("|")}
    for package in sorted(_packages_on_disk() - {"cardlab"}):
        inside = package.removeprefix("cardlab.")
        above = any(inside == room or inside.startswith(room + ".") for room in guarded)
        split_up = any(room.startswith(inside + ".") for room in guarded)
        assert above or split_up, f"{package} is in no layer of the import contract"


def test_data_files_ship() -> None:
    patterns = SETTINGS["package-data"]
    assert (ROOT / "py.typed").exists()
    assert patterns["cardlab"] == ["py.typed"]
    for room in _folders():
        for data in room.rglob("*"):
            if data.suffix in (".json", ".toml", ".j2", ".txt", ".html"):
                inside = data.parent.relative_to(ROOT)
                assert any(
                    data.match(pattern)
                    for package, globs in patterns.items()
                    for pattern in globs
                    if package.split(".")[1:2] == [room.name]
                ), f"{inside / data.name} is in no package-data"


def test_no_generic_name_is_importable_outside(tmp_path: Path) -> None:
    names = tuple(room.name for room in _folders())
    code = (
        "import importlib.util as u, cardlab\n"
        f"print([n for n in {names!r} if u.find_spec(n) is not None and "
        f"str(u.find_spec(n).origin or u.find_spec(n).submodule_search_locations).find({str(ROOT)!r}) >= 0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_tool_is_skipped_where_ci_would_fail() -> None:
    """`conftest.missing` and `need` fail in CI; a raw skip would leave a test that never runs anywhere."""
    # What the hardware or the place is, and data that are not of this repository.
    allowed = ("this machine has", "this is a", "runs here", "on this card", "CARDLAB_TEST_LOCK", "cannot be set here")
    data = ("no measured sweeps beside the repository", "the shared measurements are not here")
    raw = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")) + sorted((ROOT / "tests").rglob("conftest.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.skip"):
                continue
            reason = ast.unparse(node.args[0])
            if reason != "reason" and not any(words in reason for words in (*allowed, *data)):
                raw.append(f"{file.relative_to(ROOT)}:{node.lineno} {reason}")
    assert raw == []

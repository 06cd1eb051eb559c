"""The house: what ships is what stands here, under one import package, and no room leaks its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOMS = ("db", "profilers", "calibrate", "card", "split", "reports", "cli")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def _packages_on_disk() -> set[str]:
    found = set()
    for folder, name in (("core", "cardlab"), *((room, f"cardlab.{room}") for room in ROOMS)):
        for init in (ROOT / folder).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((name, *inside)))
    return found


def test_every_package_on_disk_ships() -> None:
    assert set(SETTINGS["packages"]) == _packages_on_disk()


def test_every_folder_with_modules_is_a_package() -> None:
    for room in ("core", *ROOMS):
        for module in (ROOT / room).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} lacks __init__.py"


def test_data_files_ship() -> None:
    patterns = SETTINGS["package-data"]
    assert (ROOT / "core" / "py.typed").exists() and patterns["cardlab"] == ["py.typed"]
    for room in ROOMS:
        for data in (ROOT / room).rglob("*"):
            if data.suffix in (".json", ".toml", ".j2", ".txt", ".html"):
                inside = data.parent.relative_to(ROOT)
                assert any(
                    data.match(pattern)
                    for package, globs in patterns.items()
                    for pattern in globs
                    if package.split(".")[1:2] == [room]
                ), f"{inside / data.name} is in no package-data"


def test_no_folder_of_core_is_named_like_a_room() -> None:
    inside = {p.name for p in (ROOT / "core").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert not inside & set(ROOMS)


def test_no_generic_name_is_importable_outside(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, cardlab\n"
        f"print([n for n in {('core', *ROOMS)!r} if u.find_spec(n) is not None and "
        f"str(u.find_spec(n).origin or u.find_spec(n).submodule_search_locations).find({str(ROOT)!r}) >= 0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_modules_stay_small() -> None:
    """Up to 300 lines as a rule, over 500 needs a reason: there is none yet."""
    large = {
        str(p.relative_to(ROOT)): n
        for room in ("core", *ROOMS)
        for p in (ROOT / room).rglob("*.py")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert large == {}

"""If these fail, the documents promise another oldest Python, torch or package than the one that is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cardlab.profilers.runtime.execution import TORCH_FLOOR
from tests.cli.test_surroundings import a_torch
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def floors() -> dict[str, str]:
    """Stated minimum by package, of the core and of the extras that users install."""
    stated = [*PROJECT["dependencies"]]
    for extra in ("models", "jetson", "report", "notebook", "postgres", "cluster"):
        stated += PROJECT["optional-dependencies"][extra]
    found = [re.match(r"([A-Za-z0-9-]+)(?:\[\w+\])?>=([0-9][\w.]*)", line) for line in stated]
    assert all(found), stated
    return {match[1]: match[2] for match in found if match}


def test_the_installation_page_states_the_floors_of_pyproject() -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| ([A-Za-z0-9-]+) \| (\d[\w.]*) \|", page, re.MULTILINE))
    assert table == floors()


def test_torch_has_one_floor() -> None:
    stated = floors()["torch"]
    assert ".".join(map(str, TORCH_FLOOR)) == stated
    for name in ("README.md", "docs/installation.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = set(re.findall(r"torch (\d+\.\d+) or newer", text))
        assert named == {stated}, f"{name} says {named}"


def test_python_has_one_floor() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    for name in ("README.md", "docs/installation.md", "docs/quickstart-laptop.md", "docs/quickstart-gpu-server.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = set(re.findall(r"Python (\d\.\d+) or newer", text))
        assert named == {oldest}, f"{name} says {named}"
    minor = oldest.split(".")[1]
    environment = (ROOT / ".ci" / "environment").read_text(encoding="utf-8")
    assert f"sys.version_info < (3, {minor})" in environment
    classified = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert classified[0] == oldest
    for version in classified:
        assert f"{version}" in (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")


def test_the_environment_finds_the_floor_of_torch() -> None:
    """`.ci/environment` reads it from pyproject.toml; unread, a torch that is too old would be kept."""
    script = (ROOT / ".ci" / "environment").read_text(encoding="utf-8")
    command = next(line.split("$(", 1)[1].rstrip(")") for line in script.splitlines() if "wanted=$(sed" in line)
    said = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f">={floors()['torch']}"


@pytest.mark.parametrize(
    ("calls_itself", "installed_as", "kept"),
    [
        ("2.14.1+cu130", "2.14.1", "2.14.1"),
        ("2.7.0a0+nv25.3", "2.7.0a0+nv25.3", "2.7.0a0+nv25.3"),
        ("2.6.0a0+nv25.1", "2.6.0a0+nv25.1", ""),
        ("2.5.1", "2.5.1", ""),
    ],
)
def test_a_base_torch_is_kept_by_the_version_that_pip_sees(
    calls_itself: str, installed_as: str, kept: str, tmp_path: Path
) -> None:
    """Pinned by what it calls itself, PyPI's CUDA build could not be kept: pip found no way to install anything."""
    path = a_torch(tmp_path, f"__version__ = {calls_itself!r}", installed_as)
    script = (ROOT / ".ci" / "environment").read_text(encoding="utf-8")
    found = re.search(r"base_torch=\$\(\"\$python\" -c '(.*?)'", script, re.DOTALL)
    assert found
    words = [sys.executable, "-c", found[1], f">={floors()['torch']}"]
    said = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == kept

"""If these fail, the fleet example calls commands that cardlab does not have."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.run import command
from tests.conftest import ROOT, need

FLEET = ROOT / "examples" / "fleet"


def commands() -> Iterator[list[str]]:
    """The cardlab commands of the playbook, as words, variables left in."""
    yaml = pytest.importorskip("yaml")
    for play in yaml.safe_load((FLEET / "profile.yml").read_text(encoding="utf-8")):
        for task in play["tasks"]:
            called = task.get("ansible.builtin.command", {})
            words = called.get("argv") or re.sub(r"\{\{.*?\}\}", "X", called.get("cmd", "")).split()
            if isinstance(words, str):
                words = re.findall(r"'([\w-]+)'", words)
            if words and words[0].rsplit("/", 1)[-1].removeprefix("X") in (
                "profile-device",
                "calibrate",
                "card",
                "cardlab",
            ):
                yield [words[0].rsplit("/", 1)[-1], *words[1:]]


def test_every_command_of_the_playbook_and_its_options_exist() -> None:
    checked = 0
    for name, *words in commands():
        names = [w for w in words if re.fullmatch(r"[a-z]+", w)][:2]
        path = [w for i, w in enumerate(words) if w in names and i < 2 and not w.startswith("-")]
        said = command(name, *path, "--help")
        assert said.code == 0, (name, words)
        for option in (w for w in words if w.startswith("--")):
            assert option in said.out, f"{name} {path} has no {option}"
            checked += 1
    assert checked >= 12


@pytest.mark.once
def test_the_playbook_is_clean_for_the_linter() -> None:
    linter = need("ansible-lint")
    # It looks for ansible's own programs on the path.
    places = {"PATH": f"{Path(linter).parent}{os.pathsep}{os.environ['PATH']}"}
    words = [linter, "--offline", "profile.yml", "inventory.yml"]
    checked = subprocess.run(
        words, cwd=FLEET, env={**os.environ, **places}, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout

"""One word for one thing, one meaning for one option, a remedy for every error, and completion in the shell."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tests.cli.run import APPS, command
from tests.conftest import ROOT, need

ROOMS = ("core", "db", "profilers", "calibrate", "card", "split", "reports", "cli")
# What the vocabulary of docs/design.md calls otherwise.
NOT_OURS = {
    "split point": "cut",
    "split layer": "cut",
    "cut point": "cut",
    "partition point": "cut",
    "edge device": "device",
    "edge node": "device",
    "graphics clock": "SM frequency",
    "intermediate activations": "smashed data",
    "wait power": "waiting power",
    "lora-rank r.": "LoRA rank",
    "time per layer": "latency",
    "split inference": "split fine-tuning",
}


def _walk(app: typer.Typer, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield words
    for entry in app.registered_commands:
        assert entry.callback is not None
        yield (*words, entry.name or entry.callback.__name__.replace("_", "-"))
    for group in app.registered_groups:
        assert group.typer_instance is not None
        name = group.name or group.typer_instance.info.name
        assert isinstance(name, str)
        yield from _walk(group.typer_instance, (*words, name))


COMMANDS = [words for name, app in APPS.items() for words in _walk(app, (name,))]


@pytest.fixture(scope="module")
def helps() -> dict[tuple[str, ...], str]:
    """The help of every command, in one line each."""
    found = {}
    for words in COMMANDS:
        result = command(*words, "--help")
        assert result.code == 0, words
        found[words] = " ".join(result.out.split())
    return found


def test_help_and_manual_use_the_words_of_the_vocabulary(helps: dict[tuple[str, ...], str]) -> None:
    texts = {" ".join(words): text for words, text in helps.items()}
    texts |= {str(p.relative_to(ROOT)): " ".join(p.read_text("utf-8").split()) for p in ROOT.glob("docs/*.md")}
    texts["README.md"] = " ".join((ROOT / "README.md").read_text("utf-8").split())
    for where, text in texts.items():
        for wrong, right in NOT_OURS.items():
            assert wrong not in text.lower(), f"{where} says {wrong!r}, the word is {right!r}"


@pytest.mark.parametrize("option", ["--db", "--json", "--plot", "--version"])
def test_an_option_of_one_name_has_one_explanation(option: str, helps: dict[tuple[str, ...], str]) -> None:
    pattern = re.compile(rf" {option}( [A-Z]+)? ([A-Z].*?)(?= --[a-z]| -h,|$)")
    said = {found.group(2) for text in helps.values() if (found := pattern.search(text.split("Options:", 1)[-1]))}
    assert len(said) == 1, said


def test_every_command_that_gives_a_result_has_json(helps: dict[tuple[str, ...], str]) -> None:
    without = {" ".join(w) for w, text in helps.items() if "--json" not in text and "COMMAND" not in text}
    # They write a file, or nothing.
    assert without <= {
        "profile-device capture",
        "profile-device restore",
        "cardlab profile capture",
        "cardlab profile restore",
        "cardlab db upgrade",
    }


def test_every_error_in_the_code_has_a_remedy_of_its_own() -> None:
    seen = 0
    for path in (p for room in ROOMS for p in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            for keyword in node.exc.keywords:
                if keyword.arg == "remedy":
                    seen += 1
                    texts = [n.value for n in ast.walk(keyword.value) if isinstance(n, ast.Constant)]
                    words = [t for t in texts if isinstance(t, str)]
                    assert all("\n" not in w for w in words), f"{path}:{node.lineno}"
                    assert not words or max(len(w) for w in words) >= 3, f"{path}:{node.lineno}"
    assert seen > 100


@pytest.mark.parametrize(
    ("program", "line", "expected"),
    [
        ("card", "card re", ["report", "reproduce"]),
        ("card", "card plan --upl", ["--uplink-mbps"]),
        ("calibrate", "calibrate pre", ["predict"]),
        ("profile-device", "profile-device doc", ["doctor"]),
        ("cardlab", "cardlab db ch", ["check"]),
    ],
)
def test_bash_completes_commands_and_options(program: str, line: str, expected: list[str], tmp_path: Path) -> None:
    """The script that --show-completion prints, in a real bash."""
    bash = need("bash")
    folder = tmp_path / "bin"
    folder.mkdir()
    entry = folder / program
    name = program.replace("-", "_")
    entry.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from cardlab.cli.main import {name} as m; m()' \"$@\"\n")
    entry.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SHELL": bash}
    # Looking for the shell among the parents fails below a deep tree of processes (make, CI).
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    shown = subprocess.run(
        [program, "--show-completion", "bash"], capture_output=True, text=True, env=environment, check=True
    ).stdout
    words = line.split()
    script = f"""{shown}
COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
_{name}_completion {program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert sorted(done.stdout.split()) == sorted(expected), done.stderr

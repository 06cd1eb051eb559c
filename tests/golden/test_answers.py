"""If these fail, a command answers with another number, word or key than it did: a plan changed, or a document.

Each command of `answers_commands` is run again in an empty folder and its answer compared with the one kept in
`answers/NAME.json`: floats to 1e-9, everything else exactly; what differs from run to run is masked by the rules in
`answers`. A change that is meant: `python -m tests.golden.answers_make` writes the answers anew and prints what
changed, for the commit to say why.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.golden.answers import FOLDER, all_cases, differences, golden_file, run_group
from tests.golden.answers_commands import GROUPS, Case, Group

Answers = dict[str, dict[str, Any]]


# Measured, fitted and planned: what the light install on the oldest Python is asked too.
EVERYWHERE = "fleet"


def marks(group: Group) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.torch] if group.torch else []
    return found if group.name == EVERYWHERE else [*found, pytest.mark.once]


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Group], Answers]:
    """Runs a group when the first of its answers is asked for."""
    found: dict[str, Answers] = {}

    def of(group: Group) -> Answers:
        if group.name not in found:
            found[group.name] = run_group(group, tmp_path_factory.mktemp(group.name))
        return found[group.name]

    return of


@pytest.mark.parametrize(
    ("group", "case"),
    [pytest.param(group, case, id=case.name, marks=marks(group)) for group, case in all_cases()],
)
def test_a_command_answers_as_it_did(answers: Callable[[Group], Answers], group: Group, case: Case) -> None:
    golden = json.loads(golden_file(case).read_text("utf-8"))
    found = differences(golden, answers(group)[case.name], f"{group.name}.{case.name}")
    told = [f"{path}: {before!r} -> {after!r}" for path, before, after in found[:20]]
    assert not found, f"{case.name}: {len(found)} values differ\n" + "\n".join(told)


def test_every_answer_kept_belongs_to_one_command() -> None:
    names = [case.name for _, case in all_cases()]
    assert len(names) == len(set(names)) and len(GROUPS) == 5
    assert sorted(names) == sorted(file.stem for file in FOLDER.glob("*.json"))

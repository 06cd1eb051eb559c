"""If these fail, the agent measures, judges or names something by a rule of its own, which can drift from cardlab's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardlab.profilers import agent, board
from cardlab.profilers.board import rails, rules
from cardlab.profilers.devices import helper

AGENT = Path(agent.__file__).parent
BOARD = Path(board.__file__).parent
PROFILERS = BOARD.parent
# Modules of the board that state how to measure, rather than how to read a file.
RULES = (
    "cpu_timer",
    "cuda_timer",
    "execution",
    "frequencies",
    "heap",
    "identity",
    "power",
    "rules",
    "sampler",
    "segments",
    "series",
    "summary",
    "timer",
    "window",
    "work",
)
# Rooms of the house that follow the same rules.
HOUSE = tuple(PROFILERS / room for room in ("measure", "runtime", "devices"))
# A board as the agent sees it, and the module that is soldered to it: two things with one name.
NAMESAKES = {"Board"}
# A rule of seconds and watts, and the function that asks a device of the house for them; a default that does nothing.
PARTS_OF_A_DEVICE = {"settle", "window_s", "nothing"}
# Numbers that are no rule: counts, signs, halves, and the factors between units.
PLAIN = {-1, 0, 1, 2, 3, 4, 0.5, 8, 16, 1e3}
# What a timing loop, a lap timer, a sampler or a key is made of: with these the agent would write its own.
TOOLS = {
    "clock_gettime",
    "perf_counter",
    "time",
    "monotonic",
    "getrusage",
    "thread_time",
    "process_time",
    "sleep",
    "Event",
    "elapsed_time",
    "Thread",
    "mallopt",
    "CDLL",
    "sched_getaffinity",
    "scrypt",
    "Popen",
    "call",
    "collect",
    "disable",
}


def trees(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(folder.rglob("*.py")):
        yield str(file.relative_to(PROFILERS)), ast.parse(file.read_text("utf-8"))


def constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Names in capitals that the module gives a value, without the underscore of a private one."""
    found = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id.isupper() and getattr(node, "value", None) is not None:
                found[target.id.lstrip("_")] = node.value  # type: ignore[attr-defined]
    return found


def definitions(tree: ast.Module) -> set[str]:
    """Classes and functions of a module, without the underscore of a private one."""
    return {node.name.lstrip("_") for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def numbers(tree: ast.AST) -> set[float]:
    """Every number that is written in the module."""
    return {
        abs(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)
    }


def tools(tree: ast.AST) -> set[str]:
    """Attributes that are called by a name of TOOLS."""
    return {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TOOLS
    }


BOARD_CONSTANTS = {name for _, tree in trees(BOARD) for name in constants(tree)}
BOARD_DEFINITIONS = {name for _, tree in trees(BOARD) for name in definitions(tree)} - NAMESAKES
RULE_TREES = [ast.parse((BOARD / f"{name}.py").read_text("utf-8")) for name in RULES]
RULE_CONSTANTS = {name for tree in RULE_TREES for name in constants(tree)}
RULE_DEFINITIONS = {name for tree in RULE_TREES for name in definitions(tree)}
RULE_NUMBERS = {
    value
    for tree in RULE_TREES
    for expression in constants(tree).values()
    for value in numbers(expression)
    if value not in PLAIN
}
AGENT_TREES = [pytest.param(tree, id=name) for name, tree in trees(AGENT)]


@pytest.mark.parametrize("tree", AGENT_TREES)
def test_agent_gives_no_constant_of_the_board_a_second_value(tree: ast.Module) -> None:
    assert not set(constants(tree)) & BOARD_CONSTANTS


@pytest.mark.parametrize("tree", AGENT_TREES)
def test_agent_defines_no_class_or_function_of_the_board_again(tree: ast.Module) -> None:
    assert not definitions(tree) & BOARD_DEFINITIONS


@pytest.mark.parametrize("tree", AGENT_TREES)
def test_agent_writes_no_number_of_a_rule(tree: ast.Module) -> None:
    assert not numbers(tree) & RULE_NUMBERS


@pytest.mark.parametrize("tree", AGENT_TREES)
def test_agent_times_nothing_by_itself(tree: ast.Module) -> None:
    assert not tools(tree)


@pytest.mark.parametrize("tree", AGENT_TREES)
def test_agent_imports_the_board_and_nothing_else_of_the_house(tree: ast.Module) -> None:
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 2}
    assert all(module.split(".")[0] == "board" for module in modules)


@pytest.mark.parametrize(
    ("copied", "seen_by"),
    [
        ("MAX_SAMPLES = 50", constants),
        ("_SALT = b'another'", constants),
        ("class LapTimer:\n    pass", definitions),
        ("def median(values):\n    return values[0]", definitions),
        ("def _quietest_cpus(count):\n    return ()", definitions),
        ("def f(x):\n    return 1.96 * x", numbers),
        ("def f(deadline_s):\n    while time.perf_counter() < deadline_s:\n        step()", tools),
        (
            "while len(samples) < count:\n    samples.append(lap_timer.time(lap, work))",
            tools,
        ),
        ("start = self._cuda.Event(enable_timing=True)", tools),
    ],
)
def test_a_copy_is_seen(copied: str, seen_by) -> None:
    """Each of these stood in the agent once, or would be the next to."""
    forbidden = {
        constants: BOARD_CONSTANTS,
        definitions: BOARD_DEFINITIONS,
        numbers: RULE_NUMBERS,
        tools: TOOLS,
    }
    assert set(seen_by(ast.parse(copied))) & forbidden[seen_by]


def test_the_house_states_no_rule_of_the_board_again() -> None:
    """The other rooms that measure take constants and functions from the board, as the agent does."""
    assert {"MIN_CLEAN", "WINDOW_UPDATES", "CHAIN", "SETTLE_SHARE"} <= RULE_CONSTANTS
    for folder in HOUSE:
        for name, tree in trees(folder):
            assert not set(constants(tree)) & RULE_CONSTANTS, name
            assert not definitions(tree) & RULE_DEFINITIONS - PARTS_OF_A_DEVICE, name


@pytest.mark.parametrize("name", rules.GPU_NODES)
def test_every_gpu_that_is_found_may_be_set(name: str) -> None:
    path = f"sys/devices/17000000.{name}/devfreq/17000000.{name}/max_freq"
    assert any(rule.path.fullmatch(path) for rule in helper.RULES)


def test_rules_at_their_limits() -> None:
    assert rules.on_request(1.01e9, 1e9) and not rules.on_request(1.011e9, 1e9)
    assert rules.is_clean(1.03e-3, 1e-3, 1) and not rules.is_clean(1.04e-3, 1e-3, 1), "no allowance for short laps"
    assert not rules.is_clean(1e-3, 1e-3, 2) and rules.is_clean(0.05, 0.05, 3)
    assert rails.total_parts(["VDD_NEW", "VDD_OTHER"]) == (), "a sum of unknown rails may count one twice"

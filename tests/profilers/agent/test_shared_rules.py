"""If these fail, the agent judges a sample, a frequency or a rail by another rule than cardlab does."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from cardlab.profilers.agent import board as agent_board
from cardlab.profilers.agent import run as agent_run
from cardlab.profilers.agent import timing as agent_timing
from cardlab.profilers.agent.pack import MODULES, pack_agent
from cardlab.profilers.board import identity, rails, rules, timer
from cardlab.profilers.devices import helper
from cardlab.profilers.devices.jetson import device, power
from cardlab.profilers.measure import point, samples, timing, window

ROOM = Path(rules.__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("is_clean", (agent_timing, timer, rules)),
        ("is_contended", (agent_timing, samples, rules)),
        ("median_stderr", (agent_timing, samples, rules)),
        ("relative_spread", (agent_timing, timing, rules)),
        ("on_request", (agent_board, agent_run, window, point, rules)),
        ("total_parts", (agent_board, power, rails)),
        ("is_gpu_node", (agent_board, rules)),
        ("find_rails", (agent_board, device)),
        ("find_watch", (agent_board, device)),
        ("offered_hz", (agent_board, device)),
        ("host_secret", (agent_board, identity)),
    ],
)
def test_agent_and_cardlab_call_the_same_function(name: str, modules: tuple[ModuleType, ...]) -> None:
    first, *others = (getattr(module, name) for module in modules)
    assert all(other is first for other in others)


def test_packed_file_holds_the_rules_as_they_stand_here(tmp_path: Path) -> None:
    file = tmp_path / "agent.pyz"
    pack_agent(file, None)
    with zipfile.ZipFile(file) as archive:
        for folder, names in MODULES.items():
            for name in names:
                packed = archive.read(f"card_agent/{folder}/{name}.py")
                assert packed == (ROOM / folder / f"{name}.py").read_bytes()


@pytest.mark.parametrize("name", rules.GPU_NODES)
def test_every_gpu_that_is_found_may_be_set(name: str) -> None:
    path = f"sys/devices/17000000.{name}/devfreq/17000000.{name}/max_freq"
    assert any(rule.path.fullmatch(path) for rule in helper.RULES)


def test_rules_at_their_limits() -> None:
    assert rules.on_request(1.01e9, 1e9) and not rules.on_request(1.011e9, 1e9)
    assert rules.is_clean(1.03e-3, 1e-3, 1) and not rules.is_clean(1.04e-3, 1e-3, 1), "no allowance for short laps"
    assert not rules.is_clean(1e-3, 1e-3, 2) and rules.is_clean(0.05, 0.05, 3)
    assert rails.total_parts(["VDD_NEW", "VDD_OTHER"]) == (), "a sum of unknown rails may count one twice"

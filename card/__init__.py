"""Planning: Scenario -> Problem -> solver -> Plan. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.card.problem.scenario import Scenario
    from cardlab.card.problem.scenario_file import load_scenario
    from cardlab.card.reproduce import reproduce
    from cardlab.card.schemes.card.planning import solve
    from cardlab.card.simulate import simulate
    from cardlab.card.solvers.batch import solve_batch

_WHERE = {
    "reproduce": "cardlab.card.reproduce",
    "simulate": "cardlab.card.simulate",
    "solve_batch": "cardlab.card.solvers.batch",
    "Scenario": "cardlab.card.problem.scenario",
    "load_scenario": "cardlab.card.problem.scenario_file",
    "solve": "cardlab.card.schemes.card.planning",
}
__all__ = ["Scenario", "load_scenario", "reproduce", "simulate", "solve", "solve_batch"]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)

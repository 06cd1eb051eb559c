"""Energy budgets of devices over all rounds, as rows of tables: of a plan and of a simulation."""

from __future__ import annotations

from cardlab.core.records.budget import Budgeted
from cardlab.core.text import si

SPENT = ("device", "budget", "spends in all rounds", "without the budgets", "mean frequency")
BESIDE = ("cost", "without", "delay", "without", "server energy", "without")


def spent_rows(found: Budgeted) -> list[tuple[str, ...]]:
    """What each device spends in all rounds."""
    rows = zip(found.devices, found.budget_j, found.spent_j, found.myopic_j, found.frequency_hz, strict=True)
    return [
        (name, "none" if budget is None else si(budget, "J"), si(spent, "J"), si(alone, "J"), si(hz, "Hz"))
        for name, budget, spent, alone, hz in rows
    ]


def beside_row(found: Budgeted) -> tuple[str, ...]:
    """Cost, delay and server energy, means over rounds, each beside what it is without budgets."""
    return (
        f"{found.cost:.4f}",
        f"{found.myopic_cost:.4f}",
        si(found.delay_s, "s"),
        si(found.myopic_delay_s, "s"),
        si(found.server_energy_j, "J"),
        si(found.myopic_server_energy_j, "J"),
    )

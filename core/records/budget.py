"""What became of the rounds of a plan whose devices have a battery for all of them."""

from __future__ import annotations

from dataclasses import dataclass

# Among what binds a decision: without the budget another choice would have been made.
ENERGY_BUDGET = "energy budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgeted:
    """Rounds decided with a budget of joules for each device, beside the same rounds decided one by one without.

    Attributes:
        devices: names [M].
        budget_j: of each device for all rounds [M], None for one without.
        spent_j, myopic_j: energy of each device in all rounds [M], with the budgets and without; None where a power is
            not known.
        kept: whether every device with a budget spent no more than that.
        cost, myopic_cost: of the objective, means over rounds of sums over devices.
        delay_s, myopic_delay_s, server_energy_j, myopic_server_energy_j: the same; energies None where not known.
        frequency_hz: mean frequency of each device [M] with the budgets, None where it is not known.
    """

    devices: tuple[str, ...]
    budget_j: tuple[float | None, ...]
    spent_j: tuple[float | None, ...]
    myopic_j: tuple[float | None, ...]
    kept: bool
    cost: float
    myopic_cost: float
    delay_s: float
    myopic_delay_s: float
    server_energy_j: float | None
    myopic_server_energy_j: float | None
    frequency_hz: tuple[float | None, ...]

    @property
    def missed(self) -> tuple[str, ...]:
        """Devices that spent more than their budget."""
        rows = zip(self.devices, self.budget_j, self.spent_j, strict=True)
        return tuple(name for name, budget, spent in rows if not _within(budget, spent))


def _within(budget_j: float | None, spent_j: float | None) -> bool:
    # Rounding of sums is no overspending.
    return budget_j is None or spent_j is None or spent_j <= budget_j * (1.0 + 1e-12)


def all_kept(budget_j: tuple[float | None, ...], spent_j: tuple[float | None, ...]) -> bool:
    """Whether every budget is kept."""
    return all(_within(budget, spent) for budget, spent in zip(budget_j, spent_j, strict=True))

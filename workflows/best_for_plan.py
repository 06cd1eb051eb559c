"""What a plan decides by the points of a party that was measured for it, and how well that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardlab.calibrate.best_frequency import kept_hz
from cardlab.core.errors import BadDataError
from cardlab.core.quantity import Provenance, union_of
from cardlab.core.records.measurement import Profile
from cardlab.core.tables import Cell, Tabular
from cardlab.core.text import duration
from cardlab.db.store import Store
from cardlab.workflows.for_plan import PlanSearch, plan_search, read_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChoice:
    """What the plan would decide for one device in one round; a frequency that is not known is None."""

    round: int
    device: str
    cut: int
    server_frequency_hz: float | None
    device_frequency_hz: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BestForPlan(Tabular):
    """What a plan decides, as far as the points of one of its parties say.

    Attributes:
        scenario: name and digest of the scenario.
        device: label of the party that was measured; serves: it is the server.
        decisions: of each device that depends on it, in each round with rates of its own.
        regret95: they cost at most this much more than the best plan (`schemes.card.open_plan`), as a share, at 95 %.
        known: whether that is within 2 %.
        feasible: share of what is believed in which every limit can be kept.
        measured: frequencies that were measured, of `offered`.
        assumptions: what was taken for granted, in words.
        provenance: of the numbers of all parties that the decisions rest on.
    """

    scenario: str
    device: str
    serves: bool
    decisions: tuple[PlannedChoice, ...]
    regret95: float
    known: bool
    feasible: float
    measured: int
    offered: int
    assumptions: tuple[str, ...]
    provenance: Provenance

    def rows(self) -> list[dict[str, Cell]]:
        """A row a decision."""
        return [
            {
                "round": one.round,
                "device": one.device,
                "cut": one.cut,
                "server_frequency_hz": one.server_frequency_hz,
                "device_frequency_hz": one.device_frequency_hz,
            }
            for one in self.decisions
        ]


def best_for_plan(store: Store, profile: Profile, scenario: str) -> BestForPlan:
    """What the plan of a scenario decides by a profile of one of its parties, and how well that is known.

    Args:
        store: holds the other parties, and the fits of those that choose a frequency.
        profile: of the party that was measured, at two frequencies or more, as `profile` returns it (powers behind
            calibrated sensors).
        scenario: a file as `card plan --from-db --scenario` takes it.

    Raises:
        UsageError, PlanError: the scenario has no part for the device, or what it needs of the others is missing.
        BadDataError: the profile says too little.
    """
    metered = any(point.total_power() is not None for point in profile.points)
    return found_for_plan(plan_search(store, read_plan(scenario), profile.run, metered=metered), profile)


def found_for_plan(search: PlanSearch, profile: Profile) -> BestForPlan:
    """The same of a search that is at hand."""
    part = search.part
    found = search.decided(profile, kept_hz(profile, part.allowed_hz))
    if found is None:
        raise BadDataError(
            f"fewer than two frequencies of {part.label!r} say what {search.asked.name} needs",
            remedy="measure at two or more: profile-device --frequencies best --for-plan FILE",
        )
    belief, decisions = found
    names = search.open.problems[0].devices
    hardest = min(decisions, key=lambda one: one.feasible)
    if hardest.feasible == 0.0:
        raise BadDataError(
            f"no choice of {names[hardest.device]!r} keeps the limits of {search.asked.name}",
            remedy="loosen its [constraints]: calibrate fit and card plan say which",
        )
    return BestForPlan(
        scenario=search.asked.identity,
        device=part.label,
        serves=part.serves,
        decisions=tuple(
            PlannedChoice(
                round=search.rounds[one.problem],
                device=names[one.device],
                cut=int(one.cut[place]),
                server_frequency_hz=_or_none(one.server_hz[place]),
                device_frequency_hz=_or_none(one.device_hz[place]),
            )
            for one, place in zip(decisions, belief.best[: len(decisions)], strict=True)
        ),
        regret95=belief.regret95,
        known=belief.known,
        feasible=hardest.feasible,
        measured=int(belief.measured.sum()),
        offered=len(part.allowed_hz),
        assumptions=search.assumptions,
        provenance=union_of(search.open.problems[0].provenance[m] for m in search.open.deciding),
    )


def _or_none(hz: float) -> float | None:
    return None if np.isnan(hz) else float(hz)


def plan_words(search: PlanSearch, measured: Profile, left_out_s: float | None) -> tuple[str, ...]:
    """What was found, and what was assumed, a line each.

    `left_out_s`: what measuring the other frequencies would have taken, None if unknown.
    """
    try:
        found = found_for_plan(search, measured)
    except BadDataError as error:
        return (f"warning: the plan is not decided: {error}",)
    return _found_words(found, left_out_s), f"assumed: {'; '.join(found.assumptions)}"


def _found_words(found: BestForPlan, left_out_s: float | None) -> str:
    first = [one for one in found.decisions if one.round == 1]
    shown = "; ".join(_choice_words(one) for one in first[:3])
    more = len(found.decisions) - len(first[:3])
    words = (
        f"plan of {found.scenario}: {shown}{f' and {more} more' if more else ''};"
        f" {found.measured} of {found.offered} frequencies of {found.device} measured"
    )
    if not found.known:
        return (
            f"warning: {words}; not known yet: up to {found.regret95:.1%} dearer than the best plan at 95 %;"
            " go on with: --resume and the same --for-plan"
        )
    saved = f", about {duration(left_out_s)} saved" if left_out_s and found.measured < found.offered else ""
    limits = "" if found.feasible == 1.0 else f"; limits can be kept in {found.feasible:.0%} of what is believed"
    return f"{words}{saved}; at most {max(found.regret95, 0.001):.1%} dearer than the best plan at 95 %{limits}"


def _choice_words(one: PlannedChoice) -> str:
    server = "" if one.server_frequency_hz is None else f", server at {one.server_frequency_hz / 1e6:.0f} MHz"
    own = "" if one.device_frequency_hz is None else f", device at {one.device_frequency_hz / 1e6:.0f} MHz"
    return f"{one.device} cut {one.cut}{server}{own}"

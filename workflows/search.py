"""What a search for the frequency of least energy is asked, and what it came to in words."""

from __future__ import annotations

from cardlab.calibrate.best_frequency import BestFrequency, best_frequency
from cardlab.core.errors import BadDataError
from cardlab.core.plain import Document, to_plain
from cardlab.core.records.measurement import PlannedPoint, Profile
from cardlab.core.text import duration
from cardlab.db.store import Store
from cardlab.workflows.best_for_plan import BestForPlan, best_for_plan
from cardlab.workflows.opening import Opening, opened
from cardlab.workflows.options.profile import ProfileOptions

BEST = "best"


def searches(options: ProfileOptions) -> bool:
    """Whether the frequencies are to be found while measuring."""
    return options.frequencies.strip().lower() == BEST


def searched(measured: Profile) -> BestFrequency | str:
    """What was found, else why nothing was."""
    try:
        return best_frequency(measured)
    except BadDataError as error:
        return error.message


def searched_document(store: Store | Opening, options: ProfileOptions, measured: Profile) -> Document:
    """What a search found, as JSON has it; {} where nothing was searched for."""
    if not searches(options):
        return {}
    if options.for_plan is not None:
        decided = for_plan(opened(store), options.for_plan, measured)
        return {"best_for_plan": None if isinstance(decided, str) else to_plain(decided)}
    found = searched(measured)
    return {"best_frequency": None if isinstance(found, str) else to_plain(found)}


def for_plan(store: Store, scenario: str, measured: Profile) -> BestForPlan | str:
    """What a plan decides by a profile, else why nothing is known of it."""
    try:
        return best_for_plan(store, measured, scenario)
    except BadDataError as error:
        return error.message


def left_out(measured: Profile, allowed_hz: tuple[float, ...] | None = None) -> tuple[PlannedPoint, ...]:
    """Offered frequencies (of those allowed) that the search did not visit."""
    visited = {point.requested_hz for point in measured.points}
    every = (measured.run.offered_hz or ()) if allowed_hz is None else allowed_hz
    left = [hz for hz in every if hz not in visited]
    return tuple(PlannedPoint(index=n, requested_hz=hz) for n, hz in enumerate(left))


def search_words(found: BestFrequency | str, left_out_s: float | None) -> str:
    """One line for people; `left_out_s`: what measuring the other frequencies would have taken, None if unknown."""
    if isinstance(found, str):
        return f"warning: no frequency of least energy is known: {found}"
    low, high = found.saving_ci95
    words = (
        f"least energy at {found.frequency_hz / 1e6:.0f} MHz: {found.saving:.0%} less ({low:.0%} to {high:.0%}) than at"
        f" {found.highest_hz / 1e6:.0f} MHz for {found.slower:+.0%} time; {found.measured} of"
        f" {found.offered} frequencies measured"
    )
    if not found.known:
        return (
            f"warning: {words}; not known yet: up to {found.regret95:.1%} above the true optimum at 95 %; go on with:"
            " profile-device --frequencies best --resume"
        )
    saved = f", about {duration(left_out_s)} saved" if left_out_s and found.measured < found.offered else ""
    return f"{words}{saved}; within {max(found.regret95, 0.001):.1%} of the true optimum at 95 %"

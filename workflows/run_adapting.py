"""A run whose plan follows it: the problem as it was planned, and what happens after each round."""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.card.problem.from_db import Gathered, gather
from cardlab.card.problem.parties import Request
from cardlab.core.errors import CardlabError, UsageError
from cardlab.core.plain import from_plain
from cardlab.core.records.plan import Decision, Plan
from cardlab.db.store import Store
from cardlab.split.journal import FinishedTurn, Journal, Readjustment
from cardlab.split.recording import round_record
from cardlab.split.schedule import Revision, Schedule
from cardlab.workflows.adapting import Adaptation, Adapted
from cardlab.workflows.connect import Say

_AGAIN = "plan again with: card plan --from-db, or leave --adapt out"


def adaptation_of(store: Store, plan: Plan) -> Adaptation:
    """What follows the rounds of a plan. Raises UsageError for a plan whose problem cannot be made again as it was."""
    who = f"plan {plan.uid[:12]}"
    if plan.scheme != "card":
        raise UsageError(
            f"--adapt is for scheme card, and {who} is of {plan.scheme}", remedy="leave --adapt out, or plan another"
        )
    if plan.budget is not None:
        raise UsageError(
            f"--adapt decides each round by itself, and {who} keeps a budget over all of them",
            remedy="leave --adapt out, or plan without a budget",
        )
    if plan.request is None:
        raise UsageError(
            f"{who} does not say what the database was asked for (a scenario, or an older version)", remedy=_AGAIN
        )
    asked = from_plain(Request, plan.request)
    if asked.link is not None:
        raise UsageError(
            f"{who} draws its channel anew each round, which no round before says anything of",
            remedy="plan with the rates of a link, or leave --adapt out",
        )
    found = _made_again(store, plan, asked)
    try:
        return Adaptation(found.problem, plan.rounds[0].devices, found.uncertainty)
    except ValueError as error:
        raise UsageError(f"the database is not what {who} was made of: {error}", remedy=_AGAIN) from error


def _made_again(store: Store, plan: Plan, asked: Request) -> Gathered:
    try:
        found = gather(store, asked)
    except CardlabError as error:
        raise UsageError(f"plan {plan.uid[:12]} cannot be made again: {error.message}", remedy=_AGAIN) from error
    now, then = (set(one.fits) | set(one.runs) | set(one.links) for one in (found, plan))
    if now != then:
        raise UsageError(
            f"the database has other profiles, fits or links than plan {plan.uid[:12]} was made of", remedy=_AGAIN
        )
    return found


class RunAdapting:
    """What happens after each round of such a run. Made from a journal: a run that is resumed goes on as it would have.

    Args:
        journal: keeps what is decided before it is done.
        schedule: is told it.
        say: a line for each change.
    """

    def __init__(self, adaptation: Adaptation, journal: Journal, schedule: Schedule, say: Say) -> None:
        self._adaptation, self._journal, self._schedule, self._say = adaptation, journal, schedule, say
        self._seen = 0

    def closed(self, number: int) -> None:
        """Round `number` is over; so are all before it."""
        while self._seen < number:
            self._seen += 1
            self._observe(self._seen)
            kept = next((r for r in self._journal.readjusted if r.after == self._seen), None)
            if kept is not None:
                self._revise(self._seen, self._adaptation.follow(kept.decisions))
            elif self._seen < number or self._journal.finished_in(number + 1):
                # Rounds of before: nothing was changed after this one.
                self._revise(self._seen, self._adaptation.follow())
            else:
                self._decide(number)

    def _decide(self, number: int) -> None:
        left = self._journal.settings.rounds - number
        if left < 1:
            return
        found = self._adaptation.decide(number + 1, left)
        if found.moved:
            self._journal.readjust(Readjustment(after=number, decisions=found.decisions, lines=found.lines))
        self._revise(number, found)
        for line in found.lines:
            self._say(line)

    def _observe(self, number: int) -> None:
        turns = [turn for turn in self._journal.turns if turn.round == number]
        settings = self._journal.settings
        self._adaptation.observe(number, {self._label(turn): round_record(settings, turn) for turn in turns})

    def _label(self, turn: FinishedTurn) -> str:
        return self._schedule.planned(turn.description.name, turn.description.key)

    def _revise(self, number: int, found: Adapted) -> None:
        self._schedule.revise(
            Revision(
                first=number + 1,
                decisions=_by_label(found.decisions),
                ratios=found.ratios,
                not_predicted=found.not_predicted,
            )
        )


def _by_label(decisions: Sequence[Decision]) -> dict[str, Decision]:
    return {decision.device: decision for decision in decisions}

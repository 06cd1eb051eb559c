"""A plan that follows what its rounds observe: filters for every device and term, and decisions between rounds.

Nothing here reads a clock or a socket: rounds go in as records, decisions come out, and the same rounds give the same
decisions. That is what a run with `--adapt` asks after each round, and what it asks again when it is resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.calibrate.learnt import DEVICE_TERMS, SERVER_TERM, Learner, LearntTerm, observed_in
from cardlab.card.adapting import Hysteresis, Learnt, Move, Place, Readjusted, Standing, places_of, readjusted
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.ratios import TermRatios
from cardlab.card.schemes.card.planning import decisions_at
from cardlab.card.uncertainty import Uncertainty
from cardlab.core.quantity import MEASURED, How
from cardlab.core.records.plan import TERMS, Decision
from cardlab.core.records.training import TrainRound
from cardlab.core.text import percent, si

DRAWS = 100
# A term that is off by less is no reason that anybody would look for.
_AS_PROFILED = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """What the devices do in the next round.

    Attributes:
        decisions: of each device, what they cost predicted from what was learnt.
        ratios: by device and term, what the profile's prediction was multiplied by; only terms that were learnt.
        moved: whether a device does something else than in the round before.
        lines: a line for each of them, and where no choice keeps the limits any more.
        not_predicted: terms that nothing measured says.
    """

    decisions: tuple[Decision, ...]
    ratios: Mapping[str, Mapping[str, float]]
    moved: bool
    lines: tuple[str, ...]
    not_predicted: tuple[str, ...] = ()


class Adaptation:
    """The filters and decisions of one run.

    Args:
        problem: of the plan, every round alike.
        decisions: of the plan, for the devices of the problem in their order.
        uncertainty: of the constants, for a deadline with a confidence.
        hysteresis: what a change must bring.

    Raises ValueError where a decision is no choice of the problem.
    """

    def __init__(
        self,
        problem: Problem,
        decisions: Sequence[Decision],
        uncertainty: Uncertainty | None = None,
        hysteresis: Hysteresis | None = None,
    ) -> None:
        self._problem, self._uncertainty = problem, uncertainty
        self._hysteresis = hysteresis or Hysteresis()
        self._learner = Learner()
        self._places = places_of(problem, decisions)
        self._refusal: str | None = None

    @property
    def terms(self) -> tuple[LearntTerm, ...]:
        """What was learnt so far."""
        return self._learner.terms

    def observe(self, number: int, rounds: Mapping[str, TrainRound]) -> None:
        """The round of that number as each device finished it, by the plan's labels; others are away."""
        self._learner.observe(number, [one for label, r in rounds.items() for one in observed_in(r, label)])

    def follow(self, decisions: Sequence[Decision] | None = None) -> Adapted:
        """Do what was decided before, with what is known now: in a run that is resumed. None: as in the last round."""
        before = self._places
        if decisions is not None:
            self._places = places_of(self._problem, decisions)
        standing = Standing(places=self._places, rounds_left=0, hysteresis=self._hysteresis)
        return self._adapted(readjusted(self._problem, self._learnt(), standing, self._uncertainty), before, ())

    def decide(self, number: int, rounds_left: int) -> Adapted:
        """What the devices do in round `number`, the first of `rounds_left` to come."""
        before = self._places
        standing = Standing(places=before, rounds_left=rounds_left, hysteresis=self._hysteresis)
        found = readjusted(self._problem, self._learnt(), standing, self._uncertainty)
        self._places = found.places
        lines = [self._line(number, move, found.problem) for move in found.moves]
        if found.refusal is not None and self._refusal is None:
            lines.append(f"round {number}: {found.refusal} as things are now: all stays as it was decided")
        self._refusal = found.refusal
        return self._adapted(found, before, tuple(lines))

    def _adapted(self, found: Readjusted, before: tuple[Place, ...], lines: tuple[str, ...]) -> Adapted:
        cuts = self._problem.cuts
        was, new = (cuts[[cut for cut, _ in places]] for places in (before, found.places))
        decisions = decisions_at(found.problem.moved_from(was), found.places)
        unknown = self._problem.unknown_moves(was, new)
        return Adapted(
            decisions=tuple(self._sure(decision) for decision in decisions),
            ratios={label: self._ratios(label) for label in self._problem.devices},
            moved=bool(found.moves),
            lines=lines,
            not_predicted=("switch",) if unknown else (),
        )

    def _terms(self, label: str) -> dict[str, LearntTerm]:
        """What was learnt of the terms of a device's round."""
        found = [self._learner.of(label, term) for term in DEVICE_TERMS] + [self._learner.of("", SERVER_TERM)]
        return {one.term: one for one in found if one is not None}

    def _ratios(self, label: str) -> dict[str, float]:
        return {term: one.level.ratio for term, one in self._terms(label).items()}

    def _sure(self, decision: Decision) -> Decision:
        """The decision with the intervals of a round to come, its noise included."""
        learnt = self._terms(decision.device)
        spans = {}
        for term, one in learnt.items():
            seconds = getattr(decision.delay_terms, term) / one.level.ratio
            spans[term] = (seconds * one.level.round_ci95[0], seconds * one.level.round_ci95[1])
        if not learnt:
            return decision
        provenance = decision.provenance.joined([MEASURED], How.FITTED)
        return replace(decision, terms_ci95=spans, delay_ci95=_whole(decision, spans), provenance=provenance)

    def _learnt(self) -> Learnt:
        labels = self._problem.devices
        ratios = {label: self._ratios(label) for label in labels}
        server = self._learner.of("", SERVER_TERM)
        middle = TermRatios(
            **{term: np.array([ratios[label].get(term, 1.0) for label in labels]) for term in DEVICE_TERMS},
            server=1.0 if server is None else server.level.ratio,
        )
        return Learnt(middle=middle, draws=self._draws)

    def _draws(self) -> list[TermRatios]:
        labels = self._problem.devices
        columns = {
            term: np.array([_or_ones(self._learner.draws(label, term, DRAWS)) for label in labels])
            for term in DEVICE_TERMS
        }
        server = _or_ones(self._learner.draws("", SERVER_TERM, DRAWS))
        return [
            TermRatios(server=float(server[n]), **{term: values[:, n] for term, values in columns.items()})
            for n in range(DRAWS)
        ]

    def _line(self, number: int, move: Move, known: Problem) -> str:
        """A move in words: what changes, and the term that has changed most."""
        label = self._problem.devices[move.device]
        was, new = (decisions_at(known, self._with(move.device, place))[move.device] for place in _both(move))
        parts = [f"cut {was.cut} -> {new.cut}"] if was.cut != new.cut else []
        for name, then_hz, now_hz in (
            ("server", was.frequency_hz, new.frequency_hz),
            ("its own frequency", was.device_frequency_hz, new.device_frequency_hz),
        ):
            if then_hz is not None and now_hz is not None and then_hz != now_hz:
                parts.append(f"{name} {si(then_hz, 'Hz')} -> {si(now_hz, 'Hz')}")
        if move.limit:
            pays = "what was decided no longer keeps a limit"
        else:
            pays = f"{percent(move.gain)} less a round, probability {move.probability:.2f}"
        return f"round {number}: {label} {', '.join(parts)}{self._reason(label, was)} ({pays})"

    def _with(self, device: int, place: Place) -> list[Place]:
        places = list(self._places)
        places[device] = place
        return places

    def _reason(self, label: str, decision: Decision) -> str:
        """The learnt term of the device or of the server that takes or saves most seconds against the profile.

        Where they are as profiled, the one of another device that changed most: devices may be weighed together.
        """
        found = self._terms(label)
        if not self._learner.terms:
            return ""
        by = {
            term: abs(getattr(decision.delay_terms, term) * (1.0 - 1.0 / one.level.ratio))
            for term, one in found.items()
        }
        most = found[max(by, key=lambda term: by[term])] if by else None
        if most is None or abs(most.level.ratio - 1.0) < _AS_PROFILED:
            most = max(self._learner.terms, key=lambda one: abs(one.level.ratio - 1.0))
        whose = {"": "the server's", label: "its"}.get(most.party, f"{most.party}'s")
        since = "" if most.level.since is None else f" since round {most.level.since}"
        return f", {whose} {most.term} term is {most.level.ratio:.2f} x the profile{since}"


def _both(move: Move) -> tuple[Place, Place]:
    return move.before, move.after


def _or_ones(found: np.ndarray | None) -> np.ndarray:
    return np.ones(DRAWS) if found is None else found


def _whole(decision: Decision, spans: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    """The interval of the delay, its terms independent of each other; None where one of the four is not known."""
    if not {*DEVICE_TERMS, SERVER_TERM} <= set(spans):
        return None
    seconds = {term: getattr(decision.delay_terms, term) for term in TERMS}
    below = sum((seconds[term] - low) ** 2 for term, (low, _) in spans.items()) ** 0.5
    above = sum((high - seconds[term]) ** 2 for term, (_, high) in spans.items()) ** 0.5
    return (decision.delay_s - below, decision.delay_s + above)

"""How often rounds lie in the intervals that were predicted for them, term by term, and why they do not.

A share is far from nominal where so few inside would come about once in a hundred runs of a right prediction. Why is
looked for in what the run itself shows, in this order: a frequency other than planned, throttling, a change in the
course of the run, rounds that scatter more than predicted, and else one and the same factor in all rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, median

from cardlab.core.records.checks import predicted_delay_s
from cardlab.core.records.plan import TERMS, Plan
from cardlab.core.records.training import TrainRound
from cardlab.core.text import percent, si

DELAY = "delay"
NOMINAL = 0.95
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.99)
_FAR = 0.01
# A change that a reader would act on, and the share of all variance that cutting a run in two must explain.
_CHANGE = 0.02
_EXPLAINED, _EXPLAINED_OF_FEW, _MANY = 0.55, 0.85, 8
# Rounds that scatter so many times more than predicted were disturbed.
_SCATTER = 1.5
_SAME_HZ = 0.01
_Z95 = 1.96
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TermCoverage:
    """Of how many rounds a term of a device was predicted with an interval, and how many lie in theirs.

    Attributes:
        device: None for all devices.
        term: one of the terms, or "delay".
        rounds, inside: how many.
        reason: why the share is far from nominal; None where it is not.
    """

    device: str | None
    term: str
    rounds: int
    inside: int
    reason: str | None = None

    @property
    def share(self) -> float:
        """Share of rounds inside."""
        return self.inside / self.rounds

    @property
    def far(self) -> bool:
        """Whether so few inside are no chance."""
        return _at_most(self.inside, self.rounds, NOMINAL) < _FAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Of the rounds of one term, the share inside intervals of a nominal level, made from the stored ones of 95 %."""

    term: str
    level: float
    share: float
    rounds: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """One term of one round beside its prediction, seconds."""

    round: TrainRound
    observed_s: float
    predicted_s: float
    ci95: Interval

    @property
    def inside(self) -> bool:
        return self.ci95[0] <= self.observed_s <= self.ci95[1]

    @property
    def score(self) -> float:
        """Deviation in standard deviations of its side of the interval."""
        off = self.observed_s - self.predicted_s
        half = self.ci95[1] - self.predicted_s if off > 0.0 else self.predicted_s - self.ci95[0]
        if half > 0.0:
            return NormalDist().inv_cdf(0.5 + NOMINAL / 2.0) * abs(off) / half
        return 0.0 if off == 0.0 else math.inf

    @property
    def ratio(self) -> float:
        """Logarithm of observed over predicted."""
        return math.log(max(self.observed_s, 1e-12) / max(self.predicted_s, 1e-12))


def coverage_by_term(rounds: Sequence[TrainRound], plan: Plan | None = None) -> tuple[TermCoverage, ...]:
    """Of each device and term that was predicted with an interval, the delay last; with reasons."""
    found = []
    for name in dict.fromkeys(r.device.name for r in rounds):
        mine = [r for r in rounds if r.device.name == name]
        for term in (*TERMS, DELAY):
            seen = _seen(mine, term)
            if not seen:
                continue
            one = TermCoverage(device=name, term=term, rounds=len(seen), inside=sum(s.inside for s in seen))
            if one.far:
                one = TermCoverage(
                    device=name, term=term, rounds=one.rounds, inside=one.inside, reason=_reason(term, seen, plan)
                )
            found.append(one)
    return tuple(found)


def coverage_of_all(rounds: Iterable[TrainRound]) -> tuple[TermCoverage, ...]:
    """The same of all devices and runs together."""
    every = list(rounds)
    found = []
    for term in (*TERMS, DELAY):
        seen = _seen(every, term)
        if seen:
            found.append(TermCoverage(device=None, term=term, rounds=len(seen), inside=sum(s.inside for s in seen)))
    return tuple(found)


def calibration_of(rounds: Iterable[TrainRound]) -> tuple[Calibration, ...]:
    """Share inside at each nominal level, by term: what a calibration plot draws."""
    every = list(rounds)
    found = []
    for term in (*TERMS, DELAY):
        scores = [s.score for s in _seen(every, term)]
        for level in LEVELS if scores else ():
            limit = NormalDist().inv_cdf(0.5 + level / 2.0)
            inside = sum(score <= limit for score in scores)
            found.append(Calibration(term=term, level=level, share=inside / len(scores), rounds=len(scores)))
    return tuple(found)


def _seen(rounds: Iterable[TrainRound], term: str) -> list[_Seen]:
    found = []
    for r in rounds:
        if term == DELAY:
            parts = (r.delay_s, predicted_delay_s(r), r.predicted_delay_ci95)
        else:
            phase = next((p for p in r.phases if p.term == term), None)
            parts = (None, None, None) if phase is None else (phase.observed_s, phase.predicted_s, phase.predicted_ci95)
        observed_s, predicted_s, ci95 = parts
        if observed_s is not None and predicted_s is not None and ci95 is not None:
            found.append(_Seen(r, observed_s, predicted_s, ci95))
    return found


def _reason(term: str, seen: Sequence[_Seen], plan: Plan | None) -> str:
    """Why these rounds are not where they were predicted, in words."""
    return (
        _other_frequency(term, seen, plan)
        or _throttled(term, seen)
        or _changed(seen)
        or _scattered(seen)
        or _always(seen)
    )


def _other_frequency(term: str, seen: Sequence[_Seen], plan: Plan | None) -> str | None:
    if plan is None or term not in ("device", "server", DELAY):
        return None
    off = []
    for one in seen:
        decision = plan.decision(one.round.number, one.round.device.name)
        if decision is None:
            continue
        reading = one.round.device_reading
        own_hz = None if reading is None else reading.frequency_hz
        pairs = [("the server", one.round.frequency_hz, decision.frequency_hz)] if term != "device" else []
        pairs += [("the device", own_hz, decision.device_frequency_hz)] if term != "server" else []
        off += [
            (who, ran_hz, asked_hz)
            for who, ran_hz, asked_hz in pairs
            if ran_hz and asked_hz and abs(ran_hz / asked_hz - 1.0) > _SAME_HZ
        ]
    if 2 * len(off) <= len(seen):
        return None
    who, ran_hz, asked_hz = off[-1]
    return f"another frequency: {who} ran at {si(ran_hz, 'Hz')} where {si(asked_hz, 'Hz')} was planned"


def _throttled(term: str, seen: Sequence[_Seen]) -> str | None:
    if term not in ("device", DELAY):
        return None
    hot = [s for s in seen if s.round.device_reading is not None and s.round.device_reading.throttled]
    return "the device was throttled" if 2 * len(hot) > len(seen) else None


def _changed(seen: Sequence[_Seen]) -> str | None:
    """A drift or a step: cut in two where that says most, the parts differ, and within each little is left."""
    ratios = [s.ratio for s in seen]
    whole = _squares(ratios)
    found = min(
        ((_squares(ratios[:at]) + _squares(ratios[at:]), at) for at in range(2, len(ratios) - 1)),
        default=None,
    )
    if found is None or whole == 0.0:
        return None
    left, at = found
    before, after = median(ratios[:at]), median(ratios[at:])
    # Of few rounds some cut explains much by chance; bursts of other work are explained by no cut.
    explained = 1.0 - left / whole
    if abs(after - before) < _CHANGE or explained < (_EXPLAINED if len(ratios) >= _MANY else _EXPLAINED_OF_FEW):
        return None
    return (
        f"drift: {_percent(before)} against the prediction up to round {seen[at - 1].round.number},"
        f" {_percent(after)} from round {seen[at].round.number} on"
    )


def _squares(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.fsum((v - middle) ** 2 for v in values)


def _scattered(seen: Sequence[_Seen]) -> str | None:
    ratios = [s.ratio for s in seen]
    wide = mean((s.ci95[1] - s.ci95[0]) / (2.0 * _Z95 * max(s.predicted_s, 1e-12)) for s in seen)
    # Other work comes in bursts, which a robust spread would not see, or all the time.
    spread = math.sqrt(_squares(ratios) / max(len(ratios) - 1, 1))
    return _busy(spread, wide) if spread > _SCATTER * wide else None


def _busy(spread: float, wide: float) -> str:
    return f"contention: rounds differ by {percent(spread)} (standard deviation), predicted were {percent(wide)}"


def _always(seen: Sequence[_Seen]) -> str:
    off = median(s.ratio for s in seen)
    return f"{_percent(off)} against the prediction in all rounds: profile this machine again, in the state of the run"


def _percent(ratio: float) -> str:
    return f"{math.expm1(ratio):+.1%}"


def _at_most(successes: int, trials: int, probability: float) -> float:
    """Probability of at most so many successes."""
    one, none, whole = math.log(probability), math.log1p(-probability), math.lgamma(trials + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * one + (trials - k) * none)
        for k in range(successes + 1)
    )

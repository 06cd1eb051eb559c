"""What the rounds of a run teach: a filter for each device and term, and for the server.

A term is held against what the profile predicts of it. Where a round was predicted from what was learnt already, its
prediction says by which ratio, and that is taken out again: a ratio is always one to the profile.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from cardlab.calibrate.learning import LEAST_PRIOR, Array, ChangePoint, Level, LevelFilter, LevelModel
from cardlab.core.records.training import TrainRound

# Of each device; the adapters travel on the same link, and what packs them is not learnt.
DEVICE_TERMS = ("device", "uplink", "downlink")
SERVER_TERM = "server"
LEARNT_TERMS = (*DEVICE_TERMS, SERVER_TERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One term of a round of a device: its logarithm of observed over predicted by the profile.

    Attributes:
        party: the device; "" for the server, which has one ratio for all of them.
        prior_sd: of the prediction, relative, as its interval says; None where it has none.
    """

    party: str
    term: str
    log_ratio: float
    prior_sd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntTerm:
    """What a run taught of one term.

    Attributes:
        party: the device, "" for the server.
        prior_ci95: of the ratio before the first round.
        level: as it is known after the last round.
        changes: that were noticed, in order.
        first, last: rounds in which it was observed.
    """

    party: str
    term: str
    prior_ci95: tuple[float, float]
    level: Level
    changes: tuple[ChangePoint, ...]
    first: int
    last: int

    @property
    def window(self) -> tuple[int, int]:
        """Rounds that the level rests on: those since the last change."""
        return (max(self.first, self.level.since or self.first), self.last)


def observed_in(finished: TrainRound, party: str) -> tuple[Observed, ...]:
    """The terms of a device's round that were both observed and predicted; `party` is what the device is called."""
    found = []
    for phase in finished.phases:
        seen_s, predicted_s = phase.observed_s, phase.predicted_s
        if phase.term not in LEARNT_TERMS or not seen_s or not predicted_s or min(seen_s, predicted_s) <= 0.0:
            continue
        spread = None
        if phase.predicted_ci95 is not None:
            spread = (phase.predicted_ci95[1] - phase.predicted_ci95[0]) / (2.0 * 1.96 * predicted_s)
        found.append(
            Observed(
                party="" if phase.term == SERVER_TERM else party,
                term=phase.term,
                log_ratio=math.log(seen_s / predicted_s * (phase.predicted_ratio or 1.0)),
                prior_sd=spread,
            )
        )
    return tuple(found)


class Learner:
    """Filters by device and term; rounds are told in their order. `model`: what is assumed of each, but its prior."""

    def __init__(self, model: LevelModel | None = None) -> None:
        self._model = model or LevelModel()
        self._filters: dict[tuple[str, str], LevelFilter] = {}
        self._priors: dict[tuple[str, str], float] = {}
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}
        self._last = 0

    def observe(self, number: int, seen: Iterable[Observed]) -> None:
        """Everything that was observed in a round. What several devices saw of the server counts once, as median."""
        by_term: dict[tuple[str, str], list[Observed]] = {}
        for one in seen:
            by_term.setdefault((one.party, one.term), []).append(one)
        for key, found in by_term.items():
            if key not in self._filters:
                self._begin(key, found, number)
            self._filters[key].observe(number, median(one.log_ratio for one in found))
            self._seen[key] = (self._seen.get(key, (number, number))[0], number)
        self._last = number

    def _begin(self, key: tuple[str, str], found: Sequence[Observed], number: int) -> None:
        known = [one.prior_sd for one in found if one.prior_sd is not None]
        self._priors[key] = max([LEAST_PRIOR, *known])
        # Rounds in which nothing was seen of it are no rounds of its own: it begins with its first.
        self._filters[key] = LevelFilter(replace(self._model, prior_sd=self._priors[key]), before=number - 1)

    def of(self, party: str, term: str) -> LearntTerm | None:
        """What is known of a term; None where it was never observed beside a prediction."""
        found = self._filters.get((party, term))
        if found is None:
            return None
        first, last = self._seen[party, term]
        spread = 1.96 * self._priors[party, term]
        return LearntTerm(
            party=party,
            term=term,
            prior_ci95=(math.exp(-spread), math.exp(spread)),
            level=found.level,
            changes=found.changes,
            first=first,
            last=last,
        )

    @property
    def terms(self) -> tuple[LearntTerm, ...]:
        """Everything that was learnt, in the order of devices and terms as they were first seen."""
        found = [self.of(*key) for key in self._filters]
        return tuple(one for one in found if one is not None)

    def draws(self, party: str, term: str, count: int) -> Array | None:
        """Ratios [count] as likely as they are held; the same for the same rounds. None as `of`."""
        found = self._filters.get((party, term))
        digest = hashlib.sha256(f"{party}/{term}/{self._last}".encode()).digest()
        return None if found is None else found.draws(count, int.from_bytes(digest[:8], "little"))

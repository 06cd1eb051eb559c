"""What observed rounds say of a constant: a filter of one logarithm, observed over predicted.

    x(t) = x(t-1) + drift                          the level: log of true over predicted by the profile
    x(t) ~ N(0, change)      with probability h    a change point: throttling, another link, a busy host
    z(t) = x(t) + noise                            one round; with a small probability a wild one, far off

The prior of x(0) is the profile's own uncertainty, and with a small probability that of a change point: what was
measured last month may be off today. How much rounds scatter is not known and is filtered beside x, over a few values.
The posterior is a sum of normal distributions, each of them one history: when the level last changed, which rounds were
wild. A history that has become unlikely is dropped; histories that differ only in older rounds are joined by their
moments. So a round that is far off leaves two modes (it was wild, or something has changed), and the next one decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
# Runs of one device in one state differ by 1 to 3 %: no profile says more than that of a run to come.
LEAST_PRIOR = 0.03
# Histories that are kept; the weight below the best at which one is dropped.
_MOST, _DROPPED = 160, 1e-7
# Rounds for which histories of one change point stay apart.
_APART = 3
# A change point is told once the histories that have it hold this share.
_SURE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelModel:
    """What is assumed of a level before any round; standard deviations of logarithms, so about relative ones.

    Attributes:
        prior_sd: of the profile against the run that begins.
        surprise: probability that the run begins as if after a change point.
        change: probability of a change point in a round; change_sd: of a level after one, about the profile's.
        drift_sd: of what a level moves from one round to the next.
        noise_sd: of a round about the level; the values that are held possible, all alike.
        wild: probability of a round that is off by far more; wild_sd: by how much.
    """

    prior_sd: float = LEAST_PRIOR
    surprise: float = 0.02
    change: float = 0.02
    change_sd: float = 0.7
    drift_sd: float = 0.002
    noise_sd: tuple[float, ...] = (0.005, 0.01, 0.02, 0.04, 0.08)
    wild: float = 0.05
    wild_sd: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePoint:
    """A change that was noticed.

    Attributes:
        round: from which the new level holds.
        noticed: round after which that was known.
        before, after: ratio to the profile on both sides, as it was known then.
    """

    round: int
    noticed: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What is known of a level.

    Attributes:
        ratio: of the true value to that of the profile, the median; ci95: of the true value.
        round_ci95: of the next round's, its noise included.
        since: round from which it holds, None where no change was noticed.
        noise: relative standard deviation of a round about it.
        rounds: that were observed.
    """

    ratio: float
    ci95: tuple[float, float]
    round_ci95: tuple[float, float]
    since: int | None
    noise: float
    rounds: int


@dataclass(frozen=True, slots=True)
class _Histories:
    """Weights, means and variances of the level in each history, its noise (index) and round of its last change."""

    weight: Array
    mean: Array
    variance: Array
    noise: Index
    since: Index

    def taken(self, which: Index) -> _Histories:
        """Only these."""
        return _Histories(
            self.weight[which], self.mean[which], self.variance[which], self.noise[which], self.since[which]
        )

    def beside(self, other: _Histories) -> _Histories:
        """These and those."""
        return _Histories(
            np.concatenate((self.weight, other.weight)),
            np.concatenate((self.mean, other.mean)),
            np.concatenate((self.variance, other.variance)),
            np.concatenate((self.noise, other.noise)),
            np.concatenate((self.since, other.since)),
        )


class LevelFilter:
    """The filter of one constant; rounds are told in their order.

    Args:
        model: what is assumed.
        before: round before the first that is told; change points are counted from the one after it.
    """

    def __init__(self, model: LevelModel | None = None, before: int = 0) -> None:
        self._model = model or LevelModel()
        self._now, self._rounds = before, 0
        self._level: Level | None = None
        self._changes: list[ChangePoint] = []
        # As it was known after each round: the profile's before the first.
        self._medians: dict[int, float] = {before: 1.0}
        one, noises = self._model, np.arange(len(self._model.noise_sd))
        each: Array = np.full(noises.size, 1.0 / noises.size)
        known = _Histories(each * (1.0 - one.surprise), 0.0 * each, 0.0 * each + one.prior_sd**2, noises, 0 * noises)
        # From the first round on: the profile is of another day.
        surprised = _Histories(
            each * one.surprise, 0.0 * each, 0.0 * each + one.change_sd**2, noises, 0 * noises + before + 1
        )
        self._histories = known.beside(surprised)

    @property
    def changes(self) -> tuple[ChangePoint, ...]:
        """Changes that were noticed, in order."""
        return tuple(self._changes)

    @property
    def rounds(self) -> int:
        """Rounds that were observed."""
        return self._rounds

    def observe(self, number: int, log_ratio: float) -> None:
        """Round `number`, later than those before: the logarithm of observed over predicted by the profile.

        Raises ValueError for an earlier round, or a logarithm that is not finite.
        """
        if number <= self._now or not np.isfinite(log_ratio):
            raise ValueError(f"round {number} after {self._now} with a logarithm of {log_ratio}")
        for _ in range(self._now, number):
            self._now += 1
            self._histories = self._moved_on(self._histories)
        self._histories = self._reduced(self._weighed(self._histories, log_ratio))
        self._rounds, self._level = self._rounds + 1, None
        self._medians[number] = float(np.exp(self._quantiles(np.array([0.5]))[0]))
        self._notice()

    @property
    def level(self) -> Level:
        """What is known now."""
        if self._level is None:
            self._level = self._known()
        return self._level

    def _known(self) -> Level:
        low, middle, high = np.exp(self._quantiles(np.array([0.025, 0.5, 0.975])))
        noise = np.array(self._model.noise_sd)[self._histories.noise]
        next_low, next_high = np.exp(self._quantiles(np.array([0.025, 0.975]), noise**2 + self._model.drift_sd**2))
        return Level(
            ratio=float(middle),
            ci95=(float(low), float(high)),
            round_ci95=(float(next_low), float(next_high)),
            since=self._changes[-1].round if self._changes else None,
            noise=float(self._histories.weight @ noise),
            rounds=self._rounds,
        )

    def draws(self, count: int, seed: int) -> Array:
        """Ratios [count] as likely as the filter holds them, in an order that the seed decides."""
        even = (np.arange(count) + 0.5) / count
        return np.asarray(np.exp(np.random.default_rng(seed).permutation(self._quantiles(even))))

    def _moved_on(self, found: _Histories) -> _Histories:
        """A round later, before anything is seen of it."""
        model, noises = self._model, np.arange(len(self._model.noise_sd))
        whole: Array = np.bincount(found.noise, found.weight, noises.size).astype(np.float64)
        stayed = _Histories(
            found.weight * (1.0 - model.change),
            found.mean,
            found.variance + model.drift_sd**2,
            found.noise,
            found.since,
        )
        changed = _Histories(
            whole * model.change, 0.0 * whole, 0.0 * whole + model.change_sd**2, noises, 0 * noises + self._now
        )
        return stayed.beside(changed)

    def _weighed(self, found: _Histories, z: float) -> _Histories:
        """Each history twice: the round was an ordinary one, or a wild one."""
        model, noise = self._model, np.array(self._model.noise_sd)[found.noise] ** 2
        both = found.beside(found)
        spread = np.concatenate((noise, noise + model.wild_sd**2))
        share = np.repeat([1.0 - model.wild, model.wild], noise.size)
        total = both.variance + spread
        likely = -0.5 * ((z - both.mean) ** 2 / total + np.log(total))
        gain = both.variance / total
        return _Histories(
            # However far off a round is, one history explains it best.
            both.weight * share * np.exp(likely - likely.max()),
            both.mean + gain * (z - both.mean),
            both.variance * spread / total,
            both.noise,
            both.since,
        )

    def _reduced(self, found: _Histories) -> _Histories:
        """Older histories joined, unlikely ones dropped, weights to one."""
        found = _normal(found)
        old = found.since <= self._now - _APART
        kept = _joined(found.taken(np.flatnonzero(old))).beside(found.taken(np.flatnonzero(~old)))
        order = np.argsort(-kept.weight, kind="stable")[:_MOST]
        return _normal(kept.taken(order[kept.weight[order] > _DROPPED * kept.weight.max()]))

    def _notice(self) -> None:
        """Tell a change point once it is sure when the level that holds now began."""
        since, weight = self._histories.since, self._histories.weight
        last = self._changes[-1].round if self._changes else 0
        newer = since > last
        if float(weight[newer].sum()) < _SURE:
            return
        began = int(np.argmax(np.bincount(since[newer], weight[newer])))
        before = self._medians[max(number for number in self._medians if number < began)]
        self._changes.append(ChangePoint(round=began, noticed=self._now, before=before, after=self._medians[self._now]))

    def _quantiles(self, shares: Array, more: Array | float = 0.0) -> Array:
        """Levels below which these shares of the posterior lie; `more`: variance added to each history."""
        weight, mean = self._histories.weight, self._histories.mean
        sd = np.sqrt(self._histories.variance + more)
        likely = weight > 1e-5
        weight, mean, sd = weight[likely] / weight[likely].sum(), mean[likely], sd[likely]
        low, high = float((mean - 6.0 * sd).min()), float((mean + 6.0 * sd).max())
        lows, highs = np.full(shares.shape, low), np.full(shares.shape, high)
        # Halved until they are told apart: exact for modes however narrow they are.
        for _ in range(40):
            middle = 0.5 * (lows + highs)
            below = ndtr((middle[:, None] - mean) / sd) @ weight < shares
            lows, highs = np.where(below, middle, lows), np.where(below, highs, middle)
        return np.asarray(0.5 * (lows + highs))


def _normal(found: _Histories) -> _Histories:
    return _Histories(found.weight / found.weight.sum(), found.mean, found.variance, found.noise, found.since)


def _joined(found: _Histories) -> _Histories:
    """One history for each noise and change point, of the same mean and variance."""
    if not found.weight.size:
        return found
    keys, inverse = np.unique(np.stack([found.noise, found.since]), axis=1, return_inverse=True)
    places = inverse.ravel()
    weight: Array = np.bincount(places, found.weight).astype(np.float64)
    # What no weight is left of is dropped anyway, and must not divide by zero.
    whole = np.maximum(weight, 1e-300)
    mean = np.bincount(places, found.weight * found.mean) / whole
    square = np.bincount(places, found.weight * (found.variance + (found.mean - mean[places]) ** 2)) / whole
    return _Histories(weight, mean, square, keys[0], keys[1])

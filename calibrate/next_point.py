"""Where to measure next, so that the frequency of least energy is known after few points.

What is believed of power and time after some points is a mixture: every candidate law at every shape of its grid is a
Gaussian process over the offered frequencies,

    y(f) = sum_j beta_j phi_j(f; theta) + g(f),    beta_j ~ N(0, (2 y)^2),    g ~ GP(0, (8 % y)^2)

conditioned on the points and weighed by how likely it made them. g is what no law of the list says: real voltages come
in steps, real latencies bend. Curves of energy P(f) t(f) are drawn from the mixture. In each draw, choosing frequency f
costs the regret E(f) / min E - 1; the point to measure is the one after which the expected regret of the then best
choice is least (the knowledge gradient; Frazier, Powell and Dayanik 2008). Frequencies in Hz, power in W, time in s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from cardlab.core.errors import BadDataError
from cardlab.core.laws.base import Array, SeparableLaw
from cardlab.core.laws.latency import AffineInverse
from cardlab.core.laws.power import PowerLaw, Ridge, StaticCubic, StaticLinearCubic

Mask = NDArray[np.bool_]
# The optimum counts as known when the chosen frequency spends at most this much more than the best, at 95 %.
KNOWN = 0.02
# Three points fit nearly every law.
LEAST_POINTS = 5
DRAWS = 400
_SEED = 20241130
# What no law says, and how far along log f it stays alike.
_DEVIATION, _REACH = 0.08, 0.25
_WIDTH = 2.0
# A standard error of few samples is uncertain itself: no point is better known than this.
_LEAST_ERROR = 0.003
_BINS = 8
# Begun with: both ends, because beyond the points nothing is known, and one between.
_FIRST = (1.0, 0.0, 0.55)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """A piece of work at one frequency.

    Attributes:
        frequency_hz: as offered by the device.
        power_w, seconds: while it runs, and how long it takes.
        power_error, seconds_error: relative standard errors, 0 where they are not known.
    """

    frequency_hz: float
    power_w: float
    seconds: float
    power_error: float = 0.0
    seconds_error: float = 0.0


class Seen(NamedTuple):
    """A value at one offered frequency, and its relative standard error, 0 where that is not known."""

    frequency_hz: float
    value: float
    error: float = 0.0


@dataclass(frozen=True)
class Belief:
    """What is believed of the energy of a piece of work.

    Attributes:
        offered_hz: [G], ascending.
        seconds, energies_j: [D, G], one drawn curve a row.
        measured: bool [G].
    """

    offered_hz: Array
    seconds: Array
    energies_j: Array
    measured: Mask

    @cached_property
    def regrets(self) -> Array:
        """[D, G]: what a frequency spends more than the best one of its draw, as a share."""
        return np.asarray(self.energies_j / self.energies_j.min(axis=1, keepdims=True) - 1.0)

    @property
    def best(self) -> int:
        """Place of the frequency of least expected regret."""
        return int(np.argmin(self.regrets.mean(axis=0)))

    @property
    def best_hz(self) -> float:
        """Frequency of least expected regret."""
        return float(self.offered_hz[self.best])

    @property
    def regret95(self) -> float:
        """Bound of its regret that holds with 95 %."""
        return float(np.quantile(self.regrets[:, self.best], 0.95))

    @property
    def known(self) -> bool:
        """Whether the optimum is known well enough."""
        return bool(self.measured.all()) or (int(self.measured.sum()) >= LEAST_POINTS and self.regret95 <= KNOWN)

    def saving(self, than: int = -1) -> tuple[float, float, float]:
        """Share of the energy at that place (the highest frequency) that the best one saves: mean, 2.5 % and 97.5 %."""
        shares = 1.0 - self.energies_j[:, self.best] / self.energies_j[:, than]
        low, high = np.quantile(shares, (0.025, 0.975))
        return float(shares.mean()), float(low), float(high)

    def next_hz(self) -> float | None:
        """Frequency whose measurement lowers the expected regret most; None where all were measured."""
        left = np.flatnonzero(~self.measured)
        if not left.size:
            return None
        noise = np.random.default_rng(_SEED).standard_normal(len(self.energies_j))
        return float(self.offered_hz[min(left, key=lambda place: self._after(int(place), noise))])

    def _after(self, place: int, noise: Array) -> float:
        """Expected regret of the best choice once that frequency was measured."""
        # Draws that would show about the same value there stay together: they are what would still be believed.
        seen = self.energies_j[:, place] * (1.0 + _LEAST_ERROR * noise)
        groups = np.array_split(np.argsort(seen), _BINS)
        return float(np.mean([self.regrets[group].mean(axis=0).min() for group in groups]))


def first_points(offered_hz: Sequence[float]) -> tuple[float, ...]:
    """The frequencies to begin with, in the order of visit; all of three and fewer."""
    if len(offered_hz) <= len(_FIRST):
        return tuple(sorted(offered_hz, reverse=True))
    ordered = sorted(offered_hz)
    return tuple(dict.fromkeys(ordered[round(share * (len(ordered) - 1))] for share in _FIRST))


def believe(offered_hz: Sequence[float], points: Sequence[StepPoint]) -> Belief:
    """What these points say of the energy at every offered frequency.

    Raises BadDataError for fewer than two measured frequencies.
    """
    if len({point.frequency_hz for point in points}) < 2:
        raise BadDataError("one frequency says nothing of the others", remedy="measure at two or more")
    offered = np.asarray(sorted(offered_hz), dtype=float)
    at = np.asarray([int(np.argmin(np.abs(offered - point.frequency_hz))) for point in points])
    draw = np.random.default_rng(_SEED)
    measured = np.zeros(offered.size, dtype=bool)
    measured[at] = True
    times = drawn_seconds(offered, [Seen(p.frequency_hz, p.seconds, p.seconds_error) for p in points], draw)
    powers = drawn_powers(offered, [Seen(p.frequency_hz, p.power_w, p.power_error) for p in points], draw)
    return Belief(offered, times, powers * times, measured)


def drawn_seconds(offered_hz: Array, seen: Sequence[Seen], draw: np.random.Generator) -> Array:
    """Curves of the time of a piece of work [DRAWS, G] that agree with what was seen."""
    return _curves(offered_hz, seen, (AffineInverse(),)).drawn(draw)


def drawn_powers(offered_hz: Array, seen: Sequence[Seen], draw: np.random.Generator) -> Array:
    """Curves of a power [DRAWS, G] that agree with what was seen."""
    return _curves(offered_hz, seen, (StaticCubic(), StaticLinearCubic(), PowerLaw(), Ridge())).drawn(draw)


def _curves(offered_hz: Array, seen: Sequence[Seen], laws: Sequence[SeparableLaw]) -> _Curves:
    at = np.asarray([int(np.argmin(np.abs(offered_hz - one.frequency_hz))) for one in seen])
    values, errors = np.asarray([one.value for one in seen]), np.asarray([one.error for one in seen])
    return _Curves(offered_hz, at, values, errors, laws)


class _Curves:
    """One quantity over the offered frequencies; `at`: places of its values among them."""

    def __init__(self, offered: Array, at: Array, values: Array, errors: Array, laws: Sequence[SeparableLaw]) -> None:
        self._offered, self._at, self._values, self._laws = offered, at, values, laws
        sizes = np.maximum(errors, _LEAST_ERROR) * values
        self._noise = np.diag(sizes**2)
        # Between the points the size of a deviation follows the values.
        order = np.argsort(offered[at], kind="stable")
        scale = np.exp(np.interp(np.log(offered), np.log(offered[at][order]), np.log(values[order])))
        apart = np.subtract.outer(np.log(offered), np.log(offered))
        self._deviation = (_DEVIATION**2) * np.outer(scale, scale) * np.exp(-0.5 * (apart / _REACH) ** 2)
        self._width = _WIDTH * float(np.max(values))

    def drawn(self, draw: np.random.Generator) -> Array:
        """Curves [DRAWS, G], positive."""
        priors = list(self._priors())
        logs = np.asarray([prior.log_likelihood for prior in priors])
        shares = np.exp(logs - logs.max()) * np.asarray([prior.share for prior in priors])
        counts = draw.multinomial(DRAWS, shares / shares.sum())
        found = [priors[place].drawn(int(count), draw) for place, count in enumerate(counts) if count]
        curves = np.concatenate(found)
        # In any order: draws of power and time are paired by their place.
        draw.shuffle(curves)
        return np.maximum(curves, 0.05 * float(np.min(self._values)))

    def _priors(self) -> Iterator[_Conditioned]:
        span = self._offered[[0, -1]]
        for law in self._laws:
            bound = law.bound_to(span, span)
            assert isinstance(bound, SeparableLaw)
            shapes = bound.shape_grid(self._offered)
            bases = np.broadcast_to(
                bound.basis(self._offered, shapes), (len(shapes), len(bound.linear), self._offered.size)
            )
            for basis in bases:
                columns = basis / np.max(basis, axis=-1, keepdims=True)
                covariance = self._width**2 * columns.T @ columns + self._deviation
                yield _Conditioned(covariance, self._at, self._values, self._noise, 1.0 / len(shapes))


class _Conditioned:
    """A Gaussian process over the offered frequencies, given values at some of them.

    Attributes:
        log_likelihood: of the values, but for what is the same for all.
        share: of the prior.
    """

    def __init__(self, covariance: Array, at: Array, values: Array, noise: Array, share: float) -> None:
        self._covariance, self._at, self.share = covariance, at, share
        self._factor = cho_factor(covariance[np.ix_(at, at)] + noise, lower=True)
        self._weights = cho_solve(self._factor, values)
        determinant = 2.0 * float(np.sum(np.log(np.diag(self._factor[0]))))
        self.log_likelihood = -0.5 * (float(values @ self._weights) + determinant)

    def drawn(self, count: int, draw: np.random.Generator) -> Array:
        """That many curves [count, G]."""
        across = self._covariance[:, self._at]
        mean = across @ self._weights
        left = self._covariance - across @ cho_solve(self._factor, across.T)
        values, vectors = np.linalg.eigh(0.5 * (left + left.T))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        return np.asarray(mean + draw.standard_normal((count, mean.size)) @ root.T)

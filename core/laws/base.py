"""A law is a curve y(x; p) that knows its equation, units, bounds, derivatives and needs.

Every parametric law here is *separable*: a non-negative combination of basis curves,

    y(x; beta, theta) = sum_j beta_j phi_j(x; theta),

linear in beta and, for a few laws, bent by one or two shape parameters theta. That form is what makes
fitting cheap and safe: for a given theta the best beta is a small non-negative least-squares problem
with one solution, so only theta has to be searched (variable projection, Golub and Pereyra 1973).

Shapes: x is [n] (Hz for frequencies); parameters are [..., p], linear ones first, then shape ones;
values are [..., n], so one call evaluates 200 draws on a whole grid.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a law: name, unit, meaning and the range physics allows."""

    name: str
    unit: str
    meaning: str
    lower: float = 0.0
    upper: float = math.inf


class Law(ABC):
    """A named curve. Instances are immutable; `bound_to` fixes constants taken from the data.

    Attributes:
        name: identifier, unique over all laws.
        quantities: what it may describe ("power", "wait_power", "latency", "accuracy").
        equation: plain text, with the symbols of `parameters`.
        min_points: distinct x that make the law identifiable with one to spare.
        min_span: least max(x)/min(x) that makes it identifiable.
        complexity: effective number of parameters, the tie-breaker of the selection.
    """

    name: ClassVar[str]
    quantities: ClassVar[tuple[str, ...]]
    equation: ClassVar[str]
    min_points: ClassVar[int]
    min_span: ClassVar[float] = 1.0
    complexity: ClassVar[float]

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters in the order of the parameter vector."""

    @abstractmethod
    def evaluate(self, x: Array, params: Array) -> Array:
        """Values [..., n] at x [n] for parameters [..., p]."""

    @abstractmethod
    def jacobian(self, x: Array, params: Array) -> Array:
        """Derivatives [..., n, p] of the values by the parameters."""

    @abstractmethod
    def start(self, x: Array, y: Array) -> Array:
        """Candidate parameter vectors [k, p] to start a search from."""

    def bound_to(self, x: Array, y: Array) -> Law:
        """This law with constants (a reference frequency, knots) taken from the data."""
        del x, y
        return self

    @property
    def constants(self) -> Mapping[str, tuple[float, ...]]:
        """Constants that `law_named` needs to build the same law again."""
        return {}

    def identifiable(self, x: Array) -> bool:
        """Whether these x suffice: enough distinct values over enough of a span."""
        distinct = np.unique(x)
        # Too narrow a span leaves f and f^3 indistinguishable however many points there are.
        if distinct.size < self.min_points:
            return False
        return bool(distinct[-1] >= self.min_span * distinct[0])

    @property
    def lower(self) -> Array:
        """Lower bounds [p]."""
        return np.array([p.lower for p in self.parameters])

    @property
    def upper(self) -> Array:
        """Upper bounds [p]."""
        return np.array([p.upper for p in self.parameters])


class SeparableLaw(Law):
    """A law of the form sum_j beta_j phi_j(x; theta), beta first in the parameter vector.

    `linear` describes the beta_j, `shape` the theta; a subclass gives `basis` and, if it has a
    shape, `basis_slope` and `shape_grid`.
    """

    linear: ClassVar[tuple[Parameter, ...]]
    shape: ClassVar[tuple[Parameter, ...]] = ()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Linear parameters, then shape parameters."""
        return self.linear + self.shape

    @abstractmethod
    def basis(self, x: Array, theta: Array) -> Array:
        """Basis curves [..., k, n] at x [n] for shapes [..., q]."""

    def basis_slope(self, x: Array, theta: Array) -> Array:
        """Derivatives [..., q, k, n] of the basis by the shape parameters."""
        return np.zeros((*theta.shape[:-1], 0, len(self.linear), x.size))

    def shape_grid(self, x: Array) -> Array:
        """Shapes [g, q] to search for data at x; one empty shape if there is none."""
        del x
        return np.zeros((1, 0))

    def evaluate(self, x: Array, params: Array) -> Array:
        """Values [..., n] at x [n] for parameters [..., p]."""
        beta, theta = self._split(params)
        values: Array = np.einsum("...k,...kn->...n", beta, self.basis(np.asarray(x, float), theta))
        return values

    def jacobian(self, x: Array, params: Array) -> Array:
        """Derivatives [..., n, p]: the basis itself, then beta times its slope."""
        beta, theta = self._split(params)
        x = np.asarray(x, float)
        by_beta = np.swapaxes(self.basis(x, theta), -1, -2)
        if not self.shape:
            return by_beta
        by_theta = np.einsum("...k,...qkn->...nq", beta, self.basis_slope(x, theta))
        return np.concatenate([by_beta, by_theta], axis=-1)

    def start(self, x: Array, y: Array) -> Array:
        """Unconstrained linear least squares for every shape of the grid, clipped to the bounds."""
        grid = self.shape_grid(x)
        basis = np.broadcast_to(self.basis(x, grid), (len(grid), len(self.linear), x.size))
        rows = []
        # Dividing by y makes the residuals relative, as the noise is.
        for theta, curves in zip(grid, basis, strict=True):
            columns = (curves / y).T
            size = np.linalg.norm(columns, axis=0)
            beta, *_ = np.linalg.lstsq(columns / size, np.ones_like(y), rcond=None)
            rows.append(np.concatenate([np.maximum(beta / size, 0.0), theta]))
        return np.array(rows)

    def _split(self, params: Array) -> tuple[Array, Array]:
        params = np.asarray(params, float)
        count = len(self.linear)
        return params[..., :count], params[..., count:]


def stack(shape: tuple[int, ...], *curves: Any) -> Array:
    """Basis [..., k, n] from curves that broadcast to `shape` [..., n]."""
    return np.stack([np.broadcast_to(curve, shape) for curve in curves], axis=-2)

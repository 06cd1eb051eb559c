"""The points of one sweep, checked once, with the weights a fit gives them.

Electrical and timing noise scales with the value, so errors are relative: the standard deviation of
point i is sigma_i = sigma * y_i unless measured standard errors are given. A meter that reports in
steps of q adds the variance q^2/12 of a uniform rounding error, which no averaging over one constant
reading removes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cardlab.core.errors import BadDataError
from cardlab.core.identity import content_hash
from cardlab.core.laws.base import Array

# Boards read back a requested frequency to about 0.1 %, and offer steps of 1 % and more.
SAME_CLOCK = 0.003
# The anchor repeats the first point at the end: more than this is heat or a changed machine.
DRIFT = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepData:
    """Points sorted by x.

    Attributes:
        x, y: [n].
        stderr: measured standard errors [n] in the unit of y, None if unknown.
        quantisation: step of the meter in the unit of y, None if unknown.
        frequency: group number [n]; readings within 0.3 % of one frequency share it.
        warnings: what was left out and why.
    """

    x: Array
    y: Array
    stderr: Array | None = None
    quantisation: float | None = None
    clock: Array
    warnings: tuple[str, ...] = ()

    @property
    def clocks(self) -> int:
        """Distinct frequencies."""
        return int(self.clock[-1]) + 1

    @property
    def data_hash(self) -> str:
        """Content identity of the points."""
        stderr = None if self.stderr is None else self.stderr.tolist()
        return content_hash([self.x.tolist(), self.y.tolist(), stderr, self.quantisation])

    @property
    def known_noise(self) -> Array | None:
        """Relative standard deviation [n] of each point that was measured, None if it was not.

        A standard error from a handful of repeats is itself uncertain, so each is averaged (in
        variance) with the median of the sweep; a lucky small one cannot own the fit.
        """
        if self.stderr is None:
            return None
        variance = (self.stderr / self.y) ** 2
        # A standard error from few repeats is uncertain itself.
        variance = 0.5 * (variance + np.median(variance)) + self.rounding**2
        return np.asarray(np.sqrt(variance)) if np.all(variance > 0) else None

    @property
    def rounding(self) -> Array:
        """Relative standard deviation [n] of rounding to the meter's step."""
        step = self.quantisation or 0.0
        return np.asarray(step / np.sqrt(12.0) / self.y)


def prepare(
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_name: str = "frequency_hz",
    y_name: str = "power_w",
    stderr: ArrayLike | None = None,
    quantisation: float | None = None,
    throttled: Sequence[bool | None] | None = None,
) -> SweepData:
    """Check, sort and group the points of a sweep.

    Points marked throttled are left out as long as three frequencies remain, with a warning.

    Raises:
        BadDataError: empty, of unequal length, not finite or not positive; the message names the point.
    """
    xs, ys = _column(x, x_name), _column(y, y_name)
    if xs.size == 0:
        raise BadDataError("there are no points", remedy="measure or import a sweep first")
    _same_length(xs, ys, x_name, y_name)
    errors = None if stderr is None else _column(stderr, f"stderr of {y_name}", positive=False)
    if errors is not None:
        _same_length(xs, errors, x_name, f"stderr of {y_name}")
    if quantisation is not None and not quantisation >= 0:
        raise BadDataError(f"quantisation is {quantisation!r}", remedy="give the meter's step, or None")
    keep, warnings = _unthrottled(xs, throttled)
    warnings += _drift(xs[keep], ys[keep])
    order = np.flatnonzero(keep)[np.argsort(xs[keep], kind="stable")]
    xs, ys = xs[order], ys[order]
    errors = None if errors is None else errors[order]
    # Sorted values belong to one frequency until the next gap.
    gaps = np.diff(xs) > SAME_CLOCK * xs[:-1]
    clock = np.concatenate([[0], np.cumsum(gaps)])
    return SweepData(x=xs, y=ys, stderr=errors, quantisation=quantisation, clock=clock, warnings=tuple(warnings))


def _column(values: ArrayLike, name: str, *, positive: bool = True) -> Array:
    try:
        column = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise BadDataError(f"{name} holds something that is not a number", remedy=str(error)) from error
    if column.ndim != 1:
        raise BadDataError(f"{name} has {column.ndim} dimensions", remedy="give a flat list of numbers")
    bad = np.flatnonzero(~np.isfinite(column) | (column <= 0 if positive else column < 0))
    if bad.size:
        what = "positive" if positive else "non-negative"
        raise BadDataError(
            f"point {bad[0] + 1}: {name} is {column[bad[0]]:g}", remedy=f"it must be a {what}, finite number"
        )
    return column


def _same_length(a: Array, b: Array, a_name: str, b_name: str) -> None:
    if a.size != b.size:
        raise BadDataError(f"{a_name} has {a.size} values and {b_name} {b.size}", remedy="give one of each per point")


def _drift(x: Array, y: Array) -> list[str]:
    """A line per frequency that was measured again later (the anchor) and had moved by more than 2 %."""
    lines = []
    for i, clock in enumerate(x):
        again = np.flatnonzero(np.abs(x / clock - 1.0) < SAME_CLOCK)
        if again.size > 1 and again[0] == i:
            change = float(y[again[-1]] / y[i]) - 1.0
            if abs(change) > DRIFT:
                lines.append(f"the repeat at {clock / 1e6:.0f} MHz had drifted by {100 * change:+.1f} %")
    return lines


def _unthrottled(x: Array, throttled: Sequence[bool | None] | None) -> tuple[Array, list[str]]:
    keep = np.ones(x.size, dtype=bool)
    if throttled is None or not any(throttled):
        return keep, []
    if len(throttled) != x.size:
        raise BadDataError(
            f"throttled has {len(throttled)} values for {x.size} points", remedy="give one flag per point"
        )
    flagged = np.array([bool(flag) for flag in throttled])
    count = int(flagged.sum())
    # Leaving out all but two frequencies would trade a flagged fit for none.
    if np.unique(x[~flagged]).size < 3:
        return keep, [f"{count} throttled points kept: too few frequencies remain without them"]
    return ~flagged, [f"{count} throttled points left out"]

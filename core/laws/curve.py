"""Curves that are not functions of a frequency.

    kept:       y = share              one codec, as it was measured
    multiple:   y = ratio              what a run taught of a term, against its prediction
    saturating: y = a - b exp(-k r)    a family of codecs

rises from a - b to a: accuracy against the fraction r of activation bytes that is kept.
"""

from __future__ import annotations

import numpy as np

from cardlab.core.laws.base import Array, Parameter, SeparableLaw, stack


class Kept(SeparableLaw):
    """y = share: what one codec keeps of the gain of training, as measured; below 0 it made the model worse."""

    name = "kept"
    quantities = ("accuracy",)
    equation = "y = share"
    min_points = 1
    complexity = 1.0
    linear = (Parameter(name="share", unit="1", meaning="share of the gain that is kept", lower=-np.inf),)

    def basis(self, x: Array, theta: Array) -> Array:
        """A curve of ones."""
        return stack((*theta.shape[:-1], x.size), 1.0)


class Multiple(SeparableLaw):
    """y = ratio: true time over predicted time of a term."""

    name = "multiple"
    quantities = ("ratio",)
    equation = "y = ratio"
    min_points = 1
    complexity = 1.0
    linear = (Parameter(name="ratio", unit="1", meaning="true over predicted time"),)

    def basis(self, x: Array, theta: Array) -> Array:
        """A curve of ones."""
        return stack((*theta.shape[:-1], x.size), 1.0)


class Saturating(SeparableLaw):
    """y = a - b exp(-k r), a, b >= 0, 0.1 <= k <= 200."""

    name = "saturating"
    quantities = ("accuracy",)
    equation = "y = limit - loss exp(-rate r)"
    min_points = 4
    complexity = 3.0
    linear = (
        Parameter(name="limit", unit="1", meaning="value without compression"),
        Parameter(name="loss", unit="1", meaning="what is lost when nothing is kept"),
    )
    shape = (Parameter(name="rate", unit="1", meaning="how fast the loss fades", lower=0.1, upper=200.0),)

    def basis(self, x: Array, theta: Array) -> Array:
        """Ones and the fading loss, negative."""
        return stack((*theta.shape[:-1], x.size), 1.0, -np.exp(-theta * x))

    def basis_slope(self, x: Array, theta: Array) -> Array:
        """Derivative of the second curve by the rate."""
        slope = stack((*theta.shape[:-1], x.size), 0.0, x * np.exp(-theta * x))
        return slope[..., None, :, :]

    def shape_grid(self, x: Array) -> Array:
        """Rates spread evenly in the logarithm."""
        del x
        return np.geomspace(self.shape[0].lower, self.shape[0].upper, 61)[:, None]

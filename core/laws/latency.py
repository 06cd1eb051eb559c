"""Latency of a fixed piece of work against the compute frequency f, at one memory frequency.

    t = a + b / f

b counts the clock cycles the work needs; a is the time that no higher frequency removes: waiting for
memory, launches, copies. a belongs to one memory frequency and falls faster than 1 / f_memory, so each
memory frequency gets its own fit. Without a (`inverse`) the work would be purely compute-bound.
Frequencies in Hz, latency in s.
"""

from __future__ import annotations

from cardlab.core.laws.base import Array, Parameter, SeparableLaw, stack

_STALL = Parameter(name="stall", unit="s", meaning="time that a higher frequency does not remove")
_CYCLES = Parameter(name="cycles", unit="cycles", meaning="clock cycles of the work")


class ConstantLatency(SeparableLaw):
    """t = a: no frequency control, or work that does not feel the frequency."""

    name = "constant"
    quantities = ("latency",)
    equation = "t = stall"
    min_points = 1
    complexity = 1.0
    linear = (_STALL,)

    def basis(self, x: Array, theta: Array) -> Array:
        """A curve of ones."""
        return stack((*theta.shape[:-1], x.size), 1.0)


class Inverse(SeparableLaw):
    """t = b / f: purely compute-bound work."""

    name = "inverse"
    quantities = ("latency",)
    equation = "t = cycles / f"
    min_points = 2
    min_span = 1.05
    complexity = 1.0
    linear = (_CYCLES,)

    def basis(self, x: Array, theta: Array) -> Array:
        """The period of the frequency."""
        return stack((*theta.shape[:-1], x.size), 1.0 / x)


class AffineInverse(SeparableLaw):
    """t = a + b / f, a >= 0: compute that scales with the frequency and a rest that does not."""

    name = "affine_inverse"
    quantities = ("latency",)
    equation = "t = stall + cycles / f"
    min_points = 3
    min_span = 1.05
    complexity = 2.0
    linear = (_STALL, _CYCLES)

    def basis(self, x: Array, theta: Array) -> Array:
        """Ones and the period of the frequency."""
        return stack((*theta.shape[:-1], x.size), 1.0, 1.0 / x)

"""If these fail, the mean power of a window or its error is another number than the readings say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardlab.profilers.board.power import block_stderr, mean, mean_power, sum_step_w, variance

watts = st.floats(0.0, 500.0, allow_subnormal=False)


@given(st.integers(2, 700), st.integers(0, 2**32 - 1))
def test_sums_are_those_of_numpy_to_the_last_bit(n: int, seed: int) -> None:
    """A fit is told from another by the bits of its data."""
    values = np.random.default_rng(seed).uniform(0.0, 300.0, n)
    listed = values.tolist()
    assert mean(listed) == float(values.mean())
    assert variance(listed) == float(values.var(ddof=1))


@given(st.lists(watts, min_size=2, max_size=40))
def test_error_of_a_mean_is_never_below_that_of_independent_updates(values: list[float]) -> None:
    plain = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    assert block_stderr(values) >= plain * (1 - 1e-9)


def test_readings_that_stand_still_hide_in_their_step() -> None:
    still = mean_power([5.0] * 20, 0.4)
    assert still.value_w == 5.0 and still.stderr_w == pytest.approx(0.4 / math.sqrt(12))
    moving = mean_power([4.8, 5.2] * 10, 0.4)
    assert moving.stderr_w < still.stderr_w
    assert mean_power([], 0.4) is None and mean_power([5.0], None).stderr_w is None


def test_steps_of_a_sum_are_independent() -> None:
    assert sum_step_w([0.3, 0.4]) == pytest.approx(0.5)
    assert sum_step_w([0.3, None]) is None and sum_step_w([]) is None

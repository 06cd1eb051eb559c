"""An interval of 95 % holds the truth 95 times of 100, also from the eight samples that a segment usually gets."""

from __future__ import annotations

import numpy as np
import pytest

from cardlab.profilers.board.rules import interval95, median, median_stderr

DRAWS = 20_000


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 8, 9, 12, 20, 40])
def test_the_interval_of_a_median_of_few_samples_holds_it(count):
    inside = 0
    for samples in np.random.default_rng(count).normal(10.0, 0.1, (DRAWS, count)).tolist():
        low, high = interval95(median(samples), median_stderr(samples))
        inside += low <= 10.0 <= high
    # Four standard errors of the count itself, and what a table of factors rounds.
    assert inside / DRAWS == pytest.approx(0.95, abs=0.012)

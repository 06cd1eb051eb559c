"""A sweep that misses an end, the knee or the anchor cannot tell one power law from another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardlab.core.errors import UsageError
from cardlab.profilers.board.frequencies import spread
from cardlab.profilers.measure.sweep import choose_frequencies, plan_points

OFFERED = tuple(210e6 + 15e6 * i for i in range(156))
tables = st.lists(st.integers(100, 3000), min_size=1, max_size=60, unique=True).map(
    lambda frequencies: tuple(sorted(c * 1e6 for c in frequencies))
)


@given(tables, st.integers(2, 20))
def test_both_ends_are_always_there(offered: tuple[float, ...], count: int) -> None:
    chosen = spread(offered, count)
    assert chosen[0] == offered[0] and chosen[-1] == offered[-1]
    assert set(chosen) <= set(offered)


@given(tables, st.integers(4, 20))
def test_three_frequencies_lie_above_the_knee_where_there_are_three(offered: tuple[float, ...], count: int) -> None:
    high = [f for f in offered if f > 0.6 * offered[-1]]
    assert sum(f > 0.6 * offered[-1] for f in spread(offered, count)) >= min(3, len(high))


def test_default_is_eight_frequencies() -> None:
    assert len(choose_frequencies(OFFERED, "8")) == 8


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("max", (OFFERED[-1],)),
        ("all", OFFERED),
        ("600MHz,1200MHz", (600e6, 1200e6)),
        ("1.2GHz,600", (600e6, 1200e6)),
        ("1200000000Hz,1200MHz", (1200e6,)),
    ],
)
def test_forms(wanted: str, expected: tuple[float, ...]) -> None:
    assert choose_frequencies(OFFERED, wanted) == pytest.approx(expected)


@pytest.mark.parametrize("wanted", ["fast", "600MHz,", "0", "-3", "601MHz", "5GHz"])
def test_nonsense_is_refused_with_a_remedy(wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_frequencies(OFFERED, wanted)
    assert caught.value.remedy


def test_without_frequency_control_the_frequency_is_measured_as_found() -> None:
    assert choose_frequencies((), "8") == ()
    [point] = plan_points((), seed=1)
    assert point.requested_hz is None
    with pytest.raises(UsageError, match="no frequency control"):
        choose_frequencies((), "600MHz")


@given(st.integers(4, 20), st.integers(0, 1000))
def test_order_is_random_with_one_anchor_three_times(count: int, seed: int) -> None:
    frequencies = spread(OFFERED, count)
    points = plan_points(frequencies, seed)
    assert [p.index for p in points] == list(range(len(points)))
    anchors = [p for p in points if p.anchor]
    assert len(anchors) == 3 and len({p.requested_hz for p in anchors}) == 1
    assert points[0].anchor and points[-1].anchor
    assert {p.requested_hz for p in points} == set(frequencies)
    assert len(points) == len(frequencies) + 2


def test_the_same_seed_gives_the_same_order() -> None:
    frequencies = spread(OFFERED, 8)
    assert plan_points(frequencies, 7) == plan_points(frequencies, 7) != plan_points(frequencies, 8)

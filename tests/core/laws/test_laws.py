from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardlab.core.errors import UsageError
from cardlab.core.laws import LAWS, SeparableLaw, law_named, laws_of
from cardlab.core.laws.measured import Measured

CLOCKS = np.linspace(4e8, 1.9e9, 12)
POINTS = {
    "constant": [50.0],
    "cubic": [2e-26],
    "static_cubic": [40.0, 2e-26],
    "static_linear_cubic": [40.0, 1e-8, 1e-26],
    "power_law": [40.0, 20.0, 2.4],
    "pure_power_law": [30.0, 1.7],
    "ridge": [30.0, 4e-8, 1.31e9, 1.35],
    "inverse": [1e8],
    "affine_inverse": [0.01, 1e8],
    "saturating": [0.9, 0.4, 5.0],
    "kept": [0.8],
    "multiple": [2.1],
}
SEPARABLE = [law for law in LAWS if isinstance(law, SeparableLaw)]


def x_of(law):
    return np.linspace(0.02, 1.0, 12) if "accuracy" in law.quantities else CLOCKS


@pytest.mark.parametrize("law", SEPARABLE, ids=lambda law: f"{law.quantities[0]}-{law.name}")
def test_jacobian_agrees_with_differences(law):
    x = x_of(law)
    law = law.bound_to(x, x)
    p = np.array(POINTS[law.name])
    exact = law.jacobian(x, p)
    for i, value in enumerate(p):
        step = np.zeros_like(p)
        step[i] = 1e-6 * value
        numeric = (law.evaluate(x, p + step) - law.evaluate(x, p - step)) / (2 * step[i])
        assert np.allclose(exact[:, i], numeric, rtol=1e-6, atol=1e-7 * np.abs(numeric).max() + 1e-300)


@pytest.mark.parametrize("law", SEPARABLE, ids=lambda law: f"{law.quantities[0]}-{law.name}")
def test_many_parameter_vectors_at_once_equal_one_at_a_time(law):
    x = x_of(law)
    law = law.bound_to(x, x)
    p = np.array(POINTS[law.name]) * np.linspace(0.95, 1.05, 5)[:, None]
    together = law.evaluate(x, p)
    assert together.shape == (5, 12)
    assert np.allclose(together, [law.evaluate(x, row) for row in p], rtol=1e-14)
    assert np.allclose(law.jacobian(x, p), [law.jacobian(x, row) for row in p], rtol=1e-14)


@pytest.mark.parametrize("law", SEPARABLE, ids=lambda law: f"{law.quantities[0]}-{law.name}")
def test_a_start_value_is_close_to_the_truth(law):
    x = x_of(law)
    law = law.bound_to(x, x)
    y = law.evaluate(x, np.array(POINTS[law.name]))
    starts = law.start(x, y)
    errors = np.abs(law.evaluate(x, starts) / y - 1).max(axis=1)
    assert errors.min() < 0.06
    assert np.all(starts >= law.lower - 1e-12)


def test_values_written_by_hand():
    ridge = law_named("power", "ridge", {"bottom_hz": (5e8,), "top_hz": (2e9,)})
    p = np.array([10.0, 2e-8, 1e9, 1.5])
    # below the knee V = 1; at 1.5 GHz V = 1.25; at the top V = 1.5
    assert ridge.evaluate(np.array([1e9, 1.5e9, 2e9]), p) == pytest.approx(
        [10 + 20, 10 + 30 * 1.25**2, 10 + 40 * 1.5**2]
    )
    affine = law_named("latency", "affine_inverse")
    assert affine.evaluate(np.array([1e9]), np.array([0.002, 5e6])) == pytest.approx([0.007])


def test_ridge_is_continuous_and_rises():
    ridge = law_named("power", "ridge").bound_to(CLOCKS, CLOCKS)
    grid = np.linspace(4e8, 1.9e9, 4001)
    y = ridge.evaluate(grid, np.array(POINTS["ridge"]))
    assert np.all(np.diff(y) > 0)
    assert np.max(np.diff(y)) < 0.2


@given(st.lists(st.floats(0.1, 50.0), min_size=3, max_size=10))
def test_measured_is_monotone_and_meets_its_points(steps):
    y = np.cumsum(steps)
    x = np.linspace(1.0, 2.0, y.size) * 1e9
    law = Measured().bound_to(x, y)
    values = law.evaluate(np.linspace(x[0], x[-1], 301), y)
    assert np.all(np.diff(values) >= -1e-9 * y[-1])
    assert np.allclose(law.evaluate(x, y), y)


def test_measured_goes_on_straight_and_never_below_zero():
    law = Measured((1e9, 2e9))
    y = np.array([10.0, 30.0])
    assert law.evaluate(np.array([0.1e9, 1.5e9, 3e9]), y) == pytest.approx([0.0, 20.0, 50.0])


def test_constants_rebuild_the_law():
    for name in ("ridge", "measured"):
        law = law_named("power", name).bound_to(CLOCKS, CLOCKS)
        assert law_named("power", name, law.constants) == law


def test_identifiability_needs_distinct_clocks_over_a_span():
    ridge = law_named("power", "ridge")
    assert ridge.identifiable(CLOCKS)
    assert not ridge.identifiable(np.repeat(CLOCKS[:3], 4))
    assert not ridge.identifiable(np.linspace(1.8e9, 1.9e9, 12))


def test_an_unknown_law_lists_those_there_are():
    with pytest.raises(UsageError, match="affine_inverse"):
        law_named("latency", "quartic")


def test_names_are_unique_within_a_quantity():
    for quantity in ("power", "wait_power", "latency", "accuracy"):
        names = [law.name for law in laws_of(quantity)]
        assert len(names) == len(set(names))
        assert all(law.equation and law.parameters is not None for law in laws_of(quantity))

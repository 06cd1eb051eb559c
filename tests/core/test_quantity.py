"""Provenance must never shrink, or a plan would hide that it rests on simulated numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardlab.core.plain import from_plain, to_plain
from cardlab.core.quantity import Estimate, How, Origin, Provenance, product, union_of

provenances = st.builds(Provenance, st.frozensets(st.sampled_from(Origin), min_size=1), st.sampled_from(How))


@given(st.lists(provenances, min_size=1, max_size=6))
def test_union_holds_every_origin_of_its_parts(parts: list[Provenance]) -> None:
    joined = union_of(parts)
    assert joined.origins == frozenset().union(*(p.origins for p in parts))


@given(provenances)
def test_provenance_round_trips(provenance: Provenance) -> None:
    assert Provenance.from_plain(provenance.as_plain()) == provenance


def test_a_provenance_without_origin_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one origin"):
        Provenance(frozenset())


def test_estimate_is_a_number_and_keeps_its_interval_when_scaled() -> None:
    estimate = Estimate(2.0, 0.1, (1.8, 2.2), 5)
    assert float(estimate) == 2.0
    assert estimate.scaled(3.0).ci95 == pytest.approx((5.4, 6.6))
    assert estimate.scaled(-1.0).ci95 == pytest.approx((-2.2, -1.8))
    assert estimate.scaled(-1.0).stderr == pytest.approx(0.1)


def test_product_propagates_relative_errors_and_origins() -> None:
    power = Estimate(10.0, 1.0, None, None, Provenance.of("simulated"))
    time = Estimate(2.0, 0.1, None, None, Provenance.of("measured"))
    energy = product(power, time)
    assert energy.value == 20.0
    assert energy.stderr == pytest.approx(20.0 * (0.1**2 + 0.05**2) ** 0.5)
    assert energy.provenance == Provenance.of("measured", "simulated", how="derived")


def test_product_without_known_error_says_unknown() -> None:
    assert product(Estimate(10.0), Estimate(2.0, 0.1)).stderr is None


@given(st.floats(allow_nan=False, allow_infinity=False), st.one_of(st.none(), st.floats(0, 1e9)))
def test_estimate_round_trips_through_plain(value: float, stderr: float | None) -> None:
    estimate = Estimate(value, stderr, None if stderr is None else (value - stderr, value + stderr), 3)
    assert from_plain(Estimate, to_plain(estimate)) == estimate

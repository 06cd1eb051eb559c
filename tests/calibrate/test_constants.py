from __future__ import annotations

import numpy as np
import pytest

from cardlab.calibrate import fit_latency, fit_power
from cardlab.calibrate.constants import delta_curve, delta_from_latency, power_constants
from cardlab.calibrate.optimum import energy_optimum
from cardlab.calibrate.report_text import fit_report
from cardlab.core.errors import BadDataError
from cardlab.core.quantity import Estimate, How
from cardlab.core.records.fit import FitSubject

CLOCKS_HZ = np.linspace(0.4e9, 2e9, 9)
SUBJECT = FitSubject(device="simulated:x:1", device_name="card", rail="board", quantity="power")


@pytest.fixture
def power():
    noise = 1 + 0.005 * np.random.default_rng(4).standard_normal(9)
    return (40 + 1e-26 * CLOCKS_HZ**3) * noise


def test_constants_come_from_both_cubics(power):
    static = fit_power(CLOCKS_HZ, power, "static_cubic", subject=SUBJECT)
    cubic = fit_power(CLOCKS_HZ, power, "cubic", subject=SUBJECT)
    constants = power_constants(static, cubic, cores=3072)
    assert constants.kappa_w_per_hz3.value == pytest.approx(1e-26, rel=0.03)
    assert constants.static_power_w.ci95[0] < 40 < constants.static_power_w.ci95[1]
    assert constants.kappa_w_per_hz3.provenance.how is How.FITTED
    assert constants.error < 0.01 < 0.2 < constants.paper_error
    assert (constants.frequency_min_hz, constants.frequency_max_hz) == (0.4e9, 2e9)
    assert power_constants(None, cubic).kappa_w_per_hz3 is None


def test_a_sweep_that_could_not_contradict_the_law_gives_no_kappa(power):
    """One frequency: P / f^3 is a number, and no measurement of a cubic."""
    one = fit_power(np.repeat(CLOCKS_HZ[:1], 4), power[:4], "cubic", subject=SUBJECT)
    constants = power_constants(None, one, cores=3072)
    assert constants.kappa_paper_w_per_hz3 is None and constants.paper_error is None
    two = fit_power(CLOCKS_HZ[:2], power[:2], "static_cubic", subject=SUBJECT)
    constants = power_constants(two, fit_power(CLOCKS_HZ[:2], power[:2], "cubic", subject=SUBJECT))
    assert constants.kappa_w_per_hz3 is None and constants.kappa_paper_w_per_hz3 is not None


def test_delta_by_hand():
    # 1e12 FLOP in 0.5 s at 1 GHz on 1000 cores: 2 per core and cycle
    delta = delta_from_latency(Estimate(0.5, 0.05, (0.4, 0.625)), 1e12, 1e9, 1000)
    assert delta.value == pytest.approx(2.0)
    assert delta.stderr == pytest.approx(0.2)
    assert delta.ci95 == pytest.approx((1.6, 2.5))
    with pytest.raises(BadDataError, match="cores is 0"):
        delta_from_latency(Estimate(0.5), 1e12, 1e9, 0)


def test_delta_falls_with_the_clock_as_the_affine_law_says():
    latency = fit_latency(CLOCKS_HZ, 0.1 + 5e8 / CLOCKS_HZ)
    curve = delta_curve(latency, 1e12, 1000)
    assert curve.limit == pytest.approx(2.0)
    assert curve.at(2e9) == pytest.approx(1e12 / (1000 * 2e9 * (0.1 + 0.25)))
    assert curve.at(1e9) > curve.at(2e9)
    assert delta_curve(fit_latency([1e9], [0.5]), 1e12, 1000) is None


def test_energy_optimum_by_hand(power):
    # E = (40 + 1e-26 f^3) b / f is least where 40 = 2e-26 f^3
    exact = 40 + 1e-26 * CLOCKS_HZ**3
    best = energy_optimum(
        fit_power(CLOCKS_HZ, exact, "static_cubic"), fit_latency(CLOCKS_HZ, 1e9 / CLOCKS_HZ, "inverse")
    )
    assert best.frequency_hz == pytest.approx((40 / 2e-26) ** (1 / 3), rel=1e-3)
    noisy = energy_optimum(
        fit_power(CLOCKS_HZ, power, "static_cubic"),
        fit_latency(CLOCKS_HZ, 1e9 / CLOCKS_HZ, "inverse"),
        CLOCKS_HZ.tolist(),
    )
    assert noisy.frequency_hz in CLOCKS_HZ
    assert noisy.frequency_ci95_hz[0] <= noisy.frequency_hz <= noisy.frequency_ci95_hz[1]
    assert 0 < noisy.saving < 1


def test_report_names_equation_errors_and_verdict(power):
    lines = fit_report(fit_power(CLOCKS_HZ, power, "static_cubic", subject=SUBJECT))
    text = "\n".join(lines)
    assert lines[0] == "card: power (board)"
    assert "static_power + kappa f^3" in text
    assert "9, 400 to 2000 MHz" in text
    assert "correlation" in text and "held out" in text and "+-" in text
    assert lines[-1].strip().startswith("verdict: excellent")


def test_report_says_what_it_does_not_know():
    text = "\n".join(fit_report(fit_power([1e9], [50.0])))
    assert "uncertainty N/A" in text and "cannot be judged" in text
    table = fit_power(CLOCKS_HZ, np.linspace(40, 90, 9) ** 1.1, "measured")
    assert "and 1 more" in "\n".join(fit_report(table))

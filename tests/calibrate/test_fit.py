from __future__ import annotations

import json

import numpy as np
import pytest

import cardlab.calibrate
from cardlab.calibrate import compare, fit_latency, fit_power
from cardlab.calibrate.data import prepare
from cardlab.calibrate.fitter import Options, isotonic, solve_law
from cardlab.calibrate.report_text import fit_report
from cardlab.calibrate.uncertainty import bootstrap_by_clock
from cardlab.core.errors import BadDataError, TooFewPointsError, UsageError
from cardlab.core.laws import law_named
from cardlab.core.quantity import How
from cardlab.core.records.fit import Fit, FitSubject

from .truths import CLOCKS_HZ, law_truth, noisy_power

DANWOOD_X = np.array([1.309, 1.471, 1.490, 1.565, 1.611, 1.680])
DANWOOD_Y = np.array([2.138, 3.421, 3.597, 4.340, 4.882, 5.660])


@pytest.fixture
def ridge_sweep():
    rng = np.random.default_rng(3)
    law, p = law_truth("power", "ridge", rng)
    return CLOCKS_HZ, noisy_power(law.evaluate(CLOCKS_HZ, p), rng), law, p


def test_nist_danwood_to_six_digits():
    fit = fit_power(DANWOOD_X * 1e9, DANWOOD_Y, "pure_power_law", relative=False, loss="linear")
    values = [(p.value, p.stderr) for p in fit.parameters.values()]
    assert values[0] == pytest.approx((7.6886226176e-01, 1.8281973860e-02), rel=1e-6)
    assert values[1] == pytest.approx((3.8604055871e00, 5.1726610913e-02), rel=1e-6)


@pytest.mark.parametrize(
    ("quantity", "name"),
    [
        ("power", "cubic"),
        ("power", "static_cubic"),
        ("power", "static_linear_cubic"),
        ("power", "power_law"),
        ("power", "pure_power_law"),
        ("power", "ridge"),
        ("latency", "inverse"),
        ("latency", "affine_inverse"),
    ],
)
def test_without_noise_the_truth_comes_back(quantity, name):
    law, p = law_truth(quantity, name, np.random.default_rng(11))
    fit_it = fit_power if quantity == "power" else fit_latency
    fit = fit_it(CLOCKS_HZ, law.evaluate(CLOCKS_HZ, p), name)
    assert fit.values == pytest.approx(p, rel=1e-6)
    assert fit.mape < 1e-8


def test_automatic_choice_finds_the_ridge_and_never_the_cubic(ridge_sweep):
    f, y, _, p = ridge_sweep
    fit = fit_power(f, y)
    assert fit.law == "ridge"
    assert fit.parameters["knee"].value == pytest.approx(p[2], rel=0.05)
    cubic = noisy_power(2e-26 * f**3, np.random.default_rng(1))
    assert fit_power(f, cubic).law != "cubic"


def test_comparison_has_the_cubic_and_one_selection(ridge_sweep):
    f, y, *_ = ridge_sweep
    comparison = compare(prepare(f, y), FitSubject())
    assert sum(fit.selected for fit in comparison.fits) == 1
    assert comparison.selected.law == "ridge"
    cubic = comparison.law("cubic")
    assert cubic is not None and cubic.loo_mape > 0.3


def test_latency_takes_the_simpler_law_when_they_tie():
    rng = np.random.default_rng(2)
    t = 1e8 / CLOCKS_HZ * (1 + 0.003 * rng.standard_normal(12))
    assert fit_latency(CLOCKS_HZ, t).law == "inverse"
    assert fit_latency(CLOCKS_HZ, t + 0.02).law == "affine_inverse"


def test_prediction_inside_and_outside(ridge_sweep):
    f, y, law, p = ridge_sweep
    fit = fit_power(f, y)
    inside, outside = fit.predict(1.5e9), fit.predict(2.4e9)
    assert inside.ci95[0] < law.evaluate(np.array([1.5e9]), p)[0] < inside.ci95[1]
    assert inside.provenance.how is How.FITTED
    assert outside.provenance.how is How.TRANSFERRED
    assert fit.extrapolated(2.4e9) and not fit.extrapolated(f[-1])
    assert outside.stderr / outside.value > 1.5 * inside.stderr / inside.value
    with pytest.raises(BadDataError):
        fit.predict(0.0)


def test_draws_are_reproducible_and_spread_like_the_covariance(ridge_sweep):
    f, y, *_ = ridge_sweep
    fit, again = fit_power(f, y, "static_cubic"), fit_power(f, y, "static_cubic")
    assert fit.packed_draws == again.packed_draws
    assert fit.draws.shape == (200, 2)
    spread = np.array([p.stderr for p in fit.parameters.values()])
    assert fit.draws.std(axis=0) / spread == pytest.approx([1.0, 1.0], abs=0.35)
    assert fit.predict_draws(np.array([1e9, 2e9])).shape == (200, 2)


def test_bootstrap_by_clock_is_of_the_size_of_the_standard_errors(ridge_sweep):
    f, y, *_ = ridge_sweep
    data = prepare(f, y)
    solution = solve_law(law_named("power", "ridge"), data, Options())
    resampled = bootstrap_by_clock(data, solution)
    fit = fit_power(f, y, "ridge")
    ratio = resampled.std(axis=0)[0] / fit.parameters["static_power"].stderr
    assert 0.3 < ratio < 3


def test_intervals_by_bootstrap_are_those_of_refits_to_whole_operating_points(ridge_sweep):
    """Three readings of each frequency that share its error: taken for independent they would narrow the interval."""
    f, y, *_ = ridge_sweep
    rng = np.random.default_rng(8)
    shared = 1 + 0.03 * rng.standard_normal(f.size)
    thrice_f, thrice_y = np.repeat(f, 3), np.repeat(y * shared, 3) * (1 + 1e-4 * rng.standard_normal(3 * f.size))
    plain = fit_power(thrice_f, thrice_y, "static_cubic")
    fit = fit_power(thrice_f, thrice_y, "static_cubic", intervals="bootstrap")
    assert (plain.intervals, fit.intervals) == ("covariance", "bootstrap")
    assert fit.values == pytest.approx(plain.values) and fit.packed_draws != plain.packed_draws
    data = prepare(thrice_f, thrice_y)
    resampled = bootstrap_by_clock(data, solve_law(law_named("power", "static_cubic"), data, Options()))
    assert fit.draws == pytest.approx(resampled)
    for i, parameter in enumerate(fit.parameters.values()):
        assert parameter.stderr == pytest.approx(resampled[:, i].std(ddof=1))
        assert parameter.ci95 == pytest.approx(tuple(np.percentile(resampled[:, i], (2.5, 97.5))))
    kappa = [one.parameters["kappa"].stderr for one in (plain, fit)]
    assert kappa[1] > 1.3 * kappa[0]
    assert Fit.from_document(json.loads(json.dumps(fit.document())), fit.packed_draws) == fit
    assert "intervals    bootstrap by operating point" in "\n".join(fit_report(fit))


def test_what_cannot_be_resampled_keeps_its_intervals_and_says_so(ridge_sweep):
    f, y, *_ = ridge_sweep
    for few, law in ((f.size, "measured"), (3, "static_cubic")):
        fit = fit_power(f[:few], y[:few], law, intervals="bootstrap")
        assert fit.intervals == "covariance"
        assert any("cannot be resampled" in line for line in fit.warnings)


def test_a_fit_survives_json(ridge_sweep):
    f, y, *_ = ridge_sweep
    for law in ("ridge", "measured"):
        fit = fit_power(f, y, law, subject=FitSubject(device="simulated:x:1", rail="board"))
        text = json.dumps(fit.document())
        again = Fit.from_document(json.loads(text), fit.packed_draws)
        assert again == fit
        assert again.predict(1.1e9) == fit.predict(1.1e9)
        assert "draws" not in text


def test_order_of_points_does_not_matter(ridge_sweep):
    f, y, *_ = ridge_sweep
    order = np.random.default_rng(0).permutation(f.size)
    assert fit_power(f[order], y[order]).data_hash == fit_power(f, y).data_hash


def test_one_and_two_clocks():
    one = fit_power([1e9], [50.0])
    assert one.law == "constant" and one.predict(1e9).ci95 is None
    assert fit_power([1e9], [50.0], stderr_w=[1.0]).predict(1e9).stderr == pytest.approx(1.0)
    two = fit_power([1e9, 2e9], [50.0, 90.0])
    assert two.law == "measured" and two.predict(1.5e9).value == pytest.approx(70.0)
    with pytest.raises(TooFewPointsError, match="ridge has 4 parameters"):
        fit_power([1e9, 2e9], [50.0, 90.0], "ridge")


def test_measured_noise_sets_the_errors_where_no_points_are_spare():
    fit = fit_power([1e9, 2e9], [50.0, 90.0], "static_cubic", stderr_w=[0.5, 0.9])
    # kappa = (90 - 50) / 7e27, error sqrt(0.5^2 + 0.9^2) / 7e27
    kappa = fit.parameters["kappa"]
    assert kappa.value == pytest.approx(40 / 7e27)
    assert kappa.stderr == pytest.approx(np.hypot(0.5, 0.9) / 7e27, rel=1e-6)


def test_an_outlier_calls_the_robust_loss(ridge_sweep):
    f, y, law, p = ridge_sweep
    y = y.copy()
    y[4] *= 1.4
    fit = fit_power(f, y, "ridge")
    assert any("sticks out" in line for line in fit.warnings)
    plain = fit_power(f, y, "ridge", loss="linear")
    truth = law.evaluate(np.array([1e9]), p)[0]
    assert abs(fit.predict(1e9).value - truth) < 0.6 * abs(plain.predict(1e9).value - truth)


def test_an_outlier_does_not_hide_the_ridge(ridge_sweep):
    f, y, *_ = ridge_sweep
    y = y.copy()
    y[4] *= 1.3
    fit = fit_power(f, y)
    assert fit.law == "ridge"
    # the held-out error that is reported still counts the wild point
    assert fit.loo_mape > 0.02


def test_warnings():
    rng = np.random.default_rng(0)
    y = noisy_power(40 + 1e-26 * CLOCKS_HZ**3, rng)
    assert any("device goes to 2500" in w for w in fit_power(CLOCKS_HZ, y, frequency_max_hz=2.5e9).warnings)
    flags = [False] * 11 + [True]
    cut = fit_power(CLOCKS_HZ, y, throttled=flags)
    assert cut.n_points == 11 and any("1 throttled" in w for w in cut.warnings)
    f = np.append(CLOCKS_HZ, CLOCKS_HZ[0])
    assert any("drifted by +10" in w for w in fit_power(f, np.append(y, y[0] * 1.1)).warnings)
    flat = fit_power(CLOCKS_HZ, np.full(12, 50.0) + rng.standard_normal(12), "cubic")
    assert any("not seen" in w for w in flat.warnings)
    bound = fit_power(CLOCKS_HZ, 3e-26 * CLOCKS_HZ**3.4 / 1e9**0.4, "static_cubic")
    assert any("static_power is at its bound" in w for w in bound.warnings)
    assert bound.parameters["static_power"].stderr is None
    assert "4 frequencies, ridge wants at least 7" in fit_power(CLOCKS_HZ[:4], y[:4], "ridge").warnings
    assert not any("wants at least" in w for w in fit_power(CLOCKS_HZ[:7], y[:7], "ridge").warnings)


@pytest.mark.parametrize(
    ("f", "p", "says"),
    [
        ([], [], "no points"),
        ([1e9, np.nan], [1, 2], "point 2: frequency_hz is nan"),
        ([1e9, -1.0], [1, 2], "point 2: frequency_hz is -1"),
        ([1e9, 2e9], [1, 0], "point 2: power_w is 0"),
        ([1e9, 2e9], [1], "2 values and power_w 1"),
        (["a"], [1], "not a number"),
    ],
)
def test_bad_arrays_name_the_point(f, p, says):
    with pytest.raises(BadDataError, match=says):
        fit_power(f, p)


def test_unknown_law_is_a_usage_error():
    with pytest.raises(UsageError, match="use one of"):
        fit_power(CLOCKS_HZ, CLOCKS_HZ, "quartic")


def test_the_function_decides_the_quantity():
    assert fit_latency([1e9], [0.5], subject=FitSubject()).quantity == "latency"
    assert fit_power([1e9], [5.0], subject=FitSubject(quantity="wait_power")).quantity == "wait_power"


def test_accuracy_saturates_with_the_rate():
    rate = np.array([0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    data = prepare(rate, 0.9 - 0.3 * np.exp(-8 * rate), x_name="compression", y_name="accuracy")
    fit = compare(data, FitSubject(quantity="accuracy")).selected
    assert fit.values == pytest.approx([0.9, 0.3, 8.0], rel=1e-5)
    assert (fit.x.name, fit.unit) == ("compression", "1")


def test_isotonic_by_hand():
    assert isotonic(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)).tolist() == [1.0, 2.5, 2.5, 4.0]


def test_room_exports_lazily():
    assert cardlab.calibrate.fit_power is fit_power
    with pytest.raises(AttributeError):
        cardlab.calibrate.nothing  # noqa: B018

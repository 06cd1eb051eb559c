"""Intervals are held against truths: 95 % must mean about 95 %."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cardlab.calibrate import fit_latency, fit_power
from cardlab.calibrate.data import prepare
from cardlab.calibrate.fitter import Options
from cardlab.calibrate.optimum import energy_optimum
from cardlab.calibrate.select import choose, try_laws

from .truths import CLOCKS_HZ, FOREIGN, NOISE, STEP_W, law_truth, noisy_power

POWER_LAWS = (
    "constant",
    "cubic",
    "static_cubic",
    "static_linear_cubic",
    "power_law",
    "pure_power_law",
    "ridge",
)
CASES = [("power", law) for law in POWER_LAWS] + [("latency", law) for law in ("constant", "inverse", "affine_inverse")]
GRID_HZ = np.linspace(CLOCKS_HZ[0], CLOCKS_HZ[-1], 49)
TARGETS = {"RTX A4000": 0.02, "Titan Xp": 0.013, "Titan V": 0.045, "Tesla K40c": 0.015}


def coverage(quantity, name, count):
    """Fraction of sweeps whose 95 % intervals hold the truth: per parameter, and over predictions."""
    rng = np.random.default_rng(20240817)
    parameters, predictions = [], []
    for _ in range(count):
        law, p = law_truth(quantity, name, rng)
        truth = law.evaluate(CLOCKS_HZ, p)
        if quantity == "power":
            fit = fit_power(CLOCKS_HZ, noisy_power(truth, rng), name, quantisation_w=STEP_W)
        else:
            noisy = truth * (1 + NOISE * rng.standard_normal(truth.size))
            fit = fit_latency(CLOCKS_HZ, noisy, name)
        intervals = [e.ci95 or (np.inf, np.inf) for e in fit.parameters.values()]
        parameters.append([low <= v <= high for (low, high), v in zip(intervals, p, strict=True)])
        predictions.append(inside(fit, law.evaluate(GRID_HZ, p)))
    return np.mean(parameters, axis=0), float(np.mean(predictions))


def inside(fit, truth):
    value = fit.curve.evaluate(GRID_HZ, fit.values)
    return np.mean(np.abs(value - truth) <= fit.interval_factor * fit.stderr_at(GRID_HZ))


def foreign(name, count, known):
    """Coverage and mean error of predictions for a truth outside the laws, law chosen by the data."""
    rng = np.random.default_rng(7)
    covered, errors = [], []
    for _ in range(count):
        power = FOREIGN[name](rng)
        truth = power(CLOCKS_HZ)
        stderr = NOISE * truth if known else None
        fit = fit_power(CLOCKS_HZ, noisy_power(truth, rng), quantisation_w=STEP_W, stderr_w=stderr)
        covered.append(inside(fit, power(GRID_HZ)))
        errors.append(np.mean(np.abs(fit.curve.evaluate(GRID_HZ, fit.values) / power(GRID_HZ) - 1)))
    return float(np.mean(covered)), np.array(errors)


@pytest.mark.once
@pytest.mark.parametrize(("quantity", "name"), CASES)
def test_intervals_hold_the_truth_sampled(quantity, name):
    parameters, predictions = coverage(quantity, name, 40)
    assert np.all(parameters >= 0.80)
    assert predictions >= 0.85


@pytest.mark.once
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_truths_sampled(name):
    covered, errors = foreign(name, 15, known=False)
    assert covered >= 0.85
    assert errors.mean() <= 0.03


@pytest.mark.accept
@pytest.mark.parametrize(("quantity", "name"), CASES)
def test_intervals_hold_the_truth(quantity, name):
    parameters, predictions = coverage(quantity, name, 1000)
    print(f"{quantity} {name}: parameters {np.round(100 * parameters, 1)} %, predictions {100 * predictions:.1f} %")
    assert np.all((parameters >= 0.92) & (parameters <= 0.98))
    assert 0.92 <= predictions <= 0.98


@pytest.mark.accept
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_truths(name, known):
    covered, errors = foreign(name, 250, known)
    print(
        f"{name} (noise {'measured' if known else 'unknown'}): covered {100 * covered:.1f} %, "
        f"error mean {100 * errors.mean():.2f} %, worst {100 * errors.max():.2f} %"
    )
    assert covered >= 0.90
    assert errors.max() <= 0.03


@pytest.mark.parametrize("sample", [8, pytest.param(None, marks=pytest.mark.accept)])
def test_held_out_error_on_real_cards(real_sweeps, sample):
    for device, target in TARGETS.items():
        chosen, cubic = [], []
        for frequency, power, _ in real_sweeps[device][:sample]:
            data = prepare(frequency, power)
            chosen.append(choose(try_laws("power", data, Options(polish=False))).score)
            cubic.append(try_laws("power", data, Options(polish=False), ("cubic",))[0].score)
        print(
            f"{device}: {len(chosen)} sweeps, held-out error chosen {100 * np.median(chosen):.2f} %, "
            f"worst {100 * max(chosen):.2f} %, cubic {100 * np.median(cubic):.1f} %"
        )
        assert np.median(chosen) <= target
        assert np.all(np.isfinite(chosen))


def test_energy_optimal_clock_of_the_a4000(real_sweeps):
    ((frequency, power, seconds),) = real_sweeps["RTX A4000"]
    best = energy_optimum(fit_power(frequency, power), fit_latency(frequency, seconds), frequency)
    energy = power * seconds
    extra = energy[np.argmin(np.abs(frequency - best.frequency_hz))] / energy.min() - 1
    assert extra <= 0.03


@pytest.mark.accept
def test_speed_of_500_sweeps_with_selection_and_draws():
    rng = np.random.default_rng(1)
    sweeps = []
    for i in range(500):
        law, p = law_truth("power", POWER_LAWS[2 + i % 5], rng)
        sweeps.append(noisy_power(law.evaluate(CLOCKS_HZ, p), rng))
    begin = time.perf_counter()
    for power in sweeps:
        assert len(fit_power(CLOCKS_HZ, power, quantisation_w=STEP_W).draws) == 200
    took = time.perf_counter() - begin
    print(f"500 sweeps: {took:.1f} s")
    assert took < 120

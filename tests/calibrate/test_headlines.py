# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""No headline from a law that does not describe its device, no error from one seed, no text without its origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from cardlab.calibrate.publishing import energy_optima
from cardlab.calibrate.report_text import verdict
from cardlab.db import open_store
from cardlab.split.accuracy import Trial, kept_of
from tests.card.database import whole
from tests.cli.run import command


def test_a_law_that_does_not_describe_the_device_has_no_best_frequency(tmp_path: Path) -> None:
    with whole(tmp_path / "a.db") as store:
        fits = [s.fit for s in store.fits.newest()]
        assert energy_optima(store, fits)
        off = [replace(f, loo_mape=0.4, mape=0.4) if f.quantity == "power" else f for f in fits]
        assert "does not describe this device" in verdict(next(f for f in off if f.quantity == "power"))
        assert energy_optima(store, off) == ()
        slow = [replace(f, loo_mape=0.4, mape=0.4) if f.segment == "layer" else f for f in fits]
        assert energy_optima(store, slow) == ()


def test_one_seed_has_no_standard_error() -> None:
    def trial(codec: str, seed: int, final: float) -> Trial:
        blank = dict.fromkeys(Trial.__dataclass_fields__, 0.0)
        given = {
            "codec": codec,
            "feedback": False,
            "seed": seed,
            "start": 5.0,
            "final": final,
            "final_compressed": final,
        }
        return Trial(**{**blank, **given})  # type: ignore[arg-type]

    one = kept_of([trial("none", 1, 2.0), trial("dense:4", 1, 2.3)])
    assert [k.stderr for k in one] == [None, None]
    two = kept_of([trial(c, s, 2.0 + 0.1 * s * (c != "none")) for c in ("none", "dense:4") for s in (1, 2)])
    assert two[1].stderr == pytest.approx(0.5 * (0.1 / 3.0))


def test_the_text_of_a_prediction_says_that_it_is_simulated(tmp_path: Path) -> None:
    words = ("--model", "tiny-llama", "--platform", "simulated:rtx-4060-ti", "--frequencies", "5", "--repeats", "3")
    database = ("--db", str(tmp_path / "a.db"))
    assert command("profile-device", *words, *database).code == 0
    assert command("calibrate", "fit", *database).code == 0
    said = command("calibrate", "predict", "--device", "rtx-4060-ti", "--frequency-mhz", "1500", *database).out
    assert "simulated" in said and "fitted" in said
    with open_store(tmp_path / "a.db") as store:
        assert store.fits.newest()


def test_a_fit_of_estimates_keeps_their_origin():
    """A notebook measures a simulated card and fits what it read: it said imported."""
    from cardlab.calibrate import fit_latency, fit_power
    from cardlab.core.quantity import Estimate, Origin, Provenance

    hz = [6e8, 9e8, 1.2e9, 1.5e9, 1.8e9]
    simulated = [Estimate(20.0 + 30.0 * (f / 2e9) ** 3, provenance=Provenance.of(Origin.SIMULATED)) for f in hz]
    assert fit_power(hz, simulated).provenance.origins == {Origin.SIMULATED}
    assert fit_latency(hz, tuple(simulated)).provenance.origins == {Origin.SIMULATED}
    assert fit_power(hz, [float(e) for e in simulated]).provenance.origins == {Origin.IMPORTED}
    mixed: list[Estimate | float] = [*simulated[:-1], float(simulated[-1])]
    assert fit_power(hz, mixed).provenance.origins == {Origin.SIMULATED, Origin.IMPORTED}


def test_what_is_simulated_is_named_under_the_curves(tmp_path):
    from tests.cli.run import command

    db = str(tmp_path / "x.db")
    words = ("--platform", "simulated:orin-nano:toy", "--model", "tiny-llama", "--seq", "16", "--no-whole-step")
    assert command("profile-device", *words, "--frequencies", "all", "--db", db).code == 0
    assert "simulated, no number of these is real: toy" in command("calibrate", "fit", "--db", db).out
    assert "simulated, no number of these is real: toy" in command("calibrate", "show", "--db", db).out

"""The page: hostile names are text, nothing is loaded from anywhere, unknown is N/A."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cardlab.calibrate.service import fit_store, gather
from cardlab.db import open_store
from cardlab.records.measurement import PlannedPoint
from cardlab.reports.html import render_page
from cardlab.reports.svg import ticks
from cardlab.reports.views.fit import curve
from cardlab.reports.views.profile import profile_document
from tests import records

HOSTILE = '<script>alert("x")</script><b>&'
CLOCKS = (0.5e9, 0.8e9, 1.1e9, 1.4e9, 1.7e9)


def page_of(path: Path) -> str:
    device = replace(records.DEVICE, name=HOSTILE)
    planned = tuple(PlannedPoint(index=i, requested_hz=f) for i, f in enumerate(CLOCKS))
    run = records.run(device=device, planned=planned)
    with open_store(path) as store:
        store.runs.begin(run)
        for point, clock in zip(planned, CLOCKS, strict=True):
            uid = store.runs.begin_point(run.uid, point)
            store.runs.finish_point(uid, records.operating(clock), records.power(10 + 20e-27 * clock**3))
        fits = fit_store(store, created_at="2026-11-21T12:00:00.000000Z")
        [group] = gather(store)
        points = [(r.frequency_hz or 0.0, r.value, bool(r.throttled)) for r in group.readings]
        drawn = curve(fits, points)
        assert drawn is not None
        assert max(abs(r) for _, r, _ in drawn.residuals) < 0.01 and len(drawn.cubic) == len(drawn.law)
        return render_page(title=HOSTILE, profiles=[store.runs.get(run.uid)], fits=fits, curves=[drawn])


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    page = page_of(tmp_path / "x.db")
    assert "<script" not in page and "<b>&" not in page
    assert "&lt;script&gt;alert(" in page


def test_the_page_loads_nothing_and_says_what_was_not_measured(tmp_path: Path) -> None:
    page = page_of(tmp_path / "x.db")
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))
    assert page.count("<svg") == 2 and "N/A" in page and "measured" in page
    assert len(page) < 200_000


def test_a_point_that_was_cut_short_has_null_and_not_zero(database: Path) -> None:
    run = records.run()
    with open_store(database) as store:
        store.runs.begin(run)
        store.runs.add(store.runs.begin_point(run.uid, run.planned[0]), records.latency("layer", "forward", 0.1))
        document = profile_document(store.runs.get(run.uid))
    [point] = document["points"]
    assert point["done"] is False and document["complete"] is False
    assert point["power_w"] is None and point["frequency_hz"] is None
    layer = next(s for s in point["segments"] if s["segment"] == "layer")
    assert layer["forward_s"] == 0.1 and layer["backward_s"] is None and layer["energy_j"] is None
    assert document["check"]["sum_of_segments_s"] is None


def test_the_sum_of_segments_counts_every_layer_and_skips_the_embeddings_missing_backward(database: Path) -> None:
    run = records.run()
    with open_store(database) as store:
        store.runs.begin(run)
        uid = store.runs.begin_point(run.uid, run.planned[0])
        times = {"embedding": (0.001,), "first_layer": (0.1, 0.08), "layer": (0.1, 0.12), "head": (0.5, 0.4)}
        for segment, phases in times.items():
            for phase, value in zip(("forward", "backward"), phases, strict=False):
                store.runs.add(uid, records.latency(segment, phase, value))
        store.runs.finish_point(uid, records.OPERATING, records.power(50.0))
        document = profile_document(store.runs.get(run.uid))
    assert abs(document["check"]["sum_of_segments_forward_s"] - (0.001 + 0.1 + 3 * 0.1 + 0.5)) < 1e-12
    assert abs(document["check"]["sum_of_segments_backward_s"] - (0.08 + 3 * 0.12 + 0.4)) < 1e-12
    layer = next(s for s in document["points"][0]["segments"] if s["segment"] == "layer")
    assert abs(layer["energy_j"] - 50.0 * 0.22) < 1e-9
    assert layer["estimates"]["energy_j"]["provenance"]["how"] == "derived"


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 2611) == [0, 1000, 2000]
    assert ticks(0.0, 0.11) == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])
    assert ticks(3.0, 3.0) == [3.0]

"""The page and its CSV: hostile names are text, unknown is N/A, files keep every digit."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardlab.core.plain import to_plain
from cardlab.db import open_store
from cardlab.reports.csv_text import csv_text
from cardlab.reports.html import MOST_ROWS, cell_text, render_page
from cardlab.reports.svg import limits, log_ticks, ticks
from cardlab.reports.views.parts import Axis, Bars, Chart, Column, Section, Series, Table, file_key
from cardlab.reports.views.profile import profile_document
from tests import records
from tests.reports.world import HOSTILE

CELLS = st.one_of(
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(exclude_categories=("Cs", "Cc")))
)


def table(*rows: tuple[object, ...], columns: int = 2) -> Table:
    heads = (Column(name="name"), *(Column(name=f"c{i}", unit="s", shown="ms") for i in range(1, columns)))
    return Table(key="t", caption="a table of things", columns=heads, rows=rows)  # type: ignore[arg-type]


def page(*parts: object) -> str:
    return render_page(HOSTILE, [Section(title=HOSTILE, parts=parts, lines=(HOSTILE,), warnings=(HOSTILE,))])  # type: ignore[arg-type]


def test_hostile_text_is_shown_as_text_wherever_it_stands() -> None:
    series = Series(name=HOSTILE, style="points", colour=0, x=(1.0,), y=(2.0,), labels=(HOSTILE,))
    axis = Axis(label=HOSTILE, unit="s", shown="s")
    chart = Chart(key="c", title=HOSTILE, note=HOSTILE, x=axis, y=axis, series=(series,))
    bars = Bars(key="b", title=HOSTILE, note=HOSTILE, unit="s", rows=(HOSTILE,), terms=(HOSTILE,), values=((1.0,),))
    text = page(chart, bars, table((HOSTILE, 1.0)))
    assert "<script" not in text and "<img" not in text
    assert text.count("&lt;script&gt;") > 10


def test_unknown_is_na_and_units_stand_in_the_head() -> None:
    text = page(table(("a", None), ("b", 0.0125)))
    assert "N/A" in text and ">12.5<" in text and "c1 (ms)" in text


def test_a_long_table_says_what_it_leaves_to_the_csv() -> None:
    long = table(*((f"row {i}", float(i)) for i in range(MOST_ROWS + 7)))
    text = page(long)
    assert "7 more rows are in the CSV" in text and f"row {MOST_ROWS - 1}<" in text and f"row {MOST_ROWS}<" not in text
    assert csv_text(long).count("\r\n") == MOST_ROWS + 8


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=20))
def test_csv_gives_back_every_number_to_the_last_digit_and_no_formula(rows: list[tuple[object, object]]) -> None:
    read = list(csv.reader(io.StringIO(csv_text(table(*rows)))))
    assert read[0] == ["name", "c1 (s)"] and len(read) == len(rows) + 1
    for wanted, found in zip(rows, read[1:], strict=True):
        for cell, text in zip(wanted, found, strict=True):
            if isinstance(cell, float):
                assert float(text) == cell
            elif isinstance(cell, str):
                assert text.removeprefix("'") == cell.removeprefix("'") or text == f"'{cell}"
                assert text == "-" or not text.startswith(("=", "+", "-", "@"))
            else:
                assert text == ""


@given(st.text(max_size=60))
def test_a_file_name_is_safe_whatever_the_device_is_called(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", file_key(name, "power"))


@given(st.floats(1e-9, 1e9), st.floats(1.001, 1e6), st.booleans(), st.booleans())
def test_ticks_lie_inside_their_axis(low: float, factor: float, log: bool, zero: bool) -> None:
    axis = Axis(label="x", unit="s", shown="s", log=log, zero=zero)
    first, last = limits(axis, [low, low * factor])
    found = log_ticks(first, last) if log else ticks(first, last)
    assert first < last and found
    assert all(first * (1 - 1e-6) - 1e-12 <= t <= last * (1 + 1e-6) for t in found) and len(found) <= 40


def test_ticks_are_round() -> None:
    assert ticks(0, 2611) == [0, 1000, 2000]
    assert ticks(0.0, 0.11) == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])
    assert ticks(3.0, 3.0) == [3.0]
    assert log_ticks(0.9, 30.0) == [1.0, 2.0, 5.0, 10.0, 20.0]


def test_cells_read_as_people_write() -> None:
    column = Column(name="clock", unit="Hz", shown="MHz")
    assert cell_text(2.4e9, column) == "2,400" and cell_text(None, column) == "N/A"
    assert cell_text(True, Column(name="x")) == "yes"
    assert cell_text(6.25e-27, Column(name="kappa", unit="1")) == "6.25e-27"


def test_sections_are_plain_data() -> None:
    section = Section(title="x", parts=(table(("a", 1.0)),))
    assert json.loads(json.dumps(to_plain(section), allow_nan=False))["parts"][0]["rows"] == [["a", 1.0]]


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

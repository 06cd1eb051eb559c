"""How often rounds lie in their intervals: a table by device and term, and a calibration plot of all runs."""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.core.records.coverage import DELAY, LEVELS, Calibration, TermCoverage
from cardlab.reports.views.parts import Axis, Chart, Column, Part, Section, Series, Table

# Those that make up a round; what is left is small, and a page has as many colours.
_DRAWN = (DELAY, "device", "server", "uplink", "downlink")
# With fewer rounds a share moves in steps that a curve would hide.
_LEAST_ROUNDS = 5


def coverage_section(
    of_run: Sequence[TermCoverage], here: Sequence[TermCoverage], calibration: Sequence[Calibration]
) -> tuple[Section, ...]:
    """Of one run and of all runs of the database; none where nothing was predicted with an interval."""
    if not of_run and not here:
        return ()
    parts: list[Part] = [_table(of_run, here)]
    chart = _chart(calibration)
    if chart is not None:
        parts.append(chart)
    return (Section(title="Inside the intervals", parts=tuple(parts)),)


def _table(of_run: Sequence[TermCoverage], here: Sequence[TermCoverage]) -> Table:
    return Table(
        key="run-coverage",
        caption="rounds whose value lies in the 95 % interval that was predicted for it",
        columns=(
            Column(name="runs"),
            Column(name="device"),
            Column(name="term"),
            Column(name="inside"),
            Column(name="rounds"),
            Column(name="share", unit="1", shown="%"),
            Column(name="why not"),
        ),
        rows=tuple(
            (which, one.device or "all", _word(one.term), str(one.inside), str(one.rounds), one.share, one.reason)
            for which, found in (("this run", of_run), ("all runs here", here))
            for one in found
        ),
    )


def _chart(calibration: Sequence[Calibration]) -> Chart | None:
    terms = [t for t in _DRAWN if _rounds(calibration, t) >= _LEAST_ROUNDS]
    if not terms:
        return None
    ideal = Series(name="as stated", style="dashed", colour=len(terms), x=LEVELS, y=LEVELS)
    series = [
        Series(
            name=f"{_word(term)} ({_rounds(calibration, term)} rounds)",
            style="line",
            colour=n,
            x=tuple(c.level for c in calibration if c.term == term),
            y=tuple(c.share for c in calibration if c.term == term),
        )
        for n, term in enumerate(terms)
    ]
    return Chart(
        key="run-calibration",
        title="calibration of the intervals, all runs here",
        note="Share of rounds inside an interval of each level; the levels beside 95 % are made from the stored"
        " interval as those of a normal law. Above the dashed line intervals are too wide, below it too narrow.",
        x=Axis(label="level of the interval", unit="1", shown="%"),
        y=Axis(label="share of rounds inside", unit="1", shown="%", zero=True),
        series=(*series, ideal),
    )


def _rounds(calibration: Sequence[Calibration], term: str) -> int:
    return next((c.rounds for c in calibration if c.term == term), 0)


def _word(term: str) -> str:
    return "total delay" if term == DELAY else term

"""A split run as sections: every term predicted against measured, over the run and round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cardlab.core.order import natural
from cardlab.core.quantity import Provenance, union_of
from cardlab.core.records.checks import TOTAL as DELAY
from cardlab.core.records.checks import TermCheck, predicted_delay_s
from cardlab.core.records.measurement import Run
from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import Quality, TrainPhase, TrainRound
from cardlab.reports.views.parts import Axis, Bars, Cell, Chart, Column, Part, Section, Series, Table, file_key

ROUND = Axis(label="round", unit="1", shown="1")
# Terms below 2 % of the delay would fill the page with pictures of noise.
LEAST_SHARE = 0.02


def run_sections(
    run: Run,
    rounds: Sequence[TrainRound],
    checks: Sequence[TermCheck],
    judged: Mapping[int, Quality] | None = None,
) -> tuple[Section, ...]:
    """The report of a split run.

    Args:
        checks: medians over its rounds, the delay under the term "delay".
        judged: what held-out rows say, by round; 0 is before the first.
    """
    judged = judged or {}
    devices = tuple(dict.fromkeys(r.device.name for r in rounds))
    head = _head(run, rounds, devices)
    if not rounds:
        return (head,)
    by_round = tuple(
        part for name in devices for part in _device_charts(run, name, [r for r in rounds if r.device.name == name])
    )
    return (
        head,
        Section(title="Predicted against observed", parts=(_bars(run, checks), _checks_table(run, checks))),
        Section(
            title="Run, round by round",
            parts=(*by_round, _loss(run, rounds, devices, judged), *_quality(judged), _rounds_table(run, rounds)),
        ),
        Section(title="Every term of every round", parts=(_terms_table(run, rounds),)),
    )


def _head(run: Run, rounds: Sequence[TrainRound], devices: Sequence[str]) -> Section:
    plan = next((r.plan for r in rounds if r.plan is not None), None)
    finished = len({r.number for r in rounds})
    lines = [
        f"Server {run.device.name}, devices {', '.join(devices) or 'none'}; {finished} finished round(s), started"
        f" {run.started_at[:19]} UTC. "
        + (f"It followed plan {plan[:12]}." if plan is not None else "It followed no plan: the cut was given.")
    ]
    if run.task is not None:
        t = run.task
        lines.append(
            f"Task: {t.model}, {t.lora.words}, batch {t.batch} x {t.sequence} tokens, optimizer {t.optimizer}."
        )
    predicted = any(p.predicted_s is not None for r in rounds for p in r.phases)
    lines.append(
        f"Observed terms: {run.provenance}. "
        + (f"Predicted terms: {_words(_all_of(rounds))}, from the plan or the fits." if predicted else _NO_PREDICTION)
    )
    warnings = (*(() if rounds else ("No round was finished.",)), *(run.expected_notes if predicted else ()))
    return Section(title=f"Split run {run.uid[:12]}", level=1, lines=tuple(lines), warnings=warnings)


_NO_PREDICTION = "Nothing was predicted."


def _made_of(finished: TrainRound) -> Provenance | None:
    """What a round's predictions were made of."""
    found = [p.predicted_provenance for p in finished.phases if p.predicted_provenance is not None]
    return union_of(found) if found else None


def _all_of(rounds: Sequence[TrainRound]) -> Provenance | None:
    found = [made for made in map(_made_of, rounds) if made is not None]
    return union_of(found) if found else None


def _words(provenance: Provenance | None) -> str:
    return "N/A" if provenance is None else str(provenance)


def _bars(run: Run, checks: Sequence[TermCheck]) -> Bars:
    rows, values, intervals = [], [], []
    for device in dict.fromkeys(c.device for c in checks):
        mine = {c.term: c for c in checks if c.device == device}
        for kind in ("observed", "predicted"):
            found = tuple(getattr(mine[t], f"{kind}_s") if t in mine else None for t in TERMS)
            if any(v is not None for v in found):
                rows.append(f"{device}: {kind}")
                values.append(found)
                whole = mine.get(DELAY)
                intervals.append(whole.ci95 if kind == "predicted" and whole is not None else None)
    return Bars(
        key="run-terms",
        title="delay by term, observed and predicted",
        note=f"Medians over rounds; whiskers are 95 % intervals of the prediction. Observed: {run.provenance}.",
        unit="s",
        rows=tuple(rows),
        terms=TERMS,
        values=tuple(values),
        ci95=tuple(intervals),
    )


def _checks_table(run: Run, checks: Sequence[TermCheck]) -> Table:
    rows = tuple(
        (
            c.device,
            c.term if c.term != DELAY else "total delay",
            c.observed_s,
            *(c.observed_range_s or (None, None)),
            c.predicted_s,
            *(c.ci95 or (None, None)),
            c.error,
            c.inside,
            str(c.rounds),
            str(run.provenance),
            _words(c.predicted_provenance),
        )
        for c in checks
    )
    ms = {"unit": "s", "shown": "ms"}
    return Table(
        key="run-checks",
        caption="medians over rounds; error = (predicted - observed) / observed",
        columns=(
            Column(name="device"),
            Column(name="term"),
            Column(name="observed", **ms),
            Column(name="smallest", **ms),
            Column(name="largest", **ms),
            Column(name="predicted", **ms),
            Column(name="95 % from", **ms),
            Column(name="95 % to", **ms),
            Column(name="error", unit="1", shown="%"),
            Column(name="inside the interval"),
            Column(name="rounds"),
            Column(name="origin of the observed"),
            Column(name="origin of the predicted"),
        ),
        rows=rows,
    )


def _inside(observed_s: float | None, ci95: tuple[float, float] | None) -> bool | None:
    return None if observed_s is None or ci95 is None else ci95[0] <= observed_s <= ci95[1]


def _device_charts(run: Run, device: str, rounds: Sequence[TrainRound]) -> list[Part]:
    """The delay, and each term that matters, against the round."""
    # The delay as one more term, so that it is drawn in the same way as its parts.
    whole = [
        TrainPhase(
            term=DELAY, observed_s=r.delay_s, predicted_s=predicted_delay_s(r), predicted_ci95=r.predicted_delay_ci95
        )
        for r in rounds
    ]
    largest = max((p.observed_s or p.predicted_s or 0.0 for p in whole), default=0.0)
    parts: list[Part] = [_term_chart(run, device, rounds, whole)]
    for term in TERMS:
        mine = [next((p for p in r.phases if p.term == term), TrainPhase(term=term, observed_s=None)) for r in rounds]
        if max(max(p.observed_s or 0.0, p.predicted_s or 0.0) for p in mine) >= LEAST_SHARE * largest > 0.0:
            parts.append(_term_chart(run, device, rounds, mine))
    return parts


def _term_chart(run: Run, device: str, rounds: Sequence[TrainRound], phases: Sequence[TrainPhase]) -> Chart:
    pairs = list(zip((float(r.number) for r in rounds), phases, strict=True))
    bands = [(n, *p.predicted_ci95) for n, p in pairs if p.predicted_ci95 is not None]
    predicted = [(n, p.predicted_s) for n, p in pairs if p.predicted_s is not None]
    observed = [(n, p.observed_s) for n, p in pairs if p.observed_s is not None]
    term = phases[0].term
    series = (
        Series(
            name="95 % interval of the prediction",
            style="band",
            colour=1,
            x=tuple(b[0] for b in bands),
            y=tuple(b[1] for b in bands),
            upper=tuple(b[2] for b in bands),
        ),
        Series(
            name="predicted",
            style="dashed",
            colour=1,
            x=tuple(n for n, _ in predicted),
            y=tuple(v for _, v in predicted),
        ),
        Series(
            name=f"observed ({run.provenance})",
            style="points",
            colour=0,
            x=tuple(n for n, _ in observed),
            y=tuple(v for _, v in observed),
        ),
    )
    return Chart(
        key=file_key(device, term, "by-round"),
        title=f"{device}: {'delay' if term == DELAY else f'term {term}'} by round",
        note="Round totals, all mini-batches of the round together.",
        x=ROUND,
        y=Axis(label="time", unit="s", shown="ms", zero=True),
        series=tuple(s for s in series if s.x),
    )


def _loss(run: Run, rounds: Sequence[TrainRound], devices: Sequence[str], judged: Mapping[int, Quality]) -> Chart:
    series = []
    for i, name in enumerate(devices):
        known = [(float(r.number), r.loss) for r in rounds if r.device.name == name and r.loss is not None]
        x, y = tuple(n for n, _ in known), tuple(v for _, v in known)
        series += [
            Series(name=name, style="line", colour=i, x=x, y=y),
            Series(name=f"{name}, each round", style="points", colour=i, x=x, y=y),
        ]
    held_out = ""
    if judged:
        x, y = tuple(map(float, judged)), tuple(quality.loss for quality in judged.values())
        series.append(Series(name="held-out rows", style="dashed", colour=len(devices), x=x, y=y))
        held_out = " Held-out rows are judged after the round, with the adapters as they are then."
    return Chart(
        key="run-loss",
        title="loss by round",
        note=f"Mean over the mini-batches of a round; {run.provenance}.{held_out}",
        x=ROUND,
        y=Axis(label="loss", unit="1", shown="1"),
        series=tuple(s for s in series if s.x),
    )


def _quality(judged: Mapping[int, Quality]) -> tuple[Table, ...]:
    """What held-out rows say beside what saying it cost; nothing where none were held out."""
    if not judged:
        return ()
    rows = tuple(
        (
            str(number),
            quality.loss,
            quality.perplexity,
            quality.accuracy,
            str(quality.tokens),
            ", ".join(sorted(quality.devices, key=natural)),
            quality.elapsed_s,
            float(quality.up_bytes),
        )
        for number, quality in judged.items()
    )
    return (
        Table(
            key="run-held-out",
            caption="held-out rows after each round that was judged (0: before the first); seconds and bytes of the"
            " evaluation stand in no round",
            columns=(
                Column(name="round"),
                Column(name="loss", unit="1"),
                Column(name="perplexity", unit="1"),
                Column(name="accuracy", unit="1", shown="%"),
                Column(name="tokens"),
                Column(name="rows of"),
                Column(name="took", unit="s"),
                Column(name="sent", unit="B"),
            ),
            rows=rows,
        ),
    )


def _rounds_table(run: Run, rounds: Sequence[TrainRound]) -> Table:
    rows = tuple(
        (
            str(r.number),
            r.device.name,
            str(r.cut),
            r.frequency_hz,
            r.loss,
            r.delay_s,
            predicted_delay_s(r),
            r.energy_j,
            None if r.device_reading is None else r.device_reading.frequency_hz,
            None if r.device_reading is None else r.device_reading.energy_j,
            r.predicted_device_energy_j,
            str(run.provenance),
            _words(_made_of(r)),
        )
        for r in rounds
    )
    return Table(
        key="run-rounds",
        caption="finished rounds of the run, each device on its own",
        columns=(
            Column(name="round"),
            Column(name="device"),
            Column(name="cut"),
            Column(name="server frequency", unit="Hz", shown="MHz"),
            Column(name="loss", unit="1"),
            Column(name="delay", unit="s"),
            Column(name="predicted delay", unit="s"),
            Column(name="server energy", unit="J"),
            Column(name="device frequency", unit="Hz", shown="MHz"),
            Column(name="device energy", unit="J"),
            Column(name="predicted device energy", unit="J"),
            Column(name="origin of the observed"),
            Column(name="origin of the predicted"),
        ),
        rows=rows,
    )


def _terms_table(run: Run, rounds: Sequence[TrainRound]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for r in rounds:
        for p in r.phases:
            error = None
            if p.observed_s and p.predicted_s is not None:
                error = (p.predicted_s - p.observed_s) / p.observed_s
            low, high = p.predicted_ci95 or (None, None)
            values = (p.observed_s, p.predicted_s, low, high, error)
            origins = (str(run.provenance), _words(p.predicted_provenance))
            rows.append((str(r.number), r.device.name, p.term, *values, *origins))
    ms = {"unit": "s", "shown": "ms"}
    return Table(
        key="run-all-terms",
        caption="observed and predicted terms, round totals; error = (predicted - observed) / observed",
        columns=(
            Column(name="round"),
            Column(name="device"),
            Column(name="term"),
            Column(name="observed", **ms),
            Column(name="predicted", **ms),
            Column(name="95 % from", **ms),
            Column(name="95 % to", **ms),
            Column(name="error", unit="1", shown="%"),
            Column(name="origin of the observed"),
            Column(name="origin of the predicted"),
        ),
        rows=tuple(rows),
    )

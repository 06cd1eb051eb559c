"""One device as sections: what it is, its curves, its best frequency, its roofline, and every number in tables."""

from __future__ import annotations

from cardlab.core.quantity import Estimate
from cardlab.core.records.fit import Fit
from cardlab.core.records.measurement import Profile
from cardlab.core.text import subject
from cardlab.reports.views.curves import curve_charts, delta_chart, energy_chart
from cardlab.reports.views.inputs import DeviceData
from cardlab.reports.views.parts import ORIGIN, Column, Part, Section, Table, file_key
from cardlab.reports.views.points import points_table, segments_table, top_point
from cardlab.reports.views.roofline import roofline

_RANGE = (Column(name="95 % from"), Column(name="95 % to"))
# A measured table has a parameter for each frequency; the JSON document holds them all.
_SHOWN_PARAMETERS = 8


def device_sections(data: DeviceData) -> tuple[Section, ...]:
    """The report of one device; sections without content are left out."""
    sections = (
        _head(data),
        _curves(data),
        _deltas(data),
        _energy(data),
        *(section for profile in data.profiles for section in _profile(profile)),
        _fits(data),
    )
    return tuple(s for s in sections if s.parts or s.lines)


def _head(data: DeviceData) -> Section:
    d = data.device
    rows = (
        ("platform", d.platform),
        ("model", d.model),
        ("arithmetic cores", None if d.cores is None else str(d.cores)),
        ("lowest frequency offered (MHz)", _mhz(d.frequency_min_hz)),
        ("highest frequency offered (MHz)", _mhz(d.frequency_max_hz)),
        ("memory (GiB)", None if d.memory_bytes is None else f"{d.memory_bytes / 2**30:.4g}"),
        ("key", d.key),
    )
    facts = Table(
        key=file_key(d.name, "device"),
        caption="as the device describes itself",
        columns=(Column(name="fact"), Column(name="value")),
        rows=rows,
    )
    origins = sorted({o.value for p in data.profiles for o in p.run.provenance.origins})
    lines = [f"Origin of its measurements: {', '.join(origins)}."] if origins else []
    return Section(title=f"Device {d.name}", level=1, lines=tuple(lines), parts=(facts,), warnings=data.stale)


def _mhz(value_hz: float | None) -> str | None:
    return None if value_hz is None else f"{value_hz / 1e6:.6g}"


def _curves(data: DeviceData) -> Section:
    parts = [chart for curve in data.curves for chart in curve_charts(curve, data.optima)]
    return Section(title="Power and latency against the frequency", parts=tuple(parts))


def _deltas(data: DeviceData) -> Section:
    parts = tuple(delta_chart(delta) for delta in data.deltas)
    return Section(title="The law behind delta", parts=parts)


def _energy(data: DeviceData) -> Section:
    if not data.optima:
        return Section(title="Frequency of least energy")
    rows = tuple(
        (
            b.work,
            b.rail or "-",
            b.power_mode or "-",
            b.optimum.frequency_hz,
            *b.optimum.frequency_ci95_hz,
            b.optimum.energy_j.value,
            *_interval(b.optimum.energy_j),
            b.optimum.saving,
            b.law,
            str(b.optimum.energy_j.provenance),
        )
        for b in data.optima
    )
    table = Table(
        key=file_key(data.device.name, "least-energy"),
        caption="the frequency that spends least energy on a fixed piece of work",
        columns=(
            Column(name="work"),
            Column(name="rail"),
            Column(name="power mode"),
            Column(name="frequency", unit="Hz", shown="MHz"),
            *(Column(name=f"frequency, {c.name}", unit="Hz", shown="MHz") for c in _RANGE),
            Column(name="energy", unit="J"),
            *(Column(name=f"energy, {c.name}", unit="J") for c in _RANGE),
            Column(name="less than at the highest frequency", unit="1", shown="%"),
            Column(name="power law"),
            ORIGIN,
        ),
        rows=rows,
    )
    charts = (energy_chart(data.device.name, b) for b in data.optima)
    return Section(title="Frequency of least energy", parts=(*charts, table))


def _interval(estimate: Estimate) -> tuple[float | None, float | None]:
    return (None, None) if estimate.ci95 is None else estimate.ci95


def _profile(profile: Profile) -> tuple[Section, ...]:
    run, point = profile.run, top_point(profile)
    task = run.workload or "workload"
    lines = []
    if run.task is not None:
        t = run.task
        task = t.model
        lines.append(
            f"Task: {t.model}, {t.architecture.layers} layers, {t.lora.words}, batch {t.batch} x"
            f" {t.sequence} tokens, optimizer {t.optimizer}. Execution: {run.execution.numbers},"
            f" {run.execution.attention}, {run.execution.threads} thread(s)."
        )
    lines.append(f"Run {run.uid[:12]}, started {run.started_at[:19]} UTC, {run.provenance}.")
    warnings = () if profile.complete else ("The run is incomplete: some planned points were not measured.",)
    parts: list[Part] = []
    if point is not None:
        chart = roofline(profile, point)
        parts += [] if chart is None else [chart]
        parts += [t for t in (segments_table(profile, point),) if t.rows]
    parts += [points_table(profile), *_cuts(profile)]
    return (Section(title=f"Profile of {task}", lines=tuple(lines), warnings=warnings, parts=tuple(parts)),)


def _cuts(profile: Profile) -> list[Table]:
    if profile.run.analysis is None or not profile.run.analysis.cuts:
        return []
    rows = tuple(
        (
            str(c.cut),
            c.device_flop,
            c.server_flop,
            c.activation_bytes,
            c.gradient_bytes,
            c.adapter_bytes,
            c.device_memory_bytes,
            c.server_memory_bytes,
        )
        for c in profile.run.analysis.cuts
    )
    work = {"unit": "FLOP", "shown": "GFLOP"}
    size = {"unit": "bytes", "shown": "MiB"}
    return [
        Table(
            key=file_key(profile.run.device.name, "cuts"),
            caption=(
                "cuts: layers 1..cut and the embedding on the device, the rest and the head on the server;"
                " counted, not measured, for one mini-batch at the dtype of the profile"
            ),
            columns=(
                Column(name="cut"),
                Column(name="device work", **work),
                Column(name="server work", **work),
                Column(name="smashed data", **size),
                Column(name="gradient", **size),
                Column(name="adapters", **size),
                Column(name="device memory", **size),
                Column(name="server memory", **size),
            ),
            rows=rows,
        )
    ]


def _fits(data: DeviceData) -> Section:
    tables = [t for t in (_constants(data), fits_table(data.fits, data.device.name)) if t.rows]
    warnings = tuple(
        dict.fromkeys(f"{_about(f)}, law {f.law}: {line}" for f in data.fits if f.selected for line in f.warnings)
    )
    return Section(title="Fits and constants", parts=tuple(tables), warnings=warnings)


def _constants(data: DeviceData) -> Table:
    rows = tuple(
        (
            c.about,
            c.name,
            c.value.value,
            c.value.stderr,
            c.unit,
            c.low_hz,
            c.high_hz,
            c.error,
            str(c.value.provenance),
        )
        for constants in data.constants
        for c in constants.rows()
    )
    return Table(
        key=file_key(data.device.name, "constants"),
        caption="constants, with the frequencies they were fitted over and the mean error of their law there",
        columns=(
            Column(name="of"),
            Column(name="constant"),
            Column(name="value", unit="1"),
            Column(name="standard error", unit="1"),
            Column(name="unit"),
            Column(name="from", unit="Hz", shown="MHz"),
            Column(name="to", unit="Hz", shown="MHz"),
            Column(name="error", unit="1", shown="%"),
            ORIGIN,
        ),
        rows=rows,
    )


def fits_table(fits: tuple[Fit, ...], device_name: str) -> Table:
    """All fits: the chosen law of each curve, and the laws it was compared with."""
    rows = tuple(
        (
            _about(f),
            f.law,
            "chosen" if f.selected else "compared",
            str(f.n_points),
            _parameters(f),
            f.intervals,
            f.mape,
            f.loo_mape,
            str(f.provenance),
        )
        for f in sorted(fits, key=lambda f: (f.quantity != "power", not f.selected))
    )
    return Table(
        key=file_key(device_name, "fits"),
        caption="laws, with the mean error in the sample and with each frequency held out in turn",
        columns=(
            Column(name="curve"),
            Column(name="law"),
            Column(name=""),
            Column(name="points"),
            Column(name="parameters"),
            Column(name="intervals"),
            Column(name="error in sample", unit="1", shown="%"),
            Column(name="error held out", unit="1", shown="%"),
            ORIGIN,
        ),
        rows=rows,
    )


def _about(fit: Fit) -> str:
    words = subject(fit.quantity, segment=fit.segment, phase=fit.phase, rail=fit.rail, codec=fit.codec)
    return words if fit.power_mode is None else f"{words}, {fit.power_mode}"


def _parameters(fit: Fit) -> str:
    words = []
    for name, p in list(fit.parameters.items())[:_SHOWN_PARAMETERS]:
        error = "" if p.stderr is None else f" +- {p.stderr:.2g}"
        words.append(f"{name} {p.value:.4g}{error}{'' if p.unit == '1' else f' {p.unit}'}")
    more = len(fit.parameters) - _SHOWN_PARAMETERS
    return ", ".join(words) + (f", and {more} more" if more > 0 else "")

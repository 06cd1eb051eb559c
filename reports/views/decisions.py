"""A plan as sections: what was decided, what it costs term by term, how sure it is, and what else there was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from cardlab.core.records.budget import Budgeted
from cardlab.core.records.plan import ENERGY_TERMS, TERMS, Decision, Outcome, Plan, PlannedRound, TradeOff
from cardlab.reports.views.parts import ORIGIN, Axis, Bars, Cell, Chart, Column, Part, Section, Series, Table

# A chart is some 340 units wide: more rounds would lie on each other.
_MOST_ROUNDS = 200
_CLOCK = {"unit": "Hz", "shown": "MHz"}


def plan_sections(plan: Plan) -> tuple[Section, ...]:
    """The report of a plan; sections without content are left out."""
    sections = (
        _head(plan),
        _costs(plan),
        _settings(plan),
        _budget(plan),
        _rounds(plan),
        _alternatives(plan),
        _sensitivity(plan),
    )
    return tuple(s for s in sections if s.parts or s.lines)


def plan_pictures(plan: Plan) -> tuple[Chart | Bars, ...]:
    """The pictures of a plan without its tables."""
    return tuple(p for s in plan_sections(plan) for p in s.parts if not isinstance(p, Table))


def _head(plan: Plan) -> Section:
    lines = [
        f"Scheme {plan.scheme}; server energy counted as {plan.energy or 'N/A'}; {len(plan.rounds)} round(s);"
        f" origin {plan.provenance}."
    ]
    if plan.assumptions:
        lines.append(f"Assumed: {'; '.join(plan.assumptions)}.")
    if plan.uncertainty:
        uncertainty = ", ".join(f"{name} {lost:.2g}" for name, lost in list(plan.uncertainty.items())[:5] if lost > 0.0)
        lines.append(f"What the uncertainty of each constant adds to the cost on average: {uncertainty or 'nothing'}.")
    return Section(
        title=f"Plan {plan.uid[:12]}",
        level=1,
        lines=tuple(lines),
        warnings=plan.notes,
        parts=(_decisions(plan.rounds[0]),),
    )


def _decisions(first: PlannedRound) -> Table:
    rows = tuple(
        (
            d.device,
            str(d.cut),
            d.frequency_hz,
            d.delay_s,
            *(d.delay_ci95 or (None, None)),
            d.server_energy_j,
            *(d.server_energy_ci95 or (None, None)),
            d.device_frequency_hz,
            d.device_energy_j,
            d.cost,
            d.cut_probability,
            "none" if d.runner_up is None else f"cut {d.runner_up.cut}",
            None if d.runner_up is None else d.runner_up.margin,
            ", ".join(d.binding) or "-",
            str(d.provenance),
        )
        for d in first.devices
    )
    return Table(
        key="decisions",
        caption=f"decisions of round {first.round}",
        columns=(
            Column(name="device"),
            Column(name="cut"),
            Column(name="server frequency", **_CLOCK),
            Column(name="delay", unit="s"),
            Column(name="delay, 95 % from", unit="s"),
            Column(name="delay, 95 % to", unit="s"),
            Column(name="server energy", unit="J"),
            Column(name="server energy, 95 % from", unit="J"),
            Column(name="server energy, 95 % to", unit="J"),
            Column(name="device frequency", **_CLOCK),
            Column(name="device energy", unit="J"),
            Column(name="cost", unit="1"),
            Column(name="certainty of the cut", unit="1", shown="%"),
            Column(name="runner-up"),
            Column(name="margin", unit="1"),
            Column(name="binding"),
            ORIGIN,
        ),
        rows=rows,
    )


def _costs(plan: Plan) -> Section:
    first = plan.rounds[0]
    parts: list[Part] = [delay_bars(first)]
    if any(d.server_energy_j is not None or d.device_energy_j is not None for d in first.devices):
        parts.append(energy_bars(first))
    parts.append(_terms_table(first))
    if any(d.device_energy_j is not None for d in first.devices):
        parts.append(_energy_table(first))
    return Section(title=f"Delay and energy of round {first.round} by term", parts=tuple(parts))


def _name(d: Decision) -> str:
    clock = "frequency N/A" if d.frequency_hz is None else f"server at {d.frequency_hz / 1e6:.5g} MHz"
    return f"{d.device}: cut {d.cut}, {clock}"


def delay_bars(planned: PlannedRound) -> Bars:
    """Delay of each device by term, round totals, with the interval of the whole."""
    return Bars(
        key="delay-by-term",
        title="delay by term",
        note=f"Round totals; whiskers are 95 % intervals. Origin {_origins(planned)}.",
        unit="s",
        rows=tuple(_name(d) for d in planned.devices),
        terms=TERMS,
        values=tuple(tuple(getattr(d.delay_terms, t) for t in TERMS) for d in planned.devices),
        ci95=tuple(d.delay_ci95 for d in planned.devices),
    )


def energy_bars(planned: PlannedRound) -> Bars:
    """Energy of server and device in one round of each device."""
    return Bars(
        key="energy-by-party",
        title="energy by party",
        note=f"Of one round; what is N/A has no bar. Origin {_origins(planned)}.",
        unit="J",
        rows=tuple(_name(d) for d in planned.devices),
        terms=("server", "device"),
        values=tuple((d.server_energy_j, d.device_energy_j) for d in planned.devices),
    )


def _origins(planned: PlannedRound) -> str:
    return "+".join(sorted({o.value for d in planned.devices for o in d.provenance.origins}))


def _terms_table(planned: PlannedRound) -> Table:
    rows = tuple(
        (d.device, *(getattr(d.delay_terms, t) for t in TERMS), d.delay_s, str(d.provenance)) for d in planned.devices
    )
    columns = (*(Column(name=t, unit="s") for t in TERMS), Column(name="delay", unit="s"))
    return Table(
        key="delay-terms",
        caption="delay terms, round totals with all local epochs; they add up to the delay",
        columns=(Column(name="device"), *columns, ORIGIN),
        rows=rows,
    )


def _energy_table(planned: PlannedRound) -> Table:
    """What devices spend by term; what is not known is N/A, and then so is the total."""
    found = [(d, d.device_energy_terms) for d in planned.devices if d.device_energy_terms is not None]
    rows = tuple((d.device, *(getattr(t, n) for n in ENERGY_TERMS), t.total, str(d.provenance)) for d, t in found)
    columns = (*(Column(name=n, unit="J") for n in ENERGY_TERMS), Column(name="total", unit="J"))
    return Table(
        key="device-energy-terms",
        caption="energy of each device in the round, by what it is spent on",
        columns=(Column(name="device"), *columns, ORIGIN),
        rows=rows,
    )


def _settings(plan: Plan) -> Section:
    """The same cuts at the governor's default, at the highest frequencies and as planned."""
    title, found = "At the governor's default, at the highest, as planned", plan.side_by_side
    if found is None:
        return Section(title=title)
    rows = tuple(
        (
            s.label,
            s.setting,
            *(("-", "-") if s.device is None else (s.server_frequency_hz, s.device_frequency_hz)),
            s.delay_s,
            s.server_energy_j,
            s.server_j_per_token,
            s.device_energy_j,
            s.device_j_per_token,
            "; ".join(lack.reason for lack in s.lacks) or "-",
            str(s.provenance),
        )
        for s in found.settings
    )
    table = Table(
        key="side-by-side",
        caption=f"energy a round and a token; server energy counted as {plan.energy or 'N/A'}, device energy as"
        f" {plan.device_energy}",
        columns=(
            Column(name="device"),
            Column(name="setting"),
            Column(name="server frequency", **_CLOCK),
            Column(name="device frequency", **_CLOCK),
            Column(name="delay", unit="s"),
            Column(name="server energy", unit="J"),
            Column(name="server energy a token", unit="J"),
            Column(name="device energy", unit="J"),
            Column(name="device energy a token", unit="J"),
            Column(name="not known"),
            ORIGIN,
        ),
        rows=rows,
    )
    lines = [f"Note: {note}." for note in found.notes]
    return Section(
        title=title, lines=tuple(lines + [f"N/A: {k.reason}; {k.remedy}." for k in found.lacks]), parts=(table,)
    )


def _budget(plan: Plan) -> Section:
    """What devices spend of their budgets over all rounds, and what that costs beside the rounds without."""
    title, found = "Energy budgets over all rounds", plan.budget
    if found is None:
        return Section(title=title)
    origin = str(plan.provenance)
    each = zip(found.devices, found.budget_j, found.spent_j, found.myopic_j, found.frequency_hz, strict=True)
    spent = Table(
        key="energy-budgets",
        caption=f"energy of each device in all {len(plan.rounds)} rounds, counted as {plan.device_energy}",
        columns=(
            Column(name="device"),
            Column(name="budget", unit="J"),
            Column(name="spent", unit="J"),
            Column(name="without the budgets", unit="J"),
            Column(name="mean device frequency", **_CLOCK),
            ORIGIN,
        ),
        rows=tuple(
            (name, "none" if budget is None else budget, own, alone, hz, origin)
            for name, budget, own, alone, hz in each
        ),
    )
    beside = Table(
        key="energy-budgets-beside",
        caption="means over rounds of sums over devices",
        columns=(
            Column(name="rounds decided"),
            Column(name="cost", unit="1"),
            Column(name="delay", unit="s"),
            Column(name="server energy", unit="J"),
            ORIGIN,
        ),
        rows=(
            ("with the budgets", found.cost, found.delay_s, found.server_energy_j, origin),
            ("one by one, without", found.myopic_cost, found.myopic_delay_s, found.myopic_server_energy_j, origin),
        ),
    )
    kept = "Every budget is kept." if found.kept else f"Not kept: the budget of {', '.join(found.missed)}."
    return Section(title=title, lines=(kept,), parts=(_spent_chart(plan, found), spent, beside))


def _spent_chart(plan: Plan, found: Budgeted) -> Chart:
    """What each device has spent by the end of each round, and its budget."""
    series = []
    last = float(len(plan.rounds))
    for m, (name, budget_j) in enumerate(zip(found.devices, found.budget_j, strict=True)):
        each = [r.devices[m].device_energy_j for r in plan.rounds]
        known = [e for e in each if e is not None]
        if len(known) == len(each):
            sums = tuple(accumulate(known, initial=0.0))
            x = tuple(float(n) for n in range(len(sums)))
            series.append(Series(name=f"{name} has spent", style="line", colour=m, x=x, y=sums))
        if budget_j is not None:
            pair = (budget_j, budget_j)
            series.append(Series(name=f"budget of {name}", style="dashed", colour=m, x=(0.0, last), y=pair))
    return Chart(
        key="energy-spent-by-round",
        title="device energy spent by round",
        note=f"Sums since the first round; origin {_origins(plan.rounds[0])}.",
        x=Axis(label="round", unit="1", shown="1", zero=True),
        y=Axis(label="device energy", unit="J", shown="J", zero=True),
        series=tuple(series),
    )


def _rounds(plan: Plan) -> Section:
    # Equal rounds tell nothing beyond the table of decisions.
    if len(plan.rounds) < 2 or all(r.devices == plan.rounds[0].devices for r in plan.rounds):
        return Section(title="Rounds")
    shown = plan.rounds[:_MOST_ROUNDS]
    lines = () if len(shown) == len(plan.rounds) else (f"The first {len(shown)} of {len(plan.rounds)} rounds.",)
    charts = (
        _by_round(shown, "cut", Axis(label="cut", unit="1", shown="1", zero=True)),
        _by_round(shown, "frequency_hz", Axis(label="server frequency", unit="Hz", shown="MHz")),
        _by_round(shown, "delay_s", Axis(label="delay", unit="s", shown="s", zero=True)),
        *(
            ()
            if plan.budget is None
            else (_by_round(shown, "device_frequency_hz", Axis(label="device frequency", unit="Hz", shown="MHz")),)
        ),
    )
    return Section(title="Round by round", lines=lines, parts=tuple(c for c in charts if c.series))


def _by_round(rounds: tuple[PlannedRound, ...], key: str, axis: Axis) -> Chart:
    series = []
    for m, name in enumerate(d.device for d in rounds[0].devices):
        pairs = [(r.round, getattr(r.devices[m], key)) for r in rounds if len(r.devices) > m]
        known = [(float(n), float(v)) for n, v in pairs if v is not None]
        if known:
            series.append(
                Series(name=name, style="line", colour=m, x=tuple(n for n, _ in known), y=tuple(v for _, v in known))
            )
    return Chart(
        key=f"{axis.label.replace(' ', '-')}-by-round",
        title=f"{axis.label} by round",
        note=f"As planned; origin {_origins(rounds[0])}.",
        x=Axis(label="round", unit="1", shown="1"),
        y=axis,
        series=tuple(series),
    )


def _alternatives(plan: Plan) -> Section:
    rows: list[tuple[Cell, ...]] = [_outcome("this plan", plan.outcome, plan)]
    rows += [_outcome(name.replace("_", " "), o, plan) for name, o in plan.baselines.items()]
    table = Table(
        key="baselines",
        caption="beside it, at equal conditions: means over rounds of sums over devices",
        columns=(
            Column(name="plan"),
            Column(name="delay", unit="s"),
            Column(name="server energy", unit="J"),
            Column(name="device energy", unit="J"),
            ORIGIN,
        ),
        rows=tuple(rows),
    )
    parts: list[Part] = [p for p in (trade_chart(plan), own_trade_chart(plan)) if p is not None]
    parts.append(table)
    if plan.pareto:
        parts.append(_pareto_table(plan))
    return Section(title="Beside this plan", parts=tuple(parts))


def _outcome(name: str, o: Outcome, plan: Plan) -> tuple[Cell, ...]:
    return name, o.delay_s, o.server_energy_j, o.device_energy_j, str(plan.provenance)


def trade_chart(plan: Plan) -> Chart | None:
    """Delay against server energy: the plan, its baselines, the Pareto front; None without energies."""
    energies = [d.server_energy_j for d in plan.rounds[0].devices]
    return _trade(plan, "server", (lambda p: p.server_energy_j), energies, lambda o: o.server_energy_j)


def own_trade_chart(plan: Plan) -> Chart | None:
    """The same points over the devices' energy, the third price of a front that knows it; None for any other."""
    if not any(p.device_energy_j is not None for p in plan.pareto):
        return None
    energies = [d.device_energy_j for d in plan.rounds[0].devices]
    return _trade(plan, "device", (lambda p: p.device_energy_j), energies, lambda o: o.device_energy_j)


def _trade(
    plan: Plan,
    whose: str,
    of_point: Callable[[TradeOff], float | None],
    of_plan: Sequence[float | None],
    of_outcome: Callable[[Outcome], float | None],
) -> Chart | None:
    """Delay against one of the energies; what is not known has no point."""
    first, single = plan.rounds[0].devices, len(plan.rounds) == 1
    series = []
    pairs = sorted((p.delay_s, e, _point_label(p)) for p in plan.pareto if (e := of_point(p)) is not None)
    if pairs:
        x, y, labels = (tuple(column) for column in zip(*pairs, strict=True))
        name = "Pareto front" if single else "Pareto front of the first round"
        # A line through a surface would go to and fro.
        if not any(p.device_weight for p in plan.pareto):
            series.append(Series(name=name, style="dashed", colour=0, x=x, y=y))
        # A surface has no line whose name says what its points are.
        alone = "its points" if series else f"{name}, its points"
        series.append(Series(name=alone, style="points", colour=0, x=x, y=y, labels=labels))
    # A sum over some of the devices would pass for a cheap plan.
    known_j = [e for e in of_plan if e is not None]
    if len(known_j) == len(first):
        series.append(_one("this plan, first round", "squares", 1, sum(d.delay_s for d in first), sum(known_j)))
    known = {n: (o.delay_s, e) for n, o in plan.baselines.items() if (e := of_outcome(o)) is not None}
    for i, (name, (delay_s, energy_j)) in enumerate(known.items()):
        words = name.replace("_", " ") + ("" if single else ", mean of rounds")
        series.append(_one(words, "hollow", 2 + i, delay_s, energy_j))
    # A single point is compared with nothing.
    if len(series) < 2:
        return None
    third = " A point names what it takes of all three." if any(p.device_energy_j for p in plan.pareto) else ""
    return Chart(
        key="delay-against-energy" if whose == "server" else f"delay-against-{whose}-energy",
        title=f"delay against {whose} energy",
        note=f"Sums over devices of one round; origin {plan.provenance}. The front comes with --pareto.{third}",
        x=Axis(label="delay", unit="s", shown="s"),
        y=Axis(label=f"{whose} energy", unit="J", shown="J", zero=True),
        series=tuple(series),
    )


def _point_label(p: TradeOff) -> str:
    """What stands behind a point of the front: the same in both pictures, so that it can be found again."""
    energy = "" if p.device_energy_j is None else f", device {p.device_energy_j:.4g} J"
    return f"{_weights(p)}, cuts {' '.join(map(str, p.cuts[:8]))}, server {p.server_energy_j:.4g} J{energy}"


def _weights(point: TradeOff) -> str:
    own = f", {point.device_weight:g} on devices" if point.device_weight else ""
    return f"weight {point.weight:.3g}{own}"


def _one(name: str, style: str, colour: int, x: float, y: float) -> Series:
    return Series(name=name, style=style, colour=colour, x=(x,), y=(y,), labels=(name,))


def _pareto_table(plan: Plan) -> Table:
    rows = tuple(
        (
            p.weight,
            p.delay_s,
            p.server_energy_j,
            p.device_energy_j,
            " ".join(map(str, p.cuts)),
            " ".join("N/A" if f is None else f"{f / 1e6:.5g}" for f in p.frequencies_hz),
            " ".join("N/A" if f is None else f"{f / 1e6:.5g}" for f in p.device_frequencies_hz) or "N/A",
            str(plan.provenance),
        )
        for p in plan.pareto
    )
    return Table(
        key="pareto",
        caption="Pareto front of the first round, cuts and frequencies in the order of the devices",
        columns=(
            Column(name="weight on delay", unit="1"),
            Column(name="delay", unit="s"),
            Column(name="server energy", unit="J"),
            Column(name="device energy", unit="J"),
            Column(name="cuts"),
            Column(name="server frequencies (MHz)"),
            Column(name="device frequencies (MHz)"),
            ORIGIN,
        ),
        rows=rows,
    )


def _sensitivity(plan: Plan) -> Section:
    if not plan.sensitivity:
        return Section(title="What one setting changes")
    rows = tuple(
        (
            s.setting,
            s.factor,
            s.delay_s,
            s.server_energy_j,
            " ".join(map(str, s.cuts)) or "infeasible",
            str(plan.provenance),
        )
        for s in plan.sensitivity
    )
    table = Table(
        key="sensitivity",
        caption="the first round planned again with one setting multiplied by a factor",
        columns=(
            Column(name="setting"),
            Column(name="factor", unit="1"),
            Column(name="delay", unit="s"),
            Column(name="server energy", unit="J"),
            Column(name="cuts"),
            ORIGIN,
        ),
        rows=rows,
    )
    return Section(title="What one setting changes", parts=(table,))

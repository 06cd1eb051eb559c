"""A plan on the terminal: one table, what stands beside it, and what a reader must know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from cardlab.cli.card.budget_table import BESIDE, SPENT, beside_row, spent_rows
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.drawing import drawn
from cardlab.core.records.plan import ENERGY_TERMS, Decision, Plan
from cardlab.core.text import NOT_MEASURED, percent, si
from cardlab.reports.views.parts import Bars, Chart
from cardlab.reports.views.plan import plan_document

V = TypeVar("V")
# Of each the command that helps is a long line.
_MOST_LACKS = 2


def print_plan(made: Plan, as_json: bool, charts: Sequence[Chart | Bars] | None = None) -> None:
    """A plan as JSON, or as one table with what was assumed."""
    if as_json:
        print_json(plan_document(made) | drawn(charts))
        return
    if made.scheme == "sft":
        print_table(_title(made), _SHARED_COLUMNS, [_shared_row(d) for d in made.rounds[0].devices])
    else:
        print_table(_title(made), _COLUMNS, [_row(d) for d in made.rounds[0].devices])
    _print_device_energy(made)
    _print_side_by_side(made)
    if not _alike(made):
        why = "links" if made.budget is None else "links, and by what is left of the budgets"
        print_line(f"rounds differ by their {why}; this is the first, --json has all")
    _print_budget(made)
    print_line()
    rows = [
        (
            "this plan",
            si(made.outcome.delay_s, "s"),
            si(made.outcome.server_energy_j, "J"),
            si(made.outcome.device_energy_j, "J"),
        )
    ]
    rows += [
        (name.replace("_", " "), si(o.delay_s, "s"), si(o.server_energy_j, "J"), si(o.device_energy_j, "J"))
        for name, o in made.baselines.items()
    ]
    print_table("beside it, at equal conditions", ("plan", "delay", "server energy", "device energy"), rows)
    _print_more(made)
    for note in made.notes:
        print_line(f"note: {note}")
    if made.assumptions:
        print_line(f"assumed: {'; '.join(made.assumptions)}")
    print_line(f"origins: {made.provenance}")


def _print_device_energy(made: Plan) -> None:
    """What devices spend in the first round, where anything of it is known."""
    found = [(d, d.device_energy_terms) for d in made.rounds[0].devices if d.device_energy_terms is not None]
    spent = [(d, t) for d, t in found if len(t.unknown) < len(ENERGY_TERMS)]
    if not any(d.device_energy_j is not None for d, _ in spent):
        return
    rows = [
        (
            d.device,
            si(d.device_frequency_hz, "Hz"),
            *(si(getattr(t, name), "J") for name in ENERGY_TERMS),
            NOT_MEASURED if t.total is None else si(t.total, "J"),
            f"{', '.join(t.unknown)} not known" if t.unknown else "",
        )
        for d, t in spent
    ]
    columns = ("device", "its frequency", *ENERGY_TERMS, "total", "")
    print_line()
    print_table(f"device energy by term, counted as {made.device_energy}", columns, rows)


def _print_budget(made: Plan) -> None:
    """What devices spend of their budgets over all rounds, and what that costs."""
    if made.budget is None:
        return
    print_line()
    kept = "kept" if made.budget.kept else "not kept"
    print_table(f"energy budgets of {len(made.rounds)} round(s), {kept}", SPENT, spent_rows(made.budget))
    print_line()
    title = "means over rounds of sums over devices, with the budgets and without"
    print_table(title, BESIDE, [beside_row(made.budget)])


def _print_side_by_side(made: Plan) -> None:
    """The first round's cuts at the governor's default, at the highest frequencies and as planned."""
    found = made.side_by_side
    if found is None:
        return
    rows = [
        (
            s.label,
            s.setting,
            *(("-", "-") if s.device is None else (si(s.server_frequency_hz, "Hz"), si(s.device_frequency_hz, "Hz"))),
            si(s.delay_s, "s"),
            si(s.server_energy_j, "J"),
            si(s.server_j_per_token, "J"),
            si(s.device_energy_j, "J"),
            si(s.device_j_per_token, "J"),
        )
        for s in found.settings
    ]
    columns = (
        "device",
        "setting",
        "server at",
        "device at",
        "delay",
        "server energy",
        "a token",
        "device energy",
        "a token",
    )
    print_line()
    print_table("the same cuts at other frequencies, energy a round and a token", columns, rows)
    for note in found.notes:
        print_line(f"note: {note}")
    for lack in found.lacks[:_MOST_LACKS]:
        print_line(f"N/A: {lack.reason}; {lack.remedy}")
    more = len(found.lacks) - _MOST_LACKS
    if more > 0:
        print_line(f"N/A: {more} more reasons; --json and card report have all")


def _print_more(made: Plan) -> None:
    """What was asked for beside the plan, and the largest contribution to its uncertainty."""
    if made.pareto:
        # Where devices' energy is no price of the front its weight is the same column of zeros.
        third = any(p.device_weight for p in made.pareto)
        rows = [
            (
                f"{p.weight:.3f}",
                *((f"{p.device_weight:g}",) if third else ()),
                _each(p.cuts, str),
                _clocks(p.frequencies_hz),
                _clocks(p.device_frequencies_hz or (None,)),
                si(p.delay_s, "s"),
                si(p.server_energy_j, "J"),
                si(p.device_energy_j, "J"),
            )
            for p in made.pareto
        ]
        head = (
            "weight",
            *(("device weight",) if third else ()),
            *("cuts", "server MHz", "device MHz"),
            *("delay", "server energy", "device energy"),
        )
        print_line()
        print_table("Pareto front of the first round", head, rows)
    if made.sensitivity:
        changed = [
            (
                s.setting,
                f"x {s.factor:g}",
                si(s.delay_s, "s"),
                si(s.server_energy_j, "J"),
                " ".join(map(str, s.cuts)),
            )
            for s in made.sensitivity
        ]
        print_line()
        print_table(
            "planned again with one setting changed",
            ("setting", "factor", "delay", "server energy", "cuts"),
            changed,
        )
    if made.uncertainty:
        # Listed by what each contributes, the largest first.
        name, lost = next(iter(made.uncertainty.items()))
        print_line(
            f"largest contribution to the uncertainty: {name}, which costs {lost:.2g} of the objective on average"
        )


def _each(values: Sequence[V], words: Callable[[V], str]) -> str:
    """One of each device; eight fill the line, and a fleet may have hundreds."""
    return " ".join(map(words, values[:8])) + (" ..." if len(values) > 8 else "")


def _clocks(values: Sequence[float | None]) -> str:
    """The frequency of each device, MHz; one where all have the same."""
    alike = len(values) > 1 and len(set(values)) == 1
    return f"{_clock(values[0])} each" if alike else _each(values, _clock)


def _clock(hz: float | None) -> str:
    return NOT_MEASURED if hz is None else f"{hz / 1e6:.5g}"


_COLUMNS = (
    "device",
    "cut",
    "frequency",
    "delay",
    "device s",
    "uplink s",
    "server s",
    "downlink s",
    "adapters s",
    "energy",
    "cost",
    "certainty",
    "runner-up",
    "margin",
    "binding",
)


_SHARED_COLUMNS = (
    "device",
    "cut",
    "codec",
    "compression",
    "loss penalty",
    "bandwidth",
    "delay",
    "device s",
    "codec s",
    "uplink s",
    "server s",
    "of it waiting",
    "downlink s",
    "adapters s",
    "energy",
)


def _shared_row(d: Decision) -> tuple[str, ...]:
    terms = d.delay_terms
    return (
        d.device,
        str(d.cut),
        d.codec or NOT_MEASURED,
        NOT_MEASURED if d.compression is None else f"{d.compression:.4g}",
        "unknown" if d.loss_penalty is None else f"{d.loss_penalty:.3g}",
        percent(d.bandwidth_share),
        si(d.delay_s, "s"),
        f"{terms.device:.4g}",
        f"{terms.encode + terms.decode:.4g}",
        f"{terms.uplink:.4g}",
        f"{terms.server:.4g}",
        f"{d.waiting_s or 0.0:.4g}",
        f"{terms.downlink:.4g}",
        f"{terms.adapters:.4g}",
        si(d.server_energy_j, "J"),
    )


def _title(made: Plan) -> str:
    rounds = len(made.rounds)
    more = ""
    if rounds > 1:
        more = f", the same in each of {rounds} rounds" if _alike(made) else f", round 1 of {rounds}"
    return f"plan {made.uid[:12]}, scheme {made.scheme}, energy counted as {made.energy or NOT_MEASURED}{more}"


def _alike(made: Plan) -> bool:
    return all(r.devices == made.rounds[0].devices for r in made.rounds)


def _row(d: Decision) -> tuple[str, ...]:
    terms = d.delay_terms
    return (
        d.device,
        str(d.cut),
        si(d.frequency_hz, "Hz"),
        si(d.delay_s, "s"),
        f"{terms.device:.4g}",
        f"{terms.uplink:.4g}",
        f"{terms.server:.4g}",
        f"{terms.downlink:.4g}",
        f"{terms.adapters:.4g}",
        si(d.server_energy_j, "J"),
        f"{d.cost:.4f}",
        percent(d.cut_probability, 0),
        "none" if d.runner_up is None else f"cut {d.runner_up.cut}",
        NOT_MEASURED if d.runner_up is None or d.runner_up.margin is None else f"{d.runner_up.margin:.4f}",
        ", ".join(d.binding),
    )

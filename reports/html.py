"""One self-contained page: inline SVG, no script needed, no request to anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cardlab import __version__
from cardlab.records.fit import Fit
from cardlab.records.measurement import Profile
from cardlab.records.plan import Plan
from cardlab.reports.svg import TERM_CLASSES, curve_chart, residual_chart, terms_chart
from cardlab.reports.views.fit import Curve, fit_document
from cardlab.reports.views.plan import plan_document
from cardlab.reports.views.profile import profile_document
from cardlab.text import data_size, milliseconds, percent, si


def render_page(
    *,
    title: str,
    profiles: Sequence[Profile] = (),
    fits: Sequence[Fit] = (),
    curves: Sequence[Curve] = (),
    optima: Sequence[str] = (),
    plan: Plan | None = None,
) -> str:
    """The page of profiles, fits and a plan as HTML text; every part may be missing.

    `optima` are lines in words about energy-optimal clocks.
    """
    environment = Environment(
        loader=PackageLoader("cardlab.reports"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(si=si, size=data_size, ms=milliseconds, pct=percent)
    document = None if plan is None else plan_document(plan)
    text = environment.get_template("page.html.j2").render(
        title=title,
        version=__version__,
        profiles=[profile_document(p) for p in profiles],
        fits=[fit_document(f) for f in fits if f.selected],
        charts=[
            {"svg": Markup(curve_chart(c)), "residuals": Markup(residual_chart(c)), "curve": c} for c in curves
        ],
        optima=list(optima),
        plan=document,
        terms=Markup(terms_chart(_rows(document))) if document else None,
        term_names=TERM_CLASSES,
    )
    return str(text)


def _rows(document: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """Delay terms of the first round, a row a device."""
    devices = document["rounds"][0]["devices"]
    return [(d["device"], [d["delay_terms"][name] for name in TERM_CLASSES]) for d in devices]

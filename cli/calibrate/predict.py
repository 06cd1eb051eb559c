"""`calibrate predict`."""

from __future__ import annotations

from cardlab.cli.calibrate.app import app
from cardlab.cli.calibrate.fit import WITH_PLOT, about
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared
from cardlab.core.text import NOT_MEASURED, si
from cardlab.workflows.options.calibrate import PredictOptions


@command(app, PredictOptions, name="predict", shared=WITH_PLOT)
def predict(options: PredictOptions, shared: Shared) -> None:
    """Predict power and time at a frequency, with 95 % intervals."""
    from cardlab.cli.drawing import drawn, drawn_or_none
    from cardlab.reports.views.fit import prediction_document
    from cardlab.workflows.predict import check_options
    from cardlab.workflows.predict import predict as predict_at

    # Before the store is opened: a wrong option is named even where there is no database.
    check_options(options)
    with open_shared(shared) as store:
        found = predict_at(store, options)
    charts = drawn_or_none(shared.plot, found.charts)
    if shared.json:
        documents = [prediction_document(fit, found.frequency_hz) for fit in found.fits]
        print_json({"predictions": documents, "notes": list(found.notes), **drawn(charts)})
        return
    rows = []
    for fit, estimate in zip(found.fits, found.estimates, strict=True):
        low_high = [NOT_MEASURED] if estimate.ci95 is None else [si(end, fit.unit) for end in estimate.ci95]
        mark = ", extrapolated" if fit.extrapolated(found.frequency_hz) else ""
        # With its origins: what was simulated must not pass for measured.
        how = f"{estimate.provenance}{mark}"
        execution = found.execution_of(fit)
        name = about(fit) if execution is None else f"{about(fit)} ({execution})"
        rows.append((name, si(estimate.value, fit.unit), " .. ".join(low_high), fit.law, how))
    title = f"{found.fits[0].device_name} at {si(found.frequency_hz, 'Hz')}"
    print_table(title, ("quantity", "value", "95 % interval", "law", "how"), rows)
    for line in found.notes:
        print_line(f"note: {line}")

"""`card accuracy`."""

from __future__ import annotations

from cardlab.cli.card.app import app
from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared
from cardlab.core.plain import to_plain
from cardlab.core.text import percent
from cardlab.workflows.options.card import AccuracyOptions


@command(app, AccuracyOptions, name="accuracy")
def accuracy(options: AccuracyOptions, shared: Shared) -> None:
    """Fine-tune a small model once for each codec and fit what compression costs; plans use the curve."""
    from cardlab.reports.views.fit import fit_document
    from cardlab.workflows.accuracy import accuracy as measure

    with open_shared(shared, create=True) as store:
        found = measure(store, options, note)
    if shared.json:
        print_json(
            {
                "codecs": to_plain(found.kept),
                "trials": to_plain(found.trials),
                "left_out": list(found.left_out),
                "fits": [fit_document(fit) for fit in found.fits],
            }
        )
        return
    rows = [
        (
            k.codec + (" + feedback" if k.feedback else ""),
            f"{k.rate:.4f}",
            percent(1.0 - k.rate),
            percent(k.share),
            percent(k.stderr),
            percent(k.compressed),
        )
        for k in found.kept
    ]
    columns = ("codec", "rate", "bytes saved", "gain kept", "std. error", "through the codec")
    print_table(f"{options.model}, LoRA {options.steps} steps, {options.seeds} seed(s)", columns, rows)
    for fit in found.curves:
        p = {name: parameter.value for name, parameter in fit.parameters.items()}
        print_line(
            f"{fit.codec}: gain kept = {p['limit']:.3f} - {p['loss']:.3f} exp(-{p['rate']:.2f} rate),"
            f" {fit.n_points} points, mean error {percent(fit.mape)}"
        )
    for line in found.left_out:
        print_line(f"left out: {line}")

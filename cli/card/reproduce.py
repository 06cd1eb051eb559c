"""`card reproduce`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.cli.card.app import app
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.core.plain import to_plain
from cardlab.core.text import si
from cardlab.workflows.options.card import ReproduceOptions

if TYPE_CHECKING:
    from cardlab.card.reproduce import Reproduction


@command(app, ReproduceOptions, name="reproduce", shared=("plot", "json"))
def reproduce(options: ReproduceOptions, shared: Shared) -> None:
    """Hold the paper's claims against this model, one by one."""
    from cardlab.cli.drawing import drawn, drawn_or_none
    from cardlab.workflows.simulate import reproduce as reproduce_paper
    from cardlab.workflows.simulate import reproduction_charts

    found = reproduce_paper(options)
    charts = drawn_or_none(shared.plot, lambda: reproduction_charts(found))
    if shared.json:
        print_json(to_plain(found) | drawn(charts))
        return
    for number, claim in enumerate(found.claims, start=1):
        print_line(f"{number}. {claim.claim}: {claim.verdict}")
        print_line(f"   paper: {claim.paper}; here: {claim.here}")
        print_line(f"   open choice: {claim.open_choice}")
    print_line()
    _figures(found)


def _figures(found: Reproduction) -> None:
    print_table(
        "like Fig. 3: cuts in the first rounds of the Normal channel, mean frequency",
        ("device", "cuts", "frequency"),
        [
            (name, " ".join(str(row[m]) for row in found.cut_by_round), si(found.frequency_hz[m], "Hz"))
            for m, name in enumerate(found.devices)
        ],
    )
    print_line()
    print_table(
        f"like Fig. 4: mean delay and server energy of {found.rounds} rounds",
        (
            "scheme",
            *(f"{channel} {what}" for channel in next(iter(found.schemes.values())) for what in ("s", "J")),
        ),
        [
            (name.replace("_", " "), *(f"{value:.4g}" for pair in by_channel.values() for value in pair))
            for name, by_channel in found.schemes.items()
        ],
    )

"""`profile-device models`."""

from __future__ import annotations

from cardlab.cli.console import print_json, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.profile.measure import app
from cardlab.core.plain import to_plain
from cardlab.workflows.options.profile import NoOptions


@command(app, NoOptions, name="models", shared=("json",))
def models(options: NoOptions, shared: Shared) -> None:
    """List the bundled models."""
    from cardlab.workflows.profile import bundled_models

    found = bundled_models()
    if shared.json:
        print_json({"models": [{"model": n, "architecture": to_plain(a)} for n, a in found.items()]})
        return
    rows = [
        (
            name,
            a.family,
            str(a.layers),
            str(a.hidden_size),
            f"{a.heads}/{a.kv_heads}",
            str(a.intermediate_size),
            str(a.vocab_size),
            str(a.max_positions),
        )
        for name, a in found.items()
    ]
    columns = ("model", "family", "layers", "hidden", "heads/kv", "mlp", "vocabulary", "positions")
    print_table(None, columns, rows, left=2)

"""`profile-device models`."""

from __future__ import annotations

from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.profile.measure import app
from cardlab.core.plain import to_plain
from cardlab.core.text import NOT_MEASURED
from cardlab.workflows.options.profile import ModelsOptions


@command(app, ModelsOptions, name="models", shared=("json",))
def models(options: ModelsOptions, shared: Shared) -> None:
    """List the bundled models, or the model types that are supported."""
    if options.supported or options.model_type is not None:
        _supported(options.model_type, shared)
    else:
        _bundled(shared)


def _bundled(shared: Shared) -> None:
    from cardlab.workflows.models import bundled_models

    found = bundled_models()
    if shared.json:
        plain = {name: None if a is None else to_plain(a) for name, a in found.items()}
        print_json({"models": [{"model": name, "architecture": a} for name, a in plain.items()]})
        return
    rows = []
    for name, a in found.items():
        numbers = (
            ()
            if a is None
            else (a.layers, a.hidden_size, a.heads, a.kv_heads, a.intermediate_size, a.vocab_size, a.max_positions)
        )
        shown = [NOT_MEASURED if n is None else str(n) for n in numbers or (None,) * 7]
        rows.append((name, NOT_MEASURED if a is None else a.family, *shown))
    columns = ("model", "family", "layers", "hidden", "heads", "kv heads", "mlp", "vocabulary", "positions")
    print_table(None, columns, rows, left=2)
    if None in found.values():
        print_line(f"{NOT_MEASURED}: transformers tells these, and it is not installed: pip install 'cardlab[models]'")


def _supported(model_type: str | None, shared: Shared) -> None:
    from cardlab.workflows.models import supported_models

    found = supported_models(model_type, lambda name: note(f"trying {name}"))
    if shared.json:
        print_json(to_plain(found))
        return
    rows = [(t.model_type, "yes" if t.supported else "no", t.adapter, " ".join(t.kinds), t.words) for t in found.types]
    print_table(None, ("model type", "supported", "cut by", "kinds of layers", "verified by, or why not"), rows, left=5)
    counted = sum(t.supported for t in found.types)
    print_line(f"{counted} of {len(found.types)} types of transformers {found.transformers}")

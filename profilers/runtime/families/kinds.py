"""Which layers of a model are alike in cost, found by looking at the built modules and their configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


def kinds_of(layers: torch.nn.ModuleList, config: PretrainedConfig) -> tuple[str, ...] | None:
    """The kind of each layer, None where all are alike.

    Two layers are of one kind if they have the same parameters, the same switches (whole numbers, flags and names among
    the attributes of their modules, but not the layer's own number) and the same entry in every list of the
    configuration that has one a layer. Numbers with a fraction change what is computed and not what it costs.
    """
    count = len(layers)
    lists = {k: v for k, v in vars(config).items() if isinstance(v, (list, tuple)) and len(v) == count}
    words = [" ".join(str(v[n]) for v in lists.values() if isinstance(v[n], str)) for n in range(count)]
    switches = [_switches(layer) for layer in layers]
    numbering = {key for own in switches for key in own if _counts_layers(key, switches)}
    signatures = []
    for n, layer in enumerate(layers):
        shapes = tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
        own = tuple((k, v) for k, v in switches[n].items() if k not in numbering)
        given = tuple(str(v[n]) for v in lists.values())
        signatures.append((shapes, own, given))
    if len(set(signatures)) == 1:
        return None
    classes = [[type(part).__name__ for part in layer.children()] for layer in layers]
    telling = [n for n, found in enumerate(zip(*classes, strict=False)) if len(set(found)) > 1]
    names: dict[Any, str] = {}
    for signature, word, own_classes in zip(signatures, words, classes, strict=True):
        if signature not in names:
            base = word.replace(" ", "+").replace("_attention", "")
            base = base or "+".join(own_classes[n] for n in telling) or "kind"
            taken = sum(name == base or name.startswith(f"{base}-") for name in names.values())
            names[signature] = base if not taken else f"{base}-{taken + 1}"
    return tuple(names[signature] for signature in signatures)


def _counts_layers(key: str, switches: Sequence[Mapping[str, object]]) -> bool:
    """Whether a whole number goes up evenly from layer to layer: the layer's own number, or that of a part in it."""
    found = [(n, value) for n, own in enumerate(switches) if type(value := own.get(key)) is int]
    if len(found) < 2 or len(found) < sum(key in own for own in switches):
        return False
    steps = {(after - before) / (m - n) for (n, before), (m, after) in zip(found, found[1:], strict=False)}
    return len(steps) == 1 and steps != {0.0}


def _switches(layer: torch.nn.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for path, module in layer.named_modules():
        found[f"{path}.class"] = type(module).__name__
        for key, value in vars(module).items():
            if not key.startswith("_") and key != "training" and isinstance(value, (bool, int, str, type(None))):
                found[f"{path}.{key}"] = value
    return found

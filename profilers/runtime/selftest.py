"""A cut is held against the whole before a model of a generic family is used: small, and with the same switches.

A model of the same class and configuration is made, with few layers of small widths; its split step must give the same
logits, loss and gradients to the last bit as the whole one at cuts 1, middle and L-1. A type that adds something to the
hidden states on the way in, or that passes more than hidden states from layer to layer, is found by this.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cardlab.core.errors import ProfileError, UnsupportedFamilyError
from cardlab.core.identity import canonical_json
from cardlab.core.records.task import Architecture, Execution, Lora, Task
from cardlab.profilers.runtime.families import attention_of, family_named, family_of
from cardlab.profilers.runtime.families.base import PlannedFamily
from cardlab.profilers.runtime.families.generic import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PretrainedConfig

    from cardlab.profilers.runtime.build import BuiltModel

_BATCH, _SEQUENCE, _MOST_LAYERS = 2, 20, 8
# Small values of what configurations call widths and counts; a key is set where the configuration has a larger one.
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "vocab_size": 128,
    "num_attention_heads": 4,
    "head_dim": 16,
    "rotary_dim": 8,
    "max_position_embeddings": 64,
    # Shorter than the sequence, so that it shows.
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "intermediate_size_mlp": 96,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


# What the defaults of a class leave out, so that a model of it can be tried.
_LEFT_OUT: dict[str, dict[str, object]] = {
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "ministral": {"head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 64, "vocab_size": 128},
}
_LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
# What the code of a hundred model classes has been seen to come to where it does not run.
_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    ImportError,
)
_EXACT = "logits, loss and gradients of a split step equal the whole one's to the last bit at cuts 1, middle and L-1"


class CutDiffersError(UnsupportedFamilyError):
    """A model that computes something else when it is cut."""


def check_cut(architecture: Architecture) -> None:
    """Hold a small model of this configuration, cut, against the whole one; once a configuration and process.

    Raises UnsupportedFamilyError naming the type and what differs, or why no small model could be made.
    """
    if architecture.configuration is not None:
        _check(architecture.family, canonical_json(shrunk(architecture)))


def try_type(model_type: str) -> tuple[tuple[str, ...], str]:
    """Kinds of layers of a model type by its class's defaults, and how its cut was verified.

    Raises UnsupportedFamilyError or ProfileError in words.
    """
    family = family_of(model_type)
    if isinstance(family, PlannedFamily):
        given = _LEFT_OUT.get(model_type, _LLAMA_LIKE)
        architecture = family.architecture({"model_type": model_type, **given})
        found = differences(architecture)
        if found:
            raise _differs(model_type, found)
    else:
        architecture = family.architecture({"model_type": model_type, **_LEFT_OUT.get(model_type, {})})
        check_cut(architecture)
    return tuple(dict.fromkeys(architecture.kinds or ())), _EXACT


def _differs(family: str, found: Sequence[str]) -> CutDiffersError:
    return CutDiffersError(
        f"a {family} model cannot be cut: {', '.join(found)} of the split model differ from the whole one's",
        remedy="see the types that are supported: profile-device models --supported",
    )


@lru_cache(maxsize=64)
def _check(family: str, configuration: str) -> None:
    from cardlab.profilers.runtime.analysis import analyse

    try:
        small = family_named(family).architecture({"model_type": family, **json.loads(configuration)})
        found = differences(small)
        # What cannot be counted cannot be profiled.
        analyse(_task_of(small), Execution(dtype="float32", attention=attention_of(small)))
    except UnsupportedFamilyError:
        raise
    except (ProfileError, *_FAILURES) as error:
        said = error.message if isinstance(error, ProfileError) else " ".join(str(error).split())[:200]
        raise UnsupportedFamilyError(
            f"whether a {family} model can be cut is not known: a small one of its configuration fails ({said})",
            remedy="see the types that are supported: profile-device models --supported",
        ) from error
    if found:
        raise _differs(family, found)


def shrunk(architecture: Architecture) -> dict[str, Any]:
    """A configuration of few small layers, every kind among them and every switch as it was."""
    family = family_named(architecture.family)
    given: dict[str, Any] = json.loads(architecture.configuration or "{}")
    config = family.transformers_config(given)
    numbers = _kept_layers(architecture)
    small = dict(given)
    for key, value in _SMALL.items():
        own = number_of(config, key)
        if own is not None and own > value:
            small[key] = value
    if "qk_rope_head_dim" in small:
        # What latent attention turns has this width, under both names.
        small["head_dim"] = small["qk_rope_head_dim"]
    heads, groups = number_of(config, "num_attention_heads"), number_of(config, "num_key_value_heads")
    if heads is not None and groups is not None:
        small["num_key_value_heads"] = {heads: min(heads, 4), 1: 1}.get(groups, min(groups, 2))
    small["num_hidden_layers"] = len(numbers)
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(small.get(key), dict):
            small[key] = _rope_of_width(small[key], _head_width(config, small))
    for key, own in vars(config).items():
        if isinstance(own, (list, tuple)) and len(own) == architecture.layers:
            small[key] = [own[n] for n in numbers]
    return small


def _head_width(config: PretrainedConfig, small: Mapping[str, Any]) -> int:
    given = small.get("head_dim") or number_of(config, "head_dim")
    if given:
        return int(given)
    hidden, heads = (small.get(key) or number_of(config, key) or 1 for key in ("hidden_size", "num_attention_heads"))
    return int(hidden) // int(heads)


def _rope_of_width(rope: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The rotary embedding with as many factors as a head of that width has frequencies."""
    turned = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
    return {
        key: _rope_of_width(value, width)
        if isinstance(value, dict)
        else value[:turned]
        if key in ("short_factor", "long_factor")
        else value
        for key, value in rope.items()
    }


def _kept_layers(architecture: Architecture) -> list[int]:
    """Layers from the first on until there are four and one of each kind, else the first of each."""
    segments = architecture.layer_segments
    for count in range(min(4, len(segments)), min(_MOST_LAYERS, len(segments)) + 1):
        if set(segments[:count]) == set(segments):
            return list(range(count))
    firsts = {segments.index(name) for name in segments}
    return sorted(firsts | set(range(min(4, len(segments)))))


def differences(architecture: Architecture, cuts: Sequence[int] | None = None) -> tuple[str, ...]:
    """What a split step of this (small) model gives that is not the whole one's to the last bit, in words."""
    import copy

    import torch

    from cardlab.profilers.runtime.build import build_meta, materialise_whole

    task = _task_of(architecture)
    built = build_meta(task, Execution(dtype="float32", attention=attention_of(architecture)))
    before = torch.random.get_rng_state()
    try:
        torch.manual_seed(7)
        whole = materialise_whole(built, "cpu")
        with torch.no_grad():
            for parameter in whole.parameters():
                # Large enough that norms, gates and windows all show in the last bit.
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            whole.tie_weights()
        ids = torch.randint(0, architecture.vocab_size, (_BATCH, _SEQUENCE))
    finally:
        torch.random.set_rng_state(before)
    expected = whole(input_ids=ids, labels=ids, use_cache=False)
    expected.loss.backward()
    found: dict[str, None] = {}
    layers = architecture.layers
    for cut in cuts or sorted({1, layers // 2, layers - 1}):
        sides = []
        for _ in range(2):
            copied = copy.deepcopy(whole)
            copied.zero_grad(set_to_none=True)
            inside = tuple(copied.get_submodule(built.family.layer_path))
            sides.append(replace(built, model=copied, layers=inside))
        device, server = sides[0].device_part(cut), sides[1].server_part(cut)
        sent = device(input_ids=ids, use_cache=False).last_hidden_state
        received = sent.detach().requires_grad_(True)
        got = server(inputs_embeds=received, labels=ids, use_cache=False)
        got.loss.backward()
        sent.backward(received.grad)
        if not torch.equal(got.logits, expected.logits):
            found["logits"] = None
        if not torch.equal(got.loss, expected.loss):
            found["loss"] = None
        if not _same_gradients(built, sides, cut):
            found["gradients"] = None
    return tuple(found)


def _task_of(architecture: Architecture) -> Task:
    """Adapters on every map of every layer."""
    targets = family_named(architecture.family).available_targets(architecture)
    return Task(
        model=architecture.family,
        architecture=architecture,
        lora=Lora(rank=2, alpha=4.0, targets=targets),
        batch=_BATCH,
        sequence=_SEQUENCE,
    )


def _same_gradients(built: BuiltModel, sides: Sequence[BuiltModel], cut: int) -> bool:
    import torch

    for number, layer in enumerate(built.layers):
        own = dict((sides[0] if number < cut else sides[1]).layers[number].named_parameters())
        for name, parameter in layer.named_parameters():
            one, other = parameter.grad, own[name].grad
            if (one is None) != (other is None) or (one is not None and not torch.equal(one, other)):
                return False
    return True

"""What llama and qwen2 share: rotary positions, gated MLP, grouped key/value heads, RMS norms.

transformers 5 states the rotary embedding in `rope_parameters`, 4.x in `rope_theta` and
`rope_scaling`; a config.json may be of either kind, whichever version is installed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING

from cardlab.core.records.task import Architecture
from cardlab.profilers.runtime.families.base import (
    ConfigDict,
    LayerPlan,
    PlannedFamily,
    Projection,
    optional,
    required,
    whole,
)
from cardlab.profilers.runtime.families.keys import (
    activation,
    check_known,
    dropout,
    flag,
    heads_divide,
    only,
    positive,
    stored_quantization,
    token,
    unmodelled,
    wrong_key,
)

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


def transformers_major() -> int:
    """Major version of the installed transformers."""
    return int(version("transformers").split(".", 1)[0])


_ROPE = ("rope_parameters", "rope_scaling")
_NUMBER, _WHOLE, _LIST, _FLAG = (
    "a number above 0",
    "a whole number above 0",
    "a list of numbers above 0",
    "true or false",
)
# Keys of each kind of rotary embedding: those it needs, and those it may have.
_ROPE_KEYS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "default": ({}, {}),
    "linear": ({"factor": _NUMBER}, {}),
    "dynamic": ({"factor": _NUMBER}, {"original_max_position_embeddings": _WHOLE}),
    "yarn": (
        {"factor": _NUMBER},
        {
            "original_max_position_embeddings": _WHOLE,
            "attention_factor": _NUMBER,
            "beta_fast": _NUMBER,
            "beta_slow": _NUMBER,
            "mscale": _NUMBER,
            "mscale_all_dim": _NUMBER,
            "truncate": _FLAG,
        },
    ),
    "longrope": (
        {"short_factor": _LIST, "long_factor": _LIST},
        {"factor": _NUMBER, "attention_factor": _NUMBER, "original_max_position_embeddings": _WHOLE},
    ),
    "llama3": (
        {
            "factor": _NUMBER,
            "low_freq_factor": _NUMBER,
            "high_freq_factor": _NUMBER,
            "original_max_position_embeddings": _WHOLE,
        },
        {},
    ),
}
# What transformers assumes where a configuration says nothing.
_THETA = 10000.0
_ACTIVATION = "silu"


def rope_of(config: ConfigDict) -> dict[str, object]:
    """The rotary embedding of a config.json: rope_type, rope_theta and what the type needs.

    Raises ProfileError naming the key: no object, two that contradict each other.
    """
    found = [(key, _normal(key, config[key])) for key in _ROPE if config.get(key) not in (None, {})]
    theta = None if config.get("rope_theta") is None else positive(config, "rope_theta")
    for key, given in found:
        stated = given.get("rope_theta")
        if theta is not None and stated is not None and stated != theta:
            raise wrong_key(f"{key}.rope_theta", stated, f"the rope_theta = {theta:g} beside it")
    if len(found) == 2 and {**found[1][1], "rope_theta": 0} != {**found[0][1], "rope_theta": 0}:
        raise wrong_key("rope_scaling", config["rope_scaling"], "what rope_parameters beside it says")
    given = dict(found[0][1]) if found else {"rope_type": "default"}
    stated = given.get("rope_theta")
    return {**given, "rope_theta": stated if stated is not None else theta if theta is not None else _THETA}


def _normal(key: str, given: object) -> dict[str, object]:
    """One spelling of the type, and a theta that is a number."""
    if not isinstance(given, Mapping):
        raise wrong_key(key, given, "an object or null")
    kept = {k: v for k, v in given.items() if k not in ("type", "rope_type") and v is not None}
    names = [given[k] for k in ("rope_type", "type") if given.get(k) is not None]
    if len(names) == 2 and names[0] != names[1]:
        raise wrong_key(f"{key}.type", names[1], f"the rope_type {names[0]!r} beside it")
    if not names and kept.keys() - {"rope_theta"}:
        raise wrong_key(f"{key}.rope_type", None, f"one of {', '.join(_ROPE_KEYS)}")
    if "rope_theta" in kept:
        kept["rope_theta"] = positive(kept, "rope_theta")
    return {"rope_type": names[0] if names else "default", **kept}


def check_rope(config: ConfigDict, head_dim: int) -> None:
    """Raise ProfileError for a rotary embedding of an unknown type, or whose numbers are missing or make no sense."""
    rope = rope_of(config)
    name = next((key for key in _ROPE if config.get(key)), "rope_scaling")
    kind = rope["rope_type"]
    if not isinstance(kind, str) or kind not in _ROPE_KEYS:
        # The name that longrope had at first.
        remedy = f"write 'longrope' for 'su' in {name}" if kind == "su" else None
        raise wrong_key(f"{name}.rope_type", kind, f"one of {', '.join(_ROPE_KEYS)}", remedy)
    needed, allowed = _ROPE_KEYS[kind]
    for key in needed:
        if key not in rope:
            raise wrong_key(f"{name}.{key}", None, f"{needed[key]}, which {kind!r} needs")
    for key, value in rope.items():
        if key in ("rope_type", "rope_theta") or (key == "partial_rotary_factor" and value == 1):
            continue
        wanted = needed.get(key) or allowed.get(key)
        if wanted is None:
            raise unmodelled(f"{name}.{key}", value)
        _check_rope_value(f"{name}.{key}", value, wanted, head_dim)
    # Half of a head turns against the other half.
    if head_dim % 2:
        raise wrong_key("head_dim", head_dim, "an even number")


def _check_rope_value(key: str, value: object, wanted: str, head_dim: int) -> None:
    if wanted == _LIST:
        if not isinstance(value, list) or len(value) != head_dim // 2:
            raise wrong_key(key, value, f"a list of {head_dim // 2} numbers")
        for item in value:
            positive({key: 0 if item is None else item}, key)
    elif wanted == _FLAG:
        flag({key: value}, key, False)
    elif wanted == _WHOLE:
        required({key: value}, key)
    else:
        positive({key: value}, key)


def rope_arguments(config: ConfigDict, major: int) -> dict[str, object]:
    """The rotary keys of a config.json in the form that this major version of transformers takes."""
    given = rope_of(config)
    if major >= 5:
        return {"rope_parameters": given}
    theta = given.pop("rope_theta")
    return {"rope_theta": theta, "rope_scaling": None if given["rope_type"] == "default" else given}


_DIMENSIONS = (
    "num_attention_heads",
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rope_theta",
    "layer_types",
)


class RotaryFamily(PlannedFamily):
    """Base of the families whose layers look like Llama's."""

    layer_path = "model.layers"
    norm_path = "model.norm"
    embedding_paths = ("model.embed_tokens",)
    default_targets = ("q_proj", "v_proj")
    dropout_keys = ("attention_dropout",)
    config_class: str
    own_keys: tuple[str, ...] = ()
    output_bias = False

    @abstractmethod
    def _attention_bias(self, config: ConfigDict) -> bool:
        """Whether q, k and v have a bias."""

    @abstractmethod
    def _check_own(self, config: ConfigDict) -> None:
        """Raise ProfileError for a value of `own_keys` that this family does not build."""

    def architecture(self, config: ConfigDict) -> Architecture:
        """Dimensions of a llama-like config.json."""
        heads = required(config, "num_attention_heads")
        hidden = required(config, "hidden_size")
        stored_quantization(config)
        if config.get("head_dim") is None or self.name == "llama":
            # transformers asks it of a llama even where the width of a head is given.
            heads_divide("hidden_size", hidden, "num_attention_heads", heads)
        kv_heads = optional(config, "num_key_value_heads", heads)
        heads_divide("num_attention_heads", heads, "num_key_value_heads", kv_heads)
        head_dim = optional(config, "head_dim", hidden // heads)
        check_rope(config, head_dim)
        vocabulary = required(config, "vocab_size")
        # The embedding is built with it.
        token(config, "pad_token_id", vocabulary)
        layers = required(config, "num_hidden_layers")
        self._check_own(config)
        only(config, "layer_types", ["full_attention"] * layers)
        only(config, "is_encoder_decoder", False)
        computing = self.computing(config)
        dropout(config, self.dropout_keys)
        check_known(config, (*_DIMENSIONS, *_ROPE, *computing, *self.own_keys, *self.dropout_keys))
        activation = str(computing["hidden_act"])
        return Architecture(
            family=self.name,
            layers=layers,
            hidden_size=hidden,
            intermediate_size=required(config, "intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=vocabulary,
            max_positions=required(config, "max_position_embeddings"),
            tied_embeddings=flag(config, "tie_word_embeddings", False),
            attention_bias=self._attention_bias(config),
            activation=None if activation == _ACTIVATION else activation,
        )

    def computing(self, config: ConfigDict) -> dict[str, object]:
        """Activation, norm, rotary embedding and biases."""
        rope = rope_of(config)
        if rope["rope_type"] in ("yarn", "longrope"):
            # As transformers fills it in.
            rope.setdefault("original_max_position_embeddings", required(config, "max_position_embeddings"))
        return {
            "hidden_act": activation(config, "hidden_act", _ACTIVATION),
            "rms_norm_eps": positive(config, "rms_norm_eps", 1e-6),
            "rope_parameters": rope,
            "tie_word_embeddings": flag(config, "tie_word_embeddings", False),
            "attention_bias": self._attention_bias(config),
        }

    def parameters(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Matrices are outputs x inputs."""
        a = architecture
        h = a.hidden_size
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (a.vocab_size, h), "model.norm.weight": (h,)}
        for layer in range(a.layers):
            prefix = f"{self.layer_path}.{layer}"
            found[f"{prefix}.input_layernorm.weight"] = found[f"{prefix}.post_attention_layernorm.weight"] = (h,)
            for p in self.plan(a).projections:
                found[f"{prefix}.{p.path}.weight"] = (p.outputs, p.inputs)
                if p.bias:
                    found[f"{prefix}.{p.path}.bias"] = (p.outputs,)
        if not a.tied_embeddings:
            found["lm_head.weight"] = (a.vocab_size, h)
        return found

    def config_from(self, architecture: Architecture) -> dict[str, object]:
        """A llama-like config.json of these dimensions."""
        a = architecture
        return {
            "model_type": self.model_types[0],
            "num_hidden_layers": a.layers,
            "hidden_size": a.hidden_size,
            "intermediate_size": a.intermediate_size,
            "num_attention_heads": a.heads,
            "num_key_value_heads": a.kv_heads,
            "head_dim": a.head_dim,
            "vocab_size": a.vocab_size,
            "max_position_embeddings": a.max_positions,
            "tie_word_embeddings": a.tied_embeddings,
            "attention_bias": a.attention_bias,
            "hidden_act": a.activation or _ACTIVATION,
        }

    def plan(self, architecture: Architecture) -> LayerPlan:
        """q, k, v and o of widths n d and k d; gate, up and down of width i."""
        a = architecture
        h, i = a.hidden_size, whole(a.intermediate_size)
        query, key = whole(a.heads) * whole(a.head_dim), whole(a.kv_heads) * whole(a.head_dim)
        bias = a.attention_bias
        return LayerPlan(
            attention_in=(
                Projection(path="self_attn.q_proj", inputs=h, outputs=query, roles=("q",), bias=bias),
                Projection(path="self_attn.k_proj", inputs=h, outputs=key, roles=("k",), bias=bias),
                Projection(path="self_attn.v_proj", inputs=h, outputs=key, roles=("v",), bias=bias),
            ),
            attention_out=Projection(path="self_attn.o_proj", inputs=query, outputs=h, bias=bias and self.output_bias),
            mlp_in=(
                Projection(path="mlp.gate_proj", inputs=h, outputs=i),
                Projection(path="mlp.up_proj", inputs=h, outputs=i),
            ),
            mlp_out=Projection(path="mlp.down_proj", inputs=i, outputs=h),
        )

    def transformers_config(self, config: ConfigDict) -> PretrainedConfig:
        """LlamaConfig or Qwen2Config without cache and dropout."""
        import transformers

        # What nothing is computed with stays behind: a wrong label would be refused in another library's words.
        computing = {*_DIMENSIONS, *self.computing(config), *self.own_keys, "pad_token_id"} - {*_ROPE, "rope_theta"}
        kept = {k: v for k, v in config.items() if k in computing and v is not None}
        kept |= {"bos_token_id": None, "eos_token_id": None}
        kept |= rope_arguments(config, transformers_major())
        # Where a file leaves it out, the default of a class is that of one model of the family.
        kept["num_key_value_heads"] = optional(config, "num_key_value_heads", required(config, "num_attention_heads"))
        kept |= {"use_cache": False, "attention_dropout": 0.0}
        return getattr(transformers, self.config_class)(**kept)

    def without_head(self, model: torch.nn.Module) -> torch.nn.Module:
        """The inner model."""
        import torch

        model.model.norm = torch.nn.Identity()
        model.lm_head = None
        return model.model

    def without_embedding(self, model: torch.nn.Module) -> torch.nn.Module:
        """The whole model with an embedding that is never used."""
        import torch

        model.model.embed_tokens = torch.nn.Identity()
        return model

"""What llama and qwen2 share: rotary positions, gated MLP, grouped key/value heads, RMS norms.

transformers 5 states the rotary embedding in `rope_parameters`, 4.x in `rope_theta` and
`rope_scaling`; a config.json may be of either kind, whichever version is installed.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from cardlab.core.records.task import Architecture
from cardlab.profilers.runtime.families.base import (
    ConfigDict,
    Family,
    LayerPlan,
    Projection,
    optional,
    required,
)

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


def transformers_major() -> int:
    """Major version of the installed transformers."""
    return int(version("transformers").split(".", 1)[0])


def rope_arguments(config: ConfigDict, major: int) -> dict[str, object]:
    """The rotary keys of a config.json in the form that this major version of transformers takes."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    # 10000 is what transformers assumes where a configuration says nothing.
    theta = given.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    rope_type = given.pop("rope_type", None) or given.pop("type", None) or "default"
    if major >= 5:
        return {"rope_parameters": {"rope_type": rope_type, "rope_theta": theta, **given}}
    scaling = None if rope_type == "default" else {"rope_type": rope_type, **given}
    return {"rope_theta": theta, "rope_scaling": scaling}


class RotaryFamily(Family):
    """Base of the families whose layers look like Llama's."""

    layer_path = "model.layers"
    norm_path = "model.norm"
    embedding_paths = ("model.embed_tokens",)
    rotary_path: str | None = "model.rotary_emb"
    default_targets = ("q_proj", "v_proj")
    config_class: str

    def _attention_bias(self, config: ConfigDict) -> bool:
        return bool(config.get("attention_bias", False))

    def architecture(self, config: ConfigDict) -> Architecture:
        """Dimensions of a llama-like config.json."""
        heads = required(config, "num_attention_heads")
        hidden = required(config, "hidden_size")
        return Architecture(
            family=self.name,
            layers=required(config, "num_hidden_layers"),
            hidden_size=hidden,
            intermediate_size=required(config, "intermediate_size"),
            heads=heads,
            kv_heads=optional(config, "num_key_value_heads", heads),
            head_dim=optional(config, "head_dim", hidden // heads),
            vocab_size=required(config, "vocab_size"),
            max_positions=required(config, "max_position_embeddings"),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=self._attention_bias(config),
        )

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
        }

    def plan(self, architecture: Architecture) -> LayerPlan:
        """q, k, v and o of widths n d and k d; gate, up and down of width i."""
        a = architecture
        h, i, query, key = a.hidden_size, a.intermediate_size, a.heads * a.head_dim, a.kv_heads * a.head_dim
        bias = a.attention_bias
        return LayerPlan(
            attention_in=(
                Projection(path="self_attn.q_proj", inputs=h, outputs=query, roles=("q",), bias=bias),
                Projection(path="self_attn.k_proj", inputs=h, outputs=key, roles=("k",), bias=bias),
                Projection(path="self_attn.v_proj", inputs=h, outputs=key, roles=("v",), bias=bias),
            ),
            attention_out=Projection(path="self_attn.o_proj", inputs=query, outputs=h),
            mlp_in=(
                Projection(path="mlp.gate_proj", inputs=h, outputs=i),
                Projection(path="mlp.up_proj", inputs=h, outputs=i),
            ),
            mlp_out=Projection(path="mlp.down_proj", inputs=i, outputs=h),
        )

    def transformers_config(self, config: ConfigDict) -> PretrainedConfig:
        """LlamaConfig or Qwen2Config without cache and dropout."""
        import transformers

        dropped = {"rope_parameters", "rope_scaling", "rope_theta", "architectures", "torch_dtype", "dtype"}
        kept = {k: v for k, v in config.items() if k not in dropped and k != "model_type"}
        kept |= rope_arguments(config, transformers_major())
        kept |= {"use_cache": False, "attention_dropout": 0.0}
        return getattr(transformers, self.config_class)(**kept)

    def device_part(self, model: torch.nn.Module, cut: int) -> torch.nn.Module:
        """The inner model with layers 1..cut and no final norm."""
        import torch

        inner = model.model
        inner.layers = torch.nn.ModuleList(list(inner.layers)[:cut])
        inner.norm = torch.nn.Identity()
        # transformers runs as many layers as the configuration says, whatever the list holds.
        inner.config.num_hidden_layers = cut
        model.lm_head = None
        return inner

    def server_part(self, model: torch.nn.Module, cut: int) -> torch.nn.Module:
        """The whole model with layers cut+1..L and an embedding that is never used."""
        import torch

        inner = model.model
        inner.layers = torch.nn.ModuleList(list(inner.layers)[cut:])
        inner.embed_tokens = torch.nn.Identity()
        inner.config.num_hidden_layers = len(inner.layers)
        return model

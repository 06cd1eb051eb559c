"""GPT-2: learned positions, layer norms, one fused q-k-v map, biases everywhere, dense attention.

Two modules of a layer are called `c_proj`; a LoRA target of that name means both, "attn.c_proj" one.
Dropout is off: a split step has to equal the unsplit one.
"""

from __future__ import annotations

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
)

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


_DIMENSIONS = ("n_embd", "n_layer", "n_head", "n_positions", "n_inner", "vocab_size")
_ACTIVATION = "gelu_new"
# transformers knows these dimensions by two names.
_ALIASES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


class Gpt2(PlannedFamily):
    """Adapter for `model_type` gpt2."""

    name = "gpt2"
    model_types = ("gpt2",)
    layer_path = "transformer.h"
    norm_path = "transformer.ln_f"
    embedding_paths = ("transformer.wte", "transformer.wpe")
    default_targets = ("c_attn",)
    # Conv1D, with its weights transposed.
    has_linear_maps = False
    dropout_keys = ("resid_pdrop", "embd_pdrop", "attn_pdrop")

    def architecture(self, config: ConfigDict) -> Architecture:
        """Dimensions of a gpt2 config.json (n_embd, n_layer, n_head, n_positions, n_inner)."""
        stored_quantization(config)
        hidden, heads = required(config, "n_embd"), required(config, "n_head")
        heads_divide("n_embd", hidden, "n_head", heads)
        computing = self.computing(config)
        for alias, name in _ALIASES.items():
            only(config, alias, config.get(name))
        for key in ("reorder_and_upcast_attn", "add_cross_attention", "is_encoder_decoder"):
            only(config, key, False)
        dropout(config, self.dropout_keys)
        check_known(config, (*_DIMENSIONS, *_ALIASES, *self.dropout_keys, *computing))
        activation = str(computing["activation_function"])
        return Architecture(
            family=self.name,
            layers=required(config, "n_layer"),
            hidden_size=hidden,
            intermediate_size=optional(config, "n_inner", 4 * hidden),
            heads=heads,
            kv_heads=heads,
            head_dim=hidden // heads,
            vocab_size=required(config, "vocab_size"),
            max_positions=required(config, "n_positions"),
            tied_embeddings=flag(config, "tie_word_embeddings", True),
            attention_bias=True,
            activation=None if activation == _ACTIVATION else activation,
        )

    def computing(self, config: ConfigDict) -> dict[str, object]:
        """Activation, norm and how attention is scaled."""
        return {
            "activation_function": activation(config, "activation_function", _ACTIVATION),
            "layer_norm_epsilon": positive(config, "layer_norm_epsilon", 1e-5),
            "scale_attn_weights": flag(config, "scale_attn_weights", True),
            "scale_attn_by_inverse_layer_idx": flag(config, "scale_attn_by_inverse_layer_idx", False),
            "tie_word_embeddings": flag(config, "tie_word_embeddings", True),
        }

    def parameters(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Matrices are inputs x outputs, as Conv1D keeps them."""
        a = architecture
        h = a.hidden_size
        found: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (a.vocab_size, h),
            "transformer.wpe.weight": (a.max_positions, h),
            "transformer.ln_f.weight": (h,),
            "transformer.ln_f.bias": (h,),
        }
        for layer in range(a.layers):
            prefix = f"{self.layer_path}.{layer}"
            for norm in ("ln_1", "ln_2"):
                found[f"{prefix}.{norm}.weight"] = found[f"{prefix}.{norm}.bias"] = (h,)
            for p in self.plan(a).projections:
                found[f"{prefix}.{p.path}.weight"] = (p.inputs, p.outputs)
                found[f"{prefix}.{p.path}.bias"] = (p.outputs,)
        if not a.tied_embeddings:
            found["lm_head.weight"] = (a.vocab_size, h)
        return found

    def config_from(self, architecture: Architecture) -> dict[str, object]:
        """A gpt2 config.json of these dimensions."""
        a = architecture
        return {
            "model_type": "gpt2",
            "n_embd": a.hidden_size,
            "n_layer": a.layers,
            "n_head": a.heads,
            "n_inner": a.intermediate_size,
            "n_positions": a.max_positions,
            "vocab_size": a.vocab_size,
            "tie_word_embeddings": a.tied_embeddings,
            "activation_function": a.activation or _ACTIVATION,
        }

    def plan(self, architecture: Architecture) -> LayerPlan:
        """c_attn h x 3h makes q, k and v at once; c_proj, c_fc, c_proj; all with bias."""
        h, i = architecture.hidden_size, whole(architecture.intermediate_size)
        fused = Projection(path="attn.c_attn", inputs=h, outputs=3 * h, roles=("q", "k", "v"), bias=True)
        return LayerPlan(
            attention_in=(fused,),
            attention_out=Projection(path="attn.c_proj", inputs=h, outputs=h, bias=True),
            mlp_in=(Projection(path="mlp.c_fc", inputs=h, outputs=i, bias=True),),
            mlp_out=Projection(path="mlp.c_proj", inputs=i, outputs=h, bias=True),
        )

    def transformers_config(self, config: ConfigDict) -> PretrainedConfig:
        """GPT2Config without cache and dropout."""
        import transformers

        # What nothing is computed with stays behind: a wrong label would be refused in another library's words.
        computing = {*_DIMENSIONS, *self.computing(config)}
        kept = {k: v for k, v in config.items() if k in computing and v is not None}
        kept |= {"bos_token_id": None, "eos_token_id": None}
        kept |= {"use_cache": False, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return transformers.GPT2Config(**kept)

    def without_head(self, model: torch.nn.Module) -> torch.nn.Module:
        """The inner model with token and position embeddings."""
        import torch

        model.transformer.ln_f = torch.nn.Identity()
        # Its weight would stay in the device's memory, unless it is tied.
        model.lm_head = None
        return model.transformer

    def without_embedding(self, model: torch.nn.Module) -> torch.nn.Module:
        """Positions were added on the device and add zero here."""
        import torch

        # Not called with inputs_embeds, but its weight would take memory.
        model.transformer.wte = torch.nn.Identity()
        model.transformer.wpe = _no_positions()
        return model


def _no_positions() -> torch.nn.Module:
    import torch

    class NoPositions(torch.nn.Module):  # type: ignore[misc]
        """Stands where the position embedding was and contributes nothing."""

        def forward(self, positions: torch.Tensor) -> torch.Tensor:
            """A zero without dimensions, so that adding it keeps dtype and shape of [B, S, h]."""
            return torch.zeros((), device=positions.device)

    return NoPositions()

"""Qwen2 and Qwen2.5: as Llama, with biases on q, k and v."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.profilers.runtime.families.base import ConfigDict
from cardlab.profilers.runtime.families.rotary import RotaryFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Qwen2(RotaryFamily):
    """Adapter for `model_type` qwen2."""

    name = "qwen2"
    model_types = ("qwen2",)
    config_class = "Qwen2Config"

    def _attention_bias(self, config: ConfigDict) -> bool:
        return True

    def transformers_config(self, config: ConfigDict) -> PretrainedConfig:
        """Qwen2Config; the biases are built in and sliding windows are off."""
        # layer_types would bring the sliding windows back, layer by layer.
        kept = {k: v for k, v in config.items() if k not in {"attention_bias", "layer_types"}}
        return super().transformers_config({**kept, "use_sliding_window": False})

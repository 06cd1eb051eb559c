"""Llama 2 and 3: RMS norm, rotary positions, grouped key/value heads, gated MLP; biases in attention where asked."""

from __future__ import annotations

from cardlab.profilers.runtime.families.base import ConfigDict
from cardlab.profilers.runtime.families.keys import flag, only
from cardlab.profilers.runtime.families.rotary import RotaryFamily


class Llama(RotaryFamily):
    """Adapter for `model_type` llama."""

    name = "llama"
    model_types = ("llama",)
    config_class = "LlamaConfig"
    own_keys = ("mlp_bias",)
    # Its key gives the output projection a bias too.
    output_bias = True

    def _attention_bias(self, config: ConfigDict) -> bool:
        return flag(config, "attention_bias", False)

    def _check_own(self, config: ConfigDict) -> None:
        only(config, "mlp_bias", False)

"""Llama 2 and 3: RMS norm, rotary positions, grouped key/value heads, gated MLP, no biases."""

from __future__ import annotations

from cardlab.profilers.runtime.families.rotary import RotaryFamily


class Llama(RotaryFamily):
    """Adapter for `model_type` llama."""

    name = "llama"
    model_types = ("llama",)
    config_class = "LlamaConfig"

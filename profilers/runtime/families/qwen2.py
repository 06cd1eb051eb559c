"""Qwen2 and Qwen2.5: as Llama, with biases on q, k and v, and full attention in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.core.errors import ProfileError
from cardlab.profilers.runtime.families.base import ConfigDict, optional, required
from cardlab.profilers.runtime.families.keys import flag, only, wrong_key
from cardlab.profilers.runtime.families.rotary import RotaryFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What transformers assumes where a configuration says nothing.
_WINDOW, _FIRST_WINDOW = 4096, 28
_WINDOW_KEYS = ("use_sliding_window", "sliding_window", "max_window_layers")


class Qwen2(RotaryFamily):
    """Adapter for `model_type` qwen2."""

    name = "qwen2"
    model_types = ("qwen2",)
    config_class = "Qwen2Config"
    own_keys = _WINDOW_KEYS

    def _attention_bias(self, config: ConfigDict) -> bool:
        # Built in: a configuration that says otherwise is of another model.
        only(config, "attention_bias", True)
        return True

    def _check_own(self, config: ConfigDict) -> None:
        """A window in any layer is refused: such layers cost less, and those of the server count from the cut."""
        if "num_key_value_heads" not in config:
            # transformers would take 32, whatever the model has.
            required(config, "num_key_value_heads")
        using = flag(config, "use_sliding_window", False)
        # A window of null is none, whatever the switch says.
        if not using or ("sliding_window" in config and config["sliding_window"] is None):
            return
        window = optional(config, "sliding_window", _WINDOW)
        first = config.get("max_window_layers", _FIRST_WINDOW)
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise wrong_key("max_window_layers", first, "a number of layers")
        # A list of layers decides where there is one.
        types = config.get("layer_types")
        windows = first < required(config, "num_hidden_layers") if types is None else "sliding_attention" in str(types)
        if windows:
            raise ProfileError(
                f"the model configuration has 'use_sliding_window' = True: layers that see {window} tokens only are not"
                " supported",
                remedy=f"up to {window} tokens a sequence set it to false and take 'layer_types' out: that is the same",
            )

    def transformers_config(self, config: ConfigDict) -> PretrainedConfig:
        """Qwen2Config; the biases are built in."""
        # No layer has a window (`_check_own`); some releases of transformers would still mask by it.
        dropped = {"attention_bias", "layer_types"}
        kept = {k: v for k, v in config.items() if k not in dropped}
        return super().transformers_config({**kept, "use_sliding_window": False})

"""What differs between model families, in one place: a Family says how its layers are made and cut.

A layer is described by a `LayerPlan`: the linear maps in the order in which the data meets them. From
that one description come the closed FLOP formula (formula.py), the LoRA targets that exist and the
sizes that a simulated device needs. The rest of an adapter names where things are in the model that
transformers builds, and translates a `config.json` both ways.

Legend: T = batch x sequence tokens, h hidden, i MLP width, n heads, k key/value heads, d head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cardlab.core.errors import ProfileError
from cardlab.core.records.task import Architecture

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

ConfigDict = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """One linear map inside a layer.

    Attributes:
        path: module path inside the layer ("self_attn.q_proj").
        inputs, outputs: widths.
        roles: which of "q", "k", "v" it produces; empty elsewhere.
        bias: whether it has one.
    """

    path: str
    inputs: int
    outputs: int
    roles: tuple[str, ...] = ()
    bias: bool = False

    def matches(self, target: str) -> bool:
        """Whether the LoRA target names this module, by PEFT's rule (a suffix of whole names)."""
        return self.path == target or self.path.endswith(f".{target}")

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """The linear maps of one decoder layer in data order, attention between the first two groups."""

    attention_in: tuple[Projection, ...]
    attention_out: Projection
    mlp_in: tuple[Projection, ...]
    mlp_out: Projection

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All linear maps, in data order."""
        return (*self.attention_in, self.attention_out, *self.mlp_in, self.mlp_out)


class Family(ABC):
    """Adapter of one model family; instances have no state.

    Class attributes:
        name: as in Architecture.family.
        model_types: values of `model_type` in a config.json that belong to it.
        layer_path, norm_path, head_path: module paths in the causal language model.
        embedding_paths: modules that turn token numbers and positions into the first hidden state.
        rotary_path: module that makes the rotary tables, None without one.
        default_targets: LoRA targets when none are named.
        dropout_keys: keys of a config.json for dropout, which is off here: a split step has to equal the unsplit one.
    """

    name: str
    model_types: tuple[str, ...]
    layer_path: str
    norm_path: str
    head_path: str = "lm_head"
    embedding_paths: tuple[str, ...]
    rotary_path: str | None = None
    default_targets: tuple[str, ...]
    dropout_keys: tuple[str, ...]

    @abstractmethod
    def architecture(self, config: ConfigDict) -> Architecture:
        """The dimensions that a config.json states; ProfileError when a needed key is missing, makes no sense, or asks
        for a computation that this family does not build."""

    @abstractmethod
    def computing(self, config: ConfigDict) -> dict[str, object]:
        """What a config.json says beside dimensions about what is computed, defaults filled in: equal exactly where two
        models of equal weights compute the same."""

    @abstractmethod
    def parameters(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights of a checkpoint; a tied head has none of its own."""

    @abstractmethod
    def config_from(self, architecture: Architecture) -> dict[str, object]:
        """A config.json of these dimensions, everything else at the family's defaults."""

    @abstractmethod
    def plan(self, architecture: Architecture) -> LayerPlan:
        """The linear maps of one layer."""

    @abstractmethod
    def transformers_config(self, config: ConfigDict) -> PretrainedConfig:
        """The transformers configuration object, whichever major version is installed."""

    @abstractmethod
    def device_part(self, model: torch.nn.Module, cut: int) -> torch.nn.Module:
        """Cut the model in place to embedding and layers 1..cut; call it to get [B, S, h].

        The inner model without LM head is returned; its final norm is an identity.
        """

    @abstractmethod
    def server_part(self, model: torch.nn.Module, cut: int) -> torch.nn.Module:
        """Cut the model in place to layers cut+1..L and the head; call with `inputs_embeds=` [B, S, h]."""

    def call_layer(self, layer: torch.nn.Module, hidden: torch.Tensor, context: Mapping[str, object]) -> torch.Tensor:
        """Output [B, S, h] of one layer; older transformers wrap it in a tuple."""
        output = layer(hidden, **context)
        return output[0] if isinstance(output, tuple) else output

    def restore_buffers(self, module: torch.nn.Module) -> None:  # noqa: B027
        """Give meaning again to buffers that materialising left as garbage; most families have none."""

    def available_targets(self, architecture: Architecture) -> tuple[str, ...]:
        """Last names of the linear maps of a layer, sorted: what LoRA can be put on."""
        return tuple(sorted({p.path.rsplit(".", 1)[-1] for p in self.plan(architecture).projections}))


def shown(value: object) -> str:
    """A value of a config.json, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def required(config: ConfigDict, key: str) -> int:
    """A positive whole number of a config.json; ProfileError naming the key otherwise."""
    value = config.get(key)
    # Beyond 31 bits no dimension of a model is meant, and sizes computed from it would overflow.
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ProfileError(
            f"the model configuration has no usable {key!r} (found {shown(value)})",
            remedy="give a complete config.json of the model",
        )
    return value


def optional(config: ConfigDict, key: str, default: int) -> int:
    """As `required`, with a default for a key that is missing or null."""
    return default if config.get(key) is None else required(config, key)

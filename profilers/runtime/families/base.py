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
from cardlab.core.records.task import Architecture, names_module

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
        """Whether the LoRA target names this module."""
        return names_module(target, self.path)

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


def one_of_each_kind(architecture: Architecture) -> tuple[int, ...]:
    """Numbers of layers, from 0, one of each kind."""
    segments = architecture.layer_segments
    return tuple(segments.index(name) for name in dict.fromkeys(segments))


class Family(ABC):
    """Adapter of one model family.

    Class attributes:
        name: as in Architecture.family.
        model_types: values of `model_type` in a config.json that belong to it.
        layer_path, norm_path, head_path: module paths in the causal language model.
        embedding_paths: modules that turn token numbers and positions into the first hidden state.
        default_targets: LoRA targets when none are named.
        has_linear_maps: layers keep their weights in torch's linear maps, which can be quantised.
        dropout_keys: keys of a config.json for dropout, which is off here: a split step has to equal the unsplit one.
    """

    name: str
    model_types: tuple[str, ...]
    layer_path: str
    norm_path: str
    head_path: str = "lm_head"
    embedding_paths: tuple[str, ...]
    default_targets: tuple[str, ...] = ()
    has_linear_maps: bool = True
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

    def plan(self, architecture: Architecture) -> LayerPlan | None:
        """The linear maps of one layer in data order; None where they are not known in closed form."""
        return None

    @abstractmethod
    def layer_maps(self, architecture: Architecture, layer: int) -> dict[str, tuple[int, int]]:
        """Linear maps of a layer by their module path inside it: inputs and outputs."""

    @abstractmethod
    def transformers_config(self, config: ConfigDict) -> PretrainedConfig:
        """The transformers configuration object, whichever major version is installed."""

    @abstractmethod
    def without_head(self, model: torch.nn.Module) -> torch.nn.Module:
        """The inner model, changed in place: its final norm is an identity, and the LM head is gone."""

    @abstractmethod
    def without_embedding(self, model: torch.nn.Module) -> torch.nn.Module:
        """The whole model, changed in place: nothing is left of the embedding, which `inputs_embeds` has passed."""

    def call_layer(self, layer: torch.nn.Module, hidden: torch.Tensor, context: Mapping[str, object]) -> torch.Tensor:
        """Output [B, S, h] of one layer; older transformers wrap it in a tuple."""
        output = layer(hidden, **context)
        return output[0] if isinstance(output, tuple) else output

    def available_targets(self, architecture: Architecture) -> tuple[str, ...]:
        """Last names of the linear maps of a layer, sorted: what LoRA can be put on."""
        paths = {path for layer in one_of_each_kind(architecture) for path in self.layer_maps(architecture, layer)}
        return tuple(sorted({path.rsplit(".", 1)[-1] for path in paths}))

    def ambiguous_targets(self, architecture: Architecture) -> tuple[str, ...]:
        """Last names of linear maps that mean other weights to PEFT, sorted; none in most families."""
        return ()

    def default_targets_of(self, architecture: Architecture) -> tuple[str, ...]:
        """LoRA targets when none are named."""
        return self.default_targets


class PlannedFamily(Family):
    """A family whose layers are known in closed form: the plan says all that there is."""

    @abstractmethod
    def plan(self, architecture: Architecture) -> LayerPlan:
        """The linear maps of one layer in data order."""

    def layer_maps(self, architecture: Architecture, layer: int) -> dict[str, tuple[int, int]]:
        """Those of the plan; all layers are alike."""
        return {p.path: (p.inputs, p.outputs) for p in self.plan(architecture).projections}


def whole(value: int | None) -> int:
    """A dimension that a planned family always has; ProfileError where a description of it was cut down."""
    if value is None:
        raise ProfileError("the task lacks a dimension of its model", remedy="profile the model again")
    return value


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

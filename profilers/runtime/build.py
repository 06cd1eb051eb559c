"""Models without weights: parameters on the meta device, LoRA by PEFT, materialised one layer at a time.

On the meta device tensors have shapes and no storage, so a model of any size is built in a moment. Buffers (rotary
frequencies, scales of embeddings) are small and are made for real, as the model's own code computes them.
A layer is then given real memory, measured, and its memory released: a model larger than memory is profiled too.

Two traps are handled here. Materialising leaves parameters as garbage, so weights are filled. PEFT on the meta device
leaves adapters in float32 whatever it was asked, so they are cast. Values do not change the time of a dense
product, so any cheap filling serves, small enough to keep activations finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cardlab.core.errors import ProfileError
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.runtime.configs import config_of
from cardlab.profilers.runtime.dropout import Clock, seed_dropout
from cardlab.profilers.runtime.families import Family, attention_of, family_named
from cardlab.profilers.runtime.kept import KeptMap, kept_maps
from cardlab.profilers.runtime.rows import is_read_by_rows

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PretrainedConfig

_WEIGHT_RANGE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A causal language model with LoRA, parameters on the meta device or materialised.

    Attributes:
        family: its adapter.
        model: transformers' module with PEFT's adapters injected.
        layers: all decoder layers, whichever of them the model is cut to.
        lists: what the configuration says of each layer, by key.
        clock: of LoRA dropout; as built, the first mini-batch of a run with seed 0.
    """

    family: Family
    model: torch.nn.Module
    task: Task
    execution: Execution
    layers: tuple[torch.nn.Module, ...]
    lists: Mapping[str, Sequence[object]]
    clock: Clock

    def part(self, path: str) -> torch.nn.Module:
        """The submodule at that path."""
        return self.model.get_submodule(path)

    @property
    def inner(self) -> torch.nn.Module:
        """The model without its LM head."""
        return self.part(self.family.layer_path.rpartition(".")[0])

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype as a torch dtype."""
        return getattr(torch, self.execution.dtype)

    def cut_to(self, numbers: range) -> None:
        """Let the model run these layers only, counted from 0; its configuration follows."""
        parent, _, name = self.family.layer_path.rpartition(".")
        inner = self.model.get_submodule(parent)
        setattr(inner, name, torch.nn.ModuleList(self.layers[n] for n in numbers))
        # transformers runs as many layers as the configuration says, and finds the kind of each there.
        inner.config.num_hidden_layers = len(numbers)
        for key, values in self.lists.items():
            setattr(inner.config, key, [values[n] for n in numbers])

    def device_part(self, cut: int) -> torch.nn.Module:
        """Cut the model in place to the embedding and layers 1..cut; call it to get [B, S, h].

        The inner model without LM head is returned; its final norm is an identity.
        """
        self.cut_to(range(cut))
        return self.family.without_head(self.model)

    def server_part(self, cut: int) -> torch.nn.Module:
        """Cut the model in place to layers cut+1..L and the head; call with `inputs_embeds=` [B, S, h]."""
        self.cut_to(range(cut, len(self.layers)))
        return self.family.without_embedding(self.model)


def build_meta(task: Task, execution: Execution) -> BuiltModel:
    """The model on the meta device with frozen weights and LoRA adapters, in training mode.

    Raises ProfileError or MissingDependencyError when transformers or PEFT is missing.
    """
    from huggingface_hub import errors
    from transformers import AutoModelForCausalLM

    # Releases of transformers before 5 raise ValueError and have no class of their own.
    strict: type[Exception] = getattr(errors, "StrictDataclassError", ValueError)
    family = family_named(task.architecture.family)
    try:
        config = family.transformers_config(config_of(task))
    except (strict, ValueError, TypeError, KeyError, AttributeError) as error:
        # What an adapter lets pass another release of transformers may still turn away.
        said = " ".join(str(error).split())[:200]
        raise ProfileError(
            f"transformers takes no such configuration of {task.model}: {said}",
            remedy="correct that key of config.json, or install another transformers",
        ) from error
    if execution.attention != "eager" and attention_of(task.architecture) == "eager":
        raise ProfileError(
            f"a {family.name} model has no {execution.attention} attention in transformers",
            remedy="profile it with --attention eager",
        )
    with parameters_on_meta():
        model = AutoModelForCausalLM.from_config(config, attn_implementation=execution.attention)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(getattr(torch, execution.dtype))
        model.requires_grad_(False)
        if execution.quantization is not None:
            from cardlab.profilers.runtime.quantised import quantise_maps

            quantise_maps(model.get_submodule(family.layer_path), execution, family.name)
        _add_lora(model.get_submodule(family.layer_path), task)
    model.loss_type = "ForCausalLM"  # older class names (GPT2LMHeadModel) are not recognised by transformers
    model.train()
    layers = tuple(model.get_submodule(family.layer_path))
    lists = layer_lists(model.config, len(layers))
    clock = Clock()
    seed_dropout(layers, clock)
    return BuiltModel(
        family=family, model=model, task=task, execution=execution, layers=layers, lists=lists, clock=clock
    )


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules made inside the block have parameters without storage and buffers with theirs."""
    register = torch.nn.Module.register_parameter

    def on_meta(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = torch.nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    torch.nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


def layer_lists(config: PretrainedConfig, layers: int) -> dict[str, list[object]]:
    """What a configuration says of each layer, by key."""
    return {key: list(value) for key, value in vars(config).items() if isinstance(value, list) and len(value) == layers}


def lora_config(task: Task, **more: Any) -> LoraConfig:
    """PEFT's configuration of a task's adapters; `more`: what else PEFT is to know."""
    from peft import LoraConfig

    lora = task.lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets),
        rank_pattern=dict(lora.rank_pattern or {}),
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        # GPT-2's Conv1D keeps its weights transposed.
        fan_in_fan_out=task.architecture.family == "gpt2",
        bias="none",
        **more,
    )


def _add_lora(layers: torch.nn.Module, task: Task) -> None:
    """Adapters inside the layers. PEFT is not shown the model: of some types it would read names as others."""
    from peft import inject_adapter_in_model

    inject_adapter_in_model(lora_config(task), layers)
    for name, parameter in layers.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(getattr(torch, task.lora.dtype))
            parameter.requires_grad_(True)


def make_room(module: torch.nn.Module, device: str) -> None:
    """Memory on the device for parameters that have none, unfilled; buffers go there as they are.

    Weights that are not kept dense wait for their values, and an embedding whose rows are read has none.
    """
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if (isinstance(part, KeptMap) and name == "weight") or is_read_by_rows(part):
                continue
            if parameter.device != torch.device(device):
                there = torch.empty_like(parameter, device=device)
                setattr(part, name, torch.nn.Parameter(there, requires_grad=parameter.requires_grad))
    move_buffers(module, device)


def move_buffers(module: torch.nn.Module, device: str) -> None:
    """Buffers of a module and those in it to the device."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device)


def materialise(built: BuiltModel, module: torch.nn.Module, device: str) -> torch.nn.Module:
    """Give a meta module memory on the device and small finite weights; the module itself is returned."""
    make_room(module, device)
    _fill_all(built, module, device)
    return module


def _fill_all(built: BuiltModel, module: torch.nn.Module, device: str) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.is_meta:
                fill(parameter)
        for _, part in kept_maps(module):
            # Drawn where it stays: one dense weight at a time.
            dense = torch.empty((part.out_features, part.in_features), dtype=built.dtype, device=device)
            fill(dense)
            part.keep(dense, device)


def fill(parameter: torch.Tensor) -> None:
    """Weights of a matrix uniform in +-0.02, of a vector (norms) one."""
    if parameter.dim() > 1:
        parameter.uniform_(-_WEIGHT_RANGE, _WEIGHT_RANGE)
    else:
        parameter.fill_(1.0)


def release(module: torch.nn.Module) -> None:
    """Give the memory of the parameters back: they return to the meta device."""
    for parameter in module.parameters():
        # Gradients would outlive the weights that they belong to.
        parameter.grad = None
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(part, KeptMap) and name == "weight":
                part.forget()
                continue
            setattr(part, name, torch.nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad))


def materialise_whole(built: BuiltModel, device: str) -> torch.nn.Module:
    """The whole model with memory and weights.

    Materialising separates tied weights, so they are tied again before anything touches their memory.
    """
    make_room(built.model, device)
    # Before the filling, which would make pages resident that tying drops again.
    built.model.tie_weights()
    _fill_all(built, built.model, device)
    if built.task.gradient_checkpointing:
        enable_checkpointing(built.model)
    return built.model


def enable_checkpointing(model: torch.nn.Module) -> None:
    """Non-reentrant checkpointing of every layer, under the name that this transformers has for it."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)


def structure_of(layer: torch.nn.Module) -> tuple[object, ...]:
    """Names, shapes, dtypes and requires_grad of a layer's parameters: equal where layers are built alike."""
    return tuple((name, tuple(p.shape), str(p.dtype), p.requires_grad) for name, p in layer.named_parameters())


def check_kinds(built: BuiltModel) -> None:
    """Raise ProfileError where two layers of one kind are built differently: one's cost would stand for the other's."""
    known: dict[str, tuple[int, tuple[object, ...]]] = {}
    for number, (name, layer) in enumerate(zip(built.task.architecture.layer_segments, built.layers, strict=True)):
        first, structure = known.setdefault(name, (number, structure_of(layer)))
        if structure != structure_of(layer):
            raise ProfileError(
                f"layers {first + 1} and {number + 1} of {built.task.model} differ, unsaid by its configuration",
                remedy="use a model whose config.json names the kinds of its layers",
            )

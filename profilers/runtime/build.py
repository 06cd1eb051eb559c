"""Models without weights: built on the meta device, LoRA by PEFT, materialised one layer at a time.

On the meta device tensors have shapes and no storage, so a model of any size is built in a moment.
A layer is then given real memory, measured, and its memory released: a model larger than memory is profiled too.

Three traps are handled here. Materialising leaves parameters *and* non-persistent buffers as garbage, so
weights are filled and the rotary module is made anew from its configuration. PEFT on the meta device
leaves adapters in float32 whatever it was asked, so they are cast. Values do not change the time of a dense
product, so any cheap filling serves, small enough to keep activations finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cardlab.core.errors import ProfileError
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.runtime.configs import config_of
from cardlab.profilers.runtime.families import Family, family_named

_WEIGHT_RANGE = 0.02
Context = Mapping[str, object]
"""What a layer is called with beside its hidden states: mask, positions, rotary tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A causal language model with LoRA, on the meta device or materialised.

    Attributes:
        family: its adapter.
        model: transformers' module with PEFT's adapters injected.
        device, dtype: where and in what it computes.
    """

    family: Family
    model: torch.nn.Module
    task: Task
    execution: Execution

    def part(self, path: str) -> torch.nn.Module:
        """The submodule at that path."""
        return self.model.get_submodule(path)

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The decoder layers."""
        return self.part(self.family.layer_path)

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype as a torch dtype."""
        return getattr(torch, self.execution.dtype)


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
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=execution.attention)
        model.to(getattr(torch, execution.dtype))
        model.requires_grad_(False)
        _add_lora(model, task)
    model.loss_type = "ForCausalLM"  # older class names (GPT2LMHeadModel) are not recognised by transformers
    model.train()
    return BuiltModel(family=family, model=model, task=task, execution=execution)


def _add_lora(model: torch.nn.Module, task: Task) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    lora = task.lora
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.targets),
        # GPT-2's Conv1D keeps its weights transposed.
        fan_in_fan_out=task.architecture.family == "gpt2",
        bias="none",
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(getattr(torch, lora.dtype))
            parameter.requires_grad_(True)


def materialise(built: BuiltModel, module: torch.nn.Module, device: str) -> torch.nn.Module:
    """Give a meta module memory on the device and small finite weights; the module itself is returned."""
    module.to_empty(device=device)
    _fill_all(built, module)
    return module


def _fill_all(built: BuiltModel, module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            fill(parameter)
        built.family.restore_buffers(module)


def fill(parameter: torch.nn.Parameter) -> None:
    """Weights of a matrix uniform in +-0.02, of a vector (norms) one."""
    if parameter.dim() > 1:
        parameter.uniform_(-_WEIGHT_RANGE, _WEIGHT_RANGE)
    else:
        parameter.fill_(1.0)


def release(module: torch.nn.Module) -> None:
    """Give the memory back: the module returns to the meta device."""
    for parameter in module.parameters():
        # Gradients would outlive the weights that they belong to.
        parameter.grad = None
    module.to("meta")


def materialise_whole(built: BuiltModel, device: str) -> torch.nn.Module:
    """The whole model with memory and weights, rotary tables included.

    Materialising separates tied weights, so they are tied again before anything touches their memory.
    """
    built.model.to_empty(device=device)
    # Before the filling, which would make pages resident that tying drops again.
    built.model.tie_weights()
    _fill_all(built, built.model)
    if built.family.rotary_path is not None:
        restore_rotary(built, built.model, device)
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


def restore_rotary(built: BuiltModel, model: torch.nn.Module, device: str) -> None:
    """Put a freshly made rotary module where materialising left garbage frequencies."""
    path = built.family.rotary_path
    if path is not None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make_rotary(built, device))


def make_rotary(built: BuiltModel, device: str) -> torch.nn.Module | None:
    """A rotary module with true frequencies on the device, None for a family without one."""
    if built.family.rotary_path is None:
        return None
    kind = type(built.part(built.family.rotary_path))
    with torch.device(device):
        return kind(config=built.model.config)


def layer_context(built: BuiltModel, device: str) -> Context:
    """What the model hands to each layer beside the hidden state: mask, positions, rotary tables.

    sdpa needs no mask (causal by flag), eager an additive one [1, 1, S, S].
    """
    task, execution = built.task, built.execution
    context: dict[str, object] = {"attention_mask": None, "use_cache": False}
    if execution.attention == "eager" and device != "meta":
        blocked = torch.full((task.sequence, task.sequence), torch.finfo(built.dtype).min, dtype=built.dtype)
        context["attention_mask"] = blocked.triu(1)[None, None].to(device)
    # Older rotary modules cannot run on the meta device, so the tables are made on a real one first.
    made_on = "cpu" if device == "meta" else device
    rotary = make_rotary(built, made_on)
    if rotary is None:
        return context
    positions = torch.arange(task.sequence, device=made_on)[None]
    # Only dtype and device of this tensor are looked at.
    tables = rotary(torch.empty((1, 1, 1), dtype=built.dtype, device=made_on), positions)
    context["position_ids"] = positions.to(device)
    context["position_embeddings"] = tuple(table.to(device) for table in tables)
    return context


def structural_groups(built: BuiltModel) -> tuple[tuple[int, ...], ...]:
    """Layer numbers (from 0) grouped by parameter names, shapes, dtypes and requires_grad."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, layer in enumerate(built.layers):
        signature = tuple((name, tuple(p.shape), str(p.dtype), p.requires_grad) for name, p in layer.named_parameters())
        groups.setdefault(signature, []).append(number)
    return tuple(tuple(members) for members in groups.values())

"""Adapters as PEFT keeps them on disk: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardlab.core.errors import BadDataError, RunError
from cardlab.core.files import decode
from cardlab.core.records.task import Lora, Task
from cardlab.profilers.runtime.configs import bundled_models
from cardlab.profilers.runtime.families import family_named
from cardlab.split.adapters import MAGNITUDE, AdapterSet, LayerState, shapes_by_layer
from cardlab.split.journal_files import put, writing

if TYPE_CHECKING:
    import torch

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What a configuration of PEFT may ask for beyond LoRA's variants here; each is refused unless it is off.
_NOT_TRAINED = (
    "alpha_pattern",
    "modules_to_save",
    "layers_to_transform",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "exclude_modules",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "loftq_config",
    "corda_config",
    "eva_config",
    "arrow_config",
    "megatron_config",
)


def peft_name(name: str) -> str:
    """The name of a tensor in PEFT's files, which leave out the adapter's name (and what a magnitude is wrapped in)."""
    return name.replace(f".{MAGNITUDE}.default.weight", f".{MAGNITUDE}").replace(".default.", ".")


def base_name(model: str) -> str:
    """What PEFT finds a model by from any folder: a path is made absolute, a name stays one."""
    path = Path(model)
    if model in bundled_models() or not path.exists():
        return model
    return str((path if path.is_dir() else path.parent).resolve())


def save_peft(adapters: AdapterSet, task: Task, folder: Path) -> Path:
    """Write the adapters as PEFT does; `PeftModel.from_pretrained(base, folder)` loads them.

    Returns the folder. The configuration is PEFT's own. Raises DiskError.
    """
    from cardlab.profilers.runtime.build import lora_config

    described = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name(task.model),
        "inference_mode": True,
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lora_config(task, **described).save_pretrained(str(folder))
    # Renamed when whole, so that nobody loads a file that is half written.
    put(folder / _WEIGHTS, _weights_of(adapters, task))
    return folder


def is_saved(adapters: AdapterSet, task: Task, folder: Path) -> bool:
    """Whether the folder holds exactly these adapters."""
    path = folder / _WEIGHTS
    return (folder / _CONFIG).is_file() and path.is_file() and path.read_bytes() == _weights_of(adapters, task)


def _weights_of(adapters: AdapterSet, task: Task) -> bytes:
    from safetensors.torch import save

    path = family_named(task.architecture.family).layer_path
    tensors = {
        f"{_prefix(path, layer)}{peft_name(name)}": tensor.contiguous()
        for layer, state in adapters.items()
        for name, tensor in state.parameters.items()
    }
    return bytes(save(tensors, metadata={"format": "pt"}))


def _prefix(path: str, layer: int) -> str:
    return f"base_model.model.{path}.{layer}."


def read_lora(folder: Path) -> Lora:
    """What a folder of PEFT says of its adapters; dtype as cardlab's default.

    Raises RunError where it holds none, or something that is not trained here.
    """
    path = folder / _CONFIG
    try:
        plain = json.loads(decode(path.read_bytes(), str(path)))
        found = _lora(plain)
    except OSError as error:
        raise RunError(
            f"cannot read {path}: {error.strerror or error}", remedy="name the folder that PEFT's save_pretrained wrote"
        ) from error
    except (BadDataError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{path} is no configuration of LoRA adapters", remedy="have PEFT write it again") from error
    for key in _NOT_TRAINED:
        if plain.get(key):
            raise RunError(f"{path} has {key!r}, which is not trained here", remedy="use plain LoRA adapters")
    return found


def _lora(plain: Mapping[str, Any]) -> Lora:
    if plain["peft_type"] != "LORA" or plain.get("bias", "none") != "none":
        raise ValueError("no plain LoRA")
    targets = plain["target_modules"]
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise ValueError("no list of modules")
    ranks = {str(name): int(rank) for name, rank in (plain.get("rank_pattern") or {}).items()}
    return Lora(
        rank=int(plain["r"]),
        alpha=float(plain["lora_alpha"]),
        targets=tuple(sorted({_inside(name) for name in targets})),
        rank_pattern=dict(sorted(ranks.items())) or None,
        dropout=float(plain.get("lora_dropout") or 0.0),
        rslora=bool(plain.get("use_rslora")),
        dora=bool(plain.get("use_dora")),
    )


def _inside(name: str) -> str:
    """A module's path in its layer: in a small model PEFT names those of each ("model.layers.0.mlp.up_proj").

    Where they are not those of every layer, a tensor will be missing.
    """
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdecimal()), -1)
    return ".".join(parts[number + 1 :])


def load_peft(folder: Path, task: Task) -> AdapterSet:
    """The adapters of a folder of PEFT, of exactly the task's layers and modules, in the task's dtype.

    Raises RunError naming what does not fit: another rank, other modules, a tensor that is missing, left over, of
    another shape or not finite.
    """
    lora = read_lora(folder)
    for key in ("rank", "alpha", "targets", "rank_pattern", "dropout", "rslora", "dora"):
        theirs, ours = getattr(lora, key), getattr(task.lora, key)
        if theirs != ours:
            raise RunError(
                f"the adapters in {folder} have {key} {theirs}, the run {ours}",
                remedy="leave the LoRA options out: those of the adapters are taken",
            )
    import torch

    tensors, dtype = _tensors(folder), getattr(torch, task.lora.dtype)
    path = family_named(task.architecture.family).layer_path
    found: AdapterSet = {}
    for layer, shapes in enumerate(shapes_by_layer(task)):
        state = LayerState({})
        for name, shape in shapes.items():
            tensor = tensors.pop(f"{_prefix(path, layer)}{peft_name(name)}", None)
            if tensor is None or tuple(tensor.shape) != shape or not bool(tensor.isfinite().all()):
                what = "lack" if tensor is None else f"have another shape or NaN in the place of {list(shape)} for"
                raise RunError(
                    f"the adapters in {folder} {what} {peft_name(name)} of layer {layer + 1}",
                    remedy="give the adapters of this model",
                )
            state.parameters[name] = tensor.to(dtype)
        found[layer] = state
    if tensors:
        raise RunError(
            f"the adapters in {folder} have {next(iter(tensors))}, which the run does not train",
            remedy="give the adapters of this model",
        )
    return found


def described_peft(folder: Path) -> str:
    """The folder and a digest of its weights: what a run is said to have begun with."""
    try:
        digest = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"cannot read {folder}: {error.strerror or error}", remedy="make it readable") from error
    return f"{folder} (sha256 {digest[:12]})"


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _WEIGHTS
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise RunError(
            f"{folder} holds adapter_model.bin only, which is not read (it may run code)",
            remedy="have PEFT write it again: save_pretrained(DIR, safe_serialization=True)",
        )
    try:
        return dict(load_file(str(path)))
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot read {path}: {error}", remedy="have PEFT write it again") from error

"""Model configurations: bundled ones (no network, no weights) or a local config.json.

The files in `configs/` hold the public dimensions in the form of a Hugging Face config.json. Only
JSON is read; nothing is downloaded and no code of a model repository is run.
"""

from __future__ import annotations

import json
import os
import re
from importlib.resources import files
from pathlib import Path

from cardlab.core.errors import BadDataError, ProfileError, UnknownModelError
from cardlab.core.files import decode
from cardlab.core.records.task import Architecture, Task
from cardlab.profilers.runtime.families import family_named, family_of
from cardlab.profilers.runtime.families.base import ConfigDict
from cardlab.profilers.runtime.families.keys import dropout

_GGUF = "a GGUF file, which llama.cpp runs and nothing here trains"
_NOT_GGUF = "name the folder of the model's safetensors"
# Owner and name, as on the Hub.
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


def bundled_models() -> tuple[str, ...]:
    """Names of the bundled configurations, sorted."""
    folder = files("cardlab.profilers.runtime") / "configs"
    return tuple(sorted(e.name[: -len(".json")] for e in folder.iterdir() if e.name.endswith(".json")))


def load_config(model: str) -> ConfigDict:
    """The config.json dictionary of a bundled name, a file, a folder that holds one, or a Hub id in the local cache.

    Raises UnknownModelError when there is neither, ProfileError when a file cannot be understood.
    """
    if model in bundled_models():
        text = (files("cardlab.profilers.runtime") / "configs" / f"{model}.json").read_text("utf-8")
        return dict(json.loads(text))
    path = Path(model)
    try:
        path = path / "config.json" if path.is_dir() else path
        there = bool(model) and path.exists()
    except (OSError, ValueError):
        # A name that no file can have, or a folder that may not be looked into.
        there = False
    if not there:
        cached = hub_folder(model)
        if cached is None:
            raise _unknown(model)
        path = cached / "config.json"
    return _read_config(path)


def _unknown(model: str) -> UnknownModelError:
    path = Path(model)
    try:
        names = sorted(entry.name for entry in path.iterdir()) if model and path.is_dir() else []
    except (OSError, ValueError):
        names = []
    if "adapter_config.json" in names:
        return UnknownModelError(
            f"{model} holds adapters, not a model{_base_of(path)}", remedy="name the folder of the base model"
        )
    if any(name.endswith(".gguf") for name in names):
        return UnknownModelError(f"{model} holds {_GGUF}", remedy=_NOT_GGUF)
    if names:
        return UnknownModelError(f"{model} holds no config.json", remedy="give the complete folder of a model")
    if _HUB_ID.match(model):
        return UnknownModelError(
            f"no model folder {model!r}, and the local cache of the Hub has no such model",
            remedy=f"download it: hf download {model}; or name a folder that holds it",
        )
    return UnknownModelError(
        f"no model {model!r}",
        remedy=f"use one of {', '.join(bundled_models())}, the path of a config.json or model folder, or a Hub id",
    )


def _base_of(folder: Path) -> str:
    """The base model that adapters name, in words for the end of a line."""
    try:
        named = json.loads(decode((folder / "adapter_config.json").read_bytes(), "adapter_config.json"))
        base = named.get("base_model_name_or_path")
    except (OSError, BadDataError, ValueError, AttributeError, RecursionError):
        return ""
    return f" (they are of {base})" if isinstance(base, str) and base else ""


def hub_folder(model: str) -> Path | None:
    """The folder of a model that was downloaded from the Hub, None where its local cache has none.

    Nothing is downloaded. The revision is the one that `main` was when it was fetched.
    """
    if not _HUB_ID.match(model):
        return None
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        folder = Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _read_config(path: Path) -> ConfigDict:
    if path.suffix == ".gguf":
        raise ProfileError(f"{path} is {_GGUF}", remedy=_NOT_GGUF)
    try:
        loaded = json.loads(decode(path.read_bytes(), str(path)))
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror or error}", remedy="make it readable") from error
    except (BadDataError, ValueError, RecursionError) as error:
        # A number of more digits than Python turns into one is a ValueError too.
        what = error.message if isinstance(error, BadDataError) else str(error).splitlines()[0]
        raise ProfileError(f"cannot read {path}: {what}", remedy="give a readable config.json") from error
    if not isinstance(loaded, dict):
        raise ProfileError(f"{path} holds no JSON object", remedy="give a model's config.json")
    return loaded


def load_architecture(model: str) -> Architecture:
    """Dimensions of a bundled model or local config.json; UnsupportedFamilyError for other families."""
    config = load_config(model)
    return family_of(config.get("model_type")).architecture(config)


def load_computing(model: str) -> dict[str, object]:
    """What a model's configuration says of what is computed, beside its dimensions; errors as `load_architecture`."""
    config = load_config(model)
    family = family_of(config.get("model_type"))
    family.architecture(config)
    return family.computing(config)


def label_of(model: str) -> str:
    """The one spelling of a model's name: labels agree, and a folder is never taken for a bundled configuration.

    Raises UnknownModelError for a bundled name that is a model folder here too.
    """
    bundled = model in bundled_models()
    if bundled and (Path(model) / "config.json").is_file():
        raise UnknownModelError(
            f"{model!r} is a bundled configuration and a model folder here",
            remedy=f"write .{os.sep}{model} for the folder; for the configuration start in another folder",
        )
    path = str(Path(model))
    if not bundled and path in bundled_models():
        return f"{os.curdir}{os.sep}{path}"
    return model if bundled else path


def dropout_note(model: str) -> str | None:
    """That dropout is off, where a model's configuration asks for some; None otherwise."""
    config = load_config(model)
    found = dropout(config, family_of(config.get("model_type")).dropout_keys)
    return f"dropout is off in a split run ({', '.join(found)} in config.json)" if found else None


def config_of(task: Task) -> ConfigDict:
    """The configuration to build a task from: its model's if that still has the same dimensions.

    A task that came from another machine may name a file that is not here; its dimensions suffice
    for every cost, and the rest takes the family's defaults.
    """
    family = family_named(task.architecture.family)
    try:
        config = load_config(task.model)
        if family_of(config.get("model_type")).architecture(config) == task.architecture:
            return config
    except ProfileError:
        pass
    return family.config_from(task.architecture)

"""The safetensors files of a model folder: which of them hold the model, and what their headers say.

As transformers: `model.safetensors`, else the files that `model.safetensors.index.json` names. Other files in the
folder are named and not read. Only headers are read here; nothing but safetensors ever is: other formats may run code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import BadDataError, ProfileError
from cardlab.core.files import decode
from cardlab.core.records.task import Architecture, Task
from cardlab.profilers.runtime.configs import bundled_models, hub_folder, load_config
from cardlab.profilers.runtime.entries import AGAIN, Entry, read_header
from cardlab.profilers.runtime.families import family_named
from cardlab.profilers.runtime.families.keys import quantised as refusal
from cardlab.profilers.runtime.families.keys import stored_quantization
from cardlab.profilers.runtime.packed import MADE_AGAIN, Packed, check_beside, check_dtypes, take_packed
from cardlab.profilers.runtime.stored import Arranged, Parts, arrange

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Formats that run code when they are opened, or belong to other libraries.
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".npz", ".pkl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The weights of a model on disk.

    Attributes:
        folder: where they are.
        files: that hold them.
        tensors: by the name of the parameter, without what transformers ignores.
        parts: parameters that are stored in several tensors: experts that are kept one by one.
        packed: weights that are stored quantised, by the name of the parameter.
        unread: names of other weights in the folder, which are not read.
    """

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, Entry]
    parts: Mapping[str, Parts]
    packed: Mapping[str, Packed]
    unread: tuple[str, ...]

    @property
    def origin(self) -> str:
        """In words, for people."""
        beside = f"; not read: {_some(self.unread)}" if self.unread else ""
        return f"{len(self.files)} file(s) in {self.folder}{beside}"


def model_folder(model: str) -> Path | None:
    """The folder of a model that was named by its path, None for a bundled one.

    Raises ProfileError for a path that is gone.
    """
    if model in bundled_models():
        return None
    path = Path(model)
    if not path.exists() and (cached := hub_folder(model)) is not None:
        return cached
    if not path.exists():
        raise ProfileError(
            f"the model {model} is not here", remedy="name the model folder on this machine with --model"
        )
    return path if path.is_dir() else path.parent


def has_weights(model: str) -> bool:
    """Whether safetensors files lie in the folder of a model; they are not opened. Raises ProfileError."""
    folder = model_folder(model)
    return folder is not None and bool(_files(folder, whole=not _is_lone_file(model))[0])


def find_checkpoint(task: Task) -> Checkpoint | None:
    """The checked checkpoint of a task's model, None where it is a configuration without weights.

    Raises ProfileError: weights of another format only, files that contradict each other, damaged ones, quantised ones,
    or tensors that are not those of the model.
    """
    folder = model_folder(task.model)
    if folder is None:
        return None
    files, unread = _files(folder, whole=not _is_lone_file(task.model))
    if not files:
        return None
    check_beside(folder)
    found: dict[str, Entry] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in found:
                raise ProfileError(f"{name} stands in {found[name].file.name} and in {file.name}", remedy=AGAIN)
            found[name] = entry
    packed: dict[str, Packed] = {}
    stored = stored_quantization(load_config(task.model))
    if stored is not None:
        packed = take_packed(found, stored, _map_shapes(task.architecture))
    model = _of_model(task, folder, found, frozenset(packed))
    return Checkpoint(folder=folder, files=files, tensors=model.whole, parts=model.parts, packed=packed, unread=unread)


def _map_shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """[out, in] of the weights of all linear maps of layers, by their names in a checkpoint."""
    family = family_named(architecture.family)
    return {
        f"{family.layer_path}.{layer}.{path}.weight": (outputs, inputs)
        for layer in range(architecture.layers)
        for path, (inputs, outputs) in family.layer_maps(architecture, layer).items()
    }


def _is_lone_file(model: str) -> bool:
    """A configuration under a name of its own may lie beside anything."""
    return Path(model).is_file() and Path(model).name != "config.json"


def check_stored(model: str, architecture: Architecture, *, quantised: bool) -> None:
    """Raise ProfileError if the weights beside a model's config.json are quantised in a form that is not supported, or
    in one that is where the caller would take them for dense (`quantised` false).

    Files that cannot be read are left to whoever needs the weights.
    """
    stored = stored_quantization(load_config(model))
    if stored is not None and not quantised:
        raise refusal(f"bitsandbytes {stored}", None)
    folder = model_folder(model)
    if folder is None:
        return
    check_beside(folder)
    # Those of a supported form are held against it when they are opened.
    for file in sorted(folder.glob("model*.safetensors")) if stored is None else ():
        try:
            entries = read_header(file)
        except ProfileError:
            continue
        check_dtypes(entries, family_named(architecture.family).parameters(architecture))


def _files(folder: Path, *, whole: bool) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Files that hold the model, and names of others; `whole`: the folder is the model's and nothing else's."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ProfileError(f"cannot read {folder}: {error.strerror or error}", remedy="make it readable") from error
    safe = [name for name in names if name.endswith(".safetensors")]
    indexed = _indexed(folder) if INDEX in names else None
    if SINGLE in names and indexed is not None and set(indexed) != {SINGLE}:
        raise ProfileError(
            f"{folder} holds {SINGLE} and {INDEX}, which names other files",
            remedy="remove the one that is not the model",
        )
    chosen = [SINGLE] if SINGLE in names else indexed or []
    for name in chosen:
        if not (folder / name).is_file():
            raise ProfileError(f"{folder} lacks {name}, a file of the model", remedy=AGAIN)
    other = [name for name in names if name.endswith(_OTHER_FORMATS) and not name.startswith("training_args")]
    if not chosen and whole:
        _refuse_others(folder, names, safe, other)
    return tuple(folder / name for name in chosen), tuple(n for n in safe if n not in chosen)


def _refuse_others(folder: Path, names: list[str], safe: list[str], other: list[str]) -> None:
    """A folder with weights that are not read must not be trained on random ones."""
    if "adapter_config.json" in names:
        raise ProfileError(f"{folder} holds adapters, not a model", remedy="name the folder of the base model")
    if safe:
        hint = f"download {INDEX} too" if any(re.search(r"-of-\d+", n) for n in safe) else f"call the model {SINGLE}"
        raise ProfileError(f"{folder} holds {_some(tuple(safe))} and neither {SINGLE} nor {INDEX}", remedy=hint)
    if other:
        raise ProfileError(
            f"{folder} holds its weights as {_some(tuple(other))} only, which is not read (it may run code)",
            remedy="use the model's safetensors; transformers writes them: from_pretrained(DIR).save_pretrained(NEW)",
        )


def _indexed(folder: Path) -> list[str]:
    path = folder / INDEX
    try:
        plain = json.loads(decode(path.read_bytes(), str(path)))
        names = sorted(set(plain["weight_map"].values()))
        if not names or not all(isinstance(n, str) and n == Path(n).name and n.endswith(".safetensors") for n in names):
            raise ValueError("no file names")
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror or error}", remedy="make it readable") from error
    except (BadDataError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProfileError(f"{path} is no index of safetensors files", remedy=AGAIN) from error
    return names


def _of_model(task: Task, folder: Path, found: Mapping[str, Entry], packed: frozenset[str]) -> Arranged:
    """The tensors as the model's parameters, without those that are `packed`; ProfileError for any that is missing or
    too many."""
    family = family_named(task.architecture.family)
    wanted = {n: shape for n, shape in family.parameters(task.architecture).items() if n not in packed}
    check_dtypes({n: e for n, e in found.items() if n in wanted or not MADE_AGAIN.search(n)}, wanted)
    model = arrange(family, task.architecture, found, wanted)
    left = {name: entry for name, entry in model.left.items() if not MADE_AGAIN.search(name)}
    if task.architecture.tied_embeddings and (head := left.pop(f"{family.head_path}.weight", None)) is not None:
        _check_tied(head, model.whole.get(family.embedding_paths[0] + ".weight"))
    if left:
        raise ProfileError(
            f"{folder} holds {_some(tuple(sorted(left)))}, which a {family.name} model of its config.json does not use",
            remedy="give the config.json that belongs to the checkpoint, or another model",
        )
    if model.missing:
        raise ProfileError(
            f"the checkpoint lacks {_some(model.missing)}", remedy="give the whole model folder with --model"
        )
    for name, entry in model.whole.items():
        if entry.shape != wanted[name]:
            raise ProfileError(
                f"{name} has shape {entry.shape} in the checkpoint, {wanted[name]} in config.json",
                remedy="give the config.json that belongs to the checkpoint",
            )
    return model


def _check_tied(head: Entry, embedding: Entry | None) -> None:
    """A tied head may stand in the file once more, as it is; another one is a model that is not tied."""
    if (
        embedding is None
        or (head.dtype, head.shape) != (embedding.dtype, embedding.shape)
        or not _equal(head, embedding)
    ):
        raise ProfileError(
            f"config.json ties the head to the embedding, and the checkpoint holds another {head.name}",
            remedy="set tie_word_embeddings to false in config.json if the head is one of its own",
        )


def _equal(one: Entry, other: Entry) -> bool:
    step = 2**24
    with one.file.open("rb") as here, other.file.open("rb") as there:
        here.seek(one.low)
        there.seek(other.low)
        for done in range(0, one.high - one.low, step):
            size = min(step, one.high - one.low - done)
            if here.read(size) != there.read(size):
                return False
    return True


def _some(names: tuple[str, ...]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

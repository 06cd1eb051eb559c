"""The safetensors files of a model folder: which of them hold the model, and what their headers say.

As transformers: `model.safetensors`, else the files that `model.safetensors.index.json` names. Other files in the
folder are named and not read. Only headers are read here; nothing but safetensors ever is: other formats may run code.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from cardlab.core.errors import BadDataError, ProfileError
from cardlab.core.files import decode
from cardlab.core.records.task import Architecture, Task
from cardlab.profilers.runtime.configs import bundled_models, hub_folder
from cardlab.profilers.runtime.families import family_named
from cardlab.profilers.runtime.families.keys import check_quantised, quantised

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Formats that run code when they are opened, or belong to other libraries.
_OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".npz", ".pkl")
_AGAIN = "download the model again"
_POINTER = b"version https://git-lfs"
# Where methods of quantisation write what they did, beside config.json.
_QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")
# Buffers that old checkpoints hold and transformers makes itself.
_MADE_AGAIN = re.compile(r"(?:^|\.)(?:rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|position_ids)$")
_EITHER = "awq or gptq"
_MARKS = (
    (re.compile(r"\.(?:quant_state\.|absmax$|quant_map$|nested_absmax$)|quant_state"), "bitsandbytes"),
    (re.compile(r"\.(?:SCB|CB)$|weight_format$"), "bitsandbytes"),
    (re.compile(r"\.(?:qweight|qzeros|g_idx)$"), _EITHER),
    (re.compile(r"\.weight_packed$"), "compressed-tensors"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor of a file: its name there, dtype in the format's word, shape, and where its bytes lie [low, high)."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The weights of a model on disk.

    Attributes:
        folder: where they are.
        files: that hold them.
        tensors: by the name of the parameter, without what transformers ignores.
        unread: names of other weights in the folder, which are not read.
    """

    folder: Path
    files: tuple[Path, ...]
    tensors: Mapping[str, Entry]
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
    _check_beside(folder)
    found: dict[str, Entry] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in found:
                raise ProfileError(f"{name} stands in {found[name].file.name} and in {file.name}", remedy=_AGAIN)
            found[name] = entry
    return Checkpoint(folder=folder, files=files, tensors=_of_model(task, folder, found), unread=unread)


def _is_lone_file(model: str) -> bool:
    """A configuration under a name of its own may lie beside anything."""
    return Path(model).is_file() and Path(model).name != "config.json"


def check_not_quantised(model: str, architecture: Architecture) -> None:
    """Raise ProfileError if the weights beside a model's config.json are quantised; files that cannot be read are left
    to whoever needs the weights."""
    folder = model_folder(model)
    if folder is None:
        return
    _check_beside(folder)
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            entries = read_header(file)
        except ProfileError:
            continue
        _check_dtypes(entries, family_named(architecture.family).parameters(architecture))


def read_header(file: Path) -> dict[str, Entry]:
    """Tensors of a safetensors file by name. Raises ProfileError for what is none, or is cut short."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length < 2**28 else None
        if not isinstance(header, dict):
            raise ValueError("no header")
        begin = 8 + length
        found = {
            str(name): _entry(file, str(name), entry, begin) for name, entry in header.items() if name != "__metadata__"
        }
        end = max((entry.high for entry in found.values()), default=begin)
    except OSError as error:
        raise ProfileError(f"cannot read {file}: {error.strerror or error}", remedy="make it readable") from error
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        if _begins_with(file, _POINTER):
            raise ProfileError(
                f"{file} is a pointer of Git LFS, not the weights", remedy=f"fetch them: git lfs pull, in {file.parent}"
            ) from error
        raise ProfileError(f"{file} is no safetensors file", remedy=_AGAIN) from error
    if end > size:
        raise ProfileError(f"{file} is cut short: {size} bytes of {end}", remedy=_AGAIN)
    return found


def _begins_with(file: Path, words: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(words)) == words
    except OSError:
        return False


def _entry(file: Path, name: str, plain: Mapping[str, object], begin: int) -> Entry:
    offsets, shape, dtype = plain["data_offsets"], plain["shape"], plain["dtype"]
    if not isinstance(offsets, list) or not isinstance(shape, list) or not isinstance(dtype, str):
        raise ValueError("no tensor")
    low, high = (int(offset) for offset in offsets)
    sizes = tuple(int(side) for side in shape)
    width = _FLOATS.get(dtype)
    if not 0 <= low <= high or min(sizes, default=0) < 0 or (width and high - low != width * prod(sizes)):
        raise ValueError("bytes that are not those of the shape")
    return Entry(file=file, name=name, dtype=dtype, shape=sizes, low=begin + low, high=begin + high)


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
            raise ProfileError(f"{folder} lacks {name}, a file of the model", remedy=_AGAIN)
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
        raise ProfileError(f"{path} is no index of safetensors files", remedy=_AGAIN) from error
    return names


def _check_beside(folder: Path) -> None:
    """Raise ProfileError where a file of a quantisation method lies beside the weights."""
    for name in _QUANTISED_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            plain = json.loads(decode(path.read_bytes(), str(path)))
        except (OSError, BadDataError, ValueError, RecursionError):
            plain = {}
        method = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}.get(
            name
        )
        given = plain if isinstance(plain, dict) else {}
        check_quantised({"quantization_config": {"quant_method": method, **given} if method else given or {"found": 1}})


def _of_model(task: Task, folder: Path, found: Mapping[str, Entry]) -> dict[str, Entry]:
    """The tensors by the names of the model's parameters; ProfileError for any that is missing or too many."""
    family = family_named(task.architecture.family)
    wanted = family.parameters(task.architecture)
    # Some checkpoints leave out the name of the inner model.
    short = {name.partition(".")[2]: name for name in wanted if not name.startswith("lm_head")}
    named: dict[str, Entry] = {}
    left: dict[str, Entry] = {}
    for name, entry in found.items():
        if name in wanted or name in short:
            named[short.get(name, name)] = entry
        elif not _MADE_AGAIN.search(name):
            left[name] = entry
    _check_dtypes({**named, **left}, wanted)
    if task.architecture.tied_embeddings and "lm_head.weight" in left:
        _check_tied(left.pop("lm_head.weight"), named.get(family.embedding_paths[0] + ".weight"))
    if left:
        raise ProfileError(
            f"{folder} holds {_some(tuple(sorted(left)))}, which a {family.name} model of its config.json does not use",
            remedy="give the config.json that belongs to the checkpoint, or another model",
        )
    missing = sorted(wanted.keys() - named.keys())
    if missing:
        raise ProfileError(
            f"the checkpoint lacks {_some(tuple(missing))}", remedy="give the whole model folder with --model"
        )
    for name, shape in wanted.items():
        if named[name].shape != shape:
            raise ProfileError(
                f"{name} has shape {named[name].shape} in the checkpoint, {shape} in config.json",
                remedy="give the config.json that belongs to the checkpoint",
            )
    return named


def _check_dtypes(entries: Mapping[str, Entry], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ProfileError naming the method, and the bits as far as known, for tensors of a quantised checkpoint."""
    for pattern, method in _MARKS:
        hit = next((name for name in entries if pattern.search(name)), None)
        if hit is not None:
            named = _awq_or_gptq(entries, wanted) if method == _EITHER else method
            bits = (_packed_bits(name, entry, wanted) for name, entry in entries.items() if entry.dtype not in _FLOATS)
            raise quantised(named, next((found for found in bits if found is not None), None))
    for name, entry in entries.items():
        if entry.dtype in _FLOATS or _MADE_AGAIN.search(name):
            continue
        stem = name.rpartition(".")[0]
        if f"{stem}.scales" in entries:
            raise quantised("mlx", _packed_bits(name, entry, wanted))
        raise quantised(_DTYPES.get(entry.dtype, entry.dtype), _packed_bits(name, entry, wanted))


_DTYPES = {"F8_E4M3": "fp8, float8_e4m3fn", "F8_E5M2": "fp8, float8_e5m2", "I8": "int8", "U8": "uint8", "I32": "int32"}


def _packed_bits(name: str, entry: Entry, wanted: Mapping[str, tuple[int, ...]]) -> str | None:
    """Bits of one weight: those stored over the values that the model has, None where that is not known."""
    stem, _, last = name.rpartition(".")
    shape = wanted.get(f"{stem}.weight")
    if shape is None or last not in ("weight", "qweight", "weight_packed"):
        return None
    bits = 8 * (entry.high - entry.low) / prod(shape)
    return f"{bits:g}" if bits in (1, 2, 3, 4, 5, 6, 8) else None


def _awq_or_gptq(entries: Mapping[str, Entry], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """AWQ packs along the outputs, GPTQ along the inputs and may keep an order of them."""
    if any(name.endswith(".g_idx") for name in entries):
        return "gptq"
    for name, entry in entries.items():
        shape = wanted.get(f"{name.removesuffix('.qweight')}.weight") if name.endswith(".qweight") else None
        if shape is not None and len(entry.shape) == 2 and shape[0] != shape[1] // 8:
            return "awq" if entry.shape[0] == shape[1] else "gptq" if entry.shape[1] == shape[0] else _EITHER
    return _EITHER


def _check_tied(head: Entry, embedding: Entry | None) -> None:
    """A tied head may stand in the file once more, as it is; another one is a model that is not tied."""
    if (
        embedding is None
        or (head.dtype, head.shape) != (embedding.dtype, embedding.shape)
        or not _equal(head, embedding)
    ):
        raise ProfileError(
            "config.json ties the head to the embedding, and the checkpoint holds another lm_head.weight",
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

"""Frozen weights on disk, read one module at a time: every party holds them, none are sent.

A model folder with safetensors files is read as it is. A configuration alone has no weights, so they are made
once from a seed, by name, into the cache folder: equal on every machine, good for trying and timing, not for use.
The fingerprint tells two parties whether they hold the same without sending either.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from cardlab.core.errors import ProfileError, RunError
from cardlab.core.identity import content_hash
from cardlab.core.records.task import DTYPE_BYTES, Task
from cardlab.profilers.runtime.checkpoint import Checkpoint, find_checkpoint
from cardlab.profilers.runtime.entries import Entry, read_header
from cardlab.profilers.runtime.stored import Parts

if TYPE_CHECKING:
    import torch

    from cardlab.profilers.runtime.rows import RowsOfFile

_SAMPLE_BYTES = 4096
# The format's words for dtypes.
_WORDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_RANGE = 0.02
# Values of a large matrix that are looked at at once.
_LOOKED_AT = 2**22


class Weights(ABC):
    """Frozen weights by the names of a checkpoint.

    Attributes:
        fingerprint: equal exactly where two parties hold the same.
        origin: in words, for people.
    """

    fingerprint: str
    origin: str

    @abstractmethod
    def each(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors of one group ("embedding", "layer-3", "head") by name, at that dtype, one read at a time.

        Raises RunError naming what is missing or has another shape.
        """

    def read(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, torch.Tensor]:
        """As `each`, all at once."""
        return dict(self.each(group, shapes, dtype))

    def packed(self, name: str) -> dict[str, torch.Tensor] | None:
        """Parts of a weight that is stored quantised (profilers/runtime/packed.py), None for a dense one."""
        return None

    def rows(self, group: str, shapes: Mapping[str, tuple[int, ...]], name: str, dtype: str) -> RowsOfFile | None:
        """Rows of one matrix of a group, to be read as they are needed; None where it lies in no file."""
        return None


def open_weights(task: Task, seed: int) -> Weights:
    """The weights of a task's model: those beside its config.json, else made from the seed.

    Raises ProfileError for a model folder that is gone or damaged, quantised weights, weights in another format, and
    tensors that are not those of the model.
    """
    found = find_checkpoint(task)
    return FileWeights(found) if found is not None else SeededWeights(task, seed)


class FileWeights(Weights):
    """The safetensors files of a model folder.

    The fingerprint covers every name, shape and dtype and the first and last 4 KiB of each tensor. The same weights
    stored in another form (experts one by one, or fused) have another.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.origin = checkpoint.origin
        self._tensors = checkpoint.tensors
        self._parts = checkpoint.parts
        self._packed = checkpoint.packed
        entries = dict(checkpoint.tensors)
        for name, made in checkpoint.parts.items():
            entries |= {f"{name}/{g}/{n}": e for g, group in enumerate(made.groups) for n, e in enumerate(group)}
        entries |= {f"{name}/{part}": e for name, parts in checkpoint.packed.items() for part, e in parts.items()}
        self.fingerprint = content_hash({name: _digest(name, entry) for name, entry in entries.items()})

    def packed(self, name: str) -> dict[str, torch.Tensor] | None:
        """Straight from the files. RunError for scales that are not finite."""
        import torch

        parts = self._packed.get(name)
        if parts is None:
            return None
        found = {part: _tensor(entry) for part, entry in parts.items()}
        for tensor in found.values():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise RunError(f"the scales of {name} are NaN or infinite", remedy="download the model again")
        return found

    def rows(self, group: str, shapes: Mapping[str, tuple[int, ...]], name: str, dtype: str) -> RowsOfFile | None:
        """As they are in the file, all looked at once; None of a matrix that is stored in parts. Errors as `each`."""
        import torch

        if name in self._parts:
            return None
        entry = self._entry(name, shapes[name])
        found = _rows(entry)
        step = max(1, _LOOKED_AT // entry.shape[1])
        for first in range(0, entry.shape[0], step):
            part = found.read(list(range(first, min(first + step, entry.shape[0]))))
            _check_finite(name, part.to(getattr(torch, dtype)), dtype)
        return found

    def each(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Straight from the files. RunError for a tensor that is missing, or not finite at that dtype."""
        for name, shape in shapes.items():
            made = self._parts.get(name)
            if made is None:
                yield name, _finite(name, self._entry(name, shape), dtype)
            else:
                yield name, _put_together(name, made, shape, dtype)

    def _entry(self, name: str, shape: tuple[int, ...]) -> Entry:
        entry = self._tensors.get(name)
        if entry is None:
            raise RunError(f"the checkpoint lacks {name}", remedy="give the whole model folder with --model")
        _check_shape(name, entry.shape, shape)
        return entry


def _check_shape(name: str, stored: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if stored != shape:
        raise RunError(
            f"{name} has shape {stored} in the checkpoint, {shape} in config.json",
            remedy="give the config.json that belongs to the checkpoint",
        )


def _finite(name: str, entry: Entry, dtype: str) -> torch.Tensor:
    import torch

    tensor = _tensor(entry).to(getattr(torch, dtype))
    _check_finite(name, tensor, dtype)
    return tensor


def _put_together(name: str, made: Parts, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """A parameter of its parts, which are read one after the other: beside it, one of them is in memory."""
    import torch

    _check_shape(name, made.shape, shape)
    whole = torch.empty(shape, dtype=getattr(torch, dtype))
    for entry, where in made.places:
        whole[where] = _finite(entry.name, entry, dtype)
    return whole


def _check_finite(name: str, tensor: torch.Tensor, dtype: str) -> None:
    if not bool(tensor.isfinite().all()):
        raise RunError(
            f"{name} holds values that are NaN or infinite in {dtype}",
            remedy="use another --dtype (bfloat16, float32), or download the model again",
        )


def _rows(entry: Entry) -> RowsOfFile:
    import torch

    from cardlab.profilers.runtime.rows import RowsOfFile

    kinds = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    try:
        return RowsOfFile(entry.file, entry.low, getattr(torch, kinds[entry.dtype]), entry.shape[1])
    except OSError as error:
        raise RunError(f"cannot read {entry.file}: {error.strerror or error}", remedy="make it readable") from error


def _tensor(entry: Entry) -> torch.Tensor:
    """One tensor of a file; nothing of the file stays in memory once it is gone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(entry.file), framework="pt") as file:
            found: torch.Tensor = file.get_tensor(entry.name)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot read {entry.file}: {error}", remedy="download the model again") from error
    return found


class SeededWeights(Weights):
    """Weights made from a seed: matrices uniform in +-0.02, norms one, biases zero."""

    def __init__(self, task: Task, seed: int) -> None:
        self._seed = seed
        self.fingerprint = content_hash({"seed": seed, "architecture": task.architecture, "range": _RANGE})
        self.origin = f"made from seed {seed} (no trained weights)"

    def each(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
        """From the cache file of the group, which is made first where it is missing or of another shape."""
        held = self._group(group, shapes, dtype)
        for name in shapes:
            yield name, _tensor(held[name])

    def rows(self, group: str, shapes: Mapping[str, tuple[int, ...]], name: str, dtype: str) -> RowsOfFile | None:
        """Of the cache file of the group, which is made first as for `each`."""
        return _rows(self._group(group, shapes, dtype)[name])

    def _group(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, Entry]:
        path = cache_folder() / "weights" / self.fingerprint / dtype / f"{group}.safetensors"
        held = _held(path)
        if any(name not in held or held[name].shape != shape for name, shape in shapes.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Several processes of one machine may make the same file at once.
            draft = path.with_name(f"{path.name}.{os.getpid()}.part")
            write_tensors(draft, shapes, dtype, self._make)
            draft.replace(path)
            held = _held(path)
        return held

    def _make(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        if len(shape) < 2:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        return seeded(name, self._seed, lambda g: torch.empty(shape).uniform_(-_RANGE, _RANGE, generator=g))


def _held(path: Path) -> dict[str, Entry]:
    try:
        return read_header(path)
    except ProfileError:
        return {}


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    make: Callable[[str, tuple[int, ...]], torch.Tensor],
) -> None:
    """A safetensors file of tensors at one dtype that are made one after the other: none but one is in memory."""
    import torch

    header, low = {}, 0
    for name, shape in shapes.items():
        high = low + DTYPE_BYTES[dtype] * prod(shape)
        header[name] = {"dtype": _WORDS[dtype], "shape": list(shape), "data_offsets": [low, high]}
        low = high
    text = json.dumps(header).encode()
    # The format wants the values to begin at a multiple of 8.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            values = make(name, shape).to(getattr(torch, dtype)).contiguous()
            stream.write(memoryview(values.view(-1).view(torch.uint8).numpy()))


def seeded(name: str, seed: int, draw: Callable[[torch.Generator], torch.Tensor]) -> torch.Tensor:
    """What `draw` makes with a generator that depends on the name and the seed only."""
    import torch

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    # Seven bytes: the seed of torch is a signed 64-bit number.
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return draw(generator)


def cache_folder() -> Path:
    """The user's folder for what can be made again (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cardlab"


def _digest(name: str, entry: Entry) -> str:
    """A digest of a tensor's description and of both its ends."""
    digest = hashlib.sha256(json.dumps([name, entry.dtype, list(entry.shape)]).encode())
    try:
        with entry.file.open("rb") as stream:
            # All bytes of a large model take minutes to hash; fine-tuned copies differ everywhere.
            for start in (entry.low, max(entry.low, entry.high - _SAMPLE_BYTES)):
                stream.seek(start)
                digest.update(stream.read(min(_SAMPLE_BYTES, entry.high - start)))
    except OSError as error:
        raise RunError(f"cannot read {entry.file}: {error.strerror or error}", remedy="make it readable") from error
    return digest.hexdigest()

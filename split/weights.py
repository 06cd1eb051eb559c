"""Frozen weights on disk, read one module at a time: every party holds them, none are sent.

A model folder with safetensors files is read as it is. A configuration alone has no weights, so they are made
once from a seed, by name, into the cache folder: equal on every machine, good for trying and timing, not for use.
The fingerprint tells two parties whether they hold the same without sending either.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cardlab.core.errors import RunError
from cardlab.core.identity import content_hash
from cardlab.core.records.task import Task
from cardlab.profilers.runtime.checkpoint import Checkpoint, Entry, find_checkpoint

if TYPE_CHECKING:
    import torch

_SAMPLE_BYTES = 4096
_RANGE = 0.02


class Weights(ABC):
    """Frozen weights by the names of a checkpoint.

    Attributes:
        fingerprint: equal exactly where two parties hold the same.
        origin: in words, for people.
    """

    fingerprint: str
    origin: str

    @abstractmethod
    def read(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, torch.Tensor]:
        """Tensors of one group ("embedding", "layer-3", "head") by name, at that dtype.

        Raises RunError naming what is missing or has another shape.
        """


def open_weights(task: Task, seed: int) -> Weights:
    """The weights of a task's model: those beside its config.json, else made from the seed.

    Raises ProfileError for a model folder that is gone or damaged, quantised weights, weights in another format, and
    tensors that are not those of the model.
    """
    found = find_checkpoint(task)
    return FileWeights(found) if found is not None else SeededWeights(task, seed)


class FileWeights(Weights):
    """The safetensors files of a model folder.

    The fingerprint covers every name, shape and dtype and the first and last 4 KiB of each tensor.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.origin = checkpoint.origin
        self._tensors = checkpoint.tensors
        self.fingerprint = content_hash({name: _digest(name, entry) for name, entry in checkpoint.tensors.items()})

    def read(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, torch.Tensor]:
        """Straight from the files. RunError for a tensor that is missing, or not finite at that dtype."""
        import torch
        from safetensors import SafetensorError, safe_open

        found = {}
        for name, shape in shapes.items():
            entry = self._tensors.get(name)
            if entry is None:
                raise RunError(f"the checkpoint lacks {name}", remedy="give the whole model folder with --model")
            if entry.shape != shape:
                raise RunError(
                    f"{name} has shape {entry.shape} in the checkpoint, {shape} in config.json",
                    remedy="give the config.json that belongs to the checkpoint",
                )
            try:
                with safe_open(str(entry.file), framework="pt") as file:
                    tensor = file.get_tensor(entry.name).to(getattr(torch, dtype))
            except (OSError, SafetensorError) as error:
                raise RunError(f"cannot read {entry.file}: {error}", remedy="download the model again") from error
            if not torch.isfinite(tensor).all():
                raise RunError(
                    f"{name} holds values that are NaN or infinite in {dtype}",
                    remedy="use another --dtype (bfloat16, float32), or download the model again",
                )
            found[name] = tensor
        return found


class SeededWeights(Weights):
    """Weights made from a seed: matrices uniform in +-0.02, norms one, biases zero."""

    def __init__(self, task: Task, seed: int) -> None:
        self._seed = seed
        self.fingerprint = content_hash({"seed": seed, "architecture": task.architecture, "range": _RANGE})
        self.origin = f"made from seed {seed} (no trained weights)"

    def read(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, torch.Tensor]:
        """From the cache file of the group, which is made first where it is missing or of another shape."""
        import torch
        from safetensors.torch import load_file, save_file

        path = cache_folder() / "weights" / self.fingerprint / dtype / f"{group}.safetensors"
        if path.is_file():
            found: dict[str, torch.Tensor] = load_file(str(path))
            if {n: tuple(t.shape) for n, t in found.items()} == dict(shapes):
                return found
        made = {name: self._make(name, shape).to(getattr(torch, dtype)) for name, shape in shapes.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes of one machine may make the same file at once.
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        save_file(made, str(draft))
        draft.replace(path)
        return made

    def _make(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        if len(shape) < 2:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        return seeded(name, self._seed, lambda g: torch.empty(shape).uniform_(-_RANGE, _RANGE, generator=g))


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

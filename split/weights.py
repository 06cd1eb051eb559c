"""Frozen weights on disk, read one module at a time: every party holds them, none are sent.

A model folder with safetensors files is read as it is. A bundled configuration has no weights, so they are made
once from a seed, by name, into the cache folder: equal on every machine, good for trying and timing, not for use.
The fingerprint tells two parties whether they hold the same without sending either.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cardlab.core.errors import RunError
from cardlab.core.identity import content_hash
from cardlab.core.records.task import Task

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
    """The weights of a task's model: those beside its config.json, else made from the seed."""
    folder = Path(task.model)
    folder = folder if folder.is_dir() else folder.parent
    files = sorted(folder.glob("*.safetensors")) if Path(task.model).exists() else []
    return FileWeights(files) if files else SeededWeights(task, seed)


class FileWeights(Weights):
    """The safetensors files of a model folder.

    The fingerprint covers every name, shape and dtype and the first and last 4 KiB of each tensor.
    """

    def __init__(self, files: list[Path]) -> None:
        self.origin = f"{len(files)} file(s) in {files[0].parent}"
        self._where: dict[str, Path] = {}
        digests = {}
        for file in files:
            for name, digest in _tensor_digests(file).items():
                self._where[name] = file
                digests[name] = digest
        self.fingerprint = content_hash(digests)

    def read(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, torch.Tensor]:
        """Straight from the files; a checkpoint may leave out the name of the inner model."""
        import torch
        from safetensors import safe_open

        found = {}
        for name, shape in shapes.items():
            # Some checkpoints leave out the name of the inner model.
            known = next((n for n in (name, name.partition(".")[2]) if n in self._where), None)
            if known is None:
                raise RunError(f"the checkpoint lacks {name}", remedy="give the whole model folder with --model")
            with safe_open(str(self._where[known]), framework="pt") as file:
                tensor = file.get_tensor(known)
            if tuple(tensor.shape) != shape:
                raise RunError(
                    f"{name} has shape {tuple(tensor.shape)} in the checkpoint, {shape} in config.json",
                    remedy="give the config.json that belongs to the checkpoint",
                )
            found[name] = tensor.to(getattr(torch, dtype))
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


def _tensor_digests(file: Path) -> dict[str, str]:
    """By tensor name a digest of its description and of both its ends."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length < 2**28 else None
            if not isinstance(header, dict):
                raise ValueError("no header")
            found = {}
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                low, high = (int(offset) + 8 + length for offset in entry["data_offsets"])
                digest = hashlib.sha256(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
                # All bytes of a large model take minutes to hash; fine-tuned copies differ everywhere.
                for start in (low, max(low, high - _SAMPLE_BYTES)):
                    stream.seek(start)
                    digest.update(stream.read(min(_SAMPLE_BYTES, high - start)))
                found[name] = digest.hexdigest()
            return found
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise RunError(f"{file} is no safetensors file", remedy="download the model again") from error

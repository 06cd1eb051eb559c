"""Large files of data, and how much memory a device's way from such a file to its mini-batches takes.

`python -m tests.split.large_data FILE TOKENIZER BATCHES` prints one line of JSON: bytes above what the libraries take.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BLOCK = 2**22


def write_large(path: Path, size: int) -> str:
    """A file of about so many bytes: one text, or JSON lines of a few hundred characters, by its name."""
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(20_000)]
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            lines = [" ".join(draw.choices(words, k=60)) for _ in range(BLOCK // 400)]
            if path.suffix == ".jsonl":
                lines = [json.dumps({"text": line}) for line in lines]
            file.write("\n".join(lines) + "\n")
    return str(path)


def memory(name: str) -> int:
    """Bytes of this process as Linux counts them: VmRSS now, VmHWM at most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Memory of one process, in bytes; seconds until the first mini-batch, and of one of them."""

    baseline: int
    peak: int
    prepare_s: float
    batch_s: float
    tokens: int

    @property
    def above(self) -> int:
        return self.peak - self.baseline


def measure(path: str, tokenizer: str, batches: int = 100, threads: int = 1) -> Measured:
    """In a process of its own, with the cache that the environment names."""
    command = [sys.executable, "-m", "tests.split.large_data", path, tokenizer, str(batches)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main(path: str, tokenizer: str, count: int) -> Measured:
    """The data path of `card run device`."""
    import torch
    import transformers  # noqa: F401 - what a device has loaded anyway

    from cardlab.profilers.runtime import resolve_task
    from cardlab.split.settings import RunSettings
    from cardlab.split.tokenizer import open_tokenizer
    from cardlab.workflows.training_data import DataChoice, prepare_data, read_data

    torch.zeros(1)
    tool = open_tokenizer("", tokenizer)
    task = resolve_task("llama-3.2-1b", batch=4, sequence=256)
    settings = RunSettings(run="r", task=task, rounds=1, epochs=1, learning_rate=0.1, wire_dtype="float32")
    # From here on the peak is counted anew.
    Path("/proc/self/clear_refs").write_text("5")
    baseline = memory("VmRSS")
    begin = time.perf_counter()
    choice = DataChoice()
    prepared = prepare_data(read_data(path, choice, tool), choice, tool, settings, (0, 1))
    prepared.batches.mini_batch(0)
    ready = time.perf_counter()
    for number in range(1, count + 1):
        prepared.batches.mini_batch(number)
    end = time.perf_counter()
    return Measured(
        baseline=baseline,
        peak=memory("VmHWM"),
        prepare_s=ready - begin,
        batch_s=(end - ready) / count,
        tokens=len(prepared.batches._tokens),  # type: ignore[attr-defined]
    )


if __name__ == "__main__":
    found = main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print(json.dumps({name: getattr(found, name) for name in Measured.__slots__}))

"""Codecs beside what one would write first: size and speed on the same tensor, as ratios.

    python benchmarks/codecs.py

One thread, float32 [8, 256, 1024], normal with 0.8 % exact zeros; best of five passes.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

import torch
import zstandard

from cardlab.split.codecs.registry import pack_tensor, unpack_tensor

PASSES = 5


def best_s(work: Callable[[], Any]) -> float:
    """Shortest of some passes, seconds."""
    found = []
    for _ in range(PASSES):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    """Print one line for each."""
    torch.set_num_threads(1)
    tensor = torch.randn(8, 256, 1024, generator=torch.Generator().manual_seed(0))
    tensor[:, -2:] = 0.0
    raw = tensor.numpy().tobytes()
    keep = tensor.numel() // 10
    peers: dict[str, tuple[Callable[[], Any], int]] = {
        "zlib -1 of the bytes": (lambda: zlib.compress(raw, 1), len(zlib.compress(raw, 1))),
        "zstd -1 of the bytes": (
            lambda: zstandard.ZstdCompressor(level=1).compress(raw),
            len(zstandard.ZstdCompressor(level=1).compress(raw)),
        ),
        "torch.topk, int32 places and float32 values": (lambda: tensor.abs().flatten().topk(keep), 8 * keep),
    }
    print(f"{'encoder':46} {'MB/s':>7} {'smaller by':>11}")
    for name, (work, size) in peers.items():
        print(f"{name:46} {len(raw) / best_s(work) / 1e6:7.0f} {len(raw) / size:10.1f}x")
    for name in ("dense:8", "dense:4", "dense:2", "topk:0.1:8", "topk:0.1:4", "topk:0.3:8"):
        packed = pack_tensor(tensor, name)
        encode, decode = best_s(lambda n=name: pack_tensor(tensor, n)), best_s(lambda p=packed: unpack_tensor(p))
        print(
            f"{name:46} {len(raw) / encode / 1e6:7.0f} {len(raw) / len(packed.data):10.1f}x"
            f"   decodes at {len(raw) / decode / 1e6:.0f} MB/s"
        )


if __name__ == "__main__":
    main()

"""LoRA dropout that a cut does not change: each mask comes from the seed, the step and the place in the model.

PEFT draws masks from torch's global generator, whose state depends on everything drawn before: a layer that moves to
the other side of the cut would get other masks. Here a layer's mask is the same wherever it runs, on devices of one
kind (CPU and CUDA have different generators), and the recomputation of a checkpointed layer draws it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Clock:
    """Which mini-batch is computed: counted over the whole run from 0; None while nothing is trained."""

    step: int | None = None


class SeededDropout(torch.nn.Module):  # type: ignore[misc]
    """Leaves out a share `p` of its input [..., n] in training, and scales the rest by 1 / (1 - p)."""

    def __init__(self, p: float, key: str, clock: Clock) -> None:
        super().__init__()
        self.p, self._key, self._clock = p, key, clock

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The input itself while nothing is trained."""
        step = self._clock.step
        if step is None or not self.training:
            return states
        digest = hashlib.sha256(f"{self._key}/{step}".encode()).digest()
        generator = torch.Generator(device=states.device).manual_seed(int.from_bytes(digest[:7], "little"))
        kept = torch.rand(states.shape, generator=generator, device=states.device) >= self.p
        return states * kept / (1.0 - self.p)


def seed_dropout(layers: Sequence[torch.nn.Module], seed: int, clock: Clock) -> None:
    """Put such dropout where PEFT put its own."""
    for number, layer in enumerate(layers):
        for path, module in list(layer.named_modules()):
            drops = getattr(module, "lora_dropout", None)
            if not isinstance(drops, torch.nn.ModuleDict):
                continue
            for name, drop in list(drops.items()):
                if isinstance(drop, torch.nn.Dropout):
                    drops[name] = SeededDropout(drop.p, f"{seed}/{number}/{path}", clock)

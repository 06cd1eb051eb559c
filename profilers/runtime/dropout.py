"""LoRA dropout that a cut does not change: each mask comes from the seed, the step and the place in the model.

PEFT draws masks from torch's global generator, whose state depends on everything drawn before: a layer that moves to
the other side of the cut would get other masks. Here a layer's mask is the same wherever it runs, on devices of one
kind (CPU and CUDA have different generators), and the recomputation of a checkpointed layer draws it again. Every model
is built with it, so that a profile times what a run computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Clock:
    """Which mini-batch of the run with that seed is computed, counted from 0; None while nothing is trained."""

    seed: int = 0
    step: int | None = 0


class SeededDropout(torch.nn.Module):  # type: ignore[misc]
    """Leaves out a share `p` of its input [..., n] in training, and scales the rest by 1 / (1 - p)."""

    def __init__(self, p: float, place: str, clock: Clock) -> None:
        super().__init__()
        self.p, self._place, self._clock = p, place, clock

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The input itself while nothing is trained."""
        clock = self._clock
        if clock.step is None or not self.training:
            return states
        if states.is_meta:
            # There are no numbers to draw; what is kept has the same size.
            return torch.nn.functional.dropout(states, self.p)
        digest = hashlib.sha256(f"{clock.seed}/{self._place}/{clock.step}".encode()).digest()
        generator = torch.Generator(device=states.device).manual_seed(int.from_bytes(digest[:7], "little"))
        kept = torch.rand(states.shape, generator=generator, device=states.device) >= self.p
        return states * kept / (1.0 - self.p)


def seed_dropout(layers: Sequence[torch.nn.Module], clock: Clock) -> None:
    """Put such dropout where PEFT put its own."""
    for number, layer in enumerate(layers):
        for path, module in list(layer.named_modules()):
            drops = getattr(module, "lora_dropout", None)
            if not isinstance(drops, torch.nn.ModuleDict):
                continue
            for name, drop in list(drops.items()):
                if isinstance(drop, torch.nn.Dropout):
                    drops[name] = SeededDropout(drop.p, f"{number}/{path}", clock)

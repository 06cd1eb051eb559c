"""Names of modules that LoRA adapts, as people write them in one option."""

from __future__ import annotations

from typing import Any

from cardlab.core.errors import UsageError
from cardlab.core.records.task import Lora


def split_pattern(text: str | None) -> dict[str, int] | None:
    """Ranks of "down_proj=4,q_proj=16" by module name, in their order. Raises UsageError for another form."""
    if text is None:
        return None
    found: dict[str, int] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, equals, rank = part.partition("=")
        if not (name.strip() and equals and rank.strip().isdecimal()) or name.strip() in found:
            raise UsageError(f"--lora-rank-pattern has {part!r}", remedy="write MODULE=RANK, separated by commas")
        found[name.strip()] = int(rank)
    if not found:
        raise UsageError("--lora-rank-pattern names no module", remedy="write MODULE=RANK, or leave it out")
    return found


def lora_of(lora: Lora) -> dict[str, Any]:
    """The options of `resolve_task` that mean these adapters, targets left out: they are of one model."""
    return {
        "lora_rank": lora.rank,
        "lora_alpha": lora.alpha,
        "adapter_dtype": lora.dtype,
        "lora_rank_pattern": lora.rank_pattern,
        "lora_dropout": lora.dropout,
        "rslora": lora.rslora,
        "dora": lora.dora,
    }


def split_targets(text: str | None) -> tuple[str, ...] | None:
    """Module names of "q_proj,v_proj"; None keeps the family's own. Raises UsageError for a text without a name."""
    if text is None:
        return None
    found = tuple(t.strip() for t in text.split(",") if t.strip())
    if not found:
        raise UsageError("--lora-targets names no module", remedy="leave it out for the family's own")
    return found

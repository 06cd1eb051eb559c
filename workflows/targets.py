"""Names of modules that LoRA adapts, as people write them in one option."""

from __future__ import annotations

from typing import Any

from cardlab.core.errors import UsageError
from cardlab.core.records.task import Lora


def split_pattern(text: str | None) -> dict[str, int] | None:
    """Ranks of "down_proj=4,q_proj=16" by module name, in their order. Raises UsageError for another form."""
    return _numbers(text, "--lora-rank-pattern", "MODULE=RANK")


def split_cuts(text: str | None) -> dict[str, int] | None:
    """Cuts of "board=2,laptop=4" by device, in their order. Raises UsageError for another form."""
    return _numbers(text, "--cuts", "NAME=CUT")


def _numbers(text: str | None, flag: str, form: str) -> dict[str, int] | None:
    if text is None:
        return None
    found: dict[str, int] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, equals, number = part.rpartition("=")
        if not (name.strip() and equals and number.strip().isdecimal()) or name.strip() in found:
            raise UsageError(f"{flag} has {part!r}", remedy=f"write {form}, separated by commas")
        found[name.strip()] = int(number)
    if not found:
        raise UsageError(f"{flag} names nothing", remedy=f"write {form}, or leave it out")
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

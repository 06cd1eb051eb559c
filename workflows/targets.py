"""Names of modules that LoRA adapts, as people write them in one option."""

from __future__ import annotations

from cardlab.core.errors import UsageError


def split_targets(text: str | None) -> tuple[str, ...] | None:
    """Module names of "q_proj,v_proj"; None keeps the family's own. Raises UsageError for a text without a name."""
    if text is None:
        return None
    found = tuple(t.strip() for t in text.split(",") if t.strip())
    if not found:
        raise UsageError("--lora-targets names no module", remedy="leave it out for the family's own")
    return found

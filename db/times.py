"""Times as the store keeps them."""

from __future__ import annotations

from datetime import datetime, timezone


def utc_now() -> str:
    """Now, UTC, ISO 8601 with microseconds and a final Z: sorts as text."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""Times as the store keeps them."""

from __future__ import annotations

from datetime import datetime, timezone


def utc_now() -> str:
    """Now, UTC, ISO 8601 with microseconds and a final Z: sorts as text."""
    # isoformat() leaves out microseconds that are 0, and such a text would sort in the wrong place.
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

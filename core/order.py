"""The order in which people read labels."""

from __future__ import annotations

import re


def natural(label: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which device-2 comes before device-10: digits count as a number."""
    parts = re.split(r"(\d+)", label)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part)

"""Numbers as people write them in files: Python reads more than that, and what it reads is then a guess.

`float` takes 5_3.24 for 53.24, and the digits of every script; a table that holds such cells is damaged, or of a
program whose numbers mean something else.
"""

from __future__ import annotations

import re

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


def decimal(text: str) -> float:
    """The number that a text says; "nan" and "inf" are what they say. ValueError for anything else."""
    if _DECIMAL.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def whole(text: str) -> int:
    """The whole number that a text says. ValueError for anything else."""
    if _WHOLE.fullmatch(text.strip()) is None:
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)

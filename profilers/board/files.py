"""Small kernel files: their text, or the number they hold. What cannot be read is None."""

import re
from pathlib import Path
from typing import Optional


def read_text(path: Path) -> Optional[str]:
    """The text of a small kernel or system file, stripped of NUL and space; None if unreadable."""
    try:
        # Strings of the device tree end in NUL.
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        # EACCES, EAGAIN and ENODATA all mean the same to whoever asks: there is no value now.
        return None


def read_number(path: Path) -> Optional[int]:
    """A whole number of a kernel file, None if it cannot be read or is none."""
    text = read_text(path) or ""
    # What the kernel counts fits 18 digits; anything longer is something else.
    digits = text[1:] if text.startswith("-") else text
    return int(text) if re.fullmatch("[0-9]{1,18}", digits) else None


def read_leading(path: Path) -> Optional[float]:
    """The number a file begins with; "0 ms" is one of JetPack 4's."""
    words = (read_text(path) or "").split()
    if not words or re.fullmatch(r"-?[0-9]{1,15}", words[0]) is None:
        return None
    return float(words[0])

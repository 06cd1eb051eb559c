"""Small kernel files: their text, or the number they hold; and how one is set. What cannot be read is None."""

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
    return whole_number(read_text(path))


def whole_number(text: Optional[str]) -> Optional[int]:
    """The whole number that a text is, None if it is none."""
    # What the kernel counts fits 18 digits; anything longer is something else.
    return int(text) if text is not None and re.fullmatch("-?[0-9]{1,18}", text) else None


def read_leading(path: Path) -> Optional[float]:
    """The number a file begins with; "0 ms" is one of JetPack 4's."""
    words = (read_text(path) or "").split()
    if not words or re.fullmatch(r"-?[0-9]{1,15}", words[0]) is None:
        return None
    return float(words[0])


def unescaped(text: str) -> str:
    """A path as the kernel's tables of mounts write it: space, tab, newline and backslash stand there in octal."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def write_text(path: Path, text: str) -> None:
    """Set a kernel file. Raises OSError where this user may not, or the kernel refuses."""
    # Not created if absent: a setting is a file that the kernel made.
    with path.open("r+", encoding="ascii") as handle:
        # For trees of plain files, where the end of a longer old value would remain; sysfs ignores it.
        handle.truncate(0)
        handle.write(text)

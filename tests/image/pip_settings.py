"""pip's settings of this machine for a build elsewhere: a configuration file, and the local files that it names."""

from __future__ import annotations

import ast
import configparser
import io
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

# Nothing in a Debian lies there that a mount would be in the way of, as one in /etc/ssl would.
_BELOW = Path("/mnt/pip")


class Settings(NamedTuple):
    """A pip.conf, and where each place of this machine that it names must be mounted."""

    text: str
    mounts: dict[Path, Path]


def relocated(listing: str) -> Settings:
    """What `pip config list` listed, for a build that sees this machine's files at other places."""
    mounts: dict[Path, Path] = {}
    found = configparser.RawConfigParser()
    lines = [line for line in listing.splitlines() if "=" in line]
    # The environment is above the files.
    for line in sorted(lines, key=lambda text: text.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        section = "global" if section == ":env:" else section
        if not found.has_section(section):
            found.add_section(section)
        found.set(section, key, " ".join(_word(word, mounts) for word in str(ast.literal_eval(value)).split()))
    out = io.StringIO()
    found.write(out)
    used = {outside: inside for outside, inside in mounts.items() if str(inside) in out.getvalue()}
    return Settings(out.getvalue(), used)


def _word(word: str, mounts: dict[Path, Path]) -> str:
    url = word.startswith("file://")
    place = Path(unquote(urlsplit(word).path) if url else word)
    if not place.is_absolute() or not place.exists():
        return word
    # The pages of an index link to files beside its folder.
    outside = place.parent if url else place
    inside = mounts.setdefault(outside, _BELOW / str(len(mounts)) / outside.name)
    return f"file://{inside / place.name}" if url else str(inside)

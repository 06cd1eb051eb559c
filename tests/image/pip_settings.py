"""pip's settings of this machine for a build elsewhere: a configuration file, and the local files that it names."""

from __future__ import annotations

import ast
import configparser
import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit


def configuration(listing: str) -> str:
    """A pip.conf that says what `pip config list` listed; the environment is above the files."""
    found = configparser.RawConfigParser()
    lines = [line for line in listing.splitlines() if "=" in line]
    for line in sorted(lines, key=lambda text: text.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        section = "global" if section == ":env:" else section
        if not found.has_section(section):
            found.add_section(section)
        found.set(section, key, str(ast.literal_eval(value)))
    out = io.StringIO()
    found.write(out)
    return out.getvalue()


def local_places(listing: str) -> list[Path]:
    """Files and folders of this machine that the settings name, and that pip would miss elsewhere."""
    return sorted(set(_places(listing)))


def _places(listing: str) -> Iterator[Path]:
    for line in listing.splitlines():
        for word in str(ast.literal_eval(line.partition("=")[2])).split():
            if word.startswith("file://"):
                # The pages of an index link to files beside its folder.
                place = Path(unquote(urlsplit(word).path)).parent
            elif word.startswith("/"):
                place = Path(word)
            else:
                continue
            if place.exists():
                yield place

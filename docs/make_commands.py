"""Writes docs/commands.md from the commands themselves: python docs/make_commands.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from cardlab.cli import apps

TARGET = Path(__file__).with_name("commands.md")
PROGRAMS = {
    "profile-device": apps.profile_app,
    "calibrate": apps.calibrate_app,
    "card": apps.card_app,
    "cardlab": apps.cardlab_app,
}
HEAD = """# Commands

Every command and option, as `--help` says them. Each command takes `--json` (one document on stdout, messages on
stderr). Exit codes: 0 done, 1 a failure in one line with its remedy, 2 wrong usage, 130 interrupted. Plain text when
the output is no terminal; `NO_COLOR` is kept. Settings: a flag wins over the environment (`CARD_DB`, `CARDLAB_NAME`),
that over `cardlab.toml` here, that over `~/.config/cardlab/config.toml`. `cardlab profile`, `cardlab calibrate` and
`cardlab card` are the same commands under one name.

Written by `docs/make_commands.py`; a test compares it with the commands.
"""
# What `cardlab` offers under the names of the other programs.
SAME = ("profile", "calibrate", "card")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, app in PROGRAMS.items():
        for path, command in walk(name, get_command(app)):
            if not (name == "cardlab" and path.count(" ") and path.split()[1] in SAME):
                parts.append(section(path, command))
    return "\n".join(parts)


def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command and all below it with their full names."""
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        if not below.hidden:
            yield from walk(f"{path} {name}", below)


def section(path: str, command: Any) -> str:
    """Heading, what it does, its arguments and options."""
    depth = "##" if " " not in path else "###"
    lines = [f"{depth} {path}", "", (command.help or "").strip(), ""]
    rows = [row(parameter) for parameter in command.params if parameter.name != "help"]
    if rows:
        lines += ["| option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def row(parameter: Any) -> str:
    """One option or argument."""
    names = parameter.opts + parameter.secondary_opts
    if parameter.param_type_name == "argument":
        names = [f"{parameter.name.upper()}{'...' if parameter.nargs == -1 else ''}"]
    default = parameter.default
    shown = "" if default is None or default is False or callable(default) or default == [] else f"`{default}`"
    meaning = (getattr(parameter, "help", None) or "").replace("|", "\\|").replace("\n", " ")
    required = "required" if parameter.required else shown
    return f"| {' '.join(f'`{name}`' for name in names)} | {required} | {meaning} |"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")

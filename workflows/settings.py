"""Settings: a flag wins over the environment, the environment over the file, the file over defaults.

The file is `cardlab.toml` here, else `config.toml` in the user's configuration folder. Its keys:
`db` (path or URL) and `name` (label of this device).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from cardlab.core.errors import BadDataError, UsageError
from cardlab.core.files import decode
from cardlab.core.plain import Document

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_DB = "cardlab.db"
_ENVIRONMENT = {"db": "CARD_DB", "name": "CARDLAB_NAME"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Resolved settings below the flags; None where neither environment nor file says anything."""

    db: str | None = None
    name: str | None = None


def load_settings() -> Settings:
    """Settings from environment and file. Raises UsageError naming file and key if malformed."""
    known = {f.name for f in fields(Settings)}
    path = _settings_file()
    values: Document = {}
    if path is not None:
        values = _read(path)
        for key, value in values.items():
            # A misspelt key that is passed over would mean another database.
            if key not in known:
                raise UsageError(f"{path}: unknown key {key!r}", remedy=f"known keys: {', '.join(sorted(known))}")
            if not isinstance(value, str):
                raise UsageError(f"{path}: {key} must be text", remedy=f'write {key} = "..."')
    for key, variable in _ENVIRONMENT.items():
        # An empty variable counts as unset: scripts leave those behind.
        if os.environ.get(variable):
            values[key] = os.environ[variable]
    return Settings(**values)


def database(flag: str | None) -> str:
    """The database to use: `--db`, else CARD_DB, else the file, else cardlab.db here."""
    return flag or load_settings().db or DEFAULT_DB


def _settings_file() -> Path | None:
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    for path in (Path("cardlab.toml"), Path(base).expanduser() / "cardlab" / "config.toml"):
        if path.is_file():
            return path
    return None


def _read(path: Path) -> Document:
    try:
        values: Document = tomllib.loads(decode(path.read_bytes(), str(path)))
        return values
    except (OSError, BadDataError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="mend or remove the file") from error

"""Identity that survives machines, merges and reinstalls.

* `new_uid`: every measured row gets one where it is measured; merging compares only these.
* `content_hash`: identity of a *description* (task, execution, environment, device): SHA-256 of its
  canonical JSON. Two machines that describe the same task get the same hash without talking.
* device keys: prefixed by platform. A hardware UUID where there is one, else a key of the host (profilers/board).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any

from cardlab.core.plain import UNSAID, to_plain

_UID_LENGTH = 32
# Made once in each process: what runs in one sitting shares its warm caches, its heat and its luck.
SITTING = os.urandom(16).hex()


def new_uid() -> str:
    """A random identity of 32 hex digits (UUID 4)."""
    return uuid.uuid4().hex


def canonical_json(value: Any) -> str:
    """The one text form of a record or plain value: sorted keys, no spaces, UTF-8, no NaN.

    Whole floats are written as integers, so that 2 and 2.0 have one form.
    """
    plain = _whole_numbers(to_plain(value))
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _whole_numbers(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _whole_numbers(item) for key, item in plain.items()}
    if isinstance(plain, list):
        return [_whole_numbers(item) for item in plain]
    if isinstance(plain, float) and math.isfinite(plain) and plain.is_integer():
        return int(plain)
    return plain


def since(version: str, default: Any, *, said: bool = True) -> Any:
    """A field that a release added to a description; at its default it is no part of the description's identity.

    So what an earlier release described and did not know of keeps its uid. `said` False keeps it out of documents too,
    where their text is what is hashed.
    """
    return field(default=default, metadata={"since": version, UNSAID: not said})


def content_hash(value: Any) -> str:
    """32 hex digits of the SHA-256 of the canonical JSON of `value`; see `since` for fields added later."""
    text = canonical_json(_without_later(value))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:_UID_LENGTH]


def _without_later(value: Any) -> Any:
    """The plain form without added fields that say nothing."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _without_later(getattr(value, f.name))
            for f in fields(value)
            if not ("since" in f.metadata and getattr(value, f.name) == f.default)
        }
    if isinstance(value, Mapping):
        return {str(key): _without_later(item) for key, item in value.items()}
    return value


def hardware_key(platform: str, hardware_uuid: str) -> str:
    """Device key from a UUID that the hardware itself publishes (a GPU's)."""
    return f"{platform}:{hardware_uuid.strip()}"


def simulated_key(name: str, label: str) -> str:
    """Device key of a simulated device: its model name and the label it was given."""
    return f"simulated:{name}:{label}"


def imported_key(label: str) -> str:
    """Device key of a device known only from an imported file."""
    return f"imported:{label}"

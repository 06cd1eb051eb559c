"""The key of this host as a device's; that it has none is an error of the house."""

from __future__ import annotations

from pathlib import Path

from cardlab.core.errors import PermissionDeniedError
from cardlab.profilers.board.identity import HostKey, host_key
from cardlab.profilers.devices.device import Probe
from cardlab.profilers.devices.errors import said_as


def device_key(platform: str, root: Path) -> HostKey:
    """As `host_key`. Raises PermissionDeniedError where no identity can be kept."""
    with said_as(PermissionDeniedError):
        return host_key(platform, root)


def identity_probe(key: HostKey) -> Probe:
    """Where the key of a host came from, and whether it is its own."""
    state = f"{key.key} from {key.source}"
    if key.problem is None:
        return Probe(name="identity", ok=True, state=state)
    return Probe(name="identity", ok=False, state=f"{state}; {key.problem}", remedy=key.remedy)


def identity_problem(key: HostKey) -> str | None:
    """What is wrong with the key, with its remedy, in one line; None where nothing is."""
    return None if key.problem is None else f"the key is a {key.source}; {key.problem}; {key.remedy}"

"""The key of this host as a device's; that it has none is an error of the house."""

from __future__ import annotations

from pathlib import Path

from cardlab.core.errors import PermissionDeniedError
from cardlab.profilers.board.identity import HostKey, host_key
from cardlab.profilers.devices.errors import said_as


def device_key(platform: str, root: Path) -> HostKey:
    """As `host_key`. Raises PermissionDeniedError where no identity can be kept."""
    with said_as(PermissionDeniedError):
        return host_key(platform, root)

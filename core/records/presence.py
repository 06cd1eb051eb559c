"""When and where a device was measured: one device is at one place at a time.

A device without a UUID of its own is known by its host's machine-id, which copies of one disk image share: two boards
then pass for one, and their times for those of one machine. A start of a host has an id that never comes again, so one
key under two starts of hosts at once is proof of two hosts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

# A board without a clock of its own starts in 1970 until it finds the network: such times order nothing.
_CLOCK_IS_SET = "2015"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """A device under one start of a host: its key and label, the start, first and last moment (UTC, ISO 8601)."""

    device_key: str
    device_name: str
    boot: str
    first_at: str
    last_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoHosts:
    """A key that came from two hosts: both were measured between `from_at` and `until_at`."""

    device_key: str
    device_name: str
    from_at: str
    until_at: str

    def __str__(self) -> str:
        return (
            f"{self.device_name} ({self.device_key}) was measured on two hosts at once, {self.from_at[:19]} to"
            f" {self.until_at[:19]} UTC: copies of one image share a key, and are one device here; on each but one:"
            " sudo rm /etc/machine-id && sudo systemd-machine-id-setup, then profile it again"
        )


def two_hosts(presences: Iterable[Presence]) -> tuple[TwoHosts, ...]:
    """Keys whose times under different starts of hosts overlap, the first overlap of each, in the order of keys."""
    known = [p for p in presences if p.first_at >= _CLOCK_IS_SET]
    found = []
    for key, group in groupby(sorted(known, key=lambda p: (p.device_key, p.first_at)), key=lambda p: p.device_key):
        before = None
        for here in group:
            if before is not None and here.first_at < before.last_at:
                until = min(here.last_at, before.last_at)
                name = here.device_name
                found.append(TwoHosts(device_key=key, device_name=name, from_at=here.first_at, until_at=until))
                break
            before = here if before is None or here.last_at > before.last_at else before
    return tuple(found)

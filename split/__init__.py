"""The split run: messages, transport, halves of a model, rounds. Names load on first use.

protocol, refusals   what is said, and why not          frames, codecs/            how it becomes bytes
sockets, *_transport, keys, shaping                     how it travels             probe: rates of a link
weights, adapters    what is trained                    halves                     who computes which layers
server, members, turn, batched, schedule, frequency     the server's side          journal, recording: what is kept
device, data                                            the device's side
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.core.records.checks import check_rounds
    from cardlab.split.device import SplitDevice
    from cardlab.split.halves import Half
    from cardlab.split.probe import measure_link
    from cardlab.split.server import Server

_WHERE = {
    "Half": "cardlab.split.halves",
    "Server": "cardlab.split.server",
    "SplitDevice": "cardlab.split.device",
    "check_rounds": "cardlab.core.records.checks",
    "measure_link": "cardlab.split.probe",
}
__all__ = ["Half", "Server", "SplitDevice", "check_rounds", "measure_link"]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)

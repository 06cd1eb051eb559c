"""The split run: messages, transport, halves of a model, rounds, validation. Names load on first use.

frames, codec        what travels            transport, keys, shaping   how it travels
weights, adapters    what is trained         halves                     who computes which layers
turn, server, members, journal               the server's side          recording, validate   what is kept of it
device, data                                 the device's side          probe                 rates of a link
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.split.device import SplitDevice
    from cardlab.split.halves import Half
    from cardlab.split.probe import measure_link
    from cardlab.split.server import Server
    from cardlab.split.validate import check_rounds

_WHERE = {
    "Half": "cardlab.split.halves",
    "Server": "cardlab.split.server",
    "SplitDevice": "cardlab.split.device",
    "check_rounds": "cardlab.split.validate",
    "measure_link": "cardlab.split.probe",
}
__all__ = ["Half", "Server", "SplitDevice", "check_rounds", "measure_link"]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)

"""Sockets between one server and its devices: what both ends have in common.

A thread on each side owns them, so that heartbeats are answered and arrivals are stamped while the other computes.

    device                                            server
    data  DEALER ──────── messages ───────────────▶ ROUTER ──▶ inbox (peer, parts, arrived_s)
    pulse DEALER ──────── "CLPU" + time ──────────▶ ROUTER ──▶ answered at once with its own time

Pulses have a connection of their own: behind a large message they would come too late and a busy device would
count as dead. Their answers give the round trip and the offset of the two timers (of the quickest pulse, as in
NTP), by which one-way times are known although the machines share no timer. Devices connect outwards, so they may
stand behind NAT; ZeroMQ reconnects and frames.
"""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from cardlab.split.codecs.base import Buffer
from cardlab.split.protocol import Message

if TYPE_CHECKING:
    from zmq.sugar.context import Context
    from zmq.sugar.frame import Frame
    from zmq.sugar.socket import Socket

SILENCE_S = 10.0
MAX_MESSAGE_BYTES = 2**31 - 1
PULSE = struct.Struct(">4sd")
ECHO = struct.Struct(">4sdd16s")
MAGIC = b"CLPU"
DATA, BEAT = b"D", b"P"


def load_zmq() -> ModuleType:
    """The module, loaded when used: only a run needs it."""
    return import_module("zmq")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message with its sender and the time it came, on this process's timer."""

    peer: bytes
    message: Message
    arrived_s: float


class SocketThread(threading.Thread):
    """The thread that owns the sockets; messages go in by `put` and come out of `inbox`."""

    def __init__(self, context: Context, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.zmq = load_zmq()
        self.context = context
        self.inbox: queue.SimpleQueue[tuple[bytes, list[Buffer], float]] = queue.SimpleQueue()
        # A ZeroMQ socket belongs to one thread; this pair is how others reach it.
        self._pipe_in, self._pipe_out = context.socket(self.zmq.PAIR), context.socket(self.zmq.PAIR)
        where = f"inproc://{name}-{id(self)}"
        self._pipe_out.bind(where)
        self._pipe_in.connect(where)
        self.stopping = threading.Event()

    def put(self, parts: Sequence[Buffer]) -> None:
        """Hand parts to the thread."""
        self._pipe_in.send_multipart(list(parts), copy=False)

    def handed_over(self) -> list[Frame]:
        """The next parts handed over, as frames."""
        return list(self._pipe_out.recv_multipart(copy=False))

    def close(self) -> None:
        """Release everything; what was handed over is still sent, for a moment."""
        if not self.stopping.is_set():
            self.stopping.set()
            # Wakes the thread, which waits for events.
            self._pipe_in.send(b"")
            self.join(5.0)
            self._pipe_in.close(0)


def with_limits(socket: Socket, linger_ms: int = 2000) -> Socket:
    """The socket with the limits of this protocol; `linger_ms`: how long it still sends when it is closed."""
    socket.linger = linger_ms
    socket.maxmsgsize = MAX_MESSAGE_BYTES
    socket.handshake_ivl = 3000
    # A way through NAT that nobody uses is forgotten.
    socket.tcp_keepalive, socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl = 1, 20, 10
    return socket


def address_host(host: str) -> str:
    """A host as an address has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host

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

import contextlib
import queue
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from socket import socketpair
from types import ModuleType
from typing import TYPE_CHECKING

from cardlab.core.errors import RunError
from cardlab.split.codecs.base import Buffer
from cardlab.split.protocol import Message

if TYPE_CHECKING:
    from zmq.sugar.context import Context
    from zmq.sugar.socket import Socket

SILENCE_S = 10.0
# What is in flight lingers 2 s; the rest is for a machine that is busy.
CLOSE_S = 10.0
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


class SocketThread(threading.Thread, ABC):
    """The thread that owns the sockets; messages go in by `put` and come out by `take`.

    Whatever may block (a socket that lingers, the context's end, a guard that does not answer) blocks this thread and
    nobody else: it releases all of it itself, and `close` waits for that no longer than CLOSE_S.
    """

    def __init__(self, context: Context, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.zmq = load_zmq()
        self.context = context
        self.inbox: queue.SimpleQueue[tuple[bytes, list[Buffer], float]] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self._outbox: queue.SimpleQueue[list[Buffer]] = queue.SimpleQueue()
        # A ZeroMQ socket belongs to one thread, and one of its pairs would block a sender whose reader has ended.
        self._bell, self._ear = socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._hanging = threading.Lock()

    @property
    def woken_by(self) -> int:
        """File number to poll: readable when something was handed over, or the end is near."""
        return self._ear.fileno()

    @abstractmethod
    def serve(self) -> None:
        """Carry messages until `stopping` is set."""

    @abstractmethod
    def release(self) -> None:
        """Close what the thread owns; `run` ends the context after it."""

    def run(self) -> None:
        """Serve, then release everything."""
        try:
            self.serve()
        finally:
            # Also where serving failed: whoever uses this end is told instead of waiting.
            self.stopping.set()
            self.release()
            self.context.destroy()
            with self._hanging:
                self._bell.close()
                self._ear.close()

    def put(self, parts: Sequence[Buffer]) -> None:
        """Hand parts to the thread; never blocks. Raises RunError once this end is closed."""
        if self.stopping.is_set():
            raise closed()
        self._outbox.put(list(parts))
        self._ring()

    def take(self, timeout_s: float) -> tuple[bytes, list[Buffer], float] | None:
        """The next message that came, None after the timeout. Raises RunError once this end is closed and empty."""
        try:
            return self.inbox.get(timeout=0.0 if self.stopping.is_set() else max(timeout_s, 0.0))
        except queue.Empty:
            if self.stopping.is_set():
                raise closed() from None
            return None

    def handed_over(self) -> Iterator[list[Buffer]]:
        """What was handed over and not taken yet."""
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(4096)
        while True:
            try:
                yield self._outbox.get_nowait()
            except queue.Empty:
                return

    def close(self) -> None:
        """Release everything; what was handed over is still sent, for a moment. Returns within CLOSE_S."""
        self.stopping.set()
        self._ring()
        if self.ident is None:
            # It never served, and releases all the same.
            self.start()
        self.join(CLOSE_S)

    def _ring(self) -> None:
        with self._hanging, contextlib.suppress(OSError):
            # Full: it will wake anyway. Closed: there is nobody to wake.
            self._bell.send(b"\0")


def closed() -> RunError:
    """What whoever uses an end after its close is told."""
    return RunError("this end of the connection is closed", remedy="connect again, with an end of its own")


def size_bytes(parts: Iterable[Buffer]) -> int:
    """Bytes of all parts."""
    return sum(memoryview(part).nbytes for part in parts)


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

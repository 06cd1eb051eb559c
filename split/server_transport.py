"""The server's end: one socket for all devices, pulses answered at once, only keys that it lists let in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cardlab.core.errors import RunError
from cardlab.split.codecs.base import Buffer
from cardlab.split.keys import KeyPair
from cardlab.split.laps import now_s
from cardlab.split.protocol import Message, encode
from cardlab.split.sockets import (
    BEAT,
    DATA,
    ECHO,
    PULSE,
    SocketThread,
    address_host,
    load_zmq,
    with_limits,
)

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator
    from zmq.sugar.context import Context
    from zmq.sugar.socket import Socket


class ServerTransport:
    """The server's end: receives from any device, sends to one.

    Raises RunError when the port is in use or the address is not this machine's.
    """

    def __init__(self, host: str, port: int, keys: KeyPair | None = None, allowed: Iterable[bytes] = ()) -> None:
        library = load_zmq()
        context = library.Context()
        guard = None if keys is None else _guard(context, frozenset(allowed))
        router = with_limits(context.socket(library.ROUTER))
        # Sending to a device that is gone is an error, not a message dropped unseen.
        router.router_mandatory = True
        # A device that reconnects must not be shut out by its own dead connection.
        router.router_handover = True
        if keys is not None:
            router.curve_server = True
            router.curve_publickey, router.curve_secretkey = keys.public, keys.secret
        # Off by default: an address of IPv6 is then "no such device".
        router.ipv6 = ":" in host
        self._thread = _ServerThread(context, router, guard)
        try:
            router.bind(f"tcp://{address_host(host)}:{port or '*'}")
        except library.ZMQError as error:
            self._thread.close()
            raise RunError(
                f"the server cannot listen on {host}:{port}: {error.strerror}",
                remedy="end what uses the port, or choose another with --bind HOST:PORT; an IPv6 address as [::1]:PORT",
            ) from error
        self.port = int(router.last_endpoint.rsplit(b":", 1)[1].strip(b"\0"))
        self._thread.start()

    def send(self, peer: bytes, message: Message) -> None:
        """Send to that device; a device that is gone gets nothing, its silence will tell.

        Never blocks. Raises RunError once this end is closed.
        """
        self._thread.put([DATA + peer, *encode(message)])

    def receive(self, timeout_s: float) -> tuple[bytes, list[Buffer], float] | None:
        """The next message as raw parts with its sender, None after the timeout; `decode` verifies it.

        Raises RunError once this end is closed.
        """
        return self._thread.take(timeout_s)

    def silence_s(self, peer: bytes) -> float:
        """Seconds since anything came from that device."""
        # A peer that was never heard counts as long silent.
        return now_s() - self._thread.heard_s.get(peer, -1e9)

    def close(self) -> None:
        """Stop the thread and free the port, in bounded time; closing again does nothing."""
        self._thread.close()


def _guard(context: Context, allowed: frozenset[bytes]) -> ThreadAuthenticator:
    """Lets in the devices whose public key is listed, and nobody else."""
    from zmq.auth.thread import ThreadAuthenticator

    class Listed:
        def callback(self, domain: str, key: bytes) -> bool:
            """Whether that key (Z85 text) is listed."""
            return key in allowed

    guard = ThreadAuthenticator(context)
    guard.start()
    guard.configure_curve_callback("*", Listed())
    return guard


class _ServerThread(SocketThread):
    def __init__(self, context: Context, router: Socket, guard: ThreadAuthenticator | None) -> None:
        super().__init__(context, "server")
        self.heard_s: dict[bytes, float] = {}
        self._router, self._guard = router, guard
        # Told with each pulse, so that devices notice a restart.
        self._session = os.urandom(16)

    def serve(self) -> None:
        """Read and write until the end."""
        poller = self.zmq.Poller()
        for socket in (self._router, self.woken_by):
            poller.register(socket, self.zmq.POLLIN)
        while not self.stopping.is_set():
            ready = dict(poller.poll(1000))
            if self._router in ready:
                self._read()
            if self.woken_by in ready:
                self._write()
        self._write()

    def release(self) -> None:
        """Close the socket, then end the guard that asks for the devices' keys."""
        self._router.close()
        if self._guard is not None:
            self._guard.stop()

    def _read(self) -> None:
        identity, *parts = self._router.recv_multipart(copy=False)
        arrived_s = now_s()
        name = bytes(identity)
        peer = name[1:]
        self.heard_s[peer] = arrived_s
        if not name.startswith(BEAT):
            self.inbox.put((peer, [part.buffer for part in parts], arrived_s))
        elif len(parts) == 1 and len(parts[0]) == PULSE.size:
            magic, sent_s = PULSE.unpack(parts[0].buffer)
            self._send([name, ECHO.pack(magic, sent_s, now_s(), self._session)])

    def _write(self) -> None:
        for parts in self.handed_over():
            self._send(parts)

    def _send(self, parts: list[Buffer]) -> None:
        # A device that is gone, or whose queue is full, is told by its silence.
        with contextlib.suppress(self.zmq.ZMQError):
            self._router.send_multipart(parts, copy=False, flags=self.zmq.NOBLOCK)

"""A device's end: it connects outwards, keeps the offset of the timers, and shapes its link where that is asked for."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from cardlab.core.errors import RunError
from cardlab.split.codecs.base import Buffer
from cardlab.split.keys import KeyPair
from cardlab.split.laps import now_s
from cardlab.split.protocol import Message, RoundStart, decode, encode
from cardlab.split.refusals import RefusalError
from cardlab.split.shaping import BURST_BYTES, LinkShape, TokenBucket
from cardlab.split.sockets import (
    BEAT,
    DATA,
    ECHO,
    MAGIC,
    PULSE,
    Arrived,
    SocketThread,
    address_host,
    closed,
    load_zmq,
    size_bytes,
    with_limits,
)

if TYPE_CHECKING:
    from zmq.sugar.context import Context
    from zmq.sugar.socket import Socket

PULSE_INTERVAL_S = 0.25
_FIRST_PULSES = 12
_FIRST_INTERVAL_S = 0.02
CONNECT_S = 3.0
_KEPT_PULSES = 120


class DeviceTransport:
    """A device's end: one server, shaped as `--link` says.

    Attributes:
        peer: random name of this connection.
        where: HOST:PORT, for messages.
        shape: of the link; what is planned comes with each round.
    """

    def __init__(
        self,
        host: str,
        port: int,
        keys: KeyPair | None = None,
        server_key: bytes | None = None,
        shape: LinkShape | None = None,
    ) -> None:
        library = load_zmq()
        self.peer = os.urandom(15)
        self.where = f"{host}:{port}"
        self._has_keys = keys is not None
        context = library.Context()
        address = f"tcp://{address_host(host)}:{port}"
        sockets = []
        for kind in (DATA, BEAT):
            socket = with_limits(context.socket(library.DEALER), 2000 if kind == DATA else 0)
            socket.ipv6 = ":" in host
            # The server tells data from pulses by the first byte of the identity.
            socket.identity = kind + self.peer
            socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 1000
            if keys is not None and server_key is not None:
                socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
                socket.curve_serverkey = server_key
            sockets.append(socket)
        # Only events of the handshake tell a refused key from a server that is not there.
        monitor = sockets[0].get_monitor_socket()
        for socket in sockets:
            socket.connect(address)
        self.shape = shape or LinkShape()
        self._thread = _DeviceThread(context, sockets[0], sockets[1], monitor, self.shape)
        self._thread.start()

    def send(self, message: Message) -> float:
        """Send; returns the time at which it was handed over. Never blocks; RunError once this end is closed."""
        parts = encode(message)
        sent_s = now_s()
        self._thread.put(parts)
        return sent_s

    def receive(self, timeout_s: float) -> Arrived | None:
        """The next message, None after the timeout.

        Raises RefusalError for what is no message, RunError once this end is closed.
        """
        came = self._thread.take(timeout_s)
        if came is None:
            return None
        _, parts, arrived_s = came
        return Arrived(b"", decode(parts), arrived_s)

    @property
    def offset_s(self) -> float:
        """Server's timer minus this one, by the quickest recent pulse; 0 before the first."""
        # Delays only add to a round trip, so the shortest is the most symmetric.
        return min(self._thread.echoes, default=(0.0, 0.0))[1]

    @property
    def rtt_s(self) -> float | None:
        """The shortest recent round trip of a pulse, None before the first."""
        return min(self._thread.echoes)[0] if self._thread.echoes else None

    @property
    def session(self) -> bytes | None:
        """The server process that answered the last pulse; another one has been restarted."""
        return self._thread.session

    def silence_s(self) -> float:
        """Seconds since the server answered a pulse (since the start, if it never did)."""
        return now_s() - self._thread.heard_s

    def settle_timers(self, limit_s: float = 3.0) -> None:
        """Wait for enough pulses that the offset is that of a quick one."""
        until_s = now_s() + limit_s
        while len(self._thread.echoes) < _FIRST_PULSES and now_s() < until_s:
            if self.stop_waiting.wait(0.01):
                return

    def check_connected(
        self, deadline_s: float, handshake_s: float = CONNECT_S, say: Callable[[str], None] = lambda _text: None
    ) -> None:
        """Wait until the server answers a pulse; RunError saying what stands in the way by the deadline.

        Args:
            deadline_s: for a server that is not there yet, on this process's timer.
            handshake_s: that something which listens there has to answer as a server.
            say: is told what is waited for, once that takes longer than a connection does.
        """
        library, begin_s, said = self._thread.zmq, now_s(), False
        fatal = {library.EVENT_HANDSHAKE_FAILED_AUTH, library.EVENT_HANDSHAKE_FAILED_PROTOCOL}
        while self._thread.session is None:
            seen = dict(self._thread.events)
            if set(seen) & {int(event) for event in fatal}:
                raise self._refused()
            connected_s = seen.get(int(library.EVENT_CONNECTED))
            until_s = deadline_s if connected_s is None else min(deadline_s, connected_s + handshake_s)
            if now_s() >= until_s:
                # A handshake that only broke off may have met a server that was just starting: it was tried again.
                broken = int(library.EVENT_HANDSHAKE_FAILED_NO_DETAIL) in seen
                raise self._refused() if broken else self._unreachable(connected_s is not None)
            if not said and now_s() > begin_s + 1.0:
                say(f"waiting for a server at {self.where}, for {deadline_s - begin_s:.0f} s")
                said = True
            self.check_open(0.05)

    def check_open(self, wait_s: float = 0.0) -> None:
        """Wait that long. Raises RunError where this end is closed before: waiting for its server is in vain."""
        if self.stop_waiting.wait(wait_s):
            raise closed()

    def _refused(self) -> RunError:
        if not self._has_keys:
            return RunError(
                f"what listens at {self.where} does not answer as a cardlab server without keys",
                remedy="check the port; if the server has keys, give --key and --server-key",
            )
        return RunError(
            f"the server {self.where} does not accept the keys of this device, or is not the one named",
            remedy="give --key and --server-key; the server must list this device with --allow",
        )

    @property
    def stop_waiting(self) -> threading.Event:
        """Set when the transport closes."""
        return self._thread.stopping

    def _unreachable(self, listens: bool) -> RunError:
        if not listens:
            return RunError(
                f"no server answers at {self.where}",
                remedy="start it with: card run server; check address, port and firewall",
            )
        return RunError(
            f"what listens at {self.where} does not answer as a cardlab server with these keys",
            remedy="check the port, and --key and --server-key on this side",
        )

    def close(self) -> None:
        """Stop the thread, in bounded time; closing again does nothing."""
        self._thread.close()


class _DeviceThread(SocketThread):
    def __init__(self, context: Context, data: Socket, beat: Socket, monitor: Socket, shape: LinkShape) -> None:
        super().__init__(context, "device")
        self.heard_s = now_s()
        self.session: bytes | None = None
        self.echoes: deque[tuple[float, float]] = deque(maxlen=_KEPT_PULSES)
        # What happened to the connection and when first, in the numbers of ZeroMQ's monitor.
        self.events: dict[int, float] = {}
        self._data, self._beat, self._monitor = data, beat, monitor
        # A plan knows rates and no bursts.
        burst_bytes = 0.0 if shape.planned else BURST_BYTES
        self._up = TokenBucket(shape.uplink_bps, shape.delay_s, burst_bytes)
        self._down = TokenBucket(shape.downlink_bps, shape.delay_s, burst_bytes)
        self._planned = shape.planned
        self._outgoing: deque[tuple[float, list[Buffer]]] = deque()
        self._incoming: deque[tuple[float, list[Buffer]]] = deque()

    def serve(self) -> None:
        """Read, write and pulse until the end."""
        poller = self.zmq.Poller()
        for socket in (self._data, self._beat, self._monitor, self.woken_by):
            poller.register(socket, self.zmq.POLLIN)
        beat_s = now_s()
        while not self.stopping.is_set():
            if now_s() >= beat_s:
                self._pulse()
                beat_s = now_s() + (PULSE_INTERVAL_S if len(self.echoes) >= _FIRST_PULSES else _FIRST_INTERVAL_S)
            # Wake for the next pulse or for the next message whose time on the shaped link is over.
            due_s = min([beat_s, *(held[0][0] for held in (self._outgoing, self._incoming) if held)])
            ready = dict(poller.poll(max(0.0, (due_s - now_s()) * 1e3)))
            if self._beat in ready:
                self._echo()
            if self._monitor in ready:
                self._note_event()
            if self.woken_by in ready:
                self._hand_out()
            if self._data in ready:
                parts: list[Buffer] = [part.buffer for part in self._data.recv_multipart(copy=False)]
                if self._planned:
                    self._adopt(parts)
                self._hold(self._incoming, self._down, parts)
            self._release()
        self._hand_out()
        # What was handed over before closing is still sent, shaped or not.
        for _, parts in self._outgoing:
            self._send(parts)

    def release(self) -> None:
        """Close the sockets."""
        self._data.disable_monitor()
        for socket in (self._data, self._beat, self._monitor):
            socket.close()

    def _note_event(self) -> None:
        from zmq.utils.monitor import recv_monitor_message

        self.events.setdefault(int(recv_monitor_message(self._monitor)["event"]), now_s())

    def _hand_out(self) -> None:
        for parts in self.handed_over():
            self._hold(self._outgoing, self._up, parts)

    def _adopt(self, parts: list[Buffer]) -> None:
        """Take the rates of a round that begins, so that its own adapters come down at them."""
        # What is no message, or no rate, is said by the thread that reads it.
        with contextlib.suppress(RefusalError):
            message = decode(parts)
            if isinstance(message, RoundStart) and message.link is not None:
                self._up.set_rate(message.link.uplink_bps, now_s())
                self._down.set_rate(message.link.downlink_bps, now_s())

    def _hold(self, held: deque[tuple[float, list[Buffer]]], bucket: TokenBucket, parts: list[Buffer]) -> None:
        held.append((bucket.release_s(size_bytes(parts), now_s()), parts))

    def _release(self) -> None:
        while self._outgoing and self._outgoing[0][0] <= now_s():
            self._send(self._outgoing.popleft()[1])
        while self._incoming and self._incoming[0][0] <= now_s():
            due_s, parts = self._incoming.popleft()
            self.inbox.put((b"", parts, now_s()))

    def _send(self, parts: list[Buffer]) -> None:
        with contextlib.suppress(self.zmq.ZMQError):
            self._data.send_multipart(parts, copy=False, flags=self.zmq.NOBLOCK)

    def _pulse(self) -> None:
        with contextlib.suppress(self.zmq.ZMQError):
            self._beat.send(PULSE.pack(MAGIC, now_s()), flags=self.zmq.NOBLOCK)

    def _echo(self) -> None:
        data = self._beat.recv()
        if len(data) != ECHO.size:
            return
        back_s = now_s()
        _, sent_s, there_s, session = ECHO.unpack(data)
        # A restarted server has another timer: offsets of the one before mean nothing.
        if session != self.session:
            self.echoes.clear()
            self.session = session
        self.heard_s = back_s
        rtt_s = back_s - sent_s
        self.echoes.append((rtt_s, there_s - sent_s - rtt_s / 2.0))

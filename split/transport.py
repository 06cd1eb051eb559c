"""Sockets between one server and its devices. A thread on each side owns them, so that heartbeats are answered
and arrivals are stamped while the other thread computes.

    device                                            server
    data  DEALER ──────── messages ───────────────▶ ROUTER ──▶ inbox (peer, parts, arrived_s)
    pulse DEALER ──────── "CLPU" + time ──────────▶ ROUTER ──▶ answered at once with its own time

Pulses have a connection of their own: behind a large message they would come too late and a busy device would
count as dead. Their answers give the round trip and the offset of the two clocks (of the quickest pulse, as in
NTP), by which one-way times are known although the machines share no clock. Devices connect outwards, so they may
stand behind NAT; ZeroMQ reconnects and frames.
"""

from __future__ import annotations

import contextlib
import os
import queue
import struct
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cardlab.errors import RunError
from cardlab.split.codec import Buffer, FrameError
from cardlab.split.frames import Message, pack, unpack
from cardlab.split.keys import KeyPair
from cardlab.split.laps import now_s
from cardlab.split.shaping import BURST_BYTES, LinkShape, TokenBucket, planned_rates

PULSE_INTERVAL_S = 0.25
_FIRST_PULSES = 12
_FIRST_INTERVAL_S = 0.02
SILENCE_S = 10.0
CONNECT_S = 3.0
MAX_MESSAGE_BYTES = 2**31 - 1
_PULSE = struct.Struct(">4sd")
_ECHO = struct.Struct(">4sdd16s")
_MAGIC = b"CLPU"
_DATA, _BEAT = b"D", b"P"
_KEPT_PULSES = 120


def _zmq() -> Any:
    # Loaded when used; its stubs do not show what its compiled half exports.
    return import_module("zmq")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message with its sender and the time it came, on this process's clock."""

    peer: bytes
    message: Message
    arrived_s: float


class _Pump(threading.Thread):
    """The thread that owns the sockets; messages go in by `put` and come out of `inbox`."""

    def __init__(self, context: Any, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.zmq = zmq = _zmq()
        self.context = context
        self.inbox: queue.SimpleQueue[tuple[bytes, list[bytes], float]] = queue.SimpleQueue()
        self._pipe_in, self._pipe_out = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        where = f"inproc://{name}-{id(self)}"
        self._pipe_out.bind(where)
        self._pipe_in.connect(where)
        self.stopping = threading.Event()

    def put(self, parts: Sequence[Buffer]) -> None:
        """Hand parts to the thread."""
        self._pipe_in.send_multipart(list(parts), copy=False)

    def taken(self) -> list[Any]:
        """The next parts handed over, as frames."""
        return list(self._pipe_out.recv_multipart(copy=False))

    def close(self) -> None:
        """Let go of everything; what was handed over is still sent, for a moment."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._pipe_in.send(b"")
            self.join(5.0)
            self._pipe_in.close(0)


def _prepared(socket: Any, linger_ms: int = 2000) -> Any:
    socket.linger = linger_ms
    socket.maxmsgsize = MAX_MESSAGE_BYTES
    socket.handshake_ivl = 3000
    # A way through NAT that nobody uses is forgotten.
    socket.tcp_keepalive, socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl = 1, 20, 10
    return socket


class ServerTransport:
    """The server's end: receives from any device, sends to one.

    Raises RunError when the port is in use or the address is not this machine's.
    """

    def __init__(self, host: str, port: int, keys: KeyPair | None = None, allowed: Iterable[bytes] = ()) -> None:
        zmq = _zmq()
        self._context = zmq.Context()
        self._guard = None if keys is None else _guard(self._context, frozenset(allowed))
        router = _prepared(self._context.socket(zmq.ROUTER))
        router.router_mandatory = True
        # A device that reconnects must not be shut out by its own dead connection.
        router.router_handover = True
        if keys is not None:
            router.curve_server = True
            router.curve_publickey, router.curve_secretkey = keys.public, keys.secret
        try:
            router.bind(f"tcp://{_bracketed(host)}:{port or '*'}")
        except zmq.ZMQError as error:
            self._abandon(router)
            raise RunError(
                f"the server cannot listen on {host}:{port}: {error.strerror}",
                remedy="end what uses the port, or choose another with --bind HOST:PORT",
            ) from error
        self.port = int(router.last_endpoint.rsplit(b":", 1)[1].strip(b"\0"))
        self._pump = _ServerPump(self._context, router)
        self._pump.start()

    def _abandon(self, socket: Any) -> None:
        socket.close(0)
        if self._guard is not None:
            self._guard.stop()
        self._context.term()

    def send(self, peer: bytes, message: Message) -> None:
        """Send to that device; a device that is gone gets nothing, its silence will tell."""
        self._pump.put([_DATA + peer, *pack(message)])

    def receive(self, timeout_s: float) -> tuple[bytes, list[bytes], float] | None:
        """The next message as raw parts with its sender, None after the timeout; `unpack` verifies it."""
        try:
            return self._pump.inbox.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None

    def silence_s(self, peer: bytes) -> float:
        """Seconds since anything came from that device."""
        return now_s() - self._pump.heard_s.get(peer, -1e9)

    def close(self) -> None:
        """Stop the thread and free the port."""
        self._pump.close()
        if self._guard is not None:
            self._guard.stop()
        self._context.destroy(2000)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _guard(context: Any, allowed: frozenset[bytes]) -> Any:
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


class _ServerPump(_Pump):
    def __init__(self, context: Any, router: Any) -> None:
        super().__init__(context, "server")
        self.heard_s: dict[bytes, float] = {}
        self._router = router
        self._session = os.urandom(16)

    def run(self) -> None:
        zmq = self.zmq
        poller = zmq.Poller()
        for socket in (self._router, self._pipe_out):
            poller.register(socket, zmq.POLLIN)
        while not self.stopping.is_set():
            ready = dict(poller.poll(1000))
            if self._router in ready:
                self._read()
            if self._pipe_out in ready:
                self._write()
        while self._pipe_out.poll(0):
            self._write()
        self._router.close()
        self._pipe_out.close(0)

    def _read(self) -> None:
        identity, *parts = self._router.recv_multipart(copy=False)
        arrived_s = now_s()
        name = bytes(identity)
        peer = name[1:]
        self.heard_s[peer] = arrived_s
        if not name.startswith(_BEAT):
            self.inbox.put((peer, [part.buffer for part in parts], arrived_s))
        elif len(parts) == 1 and len(parts[0]) == _PULSE.size:
            magic, sent_s = _PULSE.unpack(parts[0].buffer)
            self._send([name, _ECHO.pack(magic, sent_s, now_s(), self._session)])

    def _write(self) -> None:
        parts = self.taken()
        if len(parts) > 1:
            self._send([bytes(parts[0]), *parts[1:]])

    def _send(self, parts: list[Any]) -> None:
        # A device that is gone, or whose queue is full, is told by its silence.
        with contextlib.suppress(self.zmq.ZMQError):
            self._router.send_multipart(parts, copy=False, flags=self.zmq.NOBLOCK)


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
        zmq = _zmq()
        self.peer = os.urandom(15)
        self.where = f"{host}:{port}"
        self._has_keys = keys is not None
        self._context = zmq.Context()
        address = f"tcp://{_bracketed(host)}:{port}"
        sockets = []
        for kind in (_DATA, _BEAT):
            socket = _prepared(self._context.socket(zmq.DEALER), 2000 if kind == _DATA else 0)
            socket.identity = kind + self.peer
            socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 1000
            if keys is not None and server_key is not None:
                socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
                socket.curve_serverkey = server_key
            sockets.append(socket)
        self._monitor = sockets[0].get_monitor_socket()
        for socket in sockets:
            socket.connect(address)
        self.shape = shape or LinkShape()
        self._pump = _DevicePump(self._context, sockets[0], sockets[1], self.shape)
        self._pump.start()

    def send(self, message: Message) -> float:
        """Send; returns the time at which it was handed over."""
        parts = pack(message)
        sent_s = now_s()
        self._pump.put(parts)
        return sent_s

    def receive(self, timeout_s: float) -> Arrived | None:
        """The next message, None after the timeout. Raises FrameError for what is no message."""
        try:
            _, parts, arrived_s = self._pump.inbox.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None
        return Arrived(b"", unpack(parts), arrived_s)

    @property
    def offset_s(self) -> float:
        """Server's clock minus this one, by the quickest recent pulse; 0 before the first."""
        return min(self._pump.echoes, default=(0.0, 0.0))[1]

    @property
    def rtt_s(self) -> float | None:
        """The shortest recent round trip of a pulse, None before the first."""
        return min(self._pump.echoes)[0] if self._pump.echoes else None

    @property
    def session(self) -> bytes | None:
        """The server process that answered the last pulse; another one has been restarted."""
        return self._pump.session

    def silence_s(self) -> float:
        """Seconds since the server answered a pulse (since the start, if it never did)."""
        return now_s() - self._pump.heard_s

    def settle_clocks(self, limit_s: float = 3.0) -> None:
        """Wait for enough pulses that the offset is that of a quick one."""
        until_s = now_s() + limit_s
        while len(self._pump.echoes) < _FIRST_PULSES and now_s() < until_s:
            self.stop_waiting.wait(0.01)

    def check_connected(self, deadline_s: float) -> None:
        """Wait until the server answers a pulse; RunError saying what stands in the way by the deadline."""
        seen: set[int] = set()
        while self._pump.session is None:
            seen |= self._events()
            zmq = self._pump.zmq
            if seen & {int(zmq.EVENT_HANDSHAKE_FAILED_AUTH), int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)}:
                raise self._refused()
            if now_s() >= deadline_s:
                # A handshake that only broke off may have met a server that was just starting: it was tried again.
                broken = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL) in seen
                raise self._refused() if broken else self._unreachable(seen)
            self.stop_waiting.wait(0.05)

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
        return self._pump.stopping

    def _events(self) -> set[int]:
        from zmq.utils.monitor import recv_monitor_message

        found = set()
        while self._monitor.poll(0):
            found.add(int(recv_monitor_message(self._monitor)["event"]))
        return found

    def _unreachable(self, seen: set[int]) -> RunError:
        zmq = self._pump.zmq
        if int(zmq.EVENT_CONNECTED) not in seen:
            return RunError(
                f"no server answers at {self.where}",
                remedy="start it with: card run server; check address, port and firewall",
            )
        return RunError(
            f"what listens at {self.where} does not answer as a cardlab server with these keys",
            remedy="check the port, and --key and --server-key on this side",
        )

    def close(self) -> None:
        """Stop the thread."""
        self._pump.close()
        self._context.destroy(1000)


class _DevicePump(_Pump):
    def __init__(self, context: Any, data: Any, beat: Any, shape: LinkShape) -> None:
        super().__init__(context, "device")
        self.heard_s = now_s()
        self.session: bytes | None = None
        self.echoes: deque[tuple[float, float]] = deque(maxlen=_KEPT_PULSES)
        self._data, self._beat = data, beat
        # A plan knows rates and no bursts.
        burst_bytes = 0.0 if shape.planned else BURST_BYTES
        self._up = TokenBucket(shape.uplink_bps, shape.delay_s, burst_bytes)
        self._down = TokenBucket(shape.downlink_bps, shape.delay_s, burst_bytes)
        self._planned = shape.planned
        self._outgoing: deque[tuple[float, list[Any]]] = deque()
        self._incoming: deque[tuple[float, list[Any]]] = deque()

    def run(self) -> None:
        zmq = self.zmq
        poller = zmq.Poller()
        for socket in (self._data, self._beat, self._pipe_out):
            poller.register(socket, zmq.POLLIN)
        beat_s = now_s()
        while not self.stopping.is_set():
            if now_s() >= beat_s:
                self._pulse()
                beat_s = now_s() + (PULSE_INTERVAL_S if len(self.echoes) >= _FIRST_PULSES else _FIRST_INTERVAL_S)
            due_s = min([beat_s, *(held[0][0] for held in (self._outgoing, self._incoming) if held)])
            ready = dict(poller.poll(max(0.0, (due_s - now_s()) * 1e3)))
            if self._beat in ready:
                self._echo()
            if self._pipe_out in ready:
                self._hold(self._outgoing, self._up, self.taken())
            if self._data in ready:
                parts = self._data.recv_multipart(copy=False)
                if self._planned:
                    self._adopt(parts)
                self._hold(self._incoming, self._down, parts)
            self._release()
        while self._pipe_out.poll(0):
            self._hold(self._outgoing, self._up, self.taken())
        for _, parts in self._outgoing:
            self._send(parts)
        self._data.disable_monitor()
        for socket in (self._data, self._beat, self._pipe_out):
            socket.close()

    def _adopt(self, parts: list[Any]) -> None:
        """Take the rates of a round that begins, so that its own adapters come down at them."""
        # What is no message, or no rate, is said by the thread that reads it.
        with contextlib.suppress(FrameError):
            message = unpack([part.buffer for part in parts])
            rates = planned_rates(message.head) if message.kind == "round" else None
            if rates is not None:
                self._up.set_rate(rates[0], now_s())
                self._down.set_rate(rates[1], now_s())

    def _hold(self, held: deque[tuple[float, list[Any]]], bucket: TokenBucket, parts: list[Any]) -> None:
        if len(parts) > 1 or (parts and len(parts[0])):
            held.append((bucket.release_s(sum(len(part) for part in parts), now_s()), parts))

    def _release(self) -> None:
        while self._outgoing and self._outgoing[0][0] <= now_s():
            self._send(self._outgoing.popleft()[1])
        while self._incoming and self._incoming[0][0] <= now_s():
            due_s, parts = self._incoming.popleft()
            self.inbox.put((b"", [part.buffer for part in parts], now_s()))

    def _send(self, parts: list[Any]) -> None:
        with contextlib.suppress(self.zmq.ZMQError):
            self._data.send_multipart(parts, copy=False, flags=self.zmq.NOBLOCK)

    def _pulse(self) -> None:
        with contextlib.suppress(self.zmq.ZMQError):
            self._beat.send(_PULSE.pack(_MAGIC, now_s()), flags=self.zmq.NOBLOCK)

    def _echo(self) -> None:
        data = self._beat.recv()
        if len(data) != _ECHO.size:
            return
        back_s = now_s()
        _, sent_s, there_s, session = _ECHO.unpack(data)
        if session != self.session:
            self.echoes.clear()
            self.session = session
        self.heard_s = back_s
        rtt_s = back_s - sent_s
        self.echoes.append((rtt_s, there_s - sent_s - rtt_s / 2.0))


__all__ = ["Arrived", "DeviceTransport", "FrameError", "ServerTransport"]

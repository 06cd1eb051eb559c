# ruff: noqa: E402 - what needs torch and zmq is imported after the check that they are there
"""If these fail, a server or a device hangs at its end with everything done, and somebody must kill it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
zmq = pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError
from cardlab.split.device_transport import DeviceTransport
from cardlab.split.keys import KeyPair
from cardlab.split.laps import now_s
from cardlab.split.protocol import Bye
from cardlab.split.server_transport import ServerTransport
from cardlab.split.sockets import CLOSE_S

BYE = Bye(reason="x" * 2000)


def in_time(work: Callable[[], object], limit_s: float = CLOSE_S + 5.0) -> bool:
    """Whether it ends; a thread that hangs is left behind."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)
    return not thread.is_alive()


class Paused(threading.Event):
    """After it is set, whoever set it is held up: the thread that waits for it ends in the meantime."""

    def set(self) -> None:
        super().set()
        time.sleep(2.5)


def ends() -> tuple[ServerTransport, DeviceTransport]:
    server = ServerTransport("127.0.0.1", 0)
    return server, DeviceTransport("127.0.0.1", server.port)


@pytest.mark.parametrize("kind", ["server", "device"])
def test_a_thread_that_ends_before_it_is_woken_holds_nobody_up(kind: str) -> None:
    """Certain to hang where the wake-up goes into a pipe whose reader has gone."""
    server, device = ends()
    tried: Any = server if kind == "server" else device
    tried._thread.stopping = Paused()
    # The loop may look at the old event once more.
    time.sleep(1.2)
    assert in_time(tried.close), "the close hangs"
    for end in (server, device):
        assert in_time(end.close)


@pytest.mark.parametrize("kind", ["server", "device"])
def test_a_closed_end_says_so_and_never_blocks(kind: str) -> None:
    server, device = ends()
    device.check_connected(now_s() + 10.0)
    for end in (server, device):
        end.close()
        end.close()
    began_s = time.monotonic()

    def refused(work: Callable[[], object]) -> None:
        with pytest.raises(RunError, match="this end of the connection is closed; connect again"):
            work()

    if kind == "server":
        refused(lambda: server.send(device.peer, BYE))
        refused(lambda: server.receive(60.0))
    else:
        refused(lambda: device.send(BYE))
        refused(lambda: device.receive(60.0))
        refused(lambda: device.check_open(60.0))
        device.settle_timers(60.0)
    assert time.monotonic() - began_s < 2.0


def test_a_device_that_is_closed_while_it_waits_for_its_server_says_so() -> None:
    device = DeviceTransport("127.0.0.1", 9)
    said: list[str] = []

    def connect() -> None:
        try:
            device.check_connected(now_s() + 60.0)
        except RunError as error:
            said.append(str(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    device.close()
    thread.join(5.0)
    assert said and "is closed" in said[0]


def test_senders_beside_a_close_are_never_held_up() -> None:
    """More than any queue of ZeroMQ takes, to a side that reads nothing, from several threads."""
    server, device = ends()
    device.check_connected(now_s() + 10.0)
    sent, told = [0], [0]

    def send() -> None:
        with contextlib.suppress(RunError):
            for _ in range(200_000):
                device.send(BYE)
                server.send(device.peer, BYE)
                sent[0] += 1
            return
        told[0] += 1

    threads = [threading.Thread(target=send, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + 30.0
    while sent[0] < 3000 and time.monotonic() < until_s:
        time.sleep(0.01)
    for end in (device, server):
        assert in_time(end.close)
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()
    assert sent[0] >= 3000 and told[0] == 3


def test_what_never_lets_go_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that does not answer, a context that never ends: the end's thread waits for them, nobody else."""
    monkeypatch.setattr("cardlab.split.sockets.CLOSE_S", 0.5)
    let_go = threading.Event()
    for name in ("release", "context.destroy"):
        server, device = ends()
        for end in (server, device):
            thread: Any = end._thread
            if name == "release":
                monkeypatch.setattr(thread, "release", let_go.wait)
            else:
                monkeypatch.setattr(thread.context, "destroy", let_go.wait, raising=False)
            assert in_time(end.close, 5.0), name
    let_go.set()


def test_a_port_in_use_is_given_back_whole() -> None:
    server, device = ends()
    with pytest.raises(RunError, match="in use"):
        ServerTransport("127.0.0.1", server.port, pair(), (b"x" * 40,))
    assert not [t for t in threading.enumerate() if t.name == "server" and t is not server._thread]
    device.close()
    server.close()
    ServerTransport("127.0.0.1", server.port).close()


def pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public=public, secret=secret)


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """That many processes that do nothing but compute."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def close_often(count: int) -> float:
    """Make and close that many ends, connected and not, with keys and without, with messages on their way and without.

    Returns the longest close in seconds.
    """
    longest_s = 0.0
    for number in range(count // 2):
        keys, own = (pair(), pair()) if number % 2 else (None, None)
        server = ServerTransport("127.0.0.1", 0, keys, () if own is None else (own.public,))
        device = DeviceTransport("127.0.0.1", server.port, own, None if keys is None else keys.public)
        if number % 3:
            device.check_connected(now_s() + 60.0)
        for _ in range(number % 4):
            device.send(BYE)
            server.send(device.peer, BYE)
        order = (server, device) if number % 5 else (device, server)
        for end in order:
            began_s = time.monotonic()
            assert in_time(end.close), f"close {number} hangs"
            assert not end._thread.is_alive(), f"close {number} left its thread behind"
            longest_s = max(longest_s, time.monotonic() - began_s)
    return longest_s


def test_a_hundred_closes() -> None:
    close_often(100)


@pytest.mark.accept
def test_two_thousand_closes_under_load(tmp_path: Path) -> None:
    with load(6):
        longest_s = close_often(2000)
    print(f"2,000 closes of servers and devices beside 6 busy processes: none hung, the longest took {longest_s:.1f} s")

"""The other side of a run between two, in a thread beside the command that is tried."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cardlab.core.errors import CardlabError
from cardlab.workflows.options.run import DeviceOptions, ServerOptions


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# One for all commands of a session: their words hold it.
PORT = _free_port()


@contextlib.contextmanager
def _beside(work: Callable[[], object]) -> Iterator[None]:
    """Work in a thread; what ends it, the command's own answer tells."""

    def run() -> None:
        with contextlib.suppress(CardlabError):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(60.0)
    assert not thread.is_alive(), "the other side of the run never ended"


@contextlib.contextmanager
def a_device(folder: Path) -> Iterator[None]:
    """A device that joins the server once it listens, or leaves when the server's command is over."""
    over = threading.Event()

    def join() -> None:
        from cardlab.workflows.run_device import run_device

        while not over.is_set():
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", PORT)) == 0:
                    break
            time.sleep(0.05)
        else:
            return
        run_device(DeviceOptions(server=f"127.0.0.1:{PORT}", dtype="float32", name="board", wait_s=15.0))

    with _beside(join):
        try:
            yield
        finally:
            over.set()


@contextlib.contextmanager
def a_server(folder: Path) -> Iterator[None]:
    """A server of two rounds with one device; it gives up soon when none comes."""

    def serve() -> None:
        from cardlab.db.store import open_store
        from cardlab.workflows.run import run_server

        options = ServerOptions(
            bind=f"127.0.0.1:{PORT}",
            model="tiny-llama",
            cut=2,
            rounds=2,
            batch=2,
            sequence=32,
            dtype="float32",
            out=str(folder / "served"),
            wait_s=15.0,
        )
        with open_store(str(folder / "served.db"), create=True) as store:
            run_server(store, options)

    with _beside(serve):
        yield

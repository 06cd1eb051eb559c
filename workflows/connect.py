"""The way to the other side of a split run or a link: addresses, keys, and what must be installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cardlab.core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from cardlab.split.device_transport import DeviceTransport
    from cardlab.split.keys import KeyPair
    from cardlab.split.shaping import LinkShape

PORT = 5560
Say = Callable[[str], None]


def silent(_text: str) -> None:
    """A `progress` that says nothing."""


def connect(server: str, key: str | None, server_key: str | None, shape: LinkShape | None = None) -> DeviceTransport:
    """The way to a server. Beyond loopback both keys are required."""
    require_zmq()
    from cardlab.split.device_transport import DeviceTransport
    from cardlab.split.keys import is_loopback, read_pair, read_public, split_address

    host, port = split_address(server, PORT)
    if (key is None) != (server_key is None):
        raise UsageError("one key alone protects nothing", remedy="give both --key and --server-key")
    # Without keys nothing is encrypted and nobody is asked who he is.
    if key is None and not is_loopback(host):
        raise UsageError(
            f"{host} is beyond this machine and a run there needs keys",
            remedy="make them with card run keys, then give --key and --server-key",
        )
    pair = None if key is None else read_pair(Path(key))
    public = None if server_key is None else read_public(Path(server_key))
    return DeviceTransport(host, port, pair, public, shape)


def server_keys(host: str, key: str | None, allow: tuple[str, ...]) -> tuple[KeyPair | None, tuple[bytes, ...]]:
    """Own pair and the devices let in. Beyond loopback both are required."""
    require_zmq()
    from cardlab.split.keys import is_loopback, read_pair, read_public

    if key is None and allow:
        raise UsageError("--allow without --key protects nothing", remedy="give --key too")
    if key is not None and not allow:
        raise UsageError("with --key no device is let in unless it is listed", remedy="give --allow DEVICE.pub")
    if key is None:
        if not is_loopback(host):
            raise UsageError(
                f"{host} is beyond this machine and a run there needs keys",
                remedy="make them with card run keys, then give --key and --allow",
            )
        return None, ()
    return read_pair(Path(key)), tuple(read_public(Path(path)) for path in allow)


def require_zmq() -> None:
    """MissingDependencyError where pyzmq is not installed."""
    try:
        import zmq  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("a split run needs pyzmq", remedy="pip install 'cardlab[models]'") from error

"""Keys of a run beyond this machine: CurveZMQ (X25519), one pair for each side, in small text files.

`NAME.key` holds the pair and is readable by its owner only; `NAME.pub` holds the public half and is what the
other side gets. A server lists the devices it lets in; a device names the server it wants to talk to.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import RunError, UsageError

_PUBLIC, _SECRET = "public", "secret"
_KEY_LENGTH = 40
_MAKE = "make a pair with: card run keys NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Both halves, Z85 text of 40 characters each."""

    public: bytes
    secret: bytes


def make_keys(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.key and NAME.pub; never over files that are there."""
    import zmq

    public, secret = zmq.curve_keypair()
    pair, half = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (pair, half):
        if path.exists():
            raise RunError(f"{path} is there already", remedy="remove it, or choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    # Created with its mode: between writing and chmod others could read it.
    handle = os.open(pair, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(f"{_PUBLIC} {public.decode()}\n{_SECRET} {secret.decode()}\n")
    half.write_text(f"{_PUBLIC} {public.decode()}\n", encoding="ascii")
    return pair, half


def read_pair(path: Path) -> KeyPair:
    """The pair of a .key file; RunError if it is not one."""
    found = _read(path)
    if set(found) != {_PUBLIC, _SECRET}:
        raise RunError(f"{path} holds no key pair", remedy=_MAKE)
    return KeyPair(public=found[_PUBLIC], secret=found[_SECRET])


def read_public(path: Path) -> bytes:
    """The public half in a .pub (or .key) file; RunError if there is none."""
    found = _read(path)
    if _PUBLIC not in found:
        raise RunError(f"{path} holds no public key", remedy=_MAKE)
    return found[_PUBLIC]


def _read(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"the key {path} cannot be read: {error}", remedy=_MAKE) from error
    found = {}
    for line in lines:
        word, _, value = line.partition(" ")
        if word in (_PUBLIC, _SECRET) and len(value.strip()) == _KEY_LENGTH:
            found[word] = value.strip().encode("ascii")
    return found


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Host and port of HOST:PORT or HOST; UsageError otherwise."""
    host, colon, port = text.rpartition(":")
    # An IPv6 address has colons of its own: it stands in brackets where a port follows it.
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        host, port = text, str(default_port)
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdigit()) or not 0 <= int(port) <= 65535:
        raise UsageError(f"{text!r} is no address", remedy="write it like 192.168.1.10:5560")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether every address of the host is this machine itself; RunError if the name is not known."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise RunError(f"the host {host!r} is not known", remedy="give its address, or correct the name") from error
    # Every address: a name that also points elsewhere could be reached from there.
    return all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in found)

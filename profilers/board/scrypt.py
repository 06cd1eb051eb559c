"""scrypt (RFC 7914) for a Python whose OpenSSL is older than 1.1; takes about a minute with cardlab's parameters."""

import hashlib
import struct
from typing import List

# Salsa20 counts in words of 32 bits, where Python's integers grow.
_MASK = 0xFFFFFFFF
# Quarter rounds of Salsa20: (target, first, second, rotation), columns then rows.
_STEPS = tuple(
    step
    for a, b, c, d in (
        (0, 4, 8, 12),
        (5, 9, 13, 1),
        (10, 14, 2, 6),
        (15, 3, 7, 11),
        (0, 1, 2, 3),
        (5, 6, 7, 4),
        (10, 11, 8, 9),
        (15, 12, 13, 14),
    )
    for step in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18))
)


def scrypt(secret: bytes, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
    """The derived key; as hashlib.scrypt where that exists."""
    if hasattr(hashlib, "scrypt"):
        return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, dklen=length)
    return slow_scrypt(secret, salt, n, r, p, length)


def slow_scrypt(secret: bytes, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
    """The same in Python alone."""
    mixed = b""
    for block in _split(hashlib.pbkdf2_hmac("sha256", secret, salt, 1, 128 * r * p), 128 * r):
        words = list(struct.unpack("<%dI" % (32 * r), block))
        mixed += struct.pack("<%dI" % (32 * r), *_mix(words, n, r))
    return hashlib.pbkdf2_hmac("sha256", secret, mixed, 1, length)


def _split(data: bytes, size: int) -> List[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def _mix(words: List[int], n: int, r: int) -> List[int]:
    kept = []
    for _ in range(n):
        kept.append(words)
        words = _blocks(words, r)
    for _ in range(n):
        # RFC 7914's Integerify reads the last 64 bytes as one number; n is a power of two below 2^32, so that
        # its lowest word suffices.
        other = kept[words[-16] % n]
        words = _blocks([a ^ b for a, b in zip(words, other)], r)
    return words


def _blocks(words: List[int], r: int) -> List[int]:
    state = words[-16:]
    even: List[int] = []
    odd: List[int] = []
    for i in range(2 * r):
        state = _salsa([a ^ b for a, b in zip(state, words[16 * i : 16 * i + 16])])
        (odd if i % 2 else even).extend(state)
    return even + odd


def _salsa(block: List[int]) -> List[int]:
    x = list(block)
    for _ in range(4):
        for target, first, second, turn in _STEPS:
            total = (x[first] + x[second]) & _MASK
            x[target] ^= ((total << turn) & _MASK) | (total >> (32 - turn))
    return [(a + b) & _MASK for a, b in zip(x, block)]

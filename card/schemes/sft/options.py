"""Compression as the planner sees it: rates, the codec that gives each, what it costs in time and accuracy.

accuracy(r) = limit - loss exp(-k r)        the saturating law, r = bytes sent / bytes of the raw values
bits of Top-K = H2(keep) + keep q            for each value, q bits at 8 or 4 before coding (SFT, papers' part B2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.scenario import SftSpec
from cardlab.core.errors import InfeasibleError

DEFAULT_RATES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_EDGE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """limit - loss exp(-k r): accuracy, or the share of the fine-tuning gain that is kept."""

    limit: float
    loss: float
    rate: float

    def at(self, r: float) -> float:
        """Accuracy at a compression rate."""
        return self.limit - self.loss * math.exp(-self.rate * r)

    def slope(self, r: float) -> float:
        """Its derivative."""
        return self.loss * self.rate * math.exp(-self.rate * r)

    def penalty(self, r: float) -> float:
        """What is lost against the limit of the curve."""
        return self.loss * math.exp(-self.rate * r)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One compression that a device may use.

    Attributes:
        rate: bytes sent over raw bytes, activations and gradients.
        codec: name, None where the rate is given and no codec is known for it.
        encode_s_per_byte, decode_s_per_byte: seconds a raw byte, device and server: (device, server).
        encode_s, decode_s: measured, of a mini-batch on both sides [M,C]; None where the speeds above hold.
        there_encode_s, there_decode_s: what of them the server computes [M,C]; None likewise.
        accuracy, penalty: None unknown.
    """

    rate: float
    codec: str | None
    encode_s_per_byte: tuple[float, float] = (0.0, 0.0)
    decode_s_per_byte: tuple[float, float] = (0.0, 0.0)
    encode_s: Array | None = field(default=None, compare=False)
    decode_s: Array | None = field(default=None, compare=False)
    there_encode_s: Array | None = field(default=None, compare=False)
    there_decode_s: Array | None = field(default=None, compare=False)
    accuracy: float | None = None
    penalty: float | None = None

    @property
    def timed(self) -> bool:
        """Whether encoding and decoding are known to take time."""
        return self.encode_s is not None or sum(self.encode_s_per_byte) + sum(self.decode_s_per_byte) > 0.0


PLAIN = Option(rate=1.0, codec="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressions:
    """What devices choose among: options, the accuracy curve behind them (None unknown), and tensors as they are."""

    options: tuple[Option, ...]
    curve: Accuracy | None = None
    plain: Option = PLAIN


def accuracy_of(spec: SftSpec) -> Accuracy | None:
    """The curve that a scenario states, None without one."""
    if spec.accuracy_limit is None or spec.accuracy_loss is None or spec.accuracy_rate is None:
        return None
    return Accuracy(limit=spec.accuracy_limit, loss=spec.accuracy_loss, rate=spec.accuracy_rate)


def options_of(spec: SftSpec, compression: float) -> tuple[Option, ...]:
    """What a scenario lets a device choose among, rates rising: listed, else a grid where a curve tells them apart,
    else the one compression of the objective."""
    curve = accuracy_of(spec)
    rates: Sequence[float] = spec.rates or (DEFAULT_RATES if curve is not None else (compression,))
    return tuple(_option(spec, curve, rate) for rate in sorted(set(rates)))


def _option(spec: SftSpec, curve: Accuracy | None, rate: float) -> Option:
    encode = 0.0 if spec.encode_bytes_per_s is None or rate >= 1.0 else 1.0 / spec.encode_bytes_per_s
    decode = 0.0 if spec.decode_bytes_per_s is None or rate >= 1.0 else 1.0 / spec.decode_bytes_per_s
    return Option(
        rate=rate,
        codec=codec_for(spec.codec, rate, spec.bits, spec.raw_bits),
        encode_s_per_byte=(encode, encode),
        decode_s_per_byte=(decode, decode),
        accuracy=None if curve is None else curve.at(rate),
        penalty=None if curve is None else curve.penalty(rate),
    )


def codec_for(family: str, rate: float, bits: int, raw_bits: int) -> str | None:
    """The codec of a family whose size is nearest to `rate` of the raw one, by its formula; None if none comes near."""
    if rate >= 1.0:
        return "none"
    wanted = rate * raw_bits
    if family == "dense":
        # Values of 2, 4 and 8 bits before coding.
        near = min((2, 4, 8), key=lambda q: abs(q - wanted))
        return f"dense:{near}" if abs(near - wanted) <= 0.5 * near else None
    if wanted >= bits:
        return None
    # Bits rise with the share kept, entropy included, as long as values cost more than places.
    low, high = 1e-6, 1.0
    for _ in range(60):
        keep = 0.5 * (low + high)
        low, high = (keep, high) if topk_bits(keep, bits) < wanted else (low, keep)
    # Rounded as it will be printed, so that the codec planned is the codec run.
    return f"topk:{float(f'{low:.4g}'):g}:{bits}"


def topk_bits(keep: float, bits: int) -> float:
    """Bits for each value, before coding of the levels."""
    if keep >= 1.0:
        return float(bits)
    return -keep * math.log2(keep) - (1.0 - keep) * math.log2(1.0 - keep) + keep * bits


def check_target(options: Sequence[Option], curve: Accuracy | None, target: float | None) -> None:
    """Raise InfeasibleError if no option reaches the accuracy that is asked for."""
    if target is None:
        return
    known = [o.accuracy for o in options if o.accuracy is not None]
    if not known:
        raise InfeasibleError(
            f"an accuracy of {target:g} is asked for and no curve of accuracy against compression is known",
            remedy="measure one with: card accuracy; or give accuracy_limit, accuracy_loss and accuracy_rate",
        )
    if curve is not None and target > curve.limit + _EDGE:
        raise InfeasibleError(
            f"an accuracy of {target:g} lies above the curve, which ends at {curve.limit:g}",
            remedy=f"lower accuracy_target to {curve.at(1.0):.4g} or less",
        )
    if target > max(known) + _EDGE:
        raise InfeasibleError(
            f"an accuracy of {target:g} is reached by no compression on offer, the best is {max(known):.4g}",
            remedy="lower accuracy_target, or offer a higher rate",
        )


def reaches(option: Option, target: float | None) -> bool:
    """Whether an option has the accuracy that is asked for."""
    return target is None or (option.accuracy is not None and option.accuracy >= target - _EDGE)


def rates_of(options: Sequence[Option]) -> np.ndarray:
    """Rates [K]."""
    return np.array([o.rate for o in options])

"""What a share of the common band is worth, and the small timescale's problem solved exactly by bisection.

    R(b) = b W log2(1 + g / b)     power     all transmit power goes into the share; g from the rate alone on the band
    R(b) = b R(1)                  linear    a shared line, or equal turns on the air

    min tau  s.t.  a_n + u_n 8 / R_up(b_n) + d_n 8 / R_down(b_n) <= tau,   sum b_n = 1,   b_n > 0

Each left side falls in b_n, so at the optimum every device that sends anything finishes at tau: for a given tau each
b_n has one smallest value, and their sum falls in tau. Bisection on tau is exact. Up and down have a band of W each,
and a device has the same share of both. Bytes, seconds, Hz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.delay import Link, Quantity, air_s, s_per_bit
from cardlab.card.schemes.sft.kernels import Problems, Shares, Spectrum, air, least_share, solve_shares, ways
from cardlab.card.solvers.kernels import compiled
from cardlab.core.errors import PlanError

SPECTRA = ("power", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Links of M devices that share a band.

    Attributes:
        bandwidth_hz: of each direction.
        uplink_bps, downlink_bps: rates of a device alone on the band [M].
        spectrum: "power" or "linear".
    """

    bandwidth_hz: float
    uplink_bps: Array
    downlink_bps: Array
    spectrum: str = "power"

    def rate(self, alone_bps: Array, share: Array) -> Array:
        """Rates at these shares [M], bit/s."""
        if self.spectrum == "linear":
            return np.asarray(alone_bps * share)
        with np.errstate(over="ignore"):
            # R = W log2(1 + g) solved for g: only the rate alone on the band is known, not the SNR behind it.
            gain = np.expm1(np.log(2.0) * alone_bps / self.bandwidth_hz)
        return np.asarray(share * self.bandwidth_hz * np.log2(1.0 + gain / share))

    def slope(self, alone_bps: Array, share: Array) -> Array:
        """Derivative of the rate by the share [M]."""
        if self.spectrum == "linear":
            return np.asarray(alone_bps + 0.0 * share)
        gain = np.expm1(np.log(2.0) * alone_bps / self.bandwidth_hz)
        ratio = gain / share
        return np.asarray(self.bandwidth_hz * (np.log2(1.0 + ratio) - ratio / ((1.0 + ratio) * np.log(2.0))))

    def seconds(self, up_bytes: Array, down_bytes: Array, share: Array) -> Array:
        """Time on the air at these shares [M]."""
        return np.asarray(air_s(8.0 * up_bytes, 8.0 * down_bytes, self.link(share)))

    def link(self, share: Array, latency_s: Quantity = 0.0) -> Link:
        """Rates of all devices at these shares [M]; no share changes the latency."""
        up_bps, down_bps = self.rate(self.uplink_bps, share), self.rate(self.downlink_bps, share)
        return Link(uplink_bps=up_bps, downlink_bps=down_bps, latency_s=latency_s)

    def s_per_byte(self, share: Array) -> tuple[Array, Array]:
        """Seconds on the air of a byte up and of a byte down at these shares [M]."""
        link = self.link(share)
        return np.asarray(8.0 * s_per_bit(link.uplink_bps)), np.asarray(8.0 * s_per_bit(link.downlink_bps))

    def seconds_slope(self, up_bytes: Array, down_bytes: Array, share: Array) -> Array:
        """Derivative of `seconds` by the share [M], negative."""
        total = np.zeros_like(share)
        for size, alone in ((up_bytes, self.uplink_bps), (down_bytes, self.downlink_bps)):
            total -= 8.0 * size * self.slope(alone, share) / self.rate(alone, share) ** 2
        return total


def check_band(band: Band) -> None:
    """Raise PlanError for a band without width or a device without a rate."""
    if not band.bandwidth_hz > 0:
        raise PlanError(f"the bandwidth is {band.bandwidth_hz:g} Hz", remedy="give bandwidth_hz above 0")
    for name, rates in (("uplink", band.uplink_bps), ("downlink", band.downlink_bps)):
        if not bool((rates > 0).all()):
            raise PlanError(f"the {name} rate is {float(np.min(rates)):g} bit/s", remedy="give rates above 0")


def share_exactly(band: Band, fixed_s: Array, up_bytes: Array, down_bytes: Array) -> tuple[Array, Array]:
    """The least tau [...], seconds, and the shares [..., M] that give it; these add up to 1.

    Arguments [..., M]: leading axes are problems of their own. Newton steps are taken inside the bracket, so the
    answer is that of bisection.
    """
    check_band(band)
    wide = np.broadcast_arrays(fixed_s, band.uplink_bps, band.downlink_bps, up_bytes, down_bytes)
    shape = wide[0].shape
    fixed, uplink, downlink, up, down = (np.ascontiguousarray(a, dtype=float).reshape(-1, shape[-1]) for a in wide)
    problems = Problems(fixed_s=fixed, uplink_bps=uplink, downlink_bps=downlink, up_bytes=up, down_bytes=down)
    spectrum = Spectrum(width_hz=float(band.bandwidth_hz), linear=band.spectrum == "linear")
    found = Shares(tau_s=np.empty(fixed.shape[0]), share=np.empty(fixed.shape))
    compiled(solve_shares, least_share, ways, air)(spectrum, problems, found)
    return found.tau_s.reshape(shape[:-1]), found.share.reshape(shape)


def prices(band: Band, up_bytes: Array, down_bytes: Array, share: Array) -> Array:
    """How tau follows each device's fixed time at the optimum [M]; they add up to 1 (envelope theorem)."""
    slope = -band.seconds_slope(up_bytes, down_bytes, share)
    inverse = np.where(slope > 0, 1.0 / np.where(slope > 0, slope, 1.0), 0.0)
    total = float(inverse.sum())
    return np.asarray(inverse / total) if total > 0 else np.full(share.shape, 1.0 / share.size)

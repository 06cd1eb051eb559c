"""The small timescale: bandwidth shares of one round by sequential quadratic programming (scipy's SLSQP).

    variables   tau and ln b_n, scaled by the delay at equal shares
    min tau     s.t.  tau - a_n - t_n(b_n) >= 0,   1 - sum b_n >= 0

In ln b the times are near to exponentials and their ranges alike, which SLSQP's line search needs. The answer is
made feasible to the last bit: shares are scaled to fill the band and tau is the slowest device's time.
"""

from __future__ import annotations

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.schemes.sft.spectrum import Band, check_band


def share_by_sqp(
    band: Band, fixed_s: Array, up_bytes: Array, down_bytes: Array, start: Array | None = None
) -> tuple[float, Array]:
    """Delay of the slowest device, seconds, and shares [M] that add up to 1.

    `start`: shares to begin from, equal ones by default (the ones of the round before are a good start).
    """
    from scipy.optimize import minimize

    check_band(band)
    count = fixed_s.size
    begin = np.full(count, 1.0 / count) if start is None else np.maximum(start, 1e-6)
    if not bool((up_bytes + down_bytes > 0).any()) or count == 1:
        return _feasible(band, fixed_s, up_bytes, down_bytes, begin)
    scale = float((fixed_s + band.seconds(up_bytes, down_bytes, begin)).max())

    def room(x: Array) -> Array:
        share = np.exp(x[1:])
        times = fixed_s + band.seconds(up_bytes, down_bytes, share)
        return np.concatenate([x[0] - times / scale, [1.0 - share.sum()]])

    def room_slope(x: Array) -> Array:
        share = np.exp(x[1:])
        slope = np.zeros((count + 1, count + 1))
        slope[:count, 0] = 1.0
        slope[range(count), range(1, count + 1)] = -band.seconds_slope(up_bytes, down_bytes, share) * share / scale
        slope[count, 1:] = -share
        return slope

    target = np.eye(count + 1)[0]
    found = minimize(
        lambda x: x[0],
        np.concatenate([[1.0], np.log(begin)]),
        jac=lambda _x: target,
        method="SLSQP",
        constraints=[{"type": "ineq", "fun": room, "jac": room_slope}],
        # A share of zero has no rate; this least one is far below any that is worth having.
        bounds=[(0.0, None), *[(np.log(1e-9), 0.0)] * count],
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return _feasible(band, fixed_s, up_bytes, down_bytes, np.exp(found.x[1:]))


def _feasible(band: Band, fixed_s: Array, up: Array, down: Array, share: Array) -> tuple[float, Array]:
    # SLSQP keeps constraints to its tolerance only, and a band given away twice is no plan.
    whole = np.asarray(share / share.sum())
    return float((fixed_s + band.seconds(up, down, whole)).max()), whole

"""Predictions for a task that was not measured, from one that was: the same device, other FLOPs.

    t_new(f) = t_measured(f) x flop_new / flop_measured        per segment and phase

This holds where the work is bound by arithmetic. Kernels go in steps with their shapes and small works are bound
by launches, so the result carries how = transferred and a misfit of its own that grows with the ratio:
10 % for a factor of 2 either way (Vidur's per-operator latencies scatter 3-14 % about a line in the tokens).
"""

from __future__ import annotations

import math
from dataclasses import replace

from cardlab.core.errors import BadDataError
from cardlab.core.identity import new_uid
from cardlab.core.quantity import How
from cardlab.core.records.fit import Fit, ParameterEstimate

MISFIT_PER_DOUBLING = 0.10


def transferred(fit: Fit, *, task: str, flop_ratio: float) -> Fit:
    """A latency fit of a measured task as a prediction for another one.

    Args:
        fit: latency of one segment and phase; all its parameters are in seconds or cycles, so they scale.
        task: uid of the task it is to predict.
        flop_ratio: FLOPs of that segment and phase in the new task over those in the measured one.

    Raises BadDataError if the fit is no latency or the ratio is not positive.
    """
    if fit.quantity != "latency":
        raise BadDataError(f"a {fit.quantity} does not scale with FLOPs", remedy="transfer latencies only")
    if not (math.isfinite(flop_ratio) and flop_ratio > 0):
        raise BadDataError(f"the ratio of FLOPs is {flop_ratio:g}", remedy="give a positive ratio")
    added = MISFIT_PER_DOUBLING * abs(math.log2(flop_ratio))
    return replace(
        fit,
        fit_id=new_uid(),
        task=task,
        selected=True,
        parameters={name: _scaled(p, flop_ratio) for name, p in fit.parameters.items()},
        covariance=None
        if fit.covariance is None
        else tuple(tuple(v * flop_ratio**2 for v in row) for row in fit.covariance),
        misfit=math.hypot(fit.misfit or 0.0, added),
        interval_factor=fit.interval_factor or 1.96,
        provenance=fit.provenance.joined([], How.TRANSFERRED),
        warnings=(*fit.warnings, f"transferred from another task by FLOPs, x {flop_ratio:.3g}"),
        packed_draws=(fit.draws * flop_ratio).astype("<f8").tobytes() if fit.packed_draws else b"",
    )


def _scaled(p: ParameterEstimate, factor: float) -> ParameterEstimate:
    ci95 = None if p.ci95 is None else (p.ci95[0] * factor, p.ci95[1] * factor)
    stderr = None if p.stderr is None else p.stderr * factor
    return replace(p, value=p.value * factor, stderr=stderr, ci95=ci95)

"""The fit of something measured at one frequency that cannot be chosen or read: a constant, no more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cardlab.calibrate.uncertainty import t_factor
from cardlab.core.identity import content_hash, new_uid
from cardlab.core.records.fit import UNITS, Axis, Fit, FitSubject, ParameterEstimate

DRAWS = 200


def constant_fit(values: Sequence[tuple[float, float | None]], subject: FitSubject) -> Fit:
    """The mean of values [(value, stderr)], weighted where all errors are known, as a `constant` fit.

    Its range is unknown (the frequency was), so every prediction holds only for the frequency as it was found.
    With several values the scatter between them counts where it exceeds their own errors.
    """
    y = np.array([v for v, _ in values])
    known = [e for _, e in values if e is not None and e > 0]
    weights = 1.0 / np.array(known) ** 2 if len(known) == y.size else np.ones(y.size)
    mean = float(np.average(y, weights=weights))
    within = float(1.0 / math.sqrt(weights.sum())) if len(known) == y.size else None
    between = float(y.std(ddof=1) / math.sqrt(y.size)) if y.size > 1 else None
    errors = [e for e in (within, between) if e is not None]
    stderr = max(errors) if errors else None
    factor = t_factor(y.size - 1) if y.size > 1 else 1.96
    half = None if stderr is None else factor * stderr
    data_hash = content_hash([list(pair) for pair in values])
    seed = int(data_hash[:12], 16)
    sampled = None if stderr is None else np.random.default_rng(seed).normal(mean, stderr, (DRAWS, 1))
    return Fit(
        device=subject.device,
        device_name=subject.device_name,
        task=subject.task,
        workload=subject.workload,
        execution=subject.execution,
        quantity=subject.quantity,
        segment=subject.segment,
        phase=subject.phase,
        rail=subject.rail,
        power_mode=subject.power_mode,
        memory_hz=subject.memory_hz,
        provenance=subject.provenance,
        meter_systematic=subject.meter_systematic,
        fit_id=new_uid(),
        law="constant",
        n_points=y.size,
        x=Axis(min=None, max=None),
        parameters={
            ("stall" if subject.quantity == "latency" else "static_power"): ParameterEstimate(
                value=mean,
                stderr=stderr,
                ci95=None if half is None else (mean - half, mean + half),
                unit=UNITS[subject.quantity],
            )
        },
        covariance=None if stderr is None else ((stderr**2,),),
        degrees_of_freedom=y.size - 1,
        interval_factor=None if stderr is None else factor,
        mape=float(np.mean(np.abs(y / mean - 1.0))),
        data_hash=data_hash,
        warnings=("the frequency could not be read: holds only for the frequency as it was found",),
        packed_draws=b"" if sampled is None else sampled.astype("<f8").tobytes(),
    )

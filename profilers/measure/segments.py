"""Timing the segments of a task one after the other, and the small works beside them.

A budget is shared: the layer gets most, since its time counts L times in every prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cardlab.core.quantity import MEASURED, Provenance
from cardlab.profilers.board.timer import Clock
from cardlab.profilers.measure.timing import ProgressCallback, TimingPolicy, WorkTiming, measure
from cardlab.profilers.runtime.timers import Stopwatch
from cardlab.profilers.runtime.workbench import Workbench

BUDGET_SHARES = {"embedding": 0.05, "first_layer": 0.25, "layer": 0.35, "head": 0.25}
EXTRA_SHARE = 0.03
EXTRA_SAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingTools:
    """What every timing of a session shares.

    Attributes:
        stopwatch, clock: of the platform.
        policy: when to stop; its budget_s is for all segments together.
        on_progress: called after every sample.
        provenance: of the estimates.
    """

    stopwatch: Stopwatch
    clock: Clock
    policy: TimingPolicy
    on_progress: ProgressCallback | None = None
    provenance: Provenance = MEASURED


def time_segments(
    bench: Workbench, tools: TimingTools, *, skip: frozenset[str] = frozenset(), extras: bool = True
) -> Iterator[WorkTiming]:
    """The timing of each segment as it is finished, then of optimizer step, copies and loading a layer.

    Args:
        skip: segments and works that were measured before.
        extras: also the works beside the segments.

    Raises OutOfMemoryError when a segment does not fit; what was yielded before stays valid.
    """
    pending = [segment for segment in bench.segments if segment not in skip]
    reference = bench.reference() if pending else None
    for segment in pending:
        policy = share(tools.policy, BUDGET_SHARES.get(segment, 1.0))
        with bench.segment(segment) as work:
            timing = measure(
                work,
                tools.stopwatch,
                reference=reference,
                policy=policy,
                clock=tools.clock,
                on_progress=tools.on_progress,
                provenance=tools.provenance,
            )
        yield timing
    if not extras:
        return
    brief = replace(share(tools.policy, EXTRA_SHARE), max_samples=EXTRA_SAMPLES)
    for work in bench.extras():
        if work.segment not in skip:
            yield measure(
                work,
                tools.stopwatch,
                policy=brief,
                clock=tools.clock,
                on_progress=tools.on_progress,
                provenance=tools.provenance,
            )


def share(policy: TimingPolicy, part: float) -> TimingPolicy:
    """The policy with a part of its budget."""
    return policy if policy.budget_s is None else replace(policy, budget_s=policy.budget_s * part)

"""Timing the segments of a task one after the other, and the small works beside them.

A budget is shared: the layer gets most, since its time counts L times in every prediction.
"""

from __future__ import annotations

from collections.abc import Iterator

from cardlab.core.records.workload import EMBEDDING, FIRST_LAYER, HEAD, LAYER, is_layer
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.measure.samples import WorkTiming
from cardlab.profilers.measure.timing import TimingTools, time_work
from cardlab.profilers.runtime.workbench import Workbench

BUDGET_SHARES = {EMBEDDING: 0.05, FIRST_LAYER: 0.25, LAYER: 0.35, HEAD: 0.25}
# There are three works beside the segments: all shares together make 0.99.
EXTRA_SHARE = 0.03
EXTRA_SAMPLES = 10


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
    kinds = sum(is_layer(segment) for segment in bench.segments)
    for segment in pending:
        policy = share(tools.policy, budget_share(segment, kinds))
        with bench.segment(segment) as work:
            timing = time_work(work, tools, reference=reference, policy=policy)
        yield timing
    if not extras:
        return
    brief = share(tools.policy, EXTRA_SHARE)._replace(max_samples=EXTRA_SAMPLES)
    for work in bench.extras():
        if work.segment not in skip:
            yield time_work(work, tools, policy=brief)


def budget_share(segment: str, kinds: int) -> float:
    """Part of the budget for a segment of a model with so many kinds of layers, which share what layers get."""
    return BUDGET_SHARES[LAYER] / kinds if is_layer(segment) else BUDGET_SHARES.get(segment, 1.0)


def share(policy: TimingPolicy, part: float) -> TimingPolicy:
    """The policy with a part of its budget."""
    return policy if policy.budget_s is None else policy._replace(budget_s=policy.budget_s * part)

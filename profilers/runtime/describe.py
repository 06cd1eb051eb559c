"""Works that say how much they are without being able to run: for devices that only simulate.

The same sizes are put on the real works (segments.py), so that a simulated and a real device are asked for
the same thing. Nothing here needs torch.
"""

from __future__ import annotations

from cardlab.core.records.task import Task
from cardlab.core.records.workload import SEGMENTS, Analysis, SegmentCost
from cardlab.profilers.board.segments import EQUIVALENT_STEP, chain_length
from cardlab.profilers.board.work import Lap, Work


def describe_segment(analysis: Analysis, segment: str, repeats: int = 1) -> Work:
    """One segment as a Work with sizes and no code; the embedding has no backward lap."""
    cost = analysis.segment(segment)
    forward = Lap(
        phase="forward",
        run=None,
        flop=repeats * cost.forward_flop,
        traffic_bytes=float(repeats * cost.traffic_bytes),
    )
    if cost.backward_flop == 0.0:
        return Work(segment=segment, laps=(forward,), repeats=repeats)
    return Work(segment=segment, laps=(forward, _backward(cost, repeats)), repeats=repeats)


def _backward(cost: SegmentCost, repeats: int) -> Lap:
    """Reads weights and what was saved, and moves one gradient in and one out."""
    return Lap(
        phase="backward",
        run=None,
        flop=repeats * cost.backward_flop,
        traffic_bytes=float(repeats * (cost.traffic_bytes + cost.saved_bytes)),
    )


def describe_works(task: Task, analysis: Analysis) -> tuple[Work, ...]:
    """The works a profile times, in the order of SEGMENTS."""
    chain = chain_length(task.architecture.layers)
    repeats = {"embedding": 1, "first_layer": chain, "layer": chain, "head": 1}
    return tuple(describe_segment(analysis, segment, repeats[segment]) for segment in SEGMENTS)


def describe_equivalent_step(task: Task, analysis: Analysis) -> Work:
    """L x layer + head, forward and backward, as one lap "step": what power is measured on."""
    layer, head = analysis.segment("layer"), analysis.segment("head")
    layers = task.architecture.layers
    flop = layers * (layer.forward_flop + layer.backward_flop) + head.forward_flop + head.backward_flop
    traffic_bytes = layers * _both_bytes(layer) + _both_bytes(head)
    lap = Lap(phase="step", run=None, flop=flop, traffic_bytes=float(traffic_bytes))
    return Work(segment=EQUIVALENT_STEP, laps=(lap,))


def _both_bytes(cost: SegmentCost) -> int:
    return 2 * cost.traffic_bytes + cost.saved_bytes

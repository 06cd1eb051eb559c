"""Works that say how much they are without being able to run: for devices that only simulate.

The same sizes are put on the real works (segments.py), so that a simulated and a real device are asked for
the same thing. Nothing here needs torch.
"""

from __future__ import annotations

from collections import Counter

from cardlab.core.records.task import Architecture, Task
from cardlab.core.records.workload import FIRST_LAYER, HEAD, Analysis, SegmentCost, is_layer
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
    """The works a profile times, in data order."""
    return tuple(
        describe_segment(analysis, segment, repeats(task.architecture, segment))
        for segment in task.architecture.segments
    )


def repeats(architecture: Architecture, segment: str) -> int:
    """Occurrences of a segment in one timed lap: several layers are chained, or first layers run side by side."""
    # A chain of a kind that occurs once is that one layer several times.
    return chain_length(architecture.layers) if segment == FIRST_LAYER or is_layer(segment) else 1


def describe_equivalent_step(task: Task, analysis: Analysis) -> Work:
    """L x layer + head, forward and backward, as one lap "step": what power is measured on."""
    head = analysis.segment(HEAD)
    layers = [(layer_cost(analysis, name), count) for name, count in layer_counts(task.architecture).items()]
    flop = sum(n * (s.forward_flop + s.backward_flop) for s, n in layers) + head.forward_flop + head.backward_flop
    traffic_bytes = sum(n * _both_bytes(s) for s, n in layers) + _both_bytes(head)
    lap = Lap(phase="step", run=None, flop=flop, traffic_bytes=float(traffic_bytes))
    return Work(segment=EQUIVALENT_STEP, laps=(lap,))


def layer_counts(architecture: Architecture) -> dict[str, int]:
    """How many of all layers are of each segment, the first layer counted as one of its kind."""
    return dict(Counter(architecture.layer_segments))


def layer_cost(analysis: Analysis, segment: str) -> SegmentCost:
    """The cost of a kind of layers; of one that only the first layer is of, the first layer's."""
    known = {cost.segment for cost in analysis.segments}
    return analysis.segment(segment if segment in known else FIRST_LAYER)


def _both_bytes(cost: SegmentCost) -> int:
    return 2 * cost.traffic_bytes + cost.saved_bytes

"""What a task costs before anything is timed: FLOPs, bytes and memory per segment and per cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.core.identity import since

FORWARD, BACKWARD = "forward", "backward"
PHASES = (FORWARD, BACKWARD)
EMBEDDING, FIRST_LAYER, LAYER, HEAD = "embedding", "first_layer", "layer", "head"


def is_segment(name: str | None) -> bool:
    """Whether a piece of work is a segment of a model, and not something beside it (optimizer, copies)."""
    return name in (EMBEDDING, FIRST_LAYER, HEAD) or is_layer(name)


def layer_segment(kind: str | None) -> str:
    """The segment of the layers of one kind beyond the first layer; kind None where all layers are alike."""
    return LAYER if kind is None else f"{LAYER}:{kind}"


def is_layer(segment: str | None) -> bool:
    """Whether a segment is of layers beyond the first, of whatever kind."""
    return segment is not None and (segment == LAYER or segment.startswith(f"{LAYER}:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopCount:
    """FLOPs (2 x MAC) of one segment by one method; a phase the method cannot count is None."""

    forward_flop: float | None
    backward_flop: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCost:
    """Static cost of one segment of the model for one mini-batch.

    Attributes:
        segment: "embedding", "first_layer" (whose input needs no gradient), "layer" (or one "layer:KIND" for each kind
            where layers are of several), "head".
        count: how often it occurs in the whole model.
        forward_flop, backward_flop: FLOPs of one occurrence (torch's counter on the meta device).
        flop_by_method: the same by each method: "torch", "fvcore" (forward), "formula".
        parameters, trainable_parameters: of one occurrence; a tied head counts its weight although
            the embedding holds the same one.
        weight_bytes: frozen weights as they are held: at the compute dtype, or quantised.
        held_bytes: of these what is in memory on a device's side, None for all: a large embedding is read from its
            file row by row.
        adapter_bytes: LoRA weights at the adapter dtype.
        saved_bytes: activations kept between forward and backward, parameters excluded.
        peak_bytes: transient memory of the backward pass beyond weights and saved activations.
        traffic_bytes: least bytes that one forward pass moves: weights (of experts those that its tokens are expected
            to be sent to), input and output.
        experts: routed experts of the segment, whose weights are all counted; None where it has none, or where how many
            are active cannot be told.
        active_experts: of these how many a token is sent to, whose FLOPs are counted; None as `experts`.
    """

    segment: str
    count: int
    forward_flop: float
    backward_flop: float
    flop_by_method: Mapping[str, FlopCount] = field(default_factory=dict)
    parameters: int = 0
    trainable_parameters: int = 0
    weight_bytes: int = 0
    adapter_bytes: int = 0
    saved_bytes: int = 0
    peak_bytes: int = 0
    traffic_bytes: int = 0
    held_bytes: int | None = since("0.2", None, said=False)
    experts: int | None = since("0.2", None, said=False)
    active_experts: int | None = since("0.2", None, said=False)

    @property
    def resident_bytes(self) -> int:
        """Frozen weights in memory on the side that runs the segment."""
        return self.weight_bytes if self.held_bytes is None else self.held_bytes

    @property
    def phases(self) -> tuple[str, ...]:
        """Phases in which it works: nothing trainable lies before the embedding, so no backward."""
        return ("forward",) if self.segment == EMBEDDING else PHASES


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCost:
    """Cost of both sides when layers 1..cut run on the device, for one mini-batch.

    Attributes:
        cut: last layer on the device, 1..L-1.
        device_flop, server_flop: forward + backward.
        activation_bytes, gradient_bytes: smashed data and its gradient at the compute dtype.
        adapter_bytes: LoRA weights of the device's layers.
        device_memory_bytes, server_memory_bytes: predicted peak of each side, framework included;
            None where it was not computed.
    """

    cut: int
    device_flop: float
    server_flop: float
    activation_bytes: int
    gradient_bytes: int
    adapter_bytes: int
    device_memory_bytes: int | None = None
    server_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Everything about a task that needs no frequency.

    Attributes:
        parameters: of the whole model without adapters, tied weights once.
        trainable_parameters: LoRA parameters of the whole model.
        segments: in data order: embedding, first layer, the kinds of layers, head.
        cuts: for cut = 1..L-1.
        flop_disagreements: lines naming segment, methods and their relative difference where two
            methods differ by more than 0.1 %; empty when all agree.
    """

    parameters: int
    trainable_parameters: int
    segments: tuple[SegmentCost, ...]
    cuts: tuple[CutCost, ...]
    flop_disagreements: tuple[str, ...] = ()

    def segment(self, name: str) -> SegmentCost:
        """The segment of that name; KeyError if the model has none."""
        for segment in self.segments:
            if segment.segment == name:
                return segment
        raise KeyError(name)

    def cut(self, number: int) -> CutCost:
        """The cost of that cut; KeyError if the model cannot be cut there."""
        for cut in self.cuts:
            if cut.cut == number:
                return cut
        raise KeyError(number)

    @property
    def forward_flop(self) -> float:
        """Forward FLOPs of the whole model."""
        return sum(s.count * s.forward_flop for s in self.segments)

    @property
    def backward_flop(self) -> float:
        """LoRA backward FLOPs of the whole model."""
        return sum(s.count * s.backward_flop for s in self.segments)

"""analyse: what a task costs before anything is timed. Everything here happens on the meta device."""

from __future__ import annotations

from dataclasses import replace

from cardlab.core.records.task import DTYPE_BYTES, Execution, Task
from cardlab.core.records.workload import EMBEDDING, HEAD, Analysis, SegmentCost
from cardlab.profilers.runtime.budget import CPU_ALLOCATOR_SLACK, cut_costs
from cardlab.profilers.runtime.build import BuiltModel, build_meta, check_kinds
from cardlab.profilers.runtime.flops import count_flop, disagreements
from cardlab.profilers.runtime.kept import weight_bytes
from cardlab.profilers.runtime.pieces import Piece, meta_pieces
from cardlab.profilers.runtime.routing import routing_of
from cardlab.profilers.runtime.rows import reads_rows
from cardlab.profilers.runtime.tracking import piece_memory

# Resident memory of an interpreter with torch, transformers and PEFT that has computed once; measured
# with torch 2.13 and transformers 5.23. `overhead.measure_overhead` says what it is here.
DEFAULT_OVERHEAD_BYTES = 412 * 2**20


def analyse(
    task: Task,
    execution: Execution,
    *,
    overhead_bytes: int = DEFAULT_OVERHEAD_BYTES,
    server_overhead_bytes: int | None = None,
) -> Analysis:
    """FLOPs by three methods, bytes and memory of every segment and cut of a task.

    Args:
        overhead_bytes: resident memory of the device's process before any weight is there (context
            and framework); `measure_overhead` measures it.
        server_overhead_bytes: the same for the server, by default as the device's.

    Raises ProfileError when layers of one kind differ in structure.
    """
    return analyse_built(
        build_meta(task, execution),
        overhead_bytes=overhead_bytes,
        server_overhead_bytes=overhead_bytes if server_overhead_bytes is None else server_overhead_bytes,
    )


def analyse_built(built: BuiltModel, *, overhead_bytes: int, server_overhead_bytes: int) -> Analysis:
    """As `analyse`, of a model that was built already."""
    task = built.task
    check_kinds(built)
    segments = task.architecture.layer_segments
    costs: list[SegmentCost] = []
    lines: list[str] = []
    for piece in meta_pieces(built):
        cost = _segment_cost(built, piece, segments[1:].count(piece.segment) or 1)
        costs.append(cost)
        lines.extend(disagreements(piece.segment, cost.flop_by_method))
    unique = {id(p): p for p in built.model.parameters()}.values()
    return Analysis(
        parameters=sum(p.numel() for p in unique if not p.requires_grad),
        trainable_parameters=sum(p.numel() for p in unique if p.requires_grad),
        segments=tuple(costs),
        cuts=cut_costs(
            task,
            costs,
            activation_bytes=hidden_bytes(task, built.execution),
            device_overhead_bytes=overhead_bytes,
            server_overhead_bytes=server_overhead_bytes,
            # On a GPU torch's own allocator packs its blocks; the heap of a CPU process does not.
            slack=CPU_ALLOCATOR_SLACK if built.execution.accelerator is None else 0.0,
        ),
        flop_disagreements=tuple(lines),
    )


def hidden_bytes(task: Task, execution: Execution) -> int:
    """Bytes of one hidden state [B, S, h] at the compute dtype."""
    return task.tokens * task.architecture.hidden_size * DTYPE_BYTES[execution.dtype]


def _segment_cost(built: BuiltModel, piece: Piece, count: int) -> SegmentCost:
    counts = count_flop(built, piece)
    memory = piece_memory(piece)
    parameters = [p for module in piece.modules for p in module.parameters()]
    frozen = [p for p in parameters if not p.requires_grad]
    trainable = [p for p in parameters if p.requires_grad]
    cost = SegmentCost(
        segment=piece.segment,
        count=count,
        forward_flop=counts["torch"].forward_flop or 0.0,
        backward_flop=counts["torch"].backward_flop or 0.0,
        flop_by_method=counts,
        parameters=sum(p.numel() for p in frozen),
        trainable_parameters=sum(p.numel() for p in trainable),
        weight_bytes=sum(weight_bytes(module) for module in piece.modules),
        adapter_bytes=sum(p.numel() * p.element_size() for p in trainable),
        saved_bytes=memory.saved_bytes,
        peak_bytes=max(memory.backward_peak_bytes, memory.forward_peak_bytes - memory.saved_bytes),
    )
    by_rows = cost.segment == EMBEDDING and reads_rows(cost.weight_bytes, built.execution)
    cost = replace(cost, traffic_bytes=_traffic_bytes(built, cost), held_bytes=_held_bytes(built) if by_rows else None)
    routing = routing_of(built, piece)
    if routing is None:
        return cost
    return replace(
        cost,
        traffic_bytes=cost.traffic_bytes - routing.unread_bytes(built.task.tokens),
        experts=routing.experts,
        active_experts=routing.active_experts,
    )


def _held_bytes(built: BuiltModel) -> int:
    """Weights of the embedding that are in memory where its rows are read from a file: positions that are learned."""
    return sum(weight_bytes(built.part(path)) for path in built.family.embedding_paths[1:])


def _traffic_bytes(built: BuiltModel, cost: SegmentCost) -> int:
    """Weights read once, a hidden state in and one out; the head writes logits instead."""
    hidden = hidden_bytes(built.task, built.execution)
    itemsize = DTYPE_BYTES[built.execution.dtype]
    # Rows are looked up: the table is not read through.
    if cost.segment == EMBEDDING:
        return 2 * hidden
    if cost.segment == HEAD:
        logits = built.task.tokens * built.task.architecture.vocab_size * itemsize
        return cost.weight_bytes + hidden + logits
    return cost.weight_bytes + cost.adapter_bytes + 2 * hidden

"""FLOPs per segment by three independent methods on the meta device; FLOP = 2 x MAC.

* "torch": `torch.utils.flop_counter` over a real forward and backward pass. It sees that frozen weights need no
  gradient, so it is the only counter that gets a LoRA backward right. On the meta device scaled-dot-product
  attention decomposes into products, so the count does not depend on the kernel of the machine.
* "fvcore": traces the forward pass and counts MACs; attention needs a handle, else it is silently zero.
* "formula": the closed form (formula.py), of the families that have one.

A disagreement above 0.1 % is reported with the record and never averaged away.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

from cardlab.core.records.task import Execution, Task
from cardlab.core.records.workload import FlopCount
from cardlab.profilers.runtime.build import BuiltModel, build_meta
from cardlab.profilers.runtime.formula import segment_flop
from cardlab.profilers.runtime.metakernels import grouped_products, meta_buffers
from cardlab.profilers.runtime.pieces import Piece, meta_pieces

TOLERANCE = 1e-3


def torch_flop(piece: Piece) -> FlopCount:
    """Forward and backward FLOPs of a piece by torch's counter."""
    inputs = piece.make_inputs("meta")
    with FlopCounterMode(display=False) as forward_counter:
        output = piece.forward(*inputs)
    backward_flop = 0.0
    if output.requires_grad:
        with FlopCounterMode(display=False) as backward_counter:
            output.backward(gradient=torch.ones_like(output))
        backward_flop = float(backward_counter.get_total_flops())
    return FlopCount(forward_flop=float(forward_counter.get_total_flops()), backward_flop=backward_flop)


def fvcore_flop(piece: Piece) -> FlopCount | None:
    """Forward FLOPs of a piece by fvcore, None when it is not installed or cannot trace the piece."""
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError:
        return None
    inputs = piece.make_inputs("meta")
    # It warns of each operator that it does not know; those that matter have handles below.
    for logger in ("fvcore.nn.jit_analysis", "fvcore"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    counter = FlopCountAnalysis(_as_module(piece), inputs)
    counter.set_op_handle("aten::scaled_dot_product_attention", attention_mac)
    counter.set_op_handle("aten::layer_norm", _elementwise)
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    try:
        return FlopCount(forward_flop=2.0 * counter.total(), backward_flop=None)
    except (RuntimeError, TypeError, ValueError):
        # Some layers (linear attention) cannot be traced: one count less.
        return None


def attention_mac(inputs: list[torch.Value], outputs: list[torch.Value]) -> float:
    """MACs of dense attention for fvcore's tracer: queries [B, n, S, d] against keys [B, k, S', d]."""
    batch, heads, queries, width = inputs[0].type().sizes()
    keys = inputs[1].type().sizes()[2]
    return float(2 * batch * heads * queries * keys * width)


def _elementwise(inputs: list[torch.Value], outputs: list[torch.Value]) -> float:
    """Norms are left out of every count; fvcore would count these."""
    return 0.0


def _as_module(piece: Piece) -> torch.nn.Module:
    class Traced(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(piece.modules)

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return piece.forward(*inputs)

    return Traced()


def count_flop(built: BuiltModel, piece: Piece) -> Mapping[str, FlopCount]:
    """FLOPs of a piece by each method that is there: "torch", "fvcore", "formula"."""
    with grouped_products(), meta_buffers(piece.modules):
        # A trace sees a quantised product as one step of its own, and counts nothing of it.
        counted, traced = torch_flop(piece), fvcore_flop(piece) if built.execution.quantization is None else None
    counts = {
        "torch": counted,
        "formula": segment_flop(built.task, piece.segment),
        "fvcore": traced,
    }
    return {method: count for method, count in counts.items() if count is not None}


def flop_of(task: Task, segment: str) -> FlopCount | None:
    """FLOPs of a segment, by the closed form where there is one; None where the task has no such segment."""
    if segment not in task.architecture.segments:
        return None
    closed = segment_flop(task, segment)
    if closed is not None:
        return closed
    pieces = meta_pieces(build_meta(task, Execution(dtype="float32")))
    piece = next(piece for piece in pieces if piece.segment == segment)
    with grouped_products(), meta_buffers(piece.modules):
        return torch_flop(piece)


def disagreements(segment: str, counts: Mapping[str, FlopCount]) -> tuple[str, ...]:
    """One line per method and phase that differs from torch's count by more than 0.1 %."""
    lines = []
    for method, count in counts.items():
        for phase in ("forward", "backward"):
            reference, value = (getattr(c, f"{phase}_flop") for c in (counts["torch"], count))
            if value is not None and abs(value - reference) > TOLERANCE * max(value, reference):
                error = (value - reference) / max(value, reference)
                lines.append(f"{segment} {phase}: {method} differs from torch by {error:+.2%}")
    return tuple(lines)

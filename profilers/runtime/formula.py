"""Closed FLOP count of one segment, forward and LoRA backward; FLOP = 2 x MAC.

Each linear map with a inputs and b outputs costs 2 T a b forward and, its weight being frozen, 2 T a b
backward for the gradient of its input, *if that input needs one*. A LoRA pair of rank r adds 2 T r (a + b)
forward; backward it costs as much for its two weights, and again 2 T r b for the gradient between the two
maps and 2 T a r for the input's, if needed. Attention is counted dense: scores and values 2 B n S^2 d each;
backward one such unit for each gradient needed among scores, values, queries and keys.

Whether an input needs a gradient is followed through the layer, so the first layer (whose input needs
none) comes out right for any set of LoRA targets. Norms, rotary positions, activations and residuals
are left out: 0.1 % of a layer.

With checkpointing the backward pass recomputes the layer; non-reentrant checkpointing stops as soon as
everything saved is there again, so the map at the very end is not computed a second time.

T = batch x sequence, B batch, S sequence, n heads, d head width, h hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.records.task import Lora, Task
from cardlab.core.records.workload import EMBEDDING, FIRST_LAYER, HEAD, FlopCount
from cardlab.profilers.runtime.families import LayerPlan, Projection, family_named
from cardlab.profilers.runtime.families.base import whole


@dataclass(slots=True)
class _Tally:
    """Running sums for one layer of `tokens` tokens."""

    tokens: int
    lora: Lora
    forward_flop: float = 0.0
    backward_flop: float = 0.0

    def adapted(self, projection: Projection) -> bool:
        return self.lora.adapts(projection.path)

    def linear(self, projection: Projection, input_grad: bool) -> bool:
        """Count one linear map; returns whether its output needs a gradient."""
        a, b, r = projection.inputs, projection.outputs, self.lora.rank_of(projection.path)
        unit = 2.0 * self.tokens
        self.forward_flop += unit * a * b
        self.backward_flop += unit * a * b if input_grad else 0.0
        if not self.adapted(projection):
            return input_grad
        self.forward_flop += unit * r * (a + b)
        self.backward_flop += unit * r * (a + 2 * b)
        self.backward_flop += unit * a * r if input_grad else 0.0
        return True

    def attention(self, unit: float, query: bool, key: bool, value: bool) -> bool:
        """Count dense attention whose two products cost `unit` each; as `linear`."""
        self.forward_flop += 2 * unit
        scores = query or key
        self.backward_flop += unit * sum((scores, value, query, key))
        return scores or value


def layer_flop(task: Task, plan: LayerPlan, *, input_grad: bool) -> FlopCount:
    """FLOPs of one decoder layer for one mini-batch; `input_grad` is False for the first layer."""
    a = task.architecture
    tally = _Tally(task.tokens, task.lora)
    needs = {"q": False, "k": False, "v": False}
    for projection in plan.attention_in:
        grad = tally.linear(projection, input_grad)
        needs |= dict.fromkeys(projection.roles, grad)
    unit = 2.0 * task.batch * whole(a.heads) * task.sequence**2 * whole(a.head_dim)
    attended = tally.attention(unit, needs["q"], needs["k"], needs["v"])
    hidden = tally.linear(plan.attention_out, attended) or input_grad
    inner = [tally.linear(projection, hidden) for projection in plan.mlp_in]
    tally.linear(plan.mlp_out, any(inner))
    backward_flop = tally.backward_flop
    if task.gradient_checkpointing:
        backward_flop += tally.forward_flop - _not_recomputed(tally, plan)
    return FlopCount(forward_flop=tally.forward_flop, backward_flop=backward_flop)


def _not_recomputed(tally: _Tally, plan: LayerPlan) -> float:
    """Forward FLOPs of the map that ends the layer: its LoRA's second one if it has LoRA."""
    last = plan.mlp_out
    inputs = tally.lora.rank_of(last.path) if tally.adapted(last) else last.inputs
    return 2.0 * tally.tokens * inputs * last.outputs


def head_flop(task: Task) -> FlopCount:
    """FLOPs of the LM head, 2 T h V each way; norm and loss are not matrix products."""
    a = task.architecture
    flop = 2.0 * task.tokens * a.hidden_size * a.vocab_size
    return FlopCount(forward_flop=flop, backward_flop=flop)


def segment_flop(task: Task, segment: str) -> FlopCount | None:
    """FLOPs of a segment by its name (none of an embedding, a lookup); None of a family without closed form."""
    plan = family_named(task.architecture.family).plan(task.architecture)
    if plan is None:
        return None
    if segment == EMBEDDING:
        return FlopCount(forward_flop=0.0, backward_flop=0.0)
    if segment == HEAD:
        return head_flop(task)
    if task.lora.dora:
        # What its magnitudes cost is not written down here; the other methods count it.
        return None
    return layer_flop(task, plan, input_grad=segment != FIRST_LAYER)

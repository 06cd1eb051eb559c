"""Which share of its routed experts a layer computes with: read from the products that it runs, not from names of keys.

A router sends each of T tokens to k of E experts. All rows for all experts then meet their matrices in one grouped
product of T k rows with E matrices, so both numbers are seen where the layer runs on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cardlab.profilers.runtime.build import BuiltModel
from cardlab.profilers.runtime.metakernels import grouped_products, meta_buffers
from cardlab.profilers.runtime.pieces import Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The routed experts of a layer.

    Attributes:
        experts: E, how many there are.
        active_experts: k, how many a token is sent to.
        expert_bytes: weights of all of them as they are held.
    """

    experts: int
    active_experts: int
    expert_bytes: int

    def unread_bytes(self, tokens: int) -> int:
        """Weights of the experts that no token of a forward pass is expected to be sent to.

        Of E experts, E (1 - k/E)^T get none of T tokens where a router picks each alike, so E (1 - (1 - k/E)^T) are
        read: min(E, T k) at most, and the most that routers of that k read on average, as an uneven one reads fewer.
        """
        return round(self.expert_bytes * (1.0 - self.active_experts / self.experts) ** tokens)


def routing_of(built: BuiltModel, piece: Piece) -> Routing | None:
    """The routed experts of a piece on the meta device; None where it has none, or where how many are active cannot be
    told: experts that are not computed by grouped products, or several lists of them that differ."""
    parameters = [p for module in piece.modules for p in module.parameters()]
    if not any(p.dim() == 3 for p in parameters):
        return None
    with torch.no_grad(), grouped_products() as products, meta_buffers(piece.modules):
        piece.forward(*piece.make_inputs("meta"))
    found = {(product.matrices, product.rows) for product in products}
    if len(found) != 1:
        return None
    (experts, rows), tokens = next(iter(found)), built.task.tokens
    if rows % tokens or not 0 < rows // tokens <= experts:
        return None
    used = {product.storage for product in products}
    owners = [
        part
        for module in piece.modules
        for part in module.modules()
        if any(p.untyped_storage()._cdata in used for p in part.parameters(recurse=False))
    ]
    # Biases of experts lie beside their matrices.
    own = [p for part in owners for p in part.parameters(recurse=False) if p.shape[:1] == (experts,)]
    if {p.untyped_storage()._cdata for p in own} & used != used:
        return None
    return Routing(
        experts=experts,
        active_experts=rows // tokens,
        expert_bytes=sum(p.numel() * p.element_size() for p in own),
    )

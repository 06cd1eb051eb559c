"""Kernels without a meta version, or whose meta version is not what runs, in terms of others that have one.

Functions are replaced, not overridden by a mode: a mode is left during backward, and so would be the recomputation of a
checkpointed layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedProduct:
    """What met in a grouped product: so many rows, so many matrices, and which storage these have."""

    rows: int
    matrices: int
    storage: int


@contextmanager
def grouped_products() -> Iterator[list[GroupedProduct]]:
    """Let each row of a grouped product meet one expert's matrix, as it does whichever expert the router picks.

    The products, their gradients and what is kept of them have the sizes of those with the experts that are active;
    the meta version of the kernel takes bfloat16 only, and torch's counter does not know it. The products that were
    computed are in the list.
    """
    computed: list[GroupedProduct] = []

    def grouped(rows: torch.Tensor, matrices: torch.Tensor, **_options: object) -> torch.Tensor:
        # No tensor is kept: it would count as memory.
        storage = matrices.untyped_storage()._cdata
        computed.append(GroupedProduct(rows=rows.shape[0], matrices=matrices.shape[0], storage=storage))
        return torch.mm(rows, matrices[0])

    with ExitStack() as stack:
        for owner, name in ((torch.nn.functional, "grouped_mm"), (torch, "_grouped_mm")):
            if hasattr(owner, name):
                stack.enter_context(_replaced(owner, name, grouped))
        yield computed


@contextmanager
def fused_attention() -> Iterator[None]:
    """Send scaled-dot-product attention to the fused CPU kernel, which has a meta version; torch would decompose it."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    original = torch.nn.functional.scaled_dot_product_attention
    # Asked here: what is tried must not be taken for a tensor of the piece.
    grouped = _takes_grouped_heads()

    def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: object) -> torch.Tensor:
        given = options.get("attn_mask")
        if isinstance(given, torch.Tensor) and given.requires_grad:
            # No fused kernel has a gradient for its mask.
            return original(query, key, value, **options)
        # Of flags, the kernel makes and keeps a mask of numbers, anew in each layer.
        mask = given.to(query.dtype) if isinstance(given, torch.Tensor) and given.dtype == torch.bool else given
        causal, scale = bool(options.get("is_causal")), options.get("scale")
        if query.shape[1] != key.shape[1] and not grouped:
            # Such releases give each query head its keys first, on a CPU too.
            key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
        return kernel(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)[0]

    with _replaced(torch.nn.functional, "scaled_dot_product_attention", fused):
        yield


@cache
def _takes_grouped_heads() -> bool:
    """Whether this torch's fused CPU kernel has gradients of fewer key heads than query heads (2.6 has not)."""
    query, key = (torch.empty((1, heads, 2, 4), device="meta", requires_grad=True) for heads in (4, 2))
    try:
        output = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, key, 0.0, True)[0]
        output.backward(torch.empty_like(output))
    except RuntimeError:
        return False
    return True


@contextmanager
def meta_buffers(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Let the buffers of these modules have no storage inside the block, as their parameters have none."""
    own = [(part, dict(part._buffers)) for module in modules for part in module.modules() if part._buffers]
    for part, buffers in own:
        for name, buffer in buffers.items():
            # A lone number goes with tensors of any device, and code may ask for its value.
            part._buffers[name] = buffer.to("meta") if buffer is not None and buffer.dim() else buffer
    try:
        yield
    finally:
        for part, buffers in own:
            part._buffers.update(buffers)


@contextmanager
def _replaced(owner: object, name: str, function: object) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, original)

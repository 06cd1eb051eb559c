"""Frozen weights in 8 or 4 bits: the linear maps of decoder layers as modules of bitsandbytes.

As QLoRA has it (arXiv 2305.14314): the layers' linear maps keep their weights quantised and take them apart to the
compute dtype in each pass; adapters, norms, embedding and head stay at theirs. Weights come one map at a time, so that
no more than one stands beside its quantised form. Without weights a map has the shape of the dense one, on the meta
device; there it computes what the kernels do on a CPU, so that FLOPs and bytes are counted with the weight that each
pass takes apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import bitsandbytes as bnb
import torch

from cardlab.core.errors import ProfileError
from cardlab.core.records.task import INT8, NF4_DOUBLE, Execution
from cardlab.profilers.runtime.kept import KeptMap

# bitsandbytes' own: values to one scale, and scales to one scale of them.
_BLOCK, _SCALES_BLOCK = 64, 256
# Bytes of the tables of 16 and of 256 levels, and of one float32.
_LEVELS_BYTES, _SCALE_LEVELS_BYTES, _FLOAT_BYTES = 16 * 4, 256 * 4, 4
# Values that are quantised at once.
_AT_ONCE = 2**20
# transformers' default: inputs above it are multiplied in the compute dtype on a GPU (LLM.int8()).
_OUTLIERS = 6.0


Untyped = Any
"""What torch and bitsandbytes state no type of: contexts of functions, parameters with a state."""


class _TakenApart(torch.autograd.Function):  # type: ignore[misc]
    """A product with a weight that is taken apart before it, forward and again backward."""

    @staticmethod
    def forward(
        ctx: Untyped, x: torch.Tensor, bias: torch.Tensor | None, shape: tuple[int, int], eight: bool
    ) -> Untyped:
        ctx.shape, ctx.eight = shape, eight
        if eight:
            # Its product keeps the input, whether or not anything is trained with it.
            ctx.save_for_backward(x)
        weight, _scales = _taken_apart(x, shape, eight)
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Untyped, *gradients: torch.Tensor) -> Untyped:
        (gradient,) = gradients
        weight, _scales = _taken_apart(gradient, ctx.shape, ctx.eight)
        return torch.matmul(gradient, weight), None, None, None


def _taken_apart(like: torch.Tensor, shape: tuple[int, int], eight: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for a weight at the compute dtype, and for its scales."""
    weight = like.new_empty(shape)
    if not eight:
        return weight, like.new_empty(-(-shape[0] * shape[1] // _BLOCK), dtype=torch.float32)
    if like.dtype != torch.float32:
        # Scaled in place by float32, for which torch on a CPU takes a wide copy of the weight and one of the result.
        _wide = [like.new_empty(shape, dtype=torch.float32) for _ in range(2)]
    return weight, like.new_empty(shape[0], dtype=torch.float32)


class FourBit(bnb.nn.Linear4bit, KeptMap):  # type: ignore[misc]
    """A linear map whose frozen weight is kept in nf4."""

    weight: Untyped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As bitsandbytes computes it; without storage, the same shapes."""
        if x.is_meta:
            product: torch.Tensor = _TakenApart.apply(x, self.bias, (self.out_features, self.in_features), False)
            return product
        return super().forward(x)

    def keep(self, dense: torch.Tensor, device: str) -> None:
        """Quantise a weight [out, in] and hold it on the device."""
        nested = self.weight.compress_statistics
        values, state = _in_four_bits(dense, device, nested)
        self.weight = bnb.nn.Params4bit(
            values,
            requires_grad=False,
            quant_state=state,
            compress_statistics=nested,
            quant_type=state.quant_type,
            bnb_quantized=True,
            module=self,
        )
        self.quant_state = state

    def keep_stored(self, stored: Mapping[str, torch.Tensor], device: str) -> None:
        """Hold a weight as a checkpoint has it: "" is its packed values, others are named by what they are."""
        parts = dict(stored)
        self.weight = bnb.nn.Params4bit.from_prequantized(
            data=parts.pop(""), quantized_stats=parts, requires_grad=False, device=device, module=self
        )

    def forget(self) -> None:
        """Give the memory of the weight back."""
        held = self.weight
        dense = torch.empty((self.out_features, self.in_features), dtype=self.compute_dtype, device="meta")
        self.weight = bnb.nn.Params4bit(
            dense,
            requires_grad=False,
            compress_statistics=held.compress_statistics,
            quant_type=held.quant_type,
            module=self,
        )
        self.quant_state = None

    @property
    def kept_bytes(self) -> int:
        """What the weight takes when it is held: values, scales, and the tables that each map has."""
        values = self.out_features * self.in_features
        blocks = -(-values // _BLOCK)
        packed = -(-values // 2) + _LEVELS_BYTES
        if not self.weight.compress_statistics:
            return packed + blocks * _FLOAT_BYTES
        # Scales in 8 bits, their own scales, their levels, and the mean that was taken off them.
        return packed + blocks + -(-blocks // _SCALES_BLOCK) * _FLOAT_BYTES + _SCALE_LEVELS_BYTES + _FLOAT_BYTES


class EightBit(bnb.nn.Linear8bitLt, KeptMap):  # type: ignore[misc]
    """A linear map whose frozen weight is kept in int8."""

    state: Untyped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As bitsandbytes computes it; without storage, the same shapes."""
        if x.is_meta:
            product: torch.Tensor = _TakenApart.apply(x, self.bias, (self.out_features, self.in_features), True)
            return product
        return super().forward(x)

    def keep(self, dense: torch.Tensor, device: str) -> None:
        """Quantise a weight [out, in] and hold it on the device."""
        self._fresh()
        values = torch.empty(dense.shape, dtype=torch.int8, device=device)
        scales = torch.empty(dense.shape[0], dtype=torch.float32, device=device)
        for rows in _some_rows(dense):
            # bitsandbytes takes float16, whatever the weights are.
            found, ranges, _ = bnb.functional.int8_vectorwise_quant(dense[rows].to(device, torch.float16))
            values[rows], scales[rows] = found, ranges
        self.weight = bnb.nn.Int8Params(values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales)

    def keep_stored(self, stored: Mapping[str, torch.Tensor], device: str) -> None:
        """Hold a weight as a checkpoint has it quantised: "" is its values, "SCB" the scale of each row."""
        self._fresh()
        values, scales = stored[""].to(device), stored["SCB"].to(device)
        self.weight = bnb.nn.Int8Params(values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales)

    def forget(self) -> None:
        """Give the memory of the weight back."""
        self._fresh()
        dense = torch.empty((self.out_features, self.in_features), dtype=torch.float16, device="meta")
        self.weight = bnb.nn.Int8Params(dense, requires_grad=False, has_fp16_weights=False)

    def _fresh(self) -> None:
        state = bnb.MatmulLtState()
        state.threshold, state.has_fp16_weights = self.state.threshold, self.state.has_fp16_weights
        self.state = state

    @property
    def kept_bytes(self) -> int:
        """What the weight takes when it is held: values and a scale a row."""
        return self.out_features * self.in_features + self.out_features * _FLOAT_BYTES


def _some_rows(dense: torch.Tensor) -> Iterator[slice]:
    """Rows of a weight, as many at a time as are quantised in little memory: it takes ten times what they do.

    A block of one scale is never parted.
    """
    columns = int(dense.shape[1])
    step = max(1, _AT_ONCE // columns)
    if columns % _BLOCK:
        step = -(-step // _BLOCK) * _BLOCK
    return (slice(first, first + step) for first in range(0, int(dense.shape[0]), step))


def _in_four_bits(dense: torch.Tensor, device: str, nested: bool) -> tuple[torch.Tensor, Untyped]:
    """Packed values and state of a weight in nf4, as bitsandbytes makes them of the whole."""
    count = dense.numel()
    # Laid out before: what stays between what is dropped would hold its pages.
    values = torch.empty((-(-count // 2), 1), dtype=torch.uint8, device=device)
    scales = torch.empty(-(-count // _BLOCK), dtype=torch.float32, device=device)
    state: Untyped = None
    for rows in _some_rows(dense):
        part = dense[rows].to(device)
        first = rows.start * int(dense.shape[1])
        packed, state = bnb.functional.quantize_4bit(part, blocksize=_BLOCK, quant_type="nf4")
        values[first // 2 : first // 2 + packed.shape[0]] = packed
        scales[first // _BLOCK : first // _BLOCK + state.absmax.shape[0]] = state.absmax
    state.shape, state.absmax = dense.shape, scales
    if nested:
        state.offset = scales.mean()
        state.absmax, state.state2 = bnb.functional.quantize_blockwise(scales - state.offset, blocksize=_SCALES_BLOCK)
        state.nested = True
    return values, state


def quantise_maps(layers: torch.nn.ModuleList, execution: Execution, family: str) -> None:
    """Put quantised maps in the place of all linear maps of layers on the meta device, and let PEFT know.

    Raises ProfileError for layers that have none, or keep their maps in another form.
    """
    dtype = getattr(torch, execution.dtype)
    found = 0
    for layer in layers:
        for path, part in list(layer.named_modules()):
            if type(part) is not torch.nn.Linear:
                continue
            parent, _, name = path.rpartition(".")
            made = _made(part, execution.quantization, dtype)
            made.bias = part.bias
            setattr(layer.get_submodule(parent), name, made)
            found += 1
    if not found:
        raise ProfileError(
            f"a {family} model keeps its weights in no linear maps that bitsandbytes could quantise",
            remedy="leave --quantization out",
        )
    # What transformers sets on a model that it loads so, and PEFT asks for.
    layers.is_loaded_in_8bit = execution.quantization == INT8
    layers.is_loaded_in_4bit = execution.quantization != INT8


def _made(part: torch.nn.Linear, quantization: str | None, dtype: torch.dtype) -> FourBit | EightBit:
    made: FourBit | EightBit
    if quantization == INT8:
        made = EightBit(
            part.in_features,
            part.out_features,
            bias=False,
            has_fp16_weights=False,
            threshold=_OUTLIERS,
            device="meta",
        )
    else:
        made = FourBit(
            part.in_features,
            part.out_features,
            bias=False,
            compute_dtype=dtype,
            compress_statistics=quantization == NF4_DOUBLE,
            quant_type="nf4",
            device="meta",
        )
    made.forget()
    return made


def launch(device: str, dtype: str, quantization: str) -> None:
    """Run one small product forward and backward; whatever bitsandbytes raises where its kernels do not run here."""
    made = _made(torch.nn.Linear(64, 64, bias=False, device="meta"), quantization, getattr(torch, dtype)).train()
    made.keep(torch.eye(64, dtype=getattr(torch, dtype)), device)
    given = torch.ones((1, 2, 64), dtype=getattr(torch, dtype), device=device, requires_grad=True)
    result = made(given)
    result.sum().backward()
    worst = max(float((t.detach().float() - 1.0).abs().max()) for t in (result, given.grad) if t is not None)
    if worst > 0.1:
        raise RuntimeError(f"a product with one came out wrong by {worst:g}")

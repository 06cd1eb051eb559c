"""Weights that a checkpoint keeps quantised: what bitsandbytes stored is taken apart by name, all else refused by name.

A map in nf4 is stored as its packed values under the name of its weight, and beside it, each under a longer name,
scales, levels and a JSON text that says how they belong together; one in int8 as its values and a scale a row (SCB).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from cardlab.core.errors import BadDataError, ProfileError
from cardlab.core.files import decode
from cardlab.core.records.task import INT8, NF4_DOUBLE
from cardlab.profilers.runtime.entries import FLOATS, Entry
from cardlab.profilers.runtime.families.keys import quantised, stored_quantization

# Where methods of quantisation write what they did, beside config.json.
_QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json")
# Buffers that old checkpoints hold and transformers makes itself.
MADE_AGAIN = re.compile(r"(?:^|\.)(?:rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|position_ids)$")
_EITHER = "awq or gptq"
_MARKS = (
    (re.compile(r"\.(?:quant_state\.|absmax$|quant_map$|nested_absmax$)|quant_state"), "bitsandbytes"),
    (re.compile(r"\.(?:SCB|CB)$|weight_format$"), "bitsandbytes"),
    (re.compile(r"\.(?:qweight|qzeros|g_idx)$"), _EITHER),
    (re.compile(r"\.weight_packed$"), "compressed-tensors"),
)

_STATE = "quant_state.bitsandbytes__nf4"
_PARTS_4 = ("absmax", "quant_map", _STATE)
_PARTS_NESTED = (*_PARTS_4, "nested_absmax", "nested_quant_map")
_DENSE = "use the unquantised one (float32, bfloat16 or float16)"

Packed = Mapping[str, Entry]
"""Parts of a quantised weight: "" is its values, others are named by what they are."""


def take_packed(
    entries: dict[str, Entry], quantization: str, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, Packed]:
    """Take the quantised weights out of the entries of a checkpoint, by the name of the weight.

    Args:
        entries: by name; what belongs to these weights is removed.
        shapes: [out, in] of each weight that is quantised where the model is.

    Raises ProfileError for weights that are dense there, of another form than was said, or incomplete.
    """
    return {name: _take(entries, quantization, name, shape) for name, shape in shapes.items()}


def _take(entries: dict[str, Entry], quantization: str, name: str, shape: tuple[int, int]) -> Packed:
    if name not in entries:
        raise ProfileError(f"the checkpoint lacks {name}", remedy="give the whole model folder with --model")
    if entries[name].dtype in FLOATS:
        raise ProfileError(
            f"config.json says {quantization}, and {name} is not quantised: models in both forms are not supported",
            remedy=_DENSE,
        )
    parts = {"": entries.pop(name)}
    if quantization == INT8:
        stem = name.removesuffix("weight")
        wanted = {"SCB": f"{stem}SCB"}
        if (form := entries.pop(f"{stem}weight_format", None)) is not None and any(_bytes_of(form)):
            # 0 says that rows are rows; older releases stored what one kernel likes.
            raise quantised("bitsandbytes in a layout of one kernel", "8")
    else:
        nested = quantization == NF4_DOUBLE
        wanted = {part: f"{name}.{part}" for part in (_PARTS_NESTED if nested else _PARTS_4)}
    for part, full in wanted.items():
        if full not in entries:
            raise ProfileError(
                f"config.json says {quantization}, and the checkpoint lacks {full}",
                remedy="give the config.json that belongs to the checkpoint",
            )
        parts[part] = entries.pop(full)
    _check_parts(name, quantization, parts, shape)
    return parts


def _check_parts(name: str, quantization: str, parts: Packed, shape: tuple[int, int]) -> None:
    values, count = parts[""], prod(shape)
    expected: tuple[str, tuple[int, ...]] = ("I8", shape) if quantization == INT8 else ("U8", (-(-count // 2), 1))
    if (values.dtype, values.shape) != expected:
        raise ProfileError(
            f"{name} is {values.dtype} {values.shape} in the checkpoint, not {quantization} of {shape}",
            remedy="give the config.json that belongs to the checkpoint",
        )
    if quantization == INT8:
        if prod(parts["SCB"].shape) != shape[0]:
            raise ProfileError(f"{name} has {parts['SCB'].shape} scales for {shape[0]} rows", remedy=_DENSE)
        return
    said = _state_of(name, parts[_STATE])
    for key, own in (("quant_type", "nf4"), ("blocksize", 64), ("shape", list(shape))):
        if said.get(key) != own:
            raise quantised(f"bitsandbytes nf4 whose {key} is {said.get(key)} and not {own}", "4")
    if quantization == NF4_DOUBLE and said.get("nested_blocksize") != 256:
        raise quantised(f"bitsandbytes nf4 whose nested_blocksize is {said.get('nested_blocksize')}", "4")


def _state_of(name: str, entry: Entry) -> dict[str, Any]:
    try:
        plain = json.loads(_bytes_of(entry))
    except ValueError as error:
        raise ProfileError(
            f"what the checkpoint says of how {name} is quantised cannot be read", remedy="download the model again"
        ) from error
    return plain if isinstance(plain, dict) else {}


def _bytes_of(entry: Entry) -> bytes:
    try:
        with entry.file.open("rb") as stream:
            stream.seek(entry.low)
            return stream.read(min(entry.high - entry.low, 2**16))
    except OSError as error:
        raise ProfileError(f"cannot read {entry.file}: {error.strerror or error}", remedy="make it readable") from error


def check_dtypes(entries: Mapping[str, Entry], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ProfileError naming the method, and the bits as far as known, for tensors of a quantised checkpoint."""
    for pattern, method in _MARKS:
        hit = next((name for name in entries if pattern.search(name)), None)
        if hit is not None:
            named = _awq_or_gptq(entries, wanted) if method == _EITHER else method
            bits = (_packed_bits(name, entry, wanted) for name, entry in entries.items() if entry.dtype not in FLOATS)
            raise quantised(named, next((found for found in bits if found is not None), None))
    for name, entry in entries.items():
        if entry.dtype in FLOATS or MADE_AGAIN.search(name):
            continue
        stem = name.rpartition(".")[0]
        if f"{stem}.scales" in entries:
            raise quantised("mlx", _packed_bits(name, entry, wanted))
        raise quantised(_DTYPES.get(entry.dtype, entry.dtype), _packed_bits(name, entry, wanted))


_DTYPES = {"F8_E4M3": "fp8, float8_e4m3fn", "F8_E5M2": "fp8, float8_e5m2", "I8": "int8", "U8": "uint8", "I32": "int32"}


def _packed_bits(name: str, entry: Entry, wanted: Mapping[str, tuple[int, ...]]) -> str | None:
    """Bits of one weight: those stored over the values that the model has, None where that is not known."""
    stem, _, last = name.rpartition(".")
    shape = wanted.get(f"{stem}.weight")
    if shape is None or last not in ("weight", "qweight", "weight_packed"):
        return None
    bits = 8 * (entry.high - entry.low) / prod(shape)
    return f"{bits:g}" if bits in (1, 2, 3, 4, 5, 6, 8) else None


def _awq_or_gptq(entries: Mapping[str, Entry], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """AWQ packs along the outputs, GPTQ along the inputs and may keep an order of them."""
    if any(name.endswith(".g_idx") for name in entries):
        return "gptq"
    for name, entry in entries.items():
        shape = wanted.get(f"{name.removesuffix('.qweight')}.weight") if name.endswith(".qweight") else None
        if shape is not None and len(entry.shape) == 2 and shape[0] != shape[1] // 8:
            return "awq" if entry.shape[0] == shape[1] else "gptq" if entry.shape[1] == shape[0] else _EITHER
    return _EITHER


def check_beside(folder: Path) -> None:
    """Raise ProfileError where a file of a quantisation method lies beside the weights."""
    for name in _QUANTISED_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            plain = json.loads(decode(path.read_bytes(), str(path)))
        except (OSError, BadDataError, ValueError, RecursionError):
            plain = {}
        method = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}.get(
            name
        )
        given = plain if isinstance(plain, dict) else {}
        stored_quantization(
            {"quantization_config": {"quant_method": method, **given} if method else given or {"found": 1}}
        )

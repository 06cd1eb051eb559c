"""What the keys of a config.json may hold, and what becomes of each: nothing in it is passed over unseen.

A family names the keys that change what is computed. Others are known to change nothing (`INERT`); any key beyond
those is refused by name, unless its value says "off". So a model that computes something else than the family's
adapter builds is never trained or profiled as if it did not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from cardlab.core.errors import ProfileError
from cardlab.core.records.task import INT8, NF4, NF4_DOUBLE
from cardlab.profilers.runtime.families.base import ConfigDict, shown

# Names of transformers that need no parameters of their own; two names of one function are one.
ACTIVATIONS: Mapping[str, str] = {
    **{
        name: name
        for name in [
            "gelu",
            "gelu_10",
            "gelu_accurate",
            "gelu_fast",
            "gelu_new",
            "gelu_python",
            "gelu_pytorch_tanh",
            "hardswish",
            "laplace",
            "leaky_relu",
            "linear",
            "mish",
            "quick_gelu",
            "relu",
            "relu2",
            "relu6",
            "sigmoid",
            "silu",
            "tanh",
        ]
    },
    "swish": "silu",
}
# Names, versions, generation and training: what a forward and a backward pass of the language model never reads.
INERT = frozenset(
    [
        "model_type",
        "architectures",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "auto_map",
        "use_cache",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "cls_token_id",
        "decoder_start_token_id",
        "unk_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "begin_suppress_tokens",
        "suppress_tokens",
        "prefix",
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "task_specific_params",
        "tokenizer_class",
        "return_dict",
        "return_dict_in_generate",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        "pretraining_tp",
        "is_llama_config",
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
        "classifier_dropout",
        "gradient_checkpointing",
        "n_ctx",
        "language",
        "languages",
        "license",
        "base_model",
    ]
)
# Private keys and notes that trainers leave behind.
_INERT_SHAPE = re.compile(r"^(?:_.*|unsloth_.*|transformers\.js_config)$")
# Multipliers and factors of one change nothing.
_ONE = re.compile(r"^(?!attention_).*(?:multiplier|_scale|scaling|_factor|rotary_pct)$")
QUANTISED = ("quantization_config", "quantization", "compression_config", "quant_config")


def wrong_key(key: str, value: object, wanted: str, remedy: str | None = None) -> ProfileError:
    """The refusal of one key of a config.json; `remedy` where more helps than to correct it."""
    return ProfileError(
        f"the model configuration has no usable {key!r} (found {shown(value)}, not {wanted})",
        remedy=remedy or f"correct {key!r} in config.json",
    )


def flag(config: ConfigDict, key: str, default: bool) -> bool:
    """True or false of a config.json; ProfileError for anything else, as the text "false" would count as true."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong_key(key, value, "true or false")
    return value


def positive(config: ConfigDict, key: str, default: float | None = None) -> float:
    """A finite number above 0 of a config.json; ProfileError naming the key otherwise, or without a default."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
        raise wrong_key(key, value, "a number above 0")
    return float(value)


def activation(config: ConfigDict, key: str, default: str) -> str:
    """The activation function that a config.json names, by one of its names; ProfileError for an unknown one."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise wrong_key(key, value, f"one of {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[value]


def token(config: ConfigDict, key: str, vocabulary: int) -> None:
    """ProfileError for a token number that lies outside the vocabulary; None and negative ones within it count back."""
    value = config.get(key)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not -vocabulary <= value < vocabulary:
        wanted = f"a token of the {vocabulary} that vocab_size gives"
        raise wrong_key(key, value, wanted, f"take {key!r} out of config.json: nothing is padded in training here")


def only(config: ConfigDict, key: str, *allowed: object) -> None:
    """ProfileError for a key whose value would change the computation in a way that the family does not build."""
    value = config.get(key)
    if value is not None and not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
        raise unmodelled(key, value)


def unmodelled(key: str, value: object) -> ProfileError:
    """The refusal of a key that nothing here computes with."""
    return ProfileError(
        f"the model configuration has {key!r} = {shown(value)}, which this family's adapter does not compute",
        remedy=f"use another model; or take {key!r} out of config.json if the model does not compute with it",
    )


def check_known(config: ConfigDict, known: Iterable[str]) -> None:
    """ProfileError for a key that is neither known, nor inert, nor off."""
    # What is said of how weights are kept has been looked at by itself.
    family = frozenset((*known, *QUANTISED))
    for key, value in config.items():
        if key in family or key in INERT or _INERT_SHAPE.match(key) or is_off(key, value):
            continue
        raise unmodelled(key, value)


def dropout(config: ConfigDict, keys: Iterable[str]) -> tuple[str, ...]:
    """The dropout keys that a config.json sets, as KEY = VALUE; ProfileError for a value that is no share."""
    found = []
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
            raise wrong_key(key, value, "a share from 0 to below 1")
        if value > 0.0:
            found.append(f"{key} = {value:g}")
    return tuple(found)


def heads_divide(hidden_key: str, hidden: int, heads_key: str, heads: int) -> None:
    """ProfileError for a width that the heads do not divide."""
    if hidden % heads:
        raise wrong_key(hidden_key, hidden, f"a multiple of {heads_key} = {heads}")


def is_off(key: str, value: object) -> bool:
    """Whether a key of a config.json is switched off. None, false, 0 and nothing say "off"; of a factor it is 1."""
    if _ONE.search(key):
        return value is None or (not isinstance(value, bool) and value == 1)
    return value is None or value is False or value in (0, "", [], {})


def stored_quantization(config: ConfigDict) -> str | None:
    """How the weights that belong to a config.json are kept (core/records/task.py), None for dense ones.

    Raises ProfileError naming method and bits for a form that is not supported.
    """
    found = None
    for key in QUANTISED:
        given = config.get(key)
        if given not in (None, {}, False):
            found = _of_bitsandbytes(given) if key == "quantization_config" else None
            if found is None:
                raise quantised(_method(given, "mlx" if key == "quantization" else None), _bits(given))
    for key in ("torch_dtype", "dtype"):
        name = config.get(key)
        if isinstance(name, str) and re.search(r"float8|float4|fp8|fp4|int\d", name):
            raise quantised(name, None)
    return found


def _of_bitsandbytes(given: object) -> str | None:
    """What transformers' configuration of bitsandbytes means, None for another method.

    Raises ProfileError for what nothing here computes: other 4-bit types, storages and thresholds.
    """
    if not isinstance(given, Mapping) or _method(given, None) != "bitsandbytes":
        return None
    eight, four = (any(given.get(f"{line}load_in_{n}bit") is True for line in ("", "_")) for n in (8, 4))
    if eight == four:
        return None
    if eight:
        threshold = given.get("llm_int8_threshold")
        if threshold not in (None, 6.0) or isinstance(threshold, bool) or given.get("llm_int8_has_fp16_weight"):
            raise quantised(f"bitsandbytes with llm_int8_threshold = {shown(threshold)}", "8")
        return INT8
    # transformers' own default.
    kind = given.get("bnb_4bit_quant_type", "fp4")
    if kind != "nf4":
        raise quantised(f"bitsandbytes {shown(kind).strip(chr(39))}", "4")
    storage = given.get("bnb_4bit_quant_storage")
    if storage not in (None, "uint8", "torch.uint8"):
        raise quantised(f"bitsandbytes nf4 stored as {shown(storage)}", "4")
    return NF4_DOUBLE if given.get("bnb_4bit_use_double_quant") else NF4


def quantised(method: str | None, bits: str | None) -> ProfileError:
    """The refusal of a quantised checkpoint."""
    what = ", ".join(word for word in (method, None if bits is None else f"{bits} bit") if word)
    return ProfileError(
        f"quantised checkpoint ({what or 'of an unknown method'}) is not supported",
        remedy="use the unquantised one (float32, bfloat16 or float16)",
    )


def _method(given: object, default: str | None) -> str | None:
    if not isinstance(given, Mapping):
        return default
    for key in ("quant_method", "quant_algo", "quantization_method", "method", "quant_type"):
        if isinstance(given.get(key), str) and given[key]:
            return str(given[key])[:40]
    inner = given.get("quantization")
    if isinstance(inner, Mapping):
        return _method(inner, default)
    if any(str(key).startswith(("load_in_", "bnb_", "llm_int8_", "_load_in_")) for key in given):
        return "bitsandbytes"
    if "config_groups" in given:
        return "compressed-tensors"
    return default


def _bits(given: object) -> str | None:
    """Bits of the weights, wherever the methods write them."""
    if not isinstance(given, Mapping):
        return None
    for key in ("bits", "w_bit", "wbits", "num_bits", "weight_bits", "nbits"):
        value = given.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return f"{value:g}"
    for key, bits in (("load_in_4bit", "4"), ("load_in_8bit", "8"), ("_load_in_4bit", "4"), ("_load_in_8bit", "8")):
        if given.get(key) is True:
            return bits
    words = " ".join(str(given.get(key, "")) for key in ("quant_method", "fmt", "format", "quant_algo", "weights"))
    match = re.search(r"(?:fp|int|float|w)(4|8)", words.lower()) or re.search(r"mx?fp(4|8)|nf(4)", words.lower())
    if match:
        return next(group for group in match.groups() if group)
    for inner in given.values():
        found = _bits(inner) if isinstance(inner, Mapping) else None
        if found is not None:
            return found
    return None

"""Any decoder that transformers knows how to take apart: embedding, a list of layers, a final norm, a head.

Configurations of transformers carry `base_model_pp_plan`, which names those parts for pipelines across GPUs; the same
parts are what a cut needs. Nothing about the layers is known here but what the built model shows, so there is no closed
formula, and `selftest.py` holds a small model of the same configuration, cut, against the whole one before any is used.

Everything in a configuration that transformers computes with is in `Architecture.configuration`.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cardlab.core.errors import MissingDependencyError, ProfileError, UnsupportedFamilyError
from cardlab.core.identity import canonical_json
from cardlab.core.records.task import Architecture
from cardlab.profilers.runtime.families.base import ConfigDict, Family, shown
from cardlab.profilers.runtime.families.keys import (
    INERT,
    QUANTISED,
    dropout,
    is_off,
    stored_quantization,
    unmodelled,
)
from cardlab.profilers.runtime.families.kinds import kinds_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PretrainedConfig

# What LoRA is put on where nothing is named: queries and values, or the map that makes them at once.
_USUAL_TARGETS = (
    ("q_proj", "v_proj"),
    ("qkv_proj",),
    ("query_key_value",),
    ("c_attn",),
    ("Wqkv",),
    ("q_b_proj", "kv_b_proj"),
    ("q_proj", "kv_b_proj"),
)
# No row of the embedding stands for padding: it only matters for the gradient of the embedding, which is frozen.
_FIXED = {"use_cache": False, "pad_token_id": None}
# How weights are kept is no part of what a model is.
_KEPT_APART = frozenset((*INERT, *QUANTISED))
_DROPOUT = ("dropout", "pdrop")
# Maps of single experts before transformers fused them.
_OF_EXPERTS = frozenset(("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"))


def plan_of(model_type: str) -> tuple[str, str, str] | None:
    """Names of the embedding, the list of layers and the final norm of a model type; None where transformers has no
    plan of it or no causal language model.

    Raises MissingDependencyError without transformers.
    """
    try:
        import torch  # noqa: F401 - without it transformers only has placeholders
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError as error:
        raise MissingDependencyError(
            f"a model of type {shown(model_type)} needs {error.name}, which is not installed",
            remedy="pip install 'cardlab[models]'",
        ) from error
    try:
        kind = CONFIG_MAPPING[model_type]
    except KeyError:
        return None
    plan = getattr(kind, "base_model_pp_plan", None) or {}
    first = [name for name, (inputs, _) in plan.items() if "input_ids" in inputs]
    lists = [name for name in plan if name in ("layers", "h")]
    if len(first) != 1 or len(lists) != 1 or kind not in AutoModelForCausalLM._model_mapping:
        return None
    return first[0], lists[0], list(plan)[-1]


def types_with_a_plan() -> tuple[str, ...]:
    """Types of causal language models whose configuration names their parts, sorted."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return tuple(sorted(name for name in CONFIG_MAPPING if plan_of(name) is not None))


class Generic(Family):
    """Adapter of one model type, made from its plan."""

    def __init__(self, model_type: str, plan: tuple[str, str, str]) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        embedding, layers, norm = plan
        self._config_class = CONFIG_MAPPING[model_type]
        found = AutoModelForCausalLM._model_mapping[self._config_class]
        model_class = found[0] if isinstance(found, tuple) else found
        prefix = model_class.base_model_prefix
        self.has_fused_attention = bool(getattr(model_class, "_supports_sdpa", False))
        self.name, self.model_types = model_type, (model_type,)
        self.inner_path = prefix
        self.layer_path, self.norm_path = f"{prefix}.{layers}", f"{prefix}.{norm}"
        self.embedding_paths = (f"{prefix}.{embedding}",)
        self.head_path = next(iter(getattr(model_class, "_pp_plan", None) or {}), "lm_head")
        self._floats = _float_fields(self._config_class)
        self.dropout_keys = tuple(
            key
            for key, value in _plain(self._default()).items()
            if any(word in key for word in _DROPOUT) and isinstance(value, (int, float)) and not isinstance(value, bool)
        )

    def _default(self) -> PretrainedConfig:
        return self._config_class()

    def architecture(self, config: ConfigDict) -> Architecture:
        """Dimensions as far as the configuration has them by their usual names, and all of it in `configuration`."""
        stored_quantization(config)
        dropout(config, self.dropout_keys)
        return _architecture(self, canonical_json({k: v for k, v in config.items() if k not in _KEPT_APART}))

    def computing(self, config: ConfigDict) -> dict[str, object]:
        """All that differs from the defaults of the class."""
        return dict(json.loads(self.architecture(config).configuration or "{}"))

    def config_from(self, architecture: Architecture) -> dict[str, object]:
        """The configuration that the architecture was made from."""
        return {"model_type": self.name, **json.loads(architecture.configuration or "{}")}

    def parameters(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """As the built model has them, persistent buffers too."""
        model = inspected(self, architecture.configuration or "{}")
        tied = {f"{self.head_path}.weight"} if architecture.tied_embeddings else set()
        return {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied}

    def layer_maps(self, architecture: Architecture, layer: int) -> dict[str, tuple[int, int]]:
        """Every module of the layer that PEFT can put LoRA on as on a linear map."""
        import torch
        from transformers.pytorch_utils import Conv1D

        model = inspected(self, architecture.configuration or "{}")
        found = {}
        for path, module in model.get_submodule(f"{self.layer_path}.{layer}").named_modules():
            if isinstance(module, torch.nn.Linear):
                found[path] = (module.in_features, module.out_features)
            elif isinstance(module, Conv1D):
                found[path] = (int(module.weight.shape[0]), int(module.weight.shape[1]))
        return found

    def ambiguous_targets(self, architecture: Architecture) -> tuple[str, ...]:
        """Beside fused experts, names that older models had for each expert's own maps: PEFT takes them for those."""
        model = inspected(self, architecture.configuration or "{}")
        layers = model.get_submodule(self.layer_path)
        if not any(p.dim() == 3 and ".experts." in name for name, p in layers.named_parameters()):
            return ()
        return tuple(name for name in super().available_targets(architecture) if name in _OF_EXPERTS)

    def available_targets(self, architecture: Architecture) -> tuple[str, ...]:
        """Without the names that mean other weights to PEFT."""
        ambiguous = self.ambiguous_targets(architecture)
        return tuple(name for name in super().available_targets(architecture) if name not in ambiguous)

    def default_targets_of(self, architecture: Architecture) -> tuple[str, ...]:
        """Queries and values; ProfileError where the layers name them otherwise."""
        available = self.available_targets(architecture)
        for names in _USUAL_TARGETS:
            if all(name in available for name in names):
                return names
        raise ProfileError(
            f"which maps of a {self.name} layer LoRA usually goes on is not known",
            remedy=f"name them: --lora-targets with some of {', '.join(available)}, or all-linear",
        )

    def transformers_config(self, config: ConfigDict) -> PretrainedConfig:
        """The configuration object, without cache, dropout and numbers of tokens."""
        # Classes of transformers fill in what dictionaries leave out, in place.
        kept = copy.deepcopy({k: v for k, v in config.items() if k not in _KEPT_APART and k != "model_type"})
        # 30 and 30.0 are one number in JSON and two types to these classes.
        for key in self._floats & kept.keys():
            kept[key] = float(kept[key]) if type(kept[key]) is int else kept[key]
        with _quiet():
            return self._config_class(**{**kept, **dict.fromkeys(self.dropout_keys, 0.0), **_FIXED})

    def without_head(self, model: torch.nn.Module) -> torch.nn.Module:
        """The inner model."""
        import torch

        inner = model.get_submodule(self.inner_path)
        setattr(inner, self.norm_path.rpartition(".")[2], torch.nn.Identity())
        setattr(model, self.head_path, None)
        return inner

    def without_embedding(self, model: torch.nn.Module) -> torch.nn.Module:
        """The whole model with an embedding that is never used."""
        import torch

        inner = model.get_submodule(self.inner_path)
        setattr(inner, self.embedding_paths[0].rpartition(".")[2], torch.nn.Identity())
        return model


def _float_fields(kind: type) -> set[str]:
    """Fields that a configuration class declares to be a number with a fraction."""
    declared: dict[str, object] = {}
    for base in reversed(kind.__mro__):
        declared.update(getattr(base, "__annotations__", {}))
    words = {
        key: str(getattr(how, "__name__", how)) if isinstance(how, type) else str(how) for key, how in declared.items()
    }
    return {key for key, word in words.items() if "float" in word and "int" not in word}


@lru_cache(maxsize=64)
def _architecture(family: Generic, text: str) -> Architecture:
    """The architecture of a configuration without what nothing is computed with."""
    given: dict[str, Any] = json.loads(text)
    with _refusing(family.name):
        config = family.transformers_config(given)
        default = family._default()
        _check_used(family, given, config, default)
        plain, usual = _plain(config), _plain(family.transformers_config({}))
        changed = {k: v for k, v in plain.items() if k not in usual or usual[k] != v}
        for key in [key for key in changed if not hasattr(default, key)]:
            # What the class only keeps, because the keys that follow from it are there too.
            if not _differs(family, _without(changed, key), family.transformers_config(changed), key):
                del changed[key], plain[key]
        if _plain(family.transformers_config(changed)) != plain:
            # Keys that only mean something together with others at their defaults.
            changed = plain
        configuration = canonical_json(changed)
        model = inspected(family, configuration)
    try:
        layers = model.get_submodule(family.layer_path)
    except AttributeError as error:
        raise UnsupportedFamilyError(
            f"a {family.name} model cannot be cut: it has no list of layers where its plan says",
            remedy="see: profile-device models --supported",
        ) from error
    for key in ("add_cross_attention", "is_encoder_decoder"):
        if getattr(config, key, False):
            raise unmodelled(key, True)
    _check_parts(family, model)
    return Architecture(
        family=family.name,
        layers=len(layers),
        hidden_size=_whole(config, "hidden_size", family.name),
        intermediate_size=number_of(config, "intermediate_size"),
        heads=number_of(config, "num_attention_heads"),
        kv_heads=number_of(config, "num_key_value_heads"),
        head_dim=number_of(config, "head_dim"),
        vocab_size=_whole(config, "vocab_size", family.name),
        max_positions=_whole(config, "max_position_embeddings", family.name),
        tied_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
        attention_bias=bool(getattr(config, "attention_bias", False)),
        activation=getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None),
        kinds=kinds_of(layers, config),
        configuration=configuration,
    )


@lru_cache(maxsize=8)
def inspected(family: Generic, configuration: str) -> torch.nn.Module:
    """The model on the meta device, to be looked at and not run."""
    import torch
    from transformers import AutoModelForCausalLM

    with _refusing(family.name), torch.device("meta"):
        config = family.transformers_config(json.loads(configuration))
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that transformers prints to whoever writes a configuration."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Another library's refusal of a configuration, in one line that names it."""
    try:
        yield
    except (ProfileError, MissingDependencyError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise ProfileError(
            f"transformers takes no such configuration of a {name} model: {said}",
            remedy="correct that key of config.json, or install another transformers",
        ) from error


def _check_used(family: Generic, given: ConfigDict, config: PretrainedConfig, default: PretrainedConfig) -> None:
    """ProfileError for a key that the class only keeps: something is computed with it that is not built here."""
    for key, value in given.items():
        if key == "model_type" or hasattr(default, key) or not hasattr(config, key) or is_off(key, value):
            continue
        if key == "max_window_layers" and not given.get("use_sliding_window"):
            continue
        if not _is_used(family, given, config, key):
            raise unmodelled(key, value)


def _is_used(family: Generic, given: ConfigDict, config: PretrainedConfig, key: str) -> bool:
    """Whether anything else in the configuration follows from a key that the class does not keep by itself."""
    layers = number_of(config, "num_hidden_layers")
    lists = {k for k, v in given.items() if isinstance(v, list) and len(v) == layers}
    plain = {k: v for k, v in given.items() if k not in lists}
    # A pattern that a list of layers spells out is used if the list is what follows from it.
    spelled = lists and not _differs(family, plain, config, key)
    for begin in (given, *((plain,) if spelled else ())):
        others: list[dict[str, object]] = [_without(begin, key)]
        if type(begin[key]) in (int, float):
            others.append({**begin, key: begin[key] + 1})
        if any(_differs(family, other, config, key) for other in others):
            return True
    return False


def _differs(family: Generic, given: ConfigDict, config: PretrainedConfig, key: str) -> bool:
    """Whether another value of a key changes anything but itself."""
    try:
        other = _plain(family.transformers_config(given))
    except Exception:  # noqa: BLE001
        # Refused, by whichever error the class has for it: so it is looked at.
        return True
    return _without(other, key) != _without(_plain(config), key)


def _without(plain: Mapping[str, object], key: str) -> dict[str, object]:
    return {k: v for k, v in plain.items() if k != key}


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    """A configuration's own values, as JSON has them, without what nothing is computed with."""
    found: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return {k: v for k, v in found.items() if k not in INERT and not k.startswith("_")}


def _check_parts(family: Generic, model: torch.nn.Module) -> None:
    """UnsupportedFamilyError for weights beside embedding, layers, norm and head: neither side would have them."""
    known = (*family.embedding_paths, family.layer_path, family.norm_path, family.head_path)
    beside = sorted(n for n, _ in model.named_parameters() if not any(n.startswith(f"{path}.") for path in known))
    if beside:
        raise UnsupportedFamilyError(
            f"a {family.name} model cannot be cut: {beside[0]} belongs to no layer, nor to embedding, norm or head",
            remedy="see: profile-device models --supported",
        )


def _whole(config: PretrainedConfig, key: str, name: str) -> int:
    value = number_of(config, key)
    if value is None or not 1 <= value < 2**31:
        raise ProfileError(
            f"the configuration of a {name} model has no usable {key!r} (found {shown(getattr(config, key, None))})",
            remedy="give a complete config.json of the model",
        )
    return value


def number_of(config: PretrainedConfig, key: str) -> int | None:
    """A whole number of a configuration, None where it has none or more than one."""
    try:
        value = getattr(config, key, None)
    except Exception:  # noqa: BLE001
        # Configurations whose layers differ refuse to name one number for all, each with an error of its own.
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None

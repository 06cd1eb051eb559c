"""Model families: one small adapter each. Another family is refused by name."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from cardlab.core.errors import ProfileError, UnsupportedFamilyError
from cardlab.core.records.task import Architecture
from cardlab.profilers.runtime.families.base import Family, LayerPlan, Projection, shown
from cardlab.profilers.runtime.families.generic import Generic, plan_of
from cardlab.profilers.runtime.families.gpt2 import Gpt2
from cardlab.profilers.runtime.families.llama import Llama
from cardlab.profilers.runtime.families.qwen2 import Qwen2

FAMILIES: tuple[Family, ...] = (Llama(), Qwen2(), Gpt2())

__all__ = ["FAMILIES", "Family", "LayerPlan", "Projection", "attention_of", "family_named", "family_of"]


def family_named(name: str) -> Family:
    """The adapter of that name; UnsupportedFamilyError listing the ones there are."""
    for family in FAMILIES:
        if family.name == name:
            return family
    return _generic(name)


def family_of(model_type: object) -> Family:
    """The adapter for a config.json's `model_type`; UnsupportedFamilyError otherwise."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    if not isinstance(model_type, str):
        raise ProfileError(
            f"the model configuration has no usable 'model_type' (found {shown(model_type)})",
            remedy="give the complete config.json of a model",
        )
    return _generic(model_type)


@cache
def _generic(name: str) -> Family:
    plan = plan_of(name)
    if plan is None:
        raise UnsupportedFamilyError(
            f"model type {shown(name)} has no adapter: transformers {version('transformers')} has no plan of its parts",
            remedy="see the types that are supported: profile-device models --supported",
        )
    return Generic(name, plan)


def attention_of(architecture: Architecture) -> str:
    """The attention kernel that a type is run with where nobody asks for another: sdpa, else eager."""
    family = family_named(architecture.family)
    return "sdpa" if not isinstance(family, Generic) or family.has_fused_attention else "eager"

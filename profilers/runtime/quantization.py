"""How a task's frozen weights are kept here: as its checkpoint has them, as was asked, or dense."""

from __future__ import annotations

from cardlab.core.errors import ProfileError, UsageError
from cardlab.core.records.task import QUANTIZATIONS, Task
from cardlab.profilers.runtime.configs import load_config
from cardlab.profilers.runtime.families import family_named
from cardlab.profilers.runtime.families.keys import stored_quantization

AUTO, NONE = "auto", "none"


def choose_quantization(task: Task, asked: str, otherwise: str | None = None) -> str | None:
    """The form of a task's frozen weights, None for dense ones.

    Args:
        asked: "auto", "none" or one of QUANTIZATIONS.
        otherwise: what "auto" means where the checkpoint does not say.

    Raises UsageError for unknown names, a form that the checkpoint does not have, and what does not go with it.
    """
    if asked not in (AUTO, NONE, *QUANTIZATIONS):
        raise UsageError(f"unknown quantization {asked!r}", remedy=f"use auto, none, {', '.join(QUANTIZATIONS)}")
    stored = stored_quantization(load_config(task.model))
    if stored is not None and asked not in (AUTO, stored):
        raise UsageError(
            f"{task.model} holds its weights in {stored}, and --quantization {asked} was asked for",
            remedy="leave --quantization out, or name the model's unquantised folder",
        )
    chosen = stored or (otherwise if asked == AUTO else None if asked == NONE else asked)
    if chosen is None:
        return None
    otherwise_dense = "leave --quantization out" if stored is None else "name the model's unquantised folder"
    if task.lora.dora:
        raise UsageError(
            f"DoRA needs the lengths of the dense weights, and they are kept in {chosen}",
            remedy=f"leave --dora out, or {otherwise_dense}",
        )
    if not family_named(task.architecture.family).has_linear_maps:
        raise UsageError(
            f"a {task.architecture.family} model has no linear maps in its layers, and only those are kept in {chosen}",
            remedy=otherwise_dense,
        )
    return chosen


def is_stored_quantised(task: Task) -> bool:
    """Whether the weights of a task's model are quantised where they are stored; false for a model that is not here."""
    try:
        return stored_quantization(load_config(task.model)) is not None
    except ProfileError:
        return False

"""What runs: model families, static cost, works, and how each is run and timed on a torch device.

Exports are loaded on first use (PEP 562), so that importing the package costs nothing and needs no torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from cardlab.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from cardlab.core.records.task import Task
    from cardlab.profilers.runtime.analysis import analyse
    from cardlab.profilers.runtime.budget import fits
    from cardlab.profilers.runtime.configs import bundled_models, load_architecture
    from cardlab.profilers.runtime.execution import resolve_execution
    from cardlab.profilers.runtime.tasks import resolve_task

# PEFT imports bitsandbytes where it is installed, which then says on every start that it found no kernel on the Hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__all__ = [
    "Task",
    "analyse",
    "bundled_models",
    "fits",
    "load_architecture",
    "resolve_execution",
    "resolve_task",
]

_HOMES = {
    "Task": "cardlab.core.records.task",
    "analyse": "cardlab.profilers.runtime.analysis",
    "bundled_models": "cardlab.profilers.runtime.configs",
    "fits": "cardlab.profilers.runtime.budget",
    "load_architecture": "cardlab.profilers.runtime.configs",
    "resolve_execution": "cardlab.profilers.runtime.execution",
    "resolve_task": "cardlab.profilers.runtime.tasks",
}


_MODELS = ("torch", "transformers", "peft", "fvcore")


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _MODELS:
            raise
        raise MissingDependencyError(
            f"profiling a model needs {error.name}, which is not installed", remedy="pip install 'cardlab[models]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)

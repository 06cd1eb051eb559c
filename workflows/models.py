"""Which models there are: bundled configurations, and the types that this transformers can cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cardlab.core.errors import MissingDependencyError, ProfileError
from cardlab.core.records.task import Architecture
from cardlab.core.tables import Cell, Tabular
from cardlab.core.text import NOT_MEASURED
from cardlab.profilers import runtime as engine

OWN, PLAN = "own adapter", "transformers' plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportedType:
    """A causal language model type of the installed transformers.

    Attributes:
        model_type: as in a config.json.
        adapter: how it is cut: an adapter of its own, or the parts that transformers names; "N/A" where neither is.
        supported: whether a small model of its class's defaults, cut, gives what the whole one gives.
        words: how that was verified, or why it is refused.
        kinds: kinds of its layers by its class's defaults; empty where all are alike.
    """

    model_type: str
    adapter: str
    supported: bool
    words: str
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportedTypes(Tabular):
    """All of them, of one release of transformers."""

    transformers: str
    types: tuple[SupportedType, ...]

    def rows(self) -> list[dict[str, Cell]]:
        """A row a type."""
        return [
            {
                "model_type": t.model_type,
                "adapter": t.adapter,
                "supported": t.supported,
                "kinds": " ".join(t.kinds),
                "words": t.words,
            }
            for t in self.types
        ]


def bundled_models() -> dict[str, Architecture | None]:
    """The bundled configurations by name; None of one whose dimensions only transformers can tell, where it is not
    installed."""
    return {name: _architecture(name) for name in engine.bundled_models()}


def _architecture(name: str) -> Architecture | None:
    try:
        return engine.load_architecture(name)
    except MissingDependencyError:
        return None


def supported_models(model_type: str | None = None, on_type: Callable[[str], None] | None = None) -> SupportedTypes:
    """Every causal language model type of the installed transformers that can be cut, or is refused, each tried.

    Args:
        model_type: try this one only.
        on_type: called with the name of each type before it is tried; all take some minutes.

    Raises MissingDependencyError without transformers.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version("transformers")
    except PackageNotFoundError as error:
        raise MissingDependencyError(
            "which models are supported depends on transformers, which is not installed",
            remedy="pip install 'cardlab[models]'",
        ) from error
    return SupportedTypes(transformers=release, types=tuple(_tried(model_type, on_type)))


def _tried(only: str | None, on_type: Callable[[str], None] | None) -> Iterator[SupportedType]:
    from cardlab.profilers.runtime.families import FAMILIES
    from cardlab.profilers.runtime.families.generic import types_with_a_plan
    from cardlab.profilers.runtime.selftest import try_type

    own = {model_type for family in FAMILIES for model_type in family.model_types}
    planned = types_with_a_plan()
    for name in sorted({*planned, *own}) if only is None else (only,):
        if on_type is not None:
            on_type(name)
        adapter = OWN if name in own else PLAN if name in planned else NOT_MEASURED
        try:
            kinds, words = try_type(name)
        except ProfileError as error:
            yield SupportedType(model_type=name, adapter=adapter, supported=False, words=error.message)
        else:
            yield SupportedType(model_type=name, adapter=adapter, supported=True, words=words, kinds=kinds)

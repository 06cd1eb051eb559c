"""Which stored tensors make which parameter of a model, by transformers' own rules of loading.

Since release 5 transformers renames and fuses tensors when it loads a checkpoint: a mixture of experts keeps the maps
of all experts of a layer in one parameter, and its checkpoints keep them one by one. Its rules say which tensors these
are, in which order and along which dimension; they are asked for names only, so a parameter is read when it is needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cardlab.core.errors import ProfileError
from cardlab.core.records.task import Architecture
from cardlab.profilers.runtime.entries import AGAIN, Entry
from cardlab.profilers.runtime.families import Family
from cardlab.profilers.runtime.families.generic import Generic, inspected

Shape = tuple[int, ...]
Rule = Any
"""One of transformers' rules of conversion, which state no types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A parameter that is stored in several tensors.

    Attributes:
        shape: of the parameter.
        groups: its tensors in order: those of a group are stacked, then the groups are put one after the other.
        stacked: the dimension of the parameter that stacking adds; None where each group is one tensor as it is.
        joined: the dimension along which groups follow each other; None where there is one.
    """

    shape: Shape
    groups: tuple[tuple[Entry, ...], ...]
    stacked: int | None
    joined: int | None

    @property
    def places(self) -> Iterator[tuple[Entry, tuple[int | slice, ...]]]:
        """Each tensor and the index in the parameter where it belongs."""
        first = 0
        for group in self.groups:
            width = 0 if self.joined is None else self.as_placed(group[0].shape)[self.joined]
            for number, entry in enumerate(group):
                where: list[int | slice] = [slice(None)] * len(self.shape)
                if self.joined is not None:
                    where[self.joined] = slice(first, first + width)
                if self.stacked is not None:
                    where[self.stacked] = number
                yield entry, tuple(where)
            first += width

    def as_placed(self, shape: Shape) -> Shape:
        """A tensor's shape with the dimension that stacking adds, at one."""
        return shape if self.stacked is None else (*shape[: self.stacked], 1, *shape[self.stacked :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """The tensors of a checkpoint as a model takes them.

    Attributes:
        whole: one tensor a parameter, by the parameter's name.
        parts: several tensors a parameter.
        left: tensors that are no part of a parameter, by their own name, or by that of a parameter that is not wanted.
        missing: names of tensors, or of whole parameters, that are not there.
    """

    whole: dict[str, Entry]
    parts: dict[str, Parts]
    left: dict[str, Entry]
    missing: tuple[str, ...]


def arrange(
    family: Family, architecture: Architecture, found: Mapping[str, Entry], wanted: Mapping[str, Shape]
) -> Arranged:
    """The stored tensors `found`, by name, as the parameters that are `wanted`, by name and shape.

    Raises ProfileError naming tensors that are there twice, that need another operation than renaming, stacking and
    concatenating, or whose shapes do not make the parameter's.
    """
    rules = _rules(family, architecture, wanted)
    whole: dict[str, Entry] = {}
    fused: dict[str, _Fused] = {}
    left: dict[str, Entry] = {}
    for name in sorted(found, key=_by_number):
        target = rules.target(name)
        if target is None or target.name not in wanted:
            left[name if target is None else target.name] = found[name]
        elif target.converter is None:
            if target.name in whole:
                _refuse_twice(whole[target.name].name, name, target.name)
            whole[target.name] = found[name]
        else:
            into = fused.setdefault(target.name, _Fused(target.name, wanted[target.name], target.converter))
            if not into.take(target, found[name]):
                left[name] = found[name]
    fused = {name: one for name, one in fused.items() if one.found}
    for name in fused.keys() & whole.keys():
        raise ProfileError(
            f"{name} stands in the checkpoint whole and in parts ({fused[name].first.name})", remedy=AGAIN
        )
    missing = [*(wanted.keys() - whole.keys() - fused.keys()), *(n for one in fused.values() for n in one.missing)]
    parts = {} if missing else {name: one.parts() for name, one in fused.items()}
    return Arranged(whole=whole, parts=parts, left=left, missing=tuple(sorted(missing, key=_by_number)))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Numbers in a name sort as numbers."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in name.split(".")]


def _refuse_twice(one: str, other: str, name: str) -> NoReturn:
    raise ProfileError(f"{one} and {other} of the checkpoint are both {name} of the model", remedy=AGAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where a stored tensor belongs: a parameter, and if it is a part of it the rule and which of its sources it is.

    `renamed` is the tensor's name before it was fused.
    """

    name: str
    renamed: str
    converter: Rule = None
    source: str = ""


class _Names:
    """Names as they are, for models that transformers loads so; some checkpoints leave out the inner model's name."""

    def __init__(self, wanted: Mapping[str, Shape]) -> None:
        self._wanted = wanted
        self._short = {name.partition(".")[2]: name for name in wanted if not name.startswith("lm_head")}

    def target(self, name: str) -> _Target | None:
        """The parameter of a stored tensor, None where there is none."""
        full = name if name in self._wanted else self._short.get(name)
        return None if full is None else _Target(name=full, renamed=full)


class _Rules(_Names):
    """The rules that transformers loads a model by, in its own order: all renamings, then one fusion at most."""

    def __init__(self, model: Rule, wanted: Mapping[str, Shape]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        super().__init__(wanted)
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._of_source = {source: rule for rule in self._converters for source in rule.source_patterns}
        self._prefix, self._state = model.base_model_prefix, model.state_dict()

    def target(self, name: str) -> _Target | None:
        """The parameter of a stored tensor, None where there is none."""
        renamed, source = self._renamed(name, self._renamings, self._converters)
        if renamed not in self._state and name in self._state:
            renamed, source = self._renamed(name, [], [])
        if renamed not in self._state:
            return None
        if source is None:
            return _Target(name=renamed, renamed=renamed)
        before, _ = self._renamed(name, self._renamings, [])
        return _Target(name=renamed, renamed=before, converter=self._of_source[source], source=source)

    def _renamed(self, name: str, renamings: list[Rule], converters: list[Rule]) -> tuple[str, str | None]:
        from transformers.core_model_loading import rename_source_key

        found: tuple[str, str | None] = rename_source_key(name, renamings, converters, self._prefix, self._state)
        return found


def _rules(family: Family, architecture: Architecture, wanted: Mapping[str, Shape]) -> _Names:
    """Those of a generic family; names as they are of the others, and where transformers has no rules."""
    if isinstance(family, Generic):
        try:
            return _Rules(inspected(family, architecture.configuration or "{}"), wanted)
        except ImportError:
            # Releases before 5 keep modules as their checkpoints do.
            pass
    return _Names(wanted)


@dataclass(slots=True)
class _Fused:
    """The parts of one parameter, as they are found."""

    name: str
    shape: Shape
    converter: Rule
    found: dict[str, dict[int, tuple[_Target, Entry]]] = field(default_factory=dict)

    def take(self, target: _Target, entry: Entry) -> bool:
        """Keep one part; False for a number that the model has no place for.

        Raises ProfileError for parts that are there twice, and for operations that are not done here.
        """
        _, stacked, _ = self._how(entry)
        number = _number(target)
        if number is None or (stacked is not None and number >= self.shape[stacked]):
            return False
        own = self.found.setdefault(target.source, {})
        if number in own:
            _refuse_twice(own[number][1].name, entry.name, f"one part of {self.name}")
        own[number] = (target, entry)
        return True

    @property
    def first(self) -> Entry:
        """The first part that was found."""
        return next(entry for own in self.found.values() for _, entry in own.values())

    @property
    def missing(self) -> list[str]:
        """Names of parts that are not there, as their fellows are named."""
        fellow, entry = next(iter(next(iter(self.found.values())).values()))
        sources, stacked, _ = self._how(entry)
        count = 1 if stacked is None else self.shape[stacked]
        return [
            _named_like(fellow, entry.name, source, number)
            for source in sources
            for number in range(count)
            if number not in self.found.get(source, {})
        ]

    def parts(self) -> Parts:
        """The parameter, all parts being there; ProfileError where their shapes do not make it."""
        sources, stacked, joined = self._how(self.first)
        groups = tuple(tuple(self.found[s][number][1] for number in sorted(self.found[s])) for s in sources)
        made = Parts(shape=self.shape, groups=groups, stacked=stacked, joined=joined)
        for group in groups:
            usual = Counter(entry.shape for entry in group).most_common(1)[0][0]
            for entry in group:
                if entry.shape != usual or not self._fits(made, entry.shape):
                    self._refuse_shape(f"{entry.name} has shape {entry.shape}")
        if joined is not None and sum(made.as_placed(g[0].shape)[joined] for g in groups) != self.shape[joined]:
            sizes = " and ".join(f"{g[0].name} {g[0].shape}" for g in groups)
            self._refuse_shape(f"{sizes} do not make {self.name}")
        return made

    def _fits(self, made: Parts, shape: Shape) -> bool:
        """Whether a part has the parameter's size in every dimension along which nothing is put together."""
        if len(shape) != len(self.shape) - (made.stacked is not None):
            return False
        free = (made.stacked, made.joined)
        return all(n in free or own == self.shape[n] for n, own in enumerate(made.as_placed(shape)))

    def _refuse_shape(self, said: str) -> NoReturn:
        raise ProfileError(
            f"{said} in the checkpoint, where {self.name} has shape {self.shape} by config.json",
            remedy="give the config.json that belongs to the checkpoint",
        )

    def _how(self, entry: Entry) -> tuple[list[str], int | None, int | None]:
        """Sources in order, and the dimensions of stacking and of concatenating."""
        from transformers.core_model_loading import Concatenate, MergeModulelist

        operations, sources = self.converter.operations, list(self.converter.source_patterns)
        kinds = [type(operation) for operation in operations]
        dims = [operation.dim % len(self.shape) for operation in operations if hasattr(operation, "dim")]
        listed = ["*" in source for source in sources]
        # What a source without a number, or with one where nothing is stacked, would mean here is not known.
        if len(self.converter.target_patterns) == 1:
            if kinds == [MergeModulelist] and listed == [True]:
                return sources, dims[0], None
            if kinds == [Concatenate] and not any(listed):
                return sources, None, dims[0]
            if kinds == [MergeModulelist, Concatenate] and all(listed) and dims[0] != dims[1]:
                return sources, dims[0], dims[1]
        names = " and ".join(kind.__name__ for kind in kinds)
        raise ProfileError(
            f"transformers makes {self.name} of {entry.name} by {names}, which is not done here",
            remedy="let transformers write it as the model has it: "
            "from_pretrained(DIR).save_pretrained(NEW, save_original_format=False)",
        )


def _plain(source: str, number: int | str) -> str:
    """A source's pattern as the text that it means, with that number."""
    return source.replace("\\", "").removeprefix("^").replace("*", str(number))


def _number(target: _Target) -> int | None:
    """The number of a part in its list, 0 of one that is not in a list; None where it cannot be told."""
    if "*" not in target.source:
        return 0
    before, _, after = _plain(target.source, "*").partition("*")
    hit = re.search(rf"{re.escape(before)}(\d+){re.escape(after)}(?!\w)", target.renamed)
    return int(hit.group(1)) if hit else None


def _named_like(fellow: _Target, name: str, source: str, number: int) -> str:
    """The name that another part has in a checkpoint, by that of a fellow."""
    own = _plain(fellow.source, _number(fellow) or 0)
    return (name if own in name else fellow.renamed).replace(own, _plain(source, number))

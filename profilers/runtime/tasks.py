"""From what a person asked for to a resolved Task: every default filled in, every value checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cardlab.core.errors import ProfileError, UsageError
from cardlab.core.records.task import Architecture, Lora, Task, names_module
from cardlab.profilers.runtime.checkpoint import check_stored
from cardlab.profilers.runtime.configs import label_of, load_architecture
from cardlab.profilers.runtime.families import Family, family_named
from cardlab.profilers.runtime.families.base import one_of_each_kind

OPTIMIZERS = ("sgd", "adamw")
ADAPTER_DTYPES = ("float32", "bfloat16", "float16")
ALL_LINEAR = "all-linear"


def resolve_task(
    model: str,
    *,
    batch: int = 1,
    sequence: int = 512,
    lora_rank: int = 8,
    lora_alpha: float = 16.0,
    lora_targets: Sequence[str] | None = None,
    adapter_dtype: str = "float32",
    lora_rank_pattern: Mapping[str, int] | None = None,
    lora_dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
    gradient_checkpointing: bool = False,
    optimizer: str = "sgd",
    quantised: bool = False,
) -> Task:
    """The task that these options mean.

    Args:
        model: a bundled name or the path of a config.json.
        batch, sequence: sequences per mini-batch and tokens per sequence.
        lora_rank, lora_alpha: r and the scaling numerator.
        lora_targets: module names, ("all-linear",) for all, None for the family's default.
        adapter_dtype: dtype of the LoRA weights.
        lora_rank_pattern: other ranks by module name; lora_dropout: share from 0 to below 1.
        rslora, dora: PEFT's variants of these names.
        optimizer: "sgd" (no state) or "adamw" (two moments per adapter weight).
        quantised: who asks goes on to ask how the checkpoint's weights are kept (`choose_quantization`); else one that
            is quantised is refused.

    Raises UsageError for numbers and names that mean nothing, UnknownModelError,
    UnsupportedFamilyError, and ProfileError when the model does not fit what is asked.
    """
    _check_whole("batch", batch)
    _check_whole("sequence", sequence)
    _check_whole("LoRA rank", lora_rank)
    _check_choice("optimizer", optimizer, OPTIMIZERS)
    _check_choice("adapter dtype", adapter_dtype, ADAPTER_DTYPES)
    alpha = float(lora_alpha)
    if not 0.0 < alpha < float("inf"):
        raise UsageError(f"LoRA alpha {alpha:g} is not positive", remedy="give a positive number")
    if not 0.0 <= lora_dropout < 1.0:
        raise UsageError(f"LoRA dropout {lora_dropout:g} is no share", remedy="give a number from 0 to below 1")
    label = label_of(model)
    architecture = load_architecture(model)
    check_stored(label, architecture, quantised=quantised)
    check_cut_of(architecture)
    if sequence > architecture.max_positions:
        raise ProfileError(
            f"sequence {sequence} is longer than the {architecture.max_positions} positions of {model}",
            remedy=f"use at most {architecture.max_positions} tokens",
        )
    family = family_named(architecture.family)
    targets = resolve_targets(family, architecture, lora_targets)
    return Task(
        model=label,
        architecture=architecture,
        lora=Lora(
            rank=lora_rank,
            alpha=alpha,
            targets=targets,
            dtype=adapter_dtype,
            rank_pattern=_checked_pattern(lora_rank_pattern, family, architecture, targets),
            dropout=float(lora_dropout),
            rslora=rslora,
            dora=dora,
        ),
        batch=batch,
        sequence=sequence,
        gradient_checkpointing=gradient_checkpointing,
        optimizer=optimizer,
    )


def check_cut_of(architecture: Architecture) -> None:
    """UnsupportedFamilyError for a model that is not what it was once it is cut; families of our own are tested."""
    if architecture.configuration is not None:
        from cardlab.profilers.runtime.selftest import check_cut

        check_cut(architecture)


def resolve_targets(family: Family, architecture: Architecture, targets: Sequence[str] | None) -> tuple[str, ...]:
    """LoRA targets, sorted; ProfileError naming the available ones if one matches nothing."""
    available = family.available_targets(architecture)
    paths = {path for layer in one_of_each_kind(architecture) for path in family.layer_maps(architecture, layer)}
    if targets is None:
        return tuple(sorted(family.default_targets_of(architecture)))
    ambiguous = family.ambiguous_targets(architecture)
    asked = [name for name in ambiguous if name in targets or list(targets) == [ALL_LINEAR]]
    if asked:
        raise ProfileError(
            f"{', '.join(asked)} of a {family.name} model means its experts to PEFT, which get no adapters here",
            remedy=f"use some of {', '.join(available)}",
        )
    if list(targets) == [ALL_LINEAR]:
        return available
    if not targets:
        raise UsageError("no LoRA target given", remedy=f"use some of {', '.join(available)}")
    for target in targets:
        if not any(names_module(target, path) for path in paths):
            raise ProfileError(
                f"LoRA target {target!r} matches no linear map of a {family.name} layer",
                remedy=f"use some of {', '.join(available)} or {ALL_LINEAR}",
            )
    return tuple(sorted(set(targets)))


def _checked_pattern(
    pattern: Mapping[str, int] | None, family: Family, architecture: Architecture, targets: Sequence[str]
) -> dict[str, int] | None:
    """The pattern, None for an empty one; raises UsageError for a rank that is none or a name of no adapted module."""
    paths = {path for layer in one_of_each_kind(architecture) for path in family.layer_maps(architecture, layer)}
    adapted = [path for path in paths if any(names_module(target, path) for target in targets)]
    for name, rank in (pattern or {}).items():
        _check_whole(f"LoRA rank of {name}", rank)
        if not any(names_module(name, path) for path in adapted):
            raise UsageError(
                f"the rank pattern names {name!r}, which has no adapters",
                remedy=f"use some of {', '.join(sorted(targets))}",
            )
    for path in adapted:
        meant = [name for name in pattern or {} if names_module(name, path)]
        if len(meant) > 1:
            # JSON keeps no order, so which comes first must not matter.
            raise UsageError(
                f"the rank pattern names {path} as {' and as '.join(meant)}", remedy="name each module once"
            )
    return dict(sorted(pattern.items())) if pattern else None


def _check_whole(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{what} {value!r} is not a whole number of at least 1", remedy=f"give a {what} >= 1")


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {what} {value!r}", remedy=f"use one of {', '.join(choices)}")

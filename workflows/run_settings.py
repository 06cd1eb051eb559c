"""What a new run is: its task and settings, from options and the plan that it follows."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.records.plan import Plan
from cardlab.core.records.task import Execution, Task
from cardlab.db.store import Store
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.configs import dropout_note, load_architecture, load_computing
from cardlab.split.batched import sharing_of
from cardlab.split.peft_files import read_lora
from cardlab.split.rates import rate_words
from cardlab.split.settings import RunSettings
from cardlab.split.weights import open_weights
from cardlab.workflows.options.run import RunOptions, TrainingOptions
from cardlab.workflows.run_data import tokenizer_of
from cardlab.workflows.targets import lora_of, split_cuts, split_pattern, split_targets

DEFAULT_MODEL = "tiny-llama"
# The first round pays for caches and first allocations; a median needs some beside it.
DEFAULT_ROUNDS = 3
DEFAULT_RATE = 1e-3
# A thousand times beyond what trains LoRA adapters on either side.
_USUAL_RATES = (1e-8, 10.0)
# Or all positions of a model that has fewer.
DEFAULT_SEQUENCE = 512
# A plan is for the optimizer of its profiles. A run without one is there to train, and plain SGD hardly moves LoRA
# adapters, which start at a product of 0.
DEFAULT_OPTIMIZER = "adamw"


def task_of(options: TrainingOptions, plan: Plan | None, store: Store) -> Task:
    """The task as asked, what was not said taken from the plan's."""
    base: Task | None = None
    if plan is not None and plan.runs:
        base = store.runs.get(plan.runs[0]).run.task
    # Asked for, else the plan's; what neither says is the default of a task.
    asked: dict[str, Any] = {
        "batch": options.batch,
        "sequence": options.sequence,
        "lora_rank": options.lora_rank,
        "lora_alpha": options.lora_alpha,
        "lora_targets": split_targets(options.lora_targets),
        "lora_rank_pattern": split_pattern(options.lora_rank_pattern),
        "lora_dropout": options.lora_dropout,
        # A switch says only that it is on.
        "rslora": options.rslora or None,
        "dora": options.dora or None,
        "optimizer": options.optimizer,
    }
    planned: dict[str, Any] = {"optimizer": DEFAULT_OPTIMIZER} if plan is None else {}
    if base is not None:
        planned = {
            "batch": base.batch,
            "sequence": base.sequence,
            **lora_of(base.lora),
            # Names of its own model's modules: another model may not have them.
            "lora_targets": base.lora.targets if options.model is None else None,
            "lora_rank_pattern": base.lora.rank_pattern if options.model is None else None,
            "gradient_checkpointing": base.gradient_checkpointing,
            "optimizer": base.optimizer,
        }
    if options.adapters is not None:
        found = read_lora(Path(options.adapters))
        own = lora_of(found) | {"lora_targets": found.targets}
        planned |= {name: value for name, value in own.items() if name != "adapter_dtype"}
    known = planned | {name: value for name, value in asked.items() if value is not None}
    model = options.model if options.model is not None else base.model if base else DEFAULT_MODEL
    if "sequence" not in known:
        known["sequence"] = min(DEFAULT_SEQUENCE, load_architecture(model).max_positions)
    return resolve_task(model, **known, quantised=True)


def settings_of(options: TrainingOptions, plan: Plan | None, task: Task, execution: Execution) -> RunSettings:
    """A new run as asked, what was not said taken from the plan."""
    named = [] if plan is None else [d.codec for d in plan.rounds[0].devices if d.codec not in (None, "none")]
    parallel = options.parallel or (plan is not None and plan.scheme == "sft")
    epochs = options.local_epochs or (plan.local_epochs if plan is not None and plan.local_epochs else None)
    epochs = epochs or options.accumulate
    return RunSettings(
        run=new_uid(),
        task=task,
        # A plan of one round stands for any number of equal ones.
        rounds=_rounds(options, plan, epochs),
        epochs=epochs,
        learning_rate=DEFAULT_RATE if options.learning_rate is None else options.learning_rate,
        schedule=options.schedule,
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        accumulate=options.accumulate,
        max_grad_norm=options.max_grad_norm,
        autocast=options.autocast,
        wire_dtype=options.wire_dtype or (plan.wire_dtype if plan is not None else None) or execution.dtype,
        codec=options.codec or (named[0] if named and named[0] else "none"),
        error_feedback=options.error_feedback,
        seed=options.seed,
        parallel=parallel,
        server_sharing=sharing_of(options.server_sharing, plan, parallel),
        plan=None if plan is None else plan.uid,
        cut=options.cut,
        cuts=split_cuts(options.cuts) or {},
        adapt=options.adapt,
        eval_every=options.eval_every,
        patience=options.patience,
        participants=options.participants,
        deadline_s=options.deadline_s,
        # Devices compare it with their own: halves of different models would train without an error, and wrong.
        weights=open_weights(task, options.seed).fingerprint,
        computing=load_computing(task.model),
        tokenizer=None if (tokenizer := tokenizer_of(options, task.model)) is None else tokenizer.digest,
        dtype=execution.dtype,
        quantization=execution.quantization,
    )


def _rounds(options: TrainingOptions, plan: Plan | None, epochs: int) -> int:
    """Rounds as asked, else the plan's. Raises UsageError for steps that are no whole rounds."""
    if options.max_steps is not None:
        each = epochs // options.accumulate
        if each < 1 or options.max_steps % each:
            raise UsageError(
                f"--max-steps is {options.max_steps}, and a round has {epochs / options.accumulate:g} step(s)",
                remedy="give whole rounds of steps",
            )
        return options.max_steps // each
    return options.rounds or (len(plan.rounds) if plan is not None and len(plan.rounds) > 1 else DEFAULT_ROUNDS)


def passes_made(
    options: TrainingOptions, settings: RunSettings, rows: int | None
) -> tuple[RunSettings, tuple[str, ...]]:
    """The same with the rounds that --epochs takes, and how many these are, in words.

    Args:
        rows: of the device that has most of them.
    """
    if not isinstance(options, RunOptions) or options.epochs is None or rows is None:
        return settings, _steps_taken(options, settings, rows)
    mini_batches = ceil(options.epochs * rows / settings.task.batch)
    made = replace(settings, rounds=ceil(mini_batches / settings.epochs))
    words = f"{options.epochs:g} pass(es) over {rows} row(s) are {mini_batches} mini-batch(es): {made.rounds} round(s)"
    return made, (words,)


def _steps_taken(options: TrainingOptions, settings: RunSettings, rows: int | None) -> tuple[str, ...]:
    """How much the run trains, in words; a few steps train nothing, and nothing else says that they are few."""
    each, mini_batches = settings.epochs // settings.accumulate, settings.rounds * settings.epochs
    who = "of each device" if settings.participants is None else "of each device that takes part"
    words = f"{settings.rounds} round(s) of {each} step(s) {who}"
    # Of those that are drawn nobody takes part in every round.
    if rows is None or settings.participants is not None:
        return (words,)
    share = mini_batches * settings.task.batch / rows
    words += f": {share:.3g} pass(es) over {rows} row(s)"
    asked = options.rounds is not None or options.max_steps is not None or options.plan is not None
    return (words if asked or share >= 1.0 else f"{words}; --epochs 1 makes a whole one",)


def length_note(options: TrainingOptions, plan: Plan | None, task: Task) -> tuple[str, ...]:
    """That rows are shorter than they are by default, which nobody asked for."""
    own = options.sequence is None and plan is None and task.sequence < DEFAULT_SEQUENCE
    return (f"rows of {task.sequence} tokens: {task.model} has no more positions",) if own else ()


def profiled_execution(plan: Plan | None, store: Store, key: str) -> Execution | None:
    """How this machine computed in the profile that the plan rests on; None without one."""
    profiles = [] if plan is None else [store.runs.get(uid).run for uid in plan.runs]
    return next((run.execution for run in profiles if run.device.key == key), None)


def training_notes(settings: RunSettings) -> tuple[str, ...]:
    """What a person must know of how it is trained, because nothing on the command line says it."""
    notes = [] if settings.adapters is None else [f"begins with the adapters of {settings.adapters}"]
    notes += [] if settings.quantization is None else [f"frozen weights are kept in {settings.quantization} here"]
    # What a plan or adapters brought may be no rank that anybody typed.
    notes += [settings.task.lora.words] if settings.task.lora.rank_pattern else []
    rate = settings.learning_rate
    words = rate_words(settings)
    if not _USUAL_RATES[0] <= rate <= _USUAL_RATES[1]:
        notes.append(f"--learning-rate {rate:g} is far from what trains adapters, 0.00001 to 0.01 usually")
    notes += [] if words is None else [words]
    notes += [f"weight decay {settings.weight_decay:g}"] if settings.weight_decay else []
    if settings.accumulate > 1:
        notes.append(f"{settings.accumulate} mini-batches make one step, each weighted by its tokens with a loss")
    if settings.max_grad_norm is not None:
        notes.append(f"the gradient of both sides together is clipped to the norm {settings.max_grad_norm:g}")
    if settings.autocast is not None:
        notes.append(
            f"both sides compute under torch's autocast to {settings.autocast}; no profile does: no predictions"
        )
    if settings.task.optimizer == "sgd" and rate <= DEFAULT_RATE:
        notes.append(
            f"sgd at --learning-rate {rate:g} hardly moves LoRA adapters: good for timing; to train: --optimizer adamw"
        )
    if settings.task.optimizer == "adamw" and not settings.weight_decay:
        notes.append("adamw without weight decay")
    dropout = dropout_note(settings.task.model)
    return (*notes, *((dropout,) if dropout else ()))

"""What both sides of a run must agree on, and how a disagreement is said in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from cardlab import __version__
from cardlab.core.errors import RunError, UsageError
from cardlab.core.plain import to_plain
from cardlab.core.records.plan import SERIAL
from cardlab.core.records.task import Architecture, Task
from cardlab.split.refusals import RefusalCode, RefusalError

_DEFAULT = "the default"
# Half precision without a scaler of the loss: float16 would lose small gradients.
AUTOCASTS = ("bfloat16",)
PRIVACY = (
    "warning: with a language model the labels are the tokens themselves, so the server sees the text; smashed data"
    " and adapters reveal it too (docs/split.md says what is known)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """A run as the server announces it.

    Attributes:
        run: uid.
        task: model dimensions, LoRA, batch, sequence, optimizer.
        rounds, epochs: rounds N, and mini-batches T that a device takes in one.
        learning_rate: of both sides' optimizers.
        schedule: how the learning rate goes on after its warm-up (split/rates.py).
        warmup_steps: mini-batches of a device over which it rises from 0.
        weight_decay: of both sides' optimizers, as torch has it.
        accumulate: mini-batches of a device whose gradients make one step; divides `epochs`.
        max_grad_norm: norm to which the gradient of both sides together is clipped, None for no clipping.
        autocast: dtype of torch's autocast on both sides, None without it.
        wire_dtype, codec: how smashed data and gradients travel; a plan may name another codec for a device.
        error_feedback: what the codec lost of a gradient is added to the device's next one.
        seed: of initial adapters, made weights and the order of the data.
        parallel: devices at once with adapters averaged after the round (SFT), else one after the other (CARD).
        server_sharing: of parallel devices: "serial" one mini-batch after the other, "batched" all as one.
        adapters: folder and digest of the adapters that it began with, None for fresh ones.
        plan: uid of the plan that is followed, None for a given cut.
        cut: layers on every device without a plan.
        weights: fingerprint of the frozen weights.
        computing: what the model's configuration says about the computation (`Family.computing`), None where that was
            not kept (0.1.0).
        tokenizer: digest of the tokenizer that devices must use, None to take that of the first.
        dtype: that the server computes in, None where that was not kept (0.1.0).
        quantization: form of the server's frozen weights, None for dense ones.
        eval_every: rounds between two evaluations of held-out rows, where a device has some.
        patience: evaluations in a row without a lower loss after which the run ends, None for no such end.
        participants: devices that take part in a round, drawn by the seed; None for all.
        deadline_s: that a device's round may take before it is given up, None for no limit but silence.
        cuts: layers of the devices that have a cut of their own, by label, without a plan.
        adapt: the plan is solved again between rounds for what they observe.
        version: of cardlab.
    """

    run: str
    task: Task
    rounds: int
    epochs: int
    learning_rate: float
    wire_dtype: str
    codec: str = "none"
    error_feedback: bool = False
    seed: int = 0
    parallel: bool = False
    server_sharing: str = SERIAL
    plan: str | None = None
    cut: int | None = None
    weights: str = ""
    computing: Mapping[str, object] | None = None
    tokenizer: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    adapters: str | None = None
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    accumulate: int = 1
    max_grad_norm: float | None = None
    autocast: str | None = None
    eval_every: int = 1
    patience: int | None = None
    participants: int | None = None
    deadline_s: float | None = None
    cuts: Mapping[str, int] = field(default_factory=dict)
    adapt: bool = False
    version: str = __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a device trains with; "" was not said.

    Attributes:
        tokenizer: digest of its tokenizer, "bytes" for bytes.
        data: digest of its documents and of its shard of them.
        dtype: that it computes in.
        quantization: form of its frozen weights, "none" for dense ones.
        names: data and tokenizer in words, for people.
        rows: of its data, |D_m|: windows, samples, or rows of packed samples.
        held_out_rows: that it judges adapters by.
        batch: rows of its mini-batches, None for those of the task.
    """

    tokenizer: str = ""
    data: str = ""
    dtype: str = ""
    quantization: str = ""
    names: str = ""
    rows: int = 1
    held_out_rows: int = 0
    batch: int | None = None


def check_inputs(name: str, now: Inputs, before: Inputs) -> None:
    """Raise RefusalError if a device that has finished rounds came back to train on something else."""
    for what, new, old, option in (
        ("the tokens of another tokenizer", now.tokenizer, before.tokenizer, "--tokenizer"),
        (
            "other data"
            if now.names != before.names
            else "other rows of a file of that name (or the file has changed)",
            now.data,
            before.data,
            "--data (and --shard, --train-on, --packing, --chat-template, --eval-share, --eval-data)",
        ),
        (f"another dtype ({now.dtype}, not {before.dtype})", now.dtype, before.dtype, "--dtype"),
        (
            f"weights in another form ({now.quantization}, not {before.quantization})",
            now.quantization,
            before.quantization,
            "--quantization",
        ),
        (
            f"mini-batches of {_rows_of(now.batch)}, not of {_rows_of(before.batch)}",
            _rows_of(now.batch),
            _rows_of(before.batch),
            "--batch",
        ),
    ):
        if new and old and new != old:
            raise RefusalError(
                f"{name} came back with {what}: it trained on {before.names or 'others'}",
                code=RefusalCode.INPUTS,
                remedy=f"give the {option} that it began with, or begin another run in another --out",
            )


def _rows_of(batch: int | None) -> str:
    return "the run's size" if batch is None else f"{batch} row(s)"


def check_same_tokenizer(name: str, now: Inputs, others: Mapping[str, Inputs]) -> None:
    """Raise RefusalError if another device of the run makes other tokens of a text."""
    for other, theirs in others.items():
        if other != name and now.tokenizer and theirs.tokenizer and theirs.tokenizer != now.tokenizer:
            raise RefusalError(
                f"the tokenizer of {name} ({now.names}) is not that of {other} ({theirs.names})",
                code=RefusalCode.INPUTS,
                remedy="name the same tokenizer.json on every device with --tokenizer",
            )


def check_tokenizer(settings: RunSettings, digest: str, origin: str) -> None:
    """Raise RunError if this side's tokenizer is not that of the run."""
    if settings.tokenizer is not None and digest != settings.tokenizer:
        theirs = "bytes" if settings.tokenizer == "bytes" else "another tokenizer.json"
        raise RunError(
            f"the tokens here are those of {origin}, and the run's are {theirs}",
            remedy="copy the server's tokenizer.json here and name it with --tokenizer"
            if settings.tokenizer != "bytes"
            else "give --tokenizer bytes, or begin the run with that tokenizer",
        )


def check_computing(announced: Mapping[str, object] | None, model: str, here: Mapping[str, object]) -> None:
    """Raise RunError naming every key of config.json by which this side's layers compute something else."""
    if announced is None:
        return
    differ = [key for key in {**announced, **here} if announced.get(key) != here.get(key)]
    if differ:
        said = "; ".join(
            f"{key} is {_short(here.get(key))} here and {_short(announced.get(key))} there" for key in differ
        )
        raise RunError(
            f"the config.json of {model} computes something else than the server's: {said}",
            remedy="copy the server's config.json here",
        )


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def check_cut(task: Task, cut: int) -> None:
    """Raise UsageError for a cut that leaves one side without layers."""
    last = task.architecture.layers - 1
    if not 1 <= cut <= last:
        raise UsageError(f"cut {cut} leaves one side of {task.model} without layers", remedy=f"use 1 to {last}")


def check_task(announced: Task, model: str, here: Task, given: Mapping[str, object]) -> None:
    """Raise RunError if this side's model or a LoRA option that was given is not the run's.

    Args:
        announced: the server's task.
        model, here: what this side has, as a task.
        given: options that the user of this side named, by attribute ("lora.rank").
    """
    there = to_plain(announced)
    for f in fields(Architecture):
        key, value, own = f.name, getattr(announced.architecture, f.name), getattr(here.architecture, f.name)
        if key == "configuration" and own != value:
            key, own, value = _first_difference(own, value)
        # The first difference is enough to choose the right model.
        if own != value:
            raise RunError(
                f"the model {model} is not the server's {announced.model}: {key} is {own} here and {value} there",
                remedy=f"start this device with --model {announced.model}",
            )
    for key, value in given.items():
        theirs = there
        for part in key.split("."):
            theirs = theirs[part]
        # Plain JSON has lists only.
        wanted = list(value) if isinstance(value, tuple) else value
        if theirs != wanted:
            raise RunError(
                f"{key} is {wanted} on this device and {theirs} on the server",
                remedy="give the same on both sides, or leave it out here: the server's is taken",
            )


def _first_difference(own: str | None, value: str | None) -> tuple[str, object, object]:
    """Key and both values of the first difference of two configurations; a key that one leaves out has its default."""
    mine, theirs = (json.loads(text) if text else {} for text in (own, value))
    key = next(k for k in sorted({*mine, *theirs}) if mine.get(k, _DEFAULT) != theirs.get(k, _DEFAULT))
    return key, mine.get(key, _DEFAULT), theirs.get(key, _DEFAULT)


def check_version(theirs: str) -> None:
    """Raise RefusalError if the other side is another version of cardlab."""
    if theirs != __version__:
        raise RefusalError(
            f"the other side runs cardlab {theirs[:40]}, this one {__version__}",
            code=RefusalCode.CARDLAB_VERSION,
            remedy="install the same version on both sides",
        )

"""Options of a run that contradict each other, its plan, or the unfinished run that goes on."""

from __future__ import annotations

from cardlab.core.errors import RunError, UsageError
from cardlab.core.options import given
from cardlab.core.records.plan import BATCHED, Plan
from cardlab.core.records.task import Task
from cardlab.profilers.runtime.configs import load_architecture, load_computing
from cardlab.profilers.runtime.execution import DTYPES
from cardlab.profilers.runtime.quantization import AUTO, NONE
from cardlab.split.codecs.registry import codec_named
from cardlab.split.rates import SCHEDULES
from cardlab.split.schedule import check_plan
from cardlab.split.settings import AUTOCASTS, RunSettings, check_computing, check_cut
from cardlab.split.weights import open_weights
from cardlab.workflows.options.run import RunOptions, TrainingOptions
from cardlab.workflows.reporting import check_reports
from cardlab.workflows.run_data import devices_of, files_of, tokenizer_of
from cardlab.workflows.targets import split_cuts

# What a journal says already; anything else that a resumed run was given would be dropped.
# AdamW multiplies it by ten, and torch's kernels take float32.
_HIGHEST_RATE = 1e30
_RESUMABLE = frozenset(
    (
        "--local",
        "--resume",
        "--rounds",
        "--learning-rate",
        "--save-every",
        "--keep-checkpoints",
        "--out",
        "--threads",
        "--dtype",
        "--quantization",
        "--data",
        "--tokenizer",
        "--chat-template",
        "--train-on",
        "--packing",
        "--eval-data",
        "--eval-share",
        "--link",
        "--silence",
        "--model",
    )
    + ("--devices", "--bind", "--key", "--allow", "--platform", "--name", "--wait", "--report-to")
)


_OF_DEVICES = frozenset(
    ("--data", "--tokenizer", "--chat-template", "--train-on", "--packing", "--eval-data", "--eval-share")
    + ("--link", "--model")
)


def check_options(options: TrainingOptions) -> None:
    """Raise UsageError for options that are none, contradict each other, or have no effect."""
    check_reports(options.report_to)
    if isinstance(options, RunOptions):
        _check_files(options)
    if options.learning_rate is not None and not 0.0 < options.learning_rate <= _HIGHEST_RATE:
        raise UsageError(
            f"--learning-rate is {options.learning_rate:g}",
            remedy=f"give a number above 0 and up to {_HIGHEST_RATE:g}",
        )
    if options.keep_checkpoints is not None and options.save_every is None:
        raise UsageError("--keep-checkpoints has no effect without checkpoints", remedy="give --save-every N too")
    if options.resume:
        # The server's own half was settled when the run began; in a local run these go to the devices.
        _check_resumed(options, _RESUMABLE if isinstance(options, RunOptions) else _RESUMABLE - _OF_DEVICES)
        return
    if options.server_sharing is not None and not options.parallel and options.plan is None:
        raise UsageError(
            "--server-sharing has no effect on devices one after another", remedy="add --parallel, or leave it out"
        )
    # A server of its own may be joined by more than it waits for.
    alone = isinstance(options, RunOptions) and devices_of(options) == 1
    if options.parallel and options.plan is None and alone:
        raise UsageError("--parallel has no effect on one device", remedy="give --devices 2, or leave --parallel out")
    if options.error_feedback and options.plan is None and options.codec in (None, "none"):
        raise UsageError("--error-feedback has no effect without a codec", remedy="name a --codec, or leave it out")
    if (options.plan is None) == (options.cut is None):
        raise UsageError("a run needs a cut", remedy="give --plan ID or --cut C, one of them")
    if options.wire_dtype is not None and options.wire_dtype not in DTYPES:
        raise UsageError(f"{options.wire_dtype!r} is no wire dtype", remedy=f"use one of: {', '.join(DTYPES)}")
    if options.codec is not None:
        codec_named(options.codec)
    if options.schedule not in SCHEDULES:
        raise UsageError(f"{options.schedule!r} is no schedule", remedy=f"use one of: {', '.join(SCHEDULES)}")
    if options.rounds is not None and options.max_steps is not None:
        raise UsageError("--rounds and --max-steps say the same twice", remedy="give one of them")
    if options.adapt:
        _check_adapting(options)
    if options.cuts is not None and options.plan is not None:
        raise UsageError("a plan has the cuts of its devices", remedy="leave --cuts out")
    if options.deadline_s is not None and not 0.0 < options.deadline_s < float("inf"):
        raise UsageError(f"--deadline is {options.deadline_s:g}", remedy="give a number above 0")
    if isinstance(options, RunOptions):
        _check_local(options)
    if options.max_grad_norm is not None and not 0.0 < options.max_grad_norm < float("inf"):
        raise UsageError(f"--max-grad-norm is {options.max_grad_norm:g}", remedy="give a number above 0")
    if options.autocast not in (None, *AUTOCASTS):
        raise UsageError(f"--autocast is {options.autocast!r}", remedy=f"use one of: {', '.join(AUTOCASTS)}")
    if not 0.0 <= options.weight_decay < float("inf"):
        raise UsageError(f"--weight-decay is {options.weight_decay:g}", remedy="give 0 or a number above it")


def _check_adapting(options: TrainingOptions) -> None:
    """Raise UsageError for what cannot be adapted, or what nothing is predicted of to hold rounds against."""
    if options.plan is None:
        raise UsageError(
            "--adapt solves a plan again, and this run has none", remedy="give --plan ID, or leave --adapt out"
        )
    for flag, there in (("--autocast", options.autocast), ("--codec", options.codec)):
        if there is not None:
            raise UsageError(
                f"--adapt holds rounds against their prediction, and of {flag} {there} the plan has none",
                remedy=f"leave {flag} or --adapt out",
            )
    if options.parallel:
        raise UsageError(
            "--adapt is for devices one after another: in parallel rounds they share server and band",
            remedy="leave --parallel or --adapt out",
        )


def _check_resumed(options: TrainingOptions, allowed: frozenset[str]) -> None:
    """Raise UsageError for an option that the unfinished run has settled."""
    settled = [flag for flag in given(options) if flag not in allowed]
    if settled:
        raise UsageError(
            f"{settled[0]} has no effect on an unfinished run, which goes on as it began",
            remedy=f"leave {settled[0]} out, or begin another run in another --out",
        )


def _check_passes(options: RunOptions) -> None:
    """Raise UsageError for passes over the data that are none, or that something else says already."""
    if options.epochs is None:
        return
    if not 0.0 < options.epochs < float("inf"):
        raise UsageError(f"--epochs is {options.epochs:g}", remedy="give a number above 0")
    for flag, given_here in (("--rounds", options.rounds), ("--max-steps", options.max_steps)):
        if given_here is not None:
            raise UsageError(f"{flag} and --epochs say the same twice", remedy="give one of them")
    if options.participants is not None:
        raise UsageError(
            "--epochs counts the rounds of a device that takes part in each, and --participants draws some",
            remedy="give --rounds instead",
        )


def _check_local(options: RunOptions) -> None:
    """Raise UsageError for what has no effect on the devices of this machine."""
    _check_passes(options)
    judges = options.eval_data is not None or options.eval_share is not None
    for flag, given_here in (("--patience", options.patience is not None), ("--eval-every", options.eval_every != 1)):
        if given_here and not judges:
            raise UsageError(
                f"{flag} has no effect without held-out rows", remedy="give --eval-share 0.05 or --eval-data FILE"
            )
    if options.plan is not None:
        return
    count = devices_of(options)
    there = {f"device-{n}" for n in range(1, count + 1)}
    unknown = [name for name in split_cuts(options.cuts) or {} if name not in there]
    if unknown:
        raise UsageError(f"--cuts names {unknown[0]!r}, no device of this run", remedy="use device-1, device-2, ...")


def _check_files(options: RunOptions) -> None:
    """Raise UsageError for several files that are not one for each device."""
    count, files = options.devices, len(files_of(options))
    if files > 1 and count not in (None, files):
        raise UsageError(
            f"--data names {files} files and --devices {count}", remedy="give one file for all, or one for each device"
        )


def check_form(options: TrainingOptions, settings: RunSettings) -> None:
    """Raise UsageError if a run that has begun is asked for in another dtype or form of weights."""
    if options.dtype != "auto" and settings.dtype not in (None, options.dtype):
        raise UsageError(
            f"the run in {options.out} began in {settings.dtype}, not in {options.dtype}",
            remedy="leave --dtype out, or begin another run in another --out",
        )
    if options.quantization not in (AUTO, settings.quantization or NONE):
        raise UsageError(
            f"the run in {options.out} began with --quantization {settings.quantization or NONE}",
            remedy="leave --quantization out, or begin another run in another --out",
        )


def check_unchanged(options: TrainingOptions, settings: RunSettings) -> None:
    """Raise RunError or UsageError if what an unfinished run trains with is not what it began with."""
    model = settings.task.model
    check_form(options, settings)
    if load_architecture(model) != settings.task.architecture:
        raise RunError(
            f"{model} has other dimensions than when the run in {options.out} began",
            remedy="put its config.json back, or begin another run in another --out",
        )
    check_computing(settings.computing, model, load_computing(model))
    if settings.weights and open_weights(settings.task, settings.seed).fingerprint != settings.weights:
        raise RunError(
            f"the frozen weights of {model} are not those that the run in {options.out} began with",
            remedy="put them back, or begin another run in another --out",
        )
    tokenizer = tokenizer_of(options, model)
    if tokenizer is not None and settings.tokenizer not in (None, tokenizer.digest):
        raise RunError(
            f"the run in {options.out} began with another tokenizer than {tokenizer.origin}",
            remedy="name that one with --tokenizer, or begin another run in another --out",
        )


def check_steps(settings: RunSettings) -> None:
    """Raise UsageError where steps do not go with rounds.

    A warm-up that the run never leaves would give another learning rate than was asked for; a step that is not full
    at the end of a round would be another step than the others.
    """
    if settings.epochs % settings.accumulate:
        raise UsageError(
            f"a round has {settings.epochs} mini-batch(es) of a device and --accumulate is {settings.accumulate}",
            remedy=f"give --local-epochs a multiple of {settings.accumulate}",
        )
    if settings.max_grad_norm is not None and settings.server_sharing == BATCHED:
        raise UsageError(
            "--max-grad-norm clips the gradient of one device and its server, and a batched server has one for all",
            remedy="give --server-sharing serial, or leave --max-grad-norm out",
        )
    if settings.server_sharing == BATCHED and settings.deadline_s is not None:
        raise UsageError(
            "--deadline is for a device's own round, and a batched server lets all wait for the slowest",
            remedy="give --server-sharing serial, or leave --deadline out",
        )
    if settings.server_sharing == BATCHED and set(settings.cuts.values()) - {settings.cut}:
        raise UsageError(
            "a batched server needs one cut, and --cuts names others",
            remedy="give --server-sharing serial, or leave --cuts out",
        )
    steps = settings.rounds * settings.epochs // settings.accumulate
    if settings.warmup_steps >= steps:
        raise UsageError(
            f"--warmup-steps is {settings.warmup_steps}, and a device takes {steps} step(s) in the whole run",
            remedy="give fewer, or more --rounds or --local-epochs",
        )


def check_against(options: TrainingOptions, plan: Plan | None, task: Task) -> None:
    """Raise UsageError or RunError for options, or a task, that the plan does not fit; UsageError for a cut outside."""
    if plan is not None:
        check_plan(plan, task, options.codec)
        if options.codec is not None and plan.rounds[0].devices[0].codec is not None:
            raise UsageError("the plan names the codecs itself", remedy="leave --codec out")
        if options.local_epochs is not None and plan.local_epochs not in (None, options.local_epochs):
            raise UsageError(
                f"the plan is for {plan.local_epochs} local epoch(s)", remedy="leave --local-epochs out, or plan again"
            )
    elif options.cut is not None:
        for cut in (options.cut, *(split_cuts(options.cuts) or {}).values()):
            check_cut(task, cut)

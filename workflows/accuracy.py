"""What compression costs in quality: a small model fine-tuned once for each codec, and the curve through that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cardlab.calibrate.accuracy import fit_accuracy
from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.quantity import MEASURED
from cardlab.core.records.fit import Fit, FitSubject
from cardlab.core.records.measurement import Run, RunKind
from cardlab.core.records.task import Execution, Task
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.execution import import_torch
from cardlab.split.codecs.registry import codec_named
from cardlab.workflows.connect import Say, silent
from cardlab.workflows.labels import keep_label
from cardlab.workflows.options.card import ACCURACY_CODECS, AccuracyOptions
from cardlab.workflows.settings import load_settings

if TYPE_CHECKING:
    from cardlab.split.accuracy import Kept, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The curve of a family of codecs and what it was fitted to.

    Attributes:
        fit: share of the gain that is kept against the share of bytes that is sent.
        kept: of each codec, mean over seeds.
        trials: single runs.
        left_out: what could not be fitted, in words.
    """

    fit: Fit
    kept: tuple[Kept, ...]
    trials: tuple[Trial, ...]
    left_out: tuple[str, ...]


def accuracy(store: Store, options: AccuracyOptions | None = None, progress: Say = silent) -> Accuracy:
    """Fine-tune once for each codec, fit what each keeps of the gain, and store the fit.

    Raises UsageError for an option that makes no sense, TooFewPointsError where fewer than four codecs gain.
    """
    options = options or AccuracyOptions()
    _check(options)
    codecs = options.codecs or ACCURACY_CODECS
    # Behind the checks: loading torch and transformers takes seconds.
    torch = import_torch()
    # The matrices are small: several threads would wait for each other longer than they compute.
    torch.set_num_threads(1)
    from cardlab.split.accuracy import TrainingSubject, TrialOptions, english, kept_of, pretrain, programs, run_trials
    from cardlab.split.data import read_tokens
    from cardlab.split.weights import FileWeights, open_weights

    task = resolve_task(options.model, batch=options.batch, sequence=options.sequence, optimizer="adamw")
    platform = open_platform("cpu", label=load_settings().name)
    try:
        keep_label(store, platform, None)
        execution = open_runtime(platform).resolve_execution("float32", "sdpa", 1)
        weights = open_weights(task, 0)
        # Random weights learn nothing in a few LoRA steps, so there would be no gain for a codec to lose.
        if not isinstance(weights, FileWeights):
            progress(f"{task.model} has no weights: it is trained for {options.pretrain} steps first")
            weights = pretrain(task, execution, english(), steps=options.pretrain)
        tokens = programs() if options.data is None else read_tokens(options.data)
        cut = options.cut or task.architecture.layers // 2
        trials = run_trials(
            TrainingSubject(task=task, execution=execution, weights=weights, tokens=tokens),
            TrialOptions(cut=cut, steps=options.steps, learning_rate=options.learning_rate),
            [(c, options.error_feedback and c != "none") for c in codecs],
            seeds=range(options.seeds),
            note=progress,
        )
        kept = kept_of(trials)
        subject = FitSubject(
            device=platform.identity.key,
            device_name=platform.identity.name,
            task=task.uid,
            execution=execution.uid,
            quantity="accuracy",
            cut=cut,
            provenance=MEASURED,
        )
        fit, left_out = fit_accuracy([(k.rate, k.share, k.stderr) for k in kept], subject)
        # Before the fit, which refers to the device, task and execution that this run brings in.
        _describe(store, platform, task, execution, options, cut)
        store.fits.add([(fit, ())], utc_now())
    finally:
        platform.close()
    return Accuracy(fit=fit, kept=tuple(kept), trials=tuple(trials), left_out=tuple(left_out))


def _check(options: AccuracyOptions) -> None:
    for codec in options.codecs or ACCURACY_CODECS:
        codec_named(codec)
    if options.seeds < 1 or options.steps < 1 or options.pretrain < 1:
        raise UsageError("steps, seeds and pretrain are counts", remedy="give 1 or more")


def _describe(
    store: Store, platform: HardwareDevice, task: Task, execution: Execution, o: AccuracyOptions, cut: int
) -> None:
    """The run behind the fit, so that task and device are known to the store."""
    store.runs.begin(
        Run(
            uid=new_uid(),
            kind=RunKind.ACCURACY,
            device=platform.identity,
            execution=execution,
            environment=gather_environment(platform),
            task=task,
            options={
                "codecs": list(o.codecs or ACCURACY_CODECS),
                "feedback": o.error_feedback,
                "steps": o.steps,
                "seeds": o.seeds,
                "cut": cut,
                "learning_rate": o.learning_rate,
                "pretrain": o.pretrain,
            },
            provenance=MEASURED,
            started_at=utc_now(),
        )
    )

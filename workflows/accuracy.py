"""What compression costs in quality: a small model fine-tuned once for each codec, and the curve through that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from cardlab.calibrate.accuracy import (
    CODECS_NEEDED,
    FEEDBACK,
    LAW,
    codec_figure,
    family_of_codec,
    fit_accuracy,
)
from cardlab.core.errors import CalibrationError, UsageError
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
from cardlab.profilers.runtime.families import attention_of
from cardlab.split.codecs.registry import codec_named
from cardlab.split.data import read_corpus
from cardlab.split.settings import check_cut
from cardlab.split.tokenizer import open_tokenizer
from cardlab.workflows.connect import Say, silent
from cardlab.workflows.labels import keep_label
from cardlab.workflows.options.card import ACCURACY_CODECS, AccuracyOptions
from cardlab.workflows.settings import load_settings

if TYPE_CHECKING:
    from cardlab.split.accuracy import Kept, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """What each codec keeps of the gain of training, and the curve of each family that has enough of them.

    Attributes:
        fits: as stored: the figure of each codec, then the curves.
        kept: of each codec, mean over seeds.
        trials: single runs.
        left_out: what has no place on a curve, or why there is none, in words.
    """

    fits: tuple[Fit, ...]
    kept: tuple[Kept, ...]
    trials: tuple[Trial, ...]
    left_out: tuple[str, ...]

    @property
    def curves(self) -> tuple[Fit, ...]:
        """Share of the gain that is kept against the share of bytes that is sent, by family."""
        return tuple(fit for fit in self.fits if fit.law == LAW)


def accuracy(store: Store, options: AccuracyOptions | None = None, progress: Say = silent) -> Accuracy:
    """Fine-tune once for each codec, and store what each keeps of the gain as soon as it is known; then fit the curves.

    Raises UsageError for options that make no sense or could give no curve, RunError for a text that is too short or
    training that gains nothing.
    """
    options = options or AccuracyOptions()
    _check(options)
    codecs = options.codecs or ACCURACY_CODECS
    # Before anything is computed, like every other mistake.
    corpus = None if options.data is None else read_corpus(options.data)
    task = resolve_task(options.model, batch=options.batch, sequence=options.sequence, optimizer="adamw")
    cut = options.cut or task.architecture.layers // 2
    check_cut(task, cut)
    tokenizer = open_tokenizer(task.model, options.tokenizer)
    tokenizer.check_fits(task.model, task.architecture.vocab_size)
    # Behind the checks: loading torch and transformers takes seconds.
    torch = import_torch()
    # The matrices are small: several threads would wait for each other longer than they compute.
    torch.set_num_threads(1)
    from cardlab.split import accuracy as trying
    from cardlab.split.weights import FileWeights, open_weights

    platform = open_platform("cpu", label=load_settings().name)
    try:
        keep_label(store, platform, None)
        execution = open_runtime(platform).resolve_execution("float32", attention_of(task.architecture), 1)
        weights = open_weights(task, 0)
        tokens = tokenizer.encode([trying.program_text()] if corpus is None else corpus.documents)
        trying.check_tokens(tokens, task)
        progress(f"tokens: {tokenizer.origin}")
        # Random weights learn nothing in a few LoRA steps, so there would be no gain for a codec to lose.
        if not isinstance(weights, FileWeights):
            progress(f"{task.model} has no weights: it is trained for {options.pretrain} steps first")
            english = tokenizer.encode([trying.english_text()])
            weights = trying.pretrain(task, execution, english, steps=options.pretrain)
        subject = FitSubject(
            device=platform.identity.key,
            device_name=platform.identity.name,
            task=task.uid,
            execution=execution.uid,
            quantity="accuracy",
            cut=cut,
            provenance=MEASURED,
        )
        begin = partial(_describe, store, platform, task, execution, options, cut)
        keeping = _Keeping(store=store, subject=subject, begin=begin)
        trials = trying.run_trials(
            trying.TrainingSubject(task=task, execution=execution, weights=weights, tokens=tokens),
            trying.TrialOptions(cut=cut, steps=options.steps, learning_rate=options.learning_rate),
            [(c, options.error_feedback and c != "none") for c in codecs],
            seeds=range(options.seeds),
            note=progress,
            done=lambda found: keeping.figure(trying.kept_of(found)[-1]),
        )
        kept = trying.kept_of(trials)
        left_out = keeping.curves(kept)
    finally:
        platform.close()
    return Accuracy(fits=tuple(keeping.fits), kept=tuple(kept), trials=tuple(trials), left_out=tuple(left_out))


@dataclass(slots=True, kw_only=True)
class _Keeping:
    """Stores figures one by one, so that what was computed survives whatever comes after it.

    Attributes:
        begin: stores the run that the fits refer to, when there is something to refer.
    """

    store: Store
    subject: FitSubject
    begin: Callable[[], None]
    fits: list[Fit] = field(default_factory=list)

    def figure(self, kept: Kept) -> None:
        """Keep one codec's own figure; that of no codec is 1 by its definition."""
        if kept.codec == "none":
            return
        if not self.fits:
            # Before the fits, which refer to the device, task and execution that this run brings in.
            self.begin()
        subject = replace(self.subject, codec=kept.codec + (FEEDBACK if kept.feedback else ""))
        self._add(codec_figure(kept.rate, kept.share, kept.stderr, kept.seeds, subject))

    def curves(self, kept: Sequence[Kept]) -> list[str]:
        """Fit and keep a curve for each family that gives one; what gives none, in words."""
        plain = [k for k in kept if k.codec == "none"]
        said = []
        for family in dict.fromkeys((family_of_codec(k.codec), k.feedback) for k in kept if k.codec != "none"):
            own = [k for k in kept if k.codec != "none" and (family_of_codec(k.codec), k.feedback) == family]
            name = family[0] + (FEEDBACK if family[1] else "")
            try:
                fit, left_out = fit_accuracy(
                    [(k.rate, k.share, k.stderr) for k in (*own, *plain)], replace(self.subject, codec=name)
                )
            except CalibrationError as error:
                said.append(f"no curve for {name}: {error.message}; each codec's own figure is kept")
                continue
            self._add(fit)
            said.extend(f"{name}: {line}" for line in left_out)
        return said

    def _add(self, fit: Fit) -> None:
        self.store.fits.add([(fit, ())], utc_now())
        self.fits.append(fit)


def _check(options: AccuracyOptions) -> None:
    codecs = [codec for codec in dict.fromkeys(options.codecs or ACCURACY_CODECS) if codec != "none"]
    for codec in codecs:
        codec_named(codec)
    counts = Counter(family_of_codec(codec) for codec in codecs)
    if max(counts.values(), default=0) < CODECS_NEEDED:
        raise UsageError(
            f"{len(codecs)} codec(s) give no curve: a family needs {CODECS_NEEDED}",
            remedy="name three of one family, as dense:8 dense:4 dense:2, or leave --codec out",
        )
    if options.seeds < 1 or options.steps < 1 or options.pretrain < 1:
        raise UsageError("steps, seeds and pretrain are counts", remedy="give 1 or more")
    if not 0.0 < options.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate is {options.learning_rate:g}", remedy="give a number above 0")


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

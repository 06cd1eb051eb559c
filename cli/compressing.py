"""What `profile-device --compression` and `card accuracy` do."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from cardlab.calibrate.accuracy import fit_accuracy
from cardlab.card.codec_times import COMPRESSION, HANDLING
from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.settings import database, load_settings
from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.plain import to_plain
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.fit import Fit, FitSubject
from cardlab.core.records.measurement import CodecCost, Measurement, OperatingPoint, PlannedPoint, Run, RunKind
from cardlab.core.records.task import Execution, Task
from cardlab.core.text import percent
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.execution import import_torch
from cardlab.reports.views.fit import fit_document
from cardlab.split.codec import codec_named

if TYPE_CHECKING:
    from cardlab.split.codec_profile import CutReadings

PRETRAIN_STEPS = 300
ACCURACY_CODECS = ("dense:8", "dense:4", "dense:2", "topk:0.3:8", "topk:0.2:8", "topk:0.1:8")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyOptions:
    """The options of `card accuracy`."""

    model: str
    cut: int | None
    codecs: tuple[str, ...]
    feedback: bool
    steps: int
    seeds: int
    batch: int
    sequence: int
    learning_rate: float
    pretrain: int
    data: str | None
    db: str | None
    as_json: bool


def profile_compression(task: Task, execution: Execution, platform: HardwareDevice, store_url: str) -> str:
    """Measure every codec at every cut and store it as a run of its own; returns its uid."""
    from cardlab.split.codec_profile import CODECS, PASSES, profile_codecs
    from cardlab.split.weights import FileWeights, open_weights

    weights = open_weights(task, 0)
    if not isinstance(weights, FileWeights):
        from cardlab.split.accuracy import english, pretrain

        note(f"{task.model} has no weights: it is trained for {PRETRAIN_STEPS // 3} steps first")
        weights = pretrain(task, execution, english(), steps=PRETRAIN_STEPS // 3)
    from cardlab.split.accuracy import programs

    uid, layers = new_uid(), task.architecture.layers
    run = Run(
        uid=uid,
        kind=RunKind.CODEC,
        device=platform.identity,
        execution=execution,
        environment=gather_environment(platform),
        task=task,
        planned=tuple(PlannedPoint(index=n) for n in range(layers - 1)),
        options={"weights": weights.origin, "codecs": list(CODECS), "passes": PASSES},
        provenance=MEASURED,
        started_at=utc_now(),
    )
    rows, handling = [], []
    with open_store(store_url) as store:
        store.runs.begin(run)
        cuts = profile_codecs(task, execution, weights, programs(), note=note)
        for planned, found in zip(run.planned, cuts, strict=True):
            point = store.runs.begin_point(uid, planned)
            store.runs.finish_point(point, OperatingPoint(), *_measurements(found))
            rows += [
                (
                    str(r.cut),
                    r.tensor,
                    r.codec,
                    f"{r.bits:.3f}",
                    f"{r.bits / 32.0:.4f}",
                    f"{r.error:.3f}",
                    f"{4e-6 * r.values / r.encode:.0f}",
                    f"{4e-6 * r.values / r.decode:.0f}",
                )
                for r in found.codecs
            ]
            handling += [f"cut {r.cut}, {r.side}: {1e3 * median(r.seconds):.2f} ms" for r in found.handling]
    for row in rows:
        note("  ".join(row))
    note("columns: cut, tensor, codec, bits a value, rate of float32, error, encode and decode in MB/s of float32")
    note("adapters of a round packed, unpacked and loaded: " + "; ".join(handling))
    return uid


def _measurements(found: CutReadings) -> list[Measurement]:
    """Records of one cut: each codec on each tensor, and what both sides do with the adapters."""
    codecs = [
        Measurement(
            uid=new_uid(),
            quantity=COMPRESSION,
            unit="bit",
            phase="forward" if r.tensor == "activation" else "backward",
            estimate=Estimate(r.bits, n=1, provenance=MEASURED),
            samples={"encode_s": r.encode_s, "decode_s": r.decode_s},
            codec=CodecCost(
                cut=found.cut,
                codec=r.codec,
                tensor=r.tensor,
                values=r.values,
                encoded_bytes=r.size_bytes,
                error=r.error,
                encode_s=r.encode,
                decode_s=r.decode,
            ),
        )
        for r in found.codecs
    ]
    handling = [
        Measurement(
            uid=new_uid(),
            quantity=HANDLING,
            unit="s",
            estimate=Estimate(median(r.seconds), n=len(r.seconds), provenance=MEASURED),
            samples={"wall_s": r.seconds},
            codec=CodecCost(cut=found.cut, side=r.side, encoded_bytes=r.size_bytes),
        )
        for r in found.handling
    ]
    return codecs + handling


def measure_accuracy(options: AccuracyOptions) -> None:
    """Run, fit the curve of each family of codecs, store, show."""
    _check(options)
    torch = import_torch()
    torch.set_num_threads(1)
    from cardlab.split.accuracy import english, kept_of, pretrain, programs, run_trials
    from cardlab.split.data import read_tokens
    from cardlab.split.weights import FileWeights, open_weights

    task = resolve_task(options.model, batch=options.batch, sequence=options.sequence, optimizer="adamw")
    platform = open_platform("cpu", label=load_settings().name)
    try:
        execution = open_runtime(platform).resolve_execution("float32", "sdpa", 1)
        weights = open_weights(task, 0)
        if not isinstance(weights, FileWeights):
            note(f"{task.model} has no weights: it is trained for {options.pretrain} steps first")
            weights = pretrain(task, execution, english(), steps=options.pretrain)
        tokens = programs() if options.data is None else read_tokens(options.data)
        cut = options.cut or task.architecture.layers // 2
        trials = run_trials(
            task,
            execution,
            weights,
            tokens,
            [(c, options.feedback and c != "none") for c in options.codecs],
            seeds=range(options.seeds),
            cut=cut,
            steps=options.steps,
            learning_rate=options.learning_rate,
            note=note,
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
        with open_store(database(options.db)) as store:
            _describe(store, platform, task, execution, options, cut)
            store.fits.add([(fit, ())], utc_now())
    finally:
        platform.close()
    if options.as_json:
        print_json(
            {"codecs": to_plain(kept), "trials": to_plain(trials), "left_out": left_out, "fits": [fit_document(fit)]}
        )
        return
    _print(kept, fit, left_out, options)


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
                "codecs": list(o.codecs),
                "feedback": o.feedback,
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


def _check(options: AccuracyOptions) -> None:
    for codec in options.codecs:
        codec_named(codec)
    if options.seeds < 1 or options.steps < 1 or options.pretrain < 1:
        raise UsageError("steps, seeds and pretrain are counts", remedy="give 1 or more")


def _print(kept: object, fit: Fit, left_out: list[str], options: AccuracyOptions) -> None:
    from cardlab.split.accuracy import Kept

    assert isinstance(kept, list)
    rows = [
        (
            k.codec + (" + feedback" if k.feedback else ""),
            f"{k.rate:.4f}",
            percent(1.0 - k.rate),
            percent(k.share),
            percent(k.stderr),
            percent(k.compressed),
        )
        for k in kept
        if isinstance(k, Kept)
    ]
    columns = ("codec", "rate", "bytes saved", "gain kept", "std. error", "through the codec")
    print_table(f"{options.model}, LoRA {options.steps} steps, {options.seeds} seed(s)", columns, rows)
    parameters = {name: p.value for name, p in fit.parameters.items()}
    print_line(
        f"gain kept = {parameters['limit']:.3f} - {parameters['loss']:.3f} exp(-{parameters['rate']:.2f} rate),"
        f" {fit.n_points} points, mean error {percent(fit.mape)}"
    )
    for line in left_out:
        print_line(f"left out: {line}")

"""Measure every codec at every cut on this machine, and what both sides do with a round's adapters."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from cardlab.card.problem.codec_times import COMPRESSION, HANDLING
from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.measurement import CodecCost, Measurement, OperatingPoint, PlannedPoint, Run, RunKind
from cardlab.core.records.task import Execution, Task
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.devices import HardwareDevice
from cardlab.profilers.measure.deadline import Deadline
from cardlab.profilers.measure.environment import gather_environment
from cardlab.workflows.connect import Say, silent

if TYPE_CHECKING:
    from cardlab.split.codec_profile import CutReadings

# Enough to give activations and gradients the structure that codecs live from; quality is not judged here.
PRETRAIN_STEPS = 100


def profile_codecs(
    store: Store,
    task: Task,
    execution: Execution,
    platform: HardwareDevice,
    say: Say = silent,
    deadline: Deadline | None = None,
) -> str:
    """Measure every codec at every cut and store it as a run of its own; returns its uid.

    `say` is told each cut, and the readings as a table at the end. Raises BudgetSpent at the cut at which the deadline
    has come: the run then stays without the cuts that are left, and no plan takes its times.
    """
    from cardlab.split.accuracy import TrainingSubject, check_tokens, program_text
    from cardlab.split.codec_profile import CODECS, PASSES, profile_codecs
    from cardlab.split.tokenizer import byte_tokens, open_tokenizer
    from cardlab.split.weights import FileWeights, open_weights

    weights = open_weights(task, 0)
    try:
        tokenizer = open_tokenizer(task.model)
    except UsageError as error:
        # Activations of other tokens than the model's are still what a codec is timed with.
        tokenizer = byte_tokens(error.message)
    tokenizer.check_fits(task.model, task.architecture.vocab_size)
    tokens = tokenizer.encode([program_text()])
    check_tokens(tokens, task)
    say(f"tokens: {tokenizer.origin}")
    if not isinstance(weights, FileWeights):
        from cardlab.split.accuracy import english_text, pretrain

        say(f"{task.model} has no weights: it is trained for {PRETRAIN_STEPS} steps first")
        # What is trained whole is dense; the halves keep it in their own form.
        weights = pretrain(
            task, replace(execution, quantization=None), tokenizer.encode([english_text()]), steps=PRETRAIN_STEPS
        )
    uid, layers = new_uid(), task.architecture.layers
    run = Run(
        uid=uid,
        kind=RunKind.CODEC,
        device=platform.identity,
        execution=execution,
        environment=gather_environment(platform),
        task=task,
        # A point for each cut from 1 to L-1: at the ends nothing crosses the link.
        planned=tuple(PlannedPoint(index=n) for n in range(layers - 1)),
        options={"weights": weights.origin, "codecs": list(CODECS), "passes": PASSES},
        provenance=MEASURED,
        started_at=utc_now(),
    )
    store.runs.begin(run)
    found = []
    subject = TrainingSubject(task=task, execution=execution, weights=weights, tokens=tokens)
    cuts = profile_codecs(subject, note=say)
    # The readings come one by one, so that each cut is on disk before the next is measured.
    started_at = run.started_at
    for planned, readings in zip(run.planned, cuts, strict=True):
        point = store.runs.begin_point(uid, planned)
        store.runs.finish_point(
            point,
            OperatingPoint(boot=platform.boot(), started_at=started_at, finished_at=utc_now()),
            *_measurements(readings),
        )
        found.append(readings)
        if deadline is not None and len(found) < len(run.planned):
            deadline.hold(0.0)
        started_at = utc_now()
    for line in _table(found):
        say(line)
    return uid


def _table(found: list[CutReadings]) -> list[str]:
    rows, handling = [], []
    for readings in found:
        for r in readings.codecs:
            # A value of float32 has 4 bytes, whatever dtype is on the wire.
            speeds = (f"{4e-6 * r.values / r.encode:.0f}", f"{4e-6 * r.values / r.decode:.0f}")
            words = (str(r.cut), r.tensor, r.codec, f"{r.bits:.3f}", f"{r.bits / 32.0:.4f}", f"{r.error:.3f}", *speeds)
            rows.append("  ".join(words))
        handling += [f"cut {r.cut}, {r.side}: {1e3 * median(r.seconds):.2f} ms" for r in readings.handling]
    return [
        *rows,
        "columns: cut, tensor, codec, bits a value, rate of float32, error, encode and decode in MB/s of float32",
        "adapters of a round packed, unpacked and loaded: " + "; ".join(handling),
    ]


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

"""A split run in the database: the run as it began, each finished round with its terms beside those predicted."""

from __future__ import annotations

from cardlab.core.errors import NotFoundError
from cardlab.core.identity import SITTING, content_hash
from cardlab.core.plain import to_plain
from cardlab.core.quantity import MEASURED
from cardlab.core.records.device import Device, Environment
from cardlab.core.records.measurement import Run, RunKind
from cardlab.core.records.plan import TERMS
from cardlab.core.records.task import Execution
from cardlab.core.records.training import WAITING, TrainPhase, TrainRound
from cardlab.db.store import Store
from cardlab.split.journal import FinishedTurn, Journal
from cardlab.split.settings import RunSettings

TRAIN = RunKind.TRAIN


def begin_run(
    store: Store,
    journal: Journal,
    device: Device,
    execution: Execution,
    environment: Environment,
    notes: tuple[str, ...] = (),
    **options: object,
) -> None:
    """Store the run unless it is there, and every finished round that is not (a server killed in between).

    `device` is the server; `notes` mark what is predicted of the run; `options` shape it beside its settings (bind
    address, link).
    """
    settings = journal.progress.settings
    try:
        store.runs.get(settings.run)
    except NotFoundError:
        document = {key: value for key, value in to_plain(settings).items() if key != "task"}
        store.runs.begin(
            Run(
                uid=settings.run,
                kind=RunKind.TRAIN,
                device=device,
                execution=execution,
                environment=environment,
                task=settings.task,
                sitting=SITTING,
                expected_notes=notes,
                options={**document, **options},
                provenance=MEASURED,
                started_at=journal.progress.started_at,
            )
        )
    # Storing a round twice stores it once, so all of them may be offered again.
    for turn in journal.progress.turns:
        store.rounds.add(round_record(settings, turn))
    for quality in journal.progress.judged:
        store.rounds.judge(quality)


def round_record(settings: RunSettings, turn: FinishedTurn) -> TrainRound:
    """A finished turn as the record that is stored; the same turn always has the same uid."""
    phases = [
        TrainPhase(
            term=term,
            observed_s=turn.terms.get(term),
            predicted_s=turn.predicted.get(term),
            predicted_ci95=turn.predicted_ci95.get(term),
            predicted_provenance=turn.predicted_provenance if term in turn.predicted else None,
            predicted_ratio=turn.predicted_ratios.get(term) if term in turn.predicted else None,
        )
        for term in TERMS
    ]
    phases.append(TrainPhase(term=WAITING, observed_s=turn.waiting_s))
    return TrainRound(
        # Made from what the round is, not drawn: a resumed server makes the same one.
        uid=content_hash({"run": settings.run, "round": turn.round, "device": turn.device}),
        run=settings.run,
        plan=settings.plan,
        device=turn.description,
        number=turn.round,
        cut=turn.cut,
        frequency_hz=turn.frequency_hz,
        loss=turn.loss,
        delay_s=turn.delay_s,
        energy_j=turn.energy_j,
        phases=tuple(phases),
        predicted_delay_ci95=turn.predicted_delay_ci95,
        losses=turn.losses,
        elapsed_s=turn.elapsed_s,
        waiting_s=turn.waiting_s,
        power_w=turn.power_w,
        codec=turn.codec,
        up_bytes=turn.up_bytes,
        down_bytes=turn.down_bytes,
        adapter_bytes=turn.adapter_bytes,
        rtt_s=turn.rtt_s,
        rows=turn.rows,
        tokens=turn.tokens,
        gradient_norms=turn.gradient_norms,
        temperature_c=turn.temperature_c,
        device_reading=turn.device_reading,
        predicted_energy_j=turn.predicted_energy_j,
        predicted_device_energy_j=turn.predicted_device_energy_j,
    )

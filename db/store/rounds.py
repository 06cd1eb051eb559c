"""Rounds of split runs with their terms: stored once each, read back in order."""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy import select
from sqlalchemy.orm import Session

from cardlab.core.errors import NotFoundError
from cardlab.core.identity import content_hash
from cardlab.core.quantity import Provenance
from cardlab.core.records.training import DeviceReading, TrainPhase, TrainQuality, TrainRound
from cardlab.db.schema import DeviceRow, PlanRow, RunRow, TrainPhaseRow, TrainQualityRow, TrainRoundRow
from cardlab.db.store.convert import interval
from cardlab.db.store.devices import store_device, to_device
from cardlab.db.store.repository import Repository, find_uid

# Fields of a device's reading, columns of the same name behind "device_".
_READ = tuple(f.name for f in fields(DeviceReading))
# Fields of a quality that are columns of the same name.
_JUDGED = ("number", "cut", "loss", "tokens", "correct", "elapsed_s", "up_bytes")


class Rounds(Repository):
    """What split runs did."""

    def add(self, finished: TrainRound) -> bool:
        """Store a round with its terms; False if it is stored already."""
        with self.writing() as session:
            # A round keeps its uid when it is reported again, as after a crash between storing and noting it.
            if find_uid(session, TrainRoundRow, finished.uid) is not None:
                return False
            run = find_uid(session, RunRow, finished.run)
            if run is None:
                raise NotFoundError(f"there is no run {finished.run!r}", remedy="begin the run first")
            # The plan may stand in another database; the round is worth keeping without it.
            plan = None if finished.plan is None else find_uid(session, PlanRow, finished.plan)
            row = TrainRoundRow(
                uid=finished.uid,
                run_id=run.id,
                plan_id=None if plan is None else plan.id,
                device_id=store_device(session, finished.device).id,
                number=finished.number,
                cut=finished.cut,
                frequency_hz=finished.frequency_hz,
                loss=finished.loss,
                delay_s=finished.delay_s,
                energy_j=finished.energy_j,
                delay_ci_low=None if finished.predicted_delay_ci95 is None else finished.predicted_delay_ci95[0],
                delay_ci_high=None if finished.predicted_delay_ci95 is None else finished.predicted_delay_ci95[1],
                losses=list(finished.losses),
                elapsed_s=finished.elapsed_s,
                waiting_s=finished.waiting_s,
                power_w=finished.power_w,
                codec=finished.codec,
                up_bytes=finished.up_bytes,
                down_bytes=finished.down_bytes,
                adapter_bytes=finished.adapter_bytes,
                rtt_s=finished.rtt_s,
                rows=finished.rows,
                tokens=finished.tokens,
                gradient_norms=list(finished.gradient_norms) or None,
                temperature_c=finished.temperature_c,
                predicted_energy_j=finished.predicted_energy_j,
                predicted_device_energy_j=finished.predicted_device_energy_j,
                **{f"device_{name}": getattr(finished.device_reading, name, None) for name in _READ},
                document=dict(finished.details),
            )
            session.add(row)
            session.flush()
            session.add_all(_phase_row(row.id, finished.uid, phase) for phase in finished.phases)
        return True

    def judge(self, quality: TrainQuality) -> bool:
        """Store how well a round's adapters predict a device's held-out rows; False if it is stored already."""
        with self.writing() as session:
            if find_uid(session, TrainQualityRow, quality.uid) is not None:
                return False
            run = find_uid(session, RunRow, quality.run)
            if run is None:
                raise NotFoundError(f"there is no run {quality.run!r}", remedy="begin the run first")
            session.add(
                TrainQualityRow(
                    uid=quality.uid,
                    run_id=run.id,
                    device_id=store_device(session, quality.device).id,
                    **{name: getattr(quality, name) for name in _JUDGED},
                )
            )
        return True

    def judged_in(self, run_uid: str) -> tuple[TrainQuality, ...]:
        """What devices' held-out rows said of a run's rounds, by number and in their order."""
        with self.reading() as session:
            run = find_uid(session, RunRow, run_uid)
            if run is None:
                raise NotFoundError(f"there is no run {run_uid!r}", remedy="list them with: card runs")
            query = select(TrainQualityRow).where(TrainQualityRow.run_id == run.id)
            rows = session.scalars(query.order_by(TrainQualityRow.number, TrainQualityRow.id)).all()
            return tuple(
                TrainQuality(
                    uid=row.uid,
                    run=run_uid,
                    device=to_device(session.get_one(DeviceRow, row.device_id)),
                    **{name: getattr(row, name) for name in _JUDGED},
                )
                for row in rows
            )

    def of_run(self, run_uid: str) -> tuple[TrainRound, ...]:
        """Rounds of a run by number, then in the order in which they were finished."""
        with self.reading() as session:
            run = find_uid(session, RunRow, run_uid)
            if run is None:
                raise NotFoundError(f"there is no run {run_uid!r}", remedy="list them with: card runs")
            query = select(TrainRoundRow).where(TrainRoundRow.run_id == run.id)
            rows = session.scalars(query.order_by(TrainRoundRow.number, TrainRoundRow.id)).all()
            return tuple(_record(session, row, run_uid) for row in rows)


def _phase_row(round_id: int, round_uid: str, phase: TrainPhase) -> TrainPhaseRow:
    ci95 = phase.predicted_ci95
    return TrainPhaseRow(
        # Derived from the round, so that merged copies of one round agree on its terms too.
        uid=content_hash({"round": round_uid, "term": phase.term}),
        train_round_id=round_id,
        term=phase.term,
        observed_s=phase.observed_s,
        predicted_s=phase.predicted_s,
        predicted_ratio=phase.predicted_ratio,
        provenance=None if phase.predicted_provenance is None else phase.predicted_provenance.as_plain(),
        ci_low=None if ci95 is None else ci95[0],
        ci_high=None if ci95 is None else ci95[1],
    )


def _record(session: Session, row: TrainRoundRow, run_uid: str) -> TrainRound:
    plan = None if row.plan_id is None else session.get_one(PlanRow, row.plan_id)
    phases = session.scalars(
        select(TrainPhaseRow).where(TrainPhaseRow.train_round_id == row.id).order_by(TrainPhaseRow.id)
    ).all()
    return TrainRound(
        uid=row.uid,
        run=run_uid,
        plan=None if plan is None else plan.uid,
        device=to_device(session.get_one(DeviceRow, row.device_id)),
        number=row.number,
        cut=row.cut,
        frequency_hz=row.frequency_hz,
        loss=row.loss,
        delay_s=row.delay_s,
        energy_j=row.energy_j,
        phases=tuple(_phase(p) for p in phases),
        predicted_delay_ci95=interval(row.delay_ci_low, row.delay_ci_high),
        losses=tuple(float(loss) for loss in row.losses),
        elapsed_s=row.elapsed_s,
        waiting_s=row.waiting_s,
        power_w=row.power_w,
        codec=row.codec,
        up_bytes=row.up_bytes,
        down_bytes=row.down_bytes,
        adapter_bytes=row.adapter_bytes,
        rtt_s=row.rtt_s,
        rows=row.rows,
        tokens=row.tokens,
        gradient_norms=tuple(float(norm) for norm in row.gradient_norms or ()),
        temperature_c=row.temperature_c,
        device_reading=_reading(row),
        predicted_energy_j=row.predicted_energy_j,
        predicted_device_energy_j=row.predicted_device_energy_j,
        details=row.document,
    )


def _reading(row: TrainRoundRow) -> DeviceReading | None:
    found = {name: getattr(row, f"device_{name}") for name in _READ}
    return None if all(value is None for value in found.values()) else DeviceReading(**found)


def _phase(row: TrainPhaseRow) -> TrainPhase:
    return TrainPhase(
        term=row.term,
        observed_s=row.observed_s,
        predicted_s=row.predicted_s,
        predicted_ci95=interval(row.ci_low, row.ci_high),
        predicted_provenance=None if row.provenance is None else Provenance.from_plain(row.provenance),
        predicted_ratio=row.predicted_ratio,
    )

"""Plans, whole, with what they were made of."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select

from cardlab.core.errors import NotFoundError
from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.plan import Plan
from cardlab.db.schema import FitRow, LinkRow, PlanInputRow, PlanRow, RunRow
from cardlab.db.store.repository import Repository, find_prefix


class Plans(Repository):
    """Plans that were made."""

    def add(self, plan: Plan, created_at: str) -> Plan:
        """Store a plan and its inputs; returns it with its time."""
        stored = replace(plan, created_at=created_at)
        with self.writing() as session:
            row = PlanRow(uid=plan.uid, scheme=plan.scheme, created_at=created_at, document=to_plain(stored))
            session.add(row)
            session.flush()
            fits = session.scalars(select(FitRow.id).where(FitRow.uid.in_(plan.fits))).all()
            runs = session.scalars(select(RunRow.id).where(RunRow.uid.in_(plan.runs))).all()
            session.add_all(PlanInputRow(plan_id=row.id, fit_id=i) for i in fits)
            links = session.scalars(select(LinkRow.id).where(LinkRow.uid.in_(plan.links))).all()
            session.add_all(PlanInputRow(plan_id=row.id, run_id=i) for i in runs)
            session.add_all(PlanInputRow(plan_id=row.id, link_id=i) for i in links)
        return stored

    def get(self, uid: str) -> Plan:
        """The plan whose id begins with `uid`."""
        with self.reading() as session:
            return from_plain(Plan, find_prefix(session, PlanRow, uid, "plan").document)

    def all(self) -> tuple[Plan, ...]:
        """Every plan, oldest first."""
        with self.reading() as session:
            rows = session.scalars(select(PlanRow).order_by(PlanRow.created_at)).all()
            return tuple(from_plain(Plan, row.document) for row in rows)

    def latest(self) -> Plan:
        """The newest plan. Raises NotFoundError if there is none."""
        with self.reading() as session:
            row = session.scalars(select(PlanRow).order_by(PlanRow.created_at.desc()).limit(1)).one_or_none()
            if row is None:
                raise NotFoundError(f"{self._location} holds no plan", remedy="make one with: card plan")
            return from_plain(Plan, row.document)

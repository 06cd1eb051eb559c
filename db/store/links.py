"""Links between devices and servers: stored as they were measured, the newest of a name counts."""

from __future__ import annotations

from sqlalchemy import select

from cardlab.core.errors import NotFoundError
from cardlab.core.quantity import Provenance
from cardlab.core.records.link import Link
from cardlab.db.schema import LinkRow
from cardlab.db.store.convert import interval
from cardlab.db.store.repository import Repository


class Links(Repository):
    """Measured or imported links."""

    def add(self, link: Link) -> None:
        """Store a link."""
        with self.writing() as session:
            session.add(
                LinkRow(
                    uid=link.uid,
                    name=link.name,
                    uplink_bps=link.uplink_bps,
                    downlink_bps=link.downlink_bps,
                    rtt_s=link.rtt_s,
                    message_bytes=link.message_bytes,
                    provenance=link.provenance.as_plain(),
                    measured_at=link.measured_at,
                    transmit_power_w=link.transmit_power_w,
                    receive_power_w=link.receive_power_w,
                    uplink_low_bps=_end(link.uplink_range_bps, 0),
                    uplink_high_bps=_end(link.uplink_range_bps, 1),
                    downlink_low_bps=_end(link.downlink_range_bps, 0),
                    downlink_high_bps=_end(link.downlink_range_bps, 1),
                    document=dict(link.details),
                )
            )

    def all(self) -> tuple[Link, ...]:
        """The newest link of each name, sorted by name."""
        with self.reading() as session:
            rows = session.scalars(select(LinkRow).order_by(LinkRow.measured_at, LinkRow.id)).all()
            # Later rows replace earlier ones of the same name; the key decides between equal times.
            newest = {row.name: _record(row) for row in rows}
        return tuple(newest[name] for name in sorted(newest))

    def get(self, name: str) -> Link:
        """The newest link of that name. Raises NotFoundError listing the names."""
        known = {link.name: link for link in self.all()}
        if name not in known:
            names = ", ".join(known) or "none"
            raise NotFoundError(f"no link called {name!r} in {self._location}", remedy=f"known links: {names}")
        return known[name]


def _end(ends: tuple[float, float] | None, which: int) -> float | None:
    return None if ends is None else ends[which]


def _record(row: LinkRow) -> Link:
    return Link(
        uid=row.uid,
        name=row.name,
        uplink_bps=row.uplink_bps,
        downlink_bps=row.downlink_bps,
        rtt_s=row.rtt_s,
        message_bytes=row.message_bytes,
        provenance=Provenance.from_plain(row.provenance),
        measured_at=row.measured_at,
        transmit_power_w=row.transmit_power_w,
        receive_power_w=row.receive_power_w,
        uplink_range_bps=interval(row.uplink_low_bps, row.uplink_high_bps),
        downlink_range_bps=interval(row.downlink_low_bps, row.downlink_high_bps),
        details=row.document,
    )

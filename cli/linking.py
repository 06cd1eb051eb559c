"""What `card link` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cardlab.card.link.iperf import read_iperf3
from cardlab.cli.console import print_json, print_line, print_table
from cardlab.cli.settings import database
from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.plain import to_plain
from cardlab.core.quantity import Provenance
from cardlab.core.records.link import Link
from cardlab.core.text import si
from cardlab.db import open_store
from cardlab.db.times import utc_now


def import_link(file: str, *, name: str, downlink: str | None, db: str | None, as_json: bool) -> None:
    """Store the rates of one or two iperf3 results as the link of that name."""
    rates = read_iperf3(file)
    files = [Path(file).name]
    if downlink is not None:
        reverse = read_iperf3(downlink)
        files.append(Path(downlink).name)
        if reverse.downlink_bps is None:
            raise UsageError(f"{downlink} holds no downlink", remedy="make it with: iperf3 -c SERVER -R --json")
        rates = replace(rates, downlink_bps=reverse.downlink_bps)
    link = Link(
        uid=new_uid(),
        name=name,
        uplink_bps=rates.uplink_bps,
        downlink_bps=rates.downlink_bps,
        rtt_s=rates.rtt_s,
        provenance=Provenance.of("imported"),
        measured_at=utc_now(),
        details={"tool": "iperf3", "files": files},
    )
    with open_store(database(db)) as store:
        store.links.add(link)
    if as_json:
        print_json({"link": to_plain(link)})
        return
    print_table(None, _COLUMNS, [_row(link)])
    missing = [word for word, value in (("uplink", link.uplink_bps), ("downlink", link.downlink_bps)) if value is None]
    if missing:
        print_line(f"note: {missing[0]} was not in the file; card plan will ask for --{missing[0]}-mbps")


def list_links(db: str | None, as_json: bool) -> None:
    """The stored links, the newest of each name."""
    with open_store(database(db), create=False) as store:
        links = store.links.all()
    if as_json:
        print_json({"links": to_plain(links)})
    elif links:
        print_table(None, _COLUMNS, [_row(link) for link in links])
    else:
        print_line("no link is stored; import one with: card link FILE")


_COLUMNS = ("link", "uplink", "downlink", "round trip", "measured at")


def _row(link: Link) -> tuple[str, ...]:
    return (
        link.name,
        si(link.uplink_bps, "bit/s"),
        si(link.downlink_bps, "bit/s"),
        si(link.rtt_s, "s"),
        link.measured_at,
    )

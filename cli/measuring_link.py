"""What `card link --serve` and `card link --server HOST:PORT` do."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.cli.console import note, print_json, print_line
from cardlab.cli.running_device import PORT, connect, server_keys
from cardlab.cli.settings import database
from cardlab.core.identity import new_uid
from cardlab.core.plain import to_plain
from cardlab.core.quantity import MEASURED
from cardlab.core.records.link import Link
from cardlab.core.text import data_size, si
from cardlab.db import open_store
from cardlab.db.times import utc_now
from cardlab.split.keys import split_address
from cardlab.split.probe import LinkRates, measure_link, serve_probe
from cardlab.split.server_transport import ServerTransport
from cardlab.split.shaping import parse_link


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProbe:
    """The options of a measurement; None was not given."""

    server: str
    name: str
    message_bytes: int
    messages: int
    shape: str | None
    key: str | None
    server_key: str | None
    db: str | None
    as_json: bool


def answer_probes(bind: str, key: str | None, allow: tuple[str, ...], idle_s: float, as_json: bool) -> None:
    """Answer until nobody has asked for a while."""
    host, port = split_address(bind, PORT)
    pair, allowed = server_keys(host, key, allow)
    transport = ServerTransport(host, port, pair, allowed)
    try:
        note(f"answering probes on {host}:{transport.port}; ends {idle_s:g} s after the last")
        count = serve_probe(transport, until_idle_s=idle_s, note=note)
    finally:
        transport.close()
    if as_json:
        print_json({"answered": count})
    else:
        print_line(f"{count} probes answered")


def measure(options: LinkProbe) -> None:
    """Measure, store, show."""
    transport = connect(options.server, options.key, options.server_key, parse_link(options.shape))
    try:
        rates = measure_link(transport, message_bytes=options.message_bytes, messages=options.messages)
    finally:
        transport.close()
    link = Link(
        uid=new_uid(),
        name=options.name,
        uplink_bps=rates.uplink_bps,
        downlink_bps=rates.downlink_bps,
        rtt_s=rates.rtt_s,
        provenance=MEASURED,
        measured_at=utc_now(),
        uplink_range_bps=rates.uplink_range_bps,
        downlink_range_bps=rates.downlink_range_bps,
        details={"tool": "cardlab", "shaped": options.shape, **to_plain(rates)},
    )
    with open_store(database(options.db)) as store:
        store.links.add(link)
    if options.as_json:
        print_json({"link": to_plain(link)})
        return
    _show(options, rates)


def _show(options: LinkProbe, rates: LinkRates) -> None:
    print_line(f"link {options.name!r}: {rates.messages} messages of {data_size(rates.message_bytes)} each way")
    for word, value, (low, high) in (
        ("uplink", rates.uplink_bps, rates.uplink_range_bps),
        ("downlink", rates.downlink_bps, rates.downlink_range_bps),
    ):
        print_line(f"  {word} {si(value, 'bit/s')} ({si(low, 'bit/s')} .. {si(high, 'bit/s')})")
    print_line(f"  round trip {si(rates.rtt_s, 's')}")
    print_line(f"next: card plan --from-db --link {options.name}")

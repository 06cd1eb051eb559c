"""`card link`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cardlab.cli.card.app import app
from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.parameters import Shared, command
from cardlab.cli.stores import open_shared, opening
from cardlab.core.plain import to_plain
from cardlab.core.text import data_size, si
from cardlab.workflows.options.card import LinkOptions

if TYPE_CHECKING:
    from cardlab.core.records.link import Link
    from cardlab.workflows.links import MeasuredLink

_COLUMNS = ("link", "uplink", "downlink", "round trip", "measured (UTC)", "source")


@command(app, LinkOptions, name="link")
def link(options: LinkOptions, shared: Shared) -> None:
    """Measure a link with the transport of card run, import one, or list what is stored."""
    from cardlab.workflows.links import check_link

    way = check_link(options)
    if way == "serve":
        _serve(options, shared)
    elif way == "measure":
        _measure(options, shared)
    elif way == "import":
        _import(options, shared)
    else:
        _list(shared)


def _serve(options: LinkOptions, shared: Shared) -> None:
    from cardlab.workflows.links import answer_probes

    count = answer_probes(options, note)
    if shared.json:
        print_json({"answered": count})
    else:
        print_line(f"{count} probes answered")


def _measure(options: LinkOptions, shared: Shared) -> None:
    from cardlab.workflows.links import measure_link

    with opening(shared) as store:
        found = measure_link(store, options)
    if shared.json:
        print_json({"link": to_plain(found.link)})
    else:
        _show(found)


def _show(found: MeasuredLink) -> None:
    link = found.link
    print_line(f"link {link.name!r}: {found.messages} messages of {data_size(found.message_bytes)} each way")
    for word, value, span in (
        ("uplink", link.uplink_bps, link.uplink_range_bps),
        ("downlink", link.downlink_bps, link.downlink_range_bps),
    ):
        ends = "" if span is None else f" ({si(span[0], 'bit/s')} .. {si(span[1], 'bit/s')})"
        print_line(f"  {word} {si(value, 'bit/s')}{ends}")
    print_line(f"  round trip {si(link.rtt_s, 's')}")
    if link.transmit_power_w is not None:
        print_line(
            f"  on its way a message adds {si(link.transmit_power_w, 'W')} up and {si(link.receive_power_w, 'W')} down"
        )
    print_line(f"next: card plan --from-db --link {link.name}")


def _import(options: LinkOptions, shared: Shared) -> None:
    from cardlab.workflows.links import import_link

    with opening(shared) as store:
        found = import_link(store, options)
    if shared.json:
        print_json({"link": to_plain(found)})
        return
    print_table(None, _COLUMNS, [_row(found)])
    notes = found.details.get("notes")
    for line in notes if isinstance(notes, list) else ():
        print_line(f"note: {line}")
    missing = [
        word for word, value in (("uplink", found.uplink_bps), ("downlink", found.downlink_bps)) if value is None
    ]
    if missing:
        print_line(f"note: {missing[0]} was not in the file; card plan will ask for --{missing[0]}-mbps")


def _list(shared: Shared) -> None:
    from cardlab.workflows.lists import list_links

    with open_shared(shared) as store:
        links = list_links(store)
    print_links(links, shared)


def print_links(links: Sequence[Link], shared: Shared) -> None:
    """The stored links, a line each."""
    if shared.json:
        print_json({"links": to_plain(links)})
    elif links:
        print_table(None, _COLUMNS, [_row(found) for found in links])
    else:
        print_line("no link is stored; measure one with: card link --server HOST:PORT")


def _row(link: Link) -> tuple[str, ...]:
    return (
        link.name,
        si(link.uplink_bps, "bit/s"),
        si(link.downlink_bps, "bit/s"),
        si(link.rtt_s, "s"),
        link.measured_at[:19],
        str(link.provenance),
    )

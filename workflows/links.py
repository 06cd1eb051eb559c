"""Links between devices and servers: measured with the transport of a split run, imported, listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cardlab.card.link.iperf import read_iperf3
from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.options import given
from cardlab.core.plain import to_plain
from cardlab.core.quantity import MEASURED, Provenance
from cardlab.core.records.link import Link
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.workflows.connect import PORT, Say, connect, server_keys, silent
from cardlab.workflows.opening import Opening, opened
from cardlab.workflows.options.card import LinkOptions
from cardlab.workflows.settings import load_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLink:
    """A link as it was stored, and the messages it was measured with."""

    link: Link
    messages: int
    message_bytes: int


# What each way of using the command listens to, and its name in a refusal.
_WAYS: dict[str, tuple[frozenset[str], str]] = {
    "serve": (frozenset(("--serve", "--bind", "--key", "--allow", "--idle")), "--serve"),
    "measure": (
        frozenset(("--server", "--name", "--message-bytes", "--messages", "--link", "--key", "--server-key"))
        | {"--energy", "--platform"},
        "--server",
    ),
    "import": (frozenset(("--file", "--name", "--downlink")), "an iperf3 file"),
    "list": (frozenset(), "the list of links"),
}


def check_link(options: LinkOptions, wanted: str | None = None) -> str:
    """Which way is asked for: "serve", "measure", "import" or "list".

    Args:
        wanted: the way that the caller goes.

    Raises UsageError for two at once, another than the wanted one, and options without effect on it.
    """
    asked = {
        "serve": options.serve or wanted == "serve",
        "measure": options.server is not None,
        "import": options.file is not None,
    }
    chosen = [way for way, yes in asked.items() if yes]
    if len(chosen) > 1:
        raise UsageError("one thing at a time", remedy="give a FILE, or --serve, or --server HOST:PORT")
    way = chosen[0] if chosen else "list"
    used, words = _WAYS[way]
    for flag in given(options):
        if flag not in used:
            raise UsageError(f"{flag} has no effect with {words}", remedy=f"leave {flag} out; see: card link --help")
    return way


def answer_probes(options: LinkOptions, progress: Say = silent) -> int:
    """On the server: answer devices that measure, until `idle_s` after the last; how many were answered."""
    from cardlab.split.keys import split_address
    from cardlab.split.probe import serve_probe
    from cardlab.split.server_transport import ServerTransport

    check_link(options, "serve")
    host, port = split_address(options.bind, PORT)
    pair, allowed = server_keys(host, options.key, options.allow)
    transport = ServerTransport(host, port, pair, allowed)
    try:
        progress(f"answering probes on {host}:{transport.port}; ends {options.idle_s:g} s after the last")
        return serve_probe(transport, until_idle_s=options.idle_s, note=progress)
    finally:
        transport.close()


def measure_link(store: Store | Opening, options: LinkOptions) -> MeasuredLink:
    """On the device: measure the link to `server`, and store it."""
    from cardlab.split.probe import measure_link as measure
    from cardlab.split.radio import measure_radio
    from cardlab.split.shaping import parse_link

    if options.server is None:
        raise UsageError("a link is measured to a server", remedy="give --server HOST:PORT")
    check_link(options, "measure")
    # With the transport of a split run: its framing and encryption are part of the rates that plans use.
    shape = parse_link(options.shape)
    with _metered(options) as platform:
        transport = connect(options.server, options.key, options.server_key, shape)
        try:
            rates = measure(transport, message_bytes=options.message_bytes, messages=options.messages)
            radio = None if platform is None else measure_radio(platform, transport, options.message_bytes)
        finally:
            transport.close()
    link = Link(
        uid=new_uid(),
        name=options.name,
        uplink_bps=rates.uplink_bps,
        downlink_bps=rates.downlink_bps,
        # Pulses pass a shaped link unshaped, messages wait for its delay each way.
        rtt_s=rates.rtt_s + 2.0 * shape.delay_s,
        message_bytes=rates.message_bytes,
        provenance=MEASURED,
        measured_at=utc_now(),
        uplink_range_bps=rates.uplink_range_bps,
        downlink_range_bps=rates.downlink_range_bps,
        transmit_power_w=None if radio is None else radio.transmit_w,
        receive_power_w=None if radio is None else radio.receive_w,
        # A shaped link is no property of the place, so the record says what was imposed.
        details={"tool": "cardlab", "shaped": options.shape, **to_plain(rates)},
    )
    opened(store).links.add(link)
    return MeasuredLink(link=link, messages=rates.messages, message_bytes=rates.message_bytes)


@contextmanager
def _metered(options: LinkOptions) -> Iterator[HardwareDevice | None]:
    """The device whose rail is read, before anything is sent; None where energy was not asked for."""
    if not options.energy:
        if options.platform is not None:
            raise UsageError("--platform names a meter, and nothing is metered", remedy="add --energy, or leave it out")
        yield None
        return
    platform = open_platform(options.platform or "auto", label=load_settings().name)
    try:
        if platform.torch_device is None or platform.meter is None:
            raise UsageError(
                f"{platform.identity.name} has no power meter that reads while messages travel",
                remedy="leave --energy out, or see what is lacking: profile-device doctor",
            )
        yield platform
    finally:
        platform.close()


def import_link(store: Store | Opening, options: LinkOptions) -> Link:
    """Store the rates of one or two iperf3 results as the link of that name."""
    if options.file is None:
        raise UsageError("nothing to import", remedy="name the result of iperf3 --json")
    check_link(options, "import")
    rates = read_iperf3(options.file)
    files = [Path(options.file).name]
    notes = list(rates.notes)
    if options.downlink is not None:
        reverse = read_iperf3(options.downlink)
        files.append(Path(options.downlink).name)
        # iperf3 sends from the client unless -R is given: one result holds one direction.
        if reverse.downlink_bps is None:
            raise UsageError(f"{options.downlink} holds no downlink", remedy="make it with: iperf3 -c SERVER -R --json")
        if rates.downlink_bps is not None:
            notes.append(f"the downlink of {options.file} is passed over for that of {options.downlink}")
        rates = replace(rates, downlink_bps=reverse.downlink_bps)
        notes += reverse.notes
    link = Link(
        uid=new_uid(),
        name=options.name,
        uplink_bps=rates.uplink_bps,
        downlink_bps=rates.downlink_bps,
        rtt_s=rates.rtt_s,
        provenance=Provenance.of("imported"),
        measured_at=utc_now(),
        details={"tool": "iperf3", "files": files, "notes": notes},
    )
    opened(store).links.add(link)
    return link

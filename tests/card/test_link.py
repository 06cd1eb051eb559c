"""NR tables, SNR mappings, the drawn channel, and measured rates."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest

from cardlab.card import load_scenario, solve
from cardlab.card.link.channel import draw_rates, rate_bps, rates_by_round, snr_db
from cardlab.card.link.iperf import read_iperf3
from cardlab.card.link.nr_tables import CQI, MCS, coding_of_cqi, mcs_of_cqi
from cardlab.card.link.snr_maps import DEFAULT, MAPS, snr_map
from cardlab.card.problem.scenario import LinkSpec
from cardlab.card.simulate import on_channel
from cardlab.core.errors import BadDataError, PlanError

# Typed a second time from the efficiencies that the standard prints.
PRINTED = {
    (
        "cqi",
        1,
    ): "0.1523 0.2344 0.3770 0.6016 0.8770 1.1758 1.4766 1.9141 2.4063 2.7305 3.3223 3.9023 4.5234 5.1152 5.5547",
    (
        "cqi",
        2,
    ): "0.1523 0.3770 0.8770 1.4766 1.9141 2.4063 2.7305 3.3223 3.9023 4.5234 5.1152 5.5547 6.2266 6.9141 7.4063",
    (
        "mcs",
        1,
    ): "0.2344 0.3066 0.3770 0.4902 0.6016 0.7402 0.8770 1.0273 1.1758 1.3262 1.3281 1.4766 1.6953 1.9141 "
    "2.1602 2.4063 2.5703 2.5664 2.7305 3.0293 3.3223 3.6094 3.9023 4.2129 4.5234 4.8164 5.1152 5.3320 "
    "5.5547",
    (
        "mcs",
        2,
    ): "0.2344 0.3770 0.6016 0.8770 1.1758 1.4766 1.6953 1.9141 2.1602 2.4063 2.5703 2.7305 3.0293 3.3223 "
    "3.6094 3.9023 4.2129 4.5234 4.8164 5.1152 5.3320 5.5547 5.8906 6.2266 6.5703 6.9141 7.1602 7.4063",
}


@pytest.mark.parametrize(("kind", "table"), PRINTED)
def test_efficiencies_are_those_printed_rounded_half_up(kind, table):
    rows = {"cqi": CQI, "mcs": MCS}[kind][table]
    shown = [str(Decimal(r.efficiency).quantize(Decimal("0.0001"), ROUND_HALF_UP)) for r in rows]
    assert shown == PRINTED[kind, table].split()
    assert [r.index for r in rows] == list(range(rows[0].index, rows[0].index + len(rows)))


def test_mcs_is_not_monotone_and_half_rates_are_kept():
    assert MCS[1][16].efficiency > MCS[1][17].efficiency
    assert (MCS[2][20].rate_1024, MCS[2][26].rate_1024) == (682.5, 916.5)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (1, (0, 0, 2, 4, 6, 8, 11, 13, 15, 18, 20, 22, 24, 26, 28)),
        (2, (0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27)),
    ],
)
def test_mcs_of_cqi_is_the_customary_one(table, expected):
    assert tuple(mcs_of_cqi(cqi, table).index for cqi in range(1, 16)) == expected


def test_cqi_out_of_range():
    with pytest.raises(PlanError, match="no link"):
        coding_of_cqi(0)
    with pytest.raises(PlanError, match=r"1\.\.15"):
        coding_of_cqi(16)


@pytest.mark.parametrize("name", [*MAPS, "shannon-gap:3"])
def test_mappings_are_named_rise_and_say_where_they_come_from(name):
    mapping = snr_map(name)
    assert list(mapping.thresholds_db) == sorted(mapping.thresholds_db)
    assert mapping.first + len(mapping.thresholds_db) - 1 in (14, 15)
    assert mapping.source
    lowest = mapping.thresholds_db[0]
    assert (mapping.cqi(lowest - 1e-9), mapping.cqi(lowest)) == (0, mapping.first)
    assert mapping.cqi(100.0) == mapping.first + len(mapping.thresholds_db) - 1


def test_shannon_gap_shifts_the_bound():
    bound, gap = snr_map("shannon-gap:0"), snr_map("shannon-gap:2.5")
    np.testing.assert_allclose(np.array(gap.thresholds_db) - bound.thresholds_db, 2.5)
    assert bound.thresholds_db[0] == pytest.approx(-9.53, abs=0.005)
    assert bound.thresholds_db[14] == pytest.approx(16.63, abs=0.005)
    assert snr_map().name == DEFAULT == "customary-lte"
    for wrong in (
        "shannon-gap:x",
        "shannon-gap:-1",
        "shannon-gap:1_0",
        "shannon-gap:\u0663",
        "shannon-gap:nan",
        "best",
    ):
        with pytest.raises(PlanError, match="customary-lte"):
            snr_map(wrong)


def test_the_channel_adds_up():
    link = LinkSpec(channel="normal", fading="none", protocol_efficiency=0.9)
    assert snr_db(link, link.uplink_tx_dbm) == pytest.approx(23 - 103 + 163 - 10 * math.log10(2e7))
    assert snr_db(replace(link, channel="good"), 23) - snr_db(replace(link, channel="poor"), 23) == pytest.approx(6)
    up, down = draw_rates(link, ("a", "b"), np.random.default_rng(0))
    # 9.99 dB is CQI 8 (16QAM 490), 19.99 dB CQI 13 (64QAM 772).
    assert up.tolist() == pytest.approx([4 * 490 / 1024 * 2e7 * 0.9] * 2)
    assert down.tolist() == pytest.approx([6 * 772 / 1024 * 2e7 * 0.9] * 2)
    assert rate_bps(link, snr_map(), -10.0) == 0.0


def test_fading_is_drawn_per_round_device_and_direction_by_the_seed():
    link = LinkSpec(seed=5)
    given = [(None, None), (None, 7e6)]
    first, again = rates_by_round(link, ("a", "b"), given, 5), rates_by_round(link, ("a", "b"), given, 5)
    for (u1, d1), (u2, d2) in zip(first, again, strict=True):
        assert u1.tolist() == u2.tolist() and d1.tolist() == d2.tolist()
        assert d1[1] == 7e6
    ups = np.array([u for u, _ in first])
    assert len(np.unique(ups)) > 3
    other = rates_by_round(replace(link, seed=6), ("a", "b"), given, 5)
    assert any(a.tolist() != b.tolist() for (a, _), (b, _) in zip(first, other, strict=True))


def test_no_link_is_an_error_that_names_direction_snr_and_mapping():
    scenario = on_channel(load_scenario("card-letter"), "poor")
    assert scenario.link is not None
    dead = replace(scenario, link=replace(scenario.link, path_loss_db=125.0, fading="none"))
    with pytest.raises(PlanError, match=r"agx-orin-1 uplink: no link, CQI 0 at a mean SNR of -15.0 dB by customary"):
        solve(dead)


def test_rounds_with_fading_are_planned_one_by_one():
    scenario = replace(on_channel(load_scenario("card-letter"), "normal"), rounds=6)
    made = solve(scenario)
    delays = [sum(d.delay_s for d in r.devices) for r in made.rounds]
    assert len(set(delays)) == 6
    assert made.outcome.delay_s == pytest.approx(np.mean(delays))


def iperf(**end):
    return {"start": {"test_start": {"reverse": 0}}, "end": end}


def test_iperf3_directions(tmp_path):
    file = tmp_path / "iperf.json"
    received = {"bits_per_second": 5e7}
    streams = [{"sender": {"mean_rtt": 12000}}, {"sender": {"mean_rtt": 8000}}]
    file.write_text(json.dumps(iperf(sum_received=received, streams=streams)))
    rates = read_iperf3(file)
    assert (rates.uplink_bps, rates.downlink_bps) == (5e7, None) and rates.rtt_s == pytest.approx(0.01)
    document = iperf(sum_received=received, sum_received_bidir_reverse={"bits_per_second": 9e7})
    file.write_text(json.dumps(document))
    assert (read_iperf3(file).uplink_bps, read_iperf3(file).downlink_bps) == (5e7, 9e7)
    document = iperf(sum_received=received)
    document["start"]["test_start"]["reverse"] = 1
    file.write_text(json.dumps(document))
    assert (read_iperf3(file).uplink_bps, read_iperf3(file).downlink_bps) == (None, 5e7)


def doubled(document):
    """As iperf3 3.7 to 3.10 write it: the way back under the same names, no mark of --bidir."""
    way_back = {"bits_per_second": 9e7}
    text = json.dumps(document)
    return text.replace('"end": {', '"end": {"sum_sent": {"bits_per_second": 5.1e7}, ').replace(
        '"sum_received": {"bits_per_second": 50000000.0}',
        '"sum_received": {"bits_per_second": 50000000.0}, "sum_sent": {"bits_per_second": 9.1e7},'
        f' "sum_received": {json.dumps(way_back)}',
    )


def test_both_ways_of_old_versions_that_repeat_their_keys(tmp_path):
    file = tmp_path / "iperf.json"
    file.write_text(doubled(iperf(sum_received={"bits_per_second": 5e7})))
    rates = read_iperf3(file)
    assert (rates.uplink_bps, rates.downlink_bps, rates.notes) == (5e7, 9e7, ())


@pytest.mark.parametrize(
    "data",
    [
        "\ufeff{0}".encode(),
        "{0}".encode("utf-16"),
        b"warning: UDP block size 1460 exceeds TCP MSS 1448\n{0}\nwarning: over\n",
    ],
)
def test_iperf3_files_as_shells_leave_them(tmp_path, data):
    file = tmp_path / "iperf.json"
    document = json.dumps(iperf(sum_received={"bits_per_second": 5e7}))
    marked = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    file.write_bytes(
        data.decode(marked).replace("{0}", document).encode(marked) if marked == "utf-8" else document.encode(marked)
    )
    assert read_iperf3(file).uplink_bps == 5e7


def test_events_of_json_stream_and_several_results(tmp_path):
    file = tmp_path / "iperf.json"
    first, second = ({"bits_per_second": value} for value in (5e7, 6e7))
    start = {"event": "start", "data": {"test_start": {"reverse": 1}}}
    events = [start, {"event": "interval", "data": {}}, {"event": "end", "data": {"sum_received": first}}]
    file.write_text("\n".join(json.dumps(event) for event in events))
    assert (read_iperf3(file).uplink_bps, read_iperf3(file).downlink_bps) == (None, 5e7)
    file.write_text("\n".join(json.dumps(event) for event in events[:2]))
    with pytest.raises(BadDataError, match="ends before its result"):
        read_iperf3(file)
    file.write_text("".join(json.dumps(iperf(sum_received=rate), indent=1) for rate in (first, second)))
    with pytest.raises(BadDataError, match="not JSON|no result"):
        file.write_text(json.dumps(iperf(sum_received=first))[:-3])
        read_iperf3(file)
    file.write_text("\n".join(json.dumps(iperf(sum_received=rate), indent=1) for rate in (first, second)))
    rates = read_iperf3(file)
    assert rates.uplink_bps == 6e7 and "holds 2 results of the uplink" in rates.notes[0]


def test_a_rate_in_another_unit_is_refused(tmp_path):
    file = tmp_path / "iperf.json"
    file.write_text(json.dumps(iperf(sum_received={"bits_per_second": 50})))
    with pytest.raises(BadDataError, match="means 50 bit/s"):
        read_iperf3(file)


def udp(lost, **more):
    """The sum of a UDP test as iperf3 2 to 3.11 give it: bytes and rate are the sender's."""
    return {"bits_per_second": 1e8, "packets": 1000, "lost_packets": lost, "lost_percent": lost / 10, **more}


@pytest.mark.parametrize(
    ("end", "reverse", "rates"),
    [
        ({"sum": udp(600)}, 0, (4e7, None)),
        ({"sum": udp(600)}, 1, (None, 4e7)),
        ({"sum": udp(600), "sum_bidir_reverse": udp(250)}, 0, (4e7, 7.5e7)),
        ({"sum": udp(600), "sum_sent": {"bits_per_second": 1e8}, "sum_received": {"bits_per_second": 3.9e7}}, 0,
         (3.9e7, None)),
    ],
)  # fmt: skip
def test_lost_packets_did_not_arrive(tmp_path, end, reverse, rates):
    file = tmp_path / "udp.json"
    file.write_text(json.dumps({"start": {"test_start": {"protocol": "UDP", "reverse": reverse}}, "end": end}))
    found = read_iperf3(file)
    assert (found.uplink_bps, found.downlink_bps) == pytest.approx(rates)
    assert found.notes == ()


def test_both_ways_of_udp_that_repeat_their_keys(tmp_path):
    file = tmp_path / "udp.json"
    file.write_text(f'{{"end": {{"sum": {json.dumps(udp(600))}, "sum": {json.dumps(udp(250))}}}}}')
    assert (read_iperf3(file).uplink_bps, read_iperf3(file).downlink_bps) == pytest.approx((4e7, 7.5e7))


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ({"sum": {"bits_per_second": 1e8}}, "says what was sent and not what arrived"),
        ({"sum": udp(0, packets=0)}, "says what was sent and not what arrived"),
        ({"sum": udp(1200)}, "says what was sent and not what arrived"),
        ({"sum": udp(-5)}, "says what was sent and not what arrived"),
        ({"sum_sent": {"bits_per_second": 1e8}}, "says what was sent and not what arrived"),
        # Nothing arrived, whatever was sent.
        ({"sum": udp(1000)}, "no rate above 0"),
        ({"sum": udp(600), "sum_received": {"bits_per_second": 0}}, "no rate above 0"),
    ],
)
def test_the_rate_of_the_sender_is_not_what_arrived(tmp_path, end, says):
    file = tmp_path / "udp.json"
    file.write_text(json.dumps({"end": end}))
    with pytest.raises(BadDataError, match=says):
        read_iperf3(file)


def test_udp_at_a_rate_that_the_link_carried_easily_is_noted(tmp_path):
    file = tmp_path / "udp.json"
    file.write_text(json.dumps({"end": {"sum": udp(1)}}))
    rates = read_iperf3(file)
    assert rates.uplink_bps == pytest.approx(9.99e7) and "the link may carry more" in rates.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no result of iperf3"),
        ('{"end": 3}', "no result of iperf3"),
        ('{"end": {}, "error": "refused"}', "iperf3 failed: refused"),
        ('{"end": {"sum_received": {"bits_per_second": 0}}}', "no rate above 0"),
        ('{"end": {"sum_received": {"bits_per_second": true}}}', "no rate above 0"),
    ],
)
def test_a_file_that_is_no_measurement(tmp_path, text, words):
    file = tmp_path / "iperf.json"
    file.write_text(text)
    with pytest.raises(BadDataError, match=words):
        read_iperf3(file)
    with pytest.raises(BadDataError, match="cannot read"):
        read_iperf3(tmp_path / "none.json")


def test_the_shortest_round_trip_is_taken_where_a_result_has_one(tmp_path) -> None:
    """The mean is that of a full queue, which the test itself makes; a round of a run does not."""
    streams = [{"sender": {"mean_rtt": 90_000, "min_rtt": 21_000}}, {"sender": {"mean_rtt": 80_000, "min_rtt": 20_000}}]
    path = tmp_path / "up.json"
    path.write_text(json.dumps({"end": {"sum_received": {"bits_per_second": 5e7}, "streams": streams}}))
    assert read_iperf3(path).rtt_s == pytest.approx(0.02)

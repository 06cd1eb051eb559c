"""If these fail, a plan counts encoding, decoding and adapters' handling at the speed of the wrong side, or twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.scenario import LinkSpec, SftSpec
from cardlab.card.schemes.sft.baselines import uncompressed
from cardlab.card.schemes.sft.from_db import instance_from_database
from cardlab.card.schemes.sft.planning import plan_instance
from cardlab.card.uncertainty import certainties
from cardlab.core.identity import new_uid
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import CodecCost, Measurement, OperatingPoint, PlannedPoint, RunKind
from cardlab.db.store import Store
from cardlab.split.settings import RunSettings
from cardlab.workflows.expectation import Serving, expected_by_device
from tests import records
from tests.card.database import BOARD, SERVER, add_device, whole

REQUEST = Request(server="gpu", devices=("board",), uplink_bps=5e7, downlink_bps=1e8)
CUTS = range(1, records.TASK.architecture.layers)
# Milliseconds to encode and decode: (activation, gradient) of each codec on each machine.
MILLISECONDS: dict[str, dict[str, tuple[tuple[float, float], tuple[float, float]]]] = {
    "board": {"none": ((3, 5), (7, 11)), "dense:8": ((30, 50), (70, 110))},
    "gpu": {"none": ((0.1, 0.2), (0.4, 0.8)), "dense:8": ((1, 2), (4, 8))},
}


def add_codec_profile(store: Store, device: Device, *, handling: bool = True) -> str:
    """Times of cut c are c times those of cut 1; dense:8 sends 30 % of float32."""
    planned = tuple(PlannedPoint(index=n) for n in range(len(CUTS)))
    run = replace(records.run(device=device, planned=planned), kind=RunKind.CODEC)
    store.runs.begin(run)
    for point, cut in zip(planned, CUTS, strict=True):
        rows = []
        for codec, times in MILLISECONDS[device.name].items():
            for tensor, (encode, decode) in zip(("activation", "gradient"), times, strict=True):
                size = 4096 if codec == "none" else 1229
                cost = CodecCost(
                    cut=cut,
                    codec=codec,
                    tensor=tensor,
                    values=1024,
                    encoded_bytes=size,
                    error=0.0,
                    encode_s=cut * encode * 1e-3,
                    decode_s=cut * decode * 1e-3,
                )
                rows.append(_row("compression", "bit", 8.0 * size / 1024, cost))
        for side in ("device", "server") if handling else ():
            mine = 0.5 if side == "device" else 0.25
            slow = 1.0 if device is BOARD else 0.1
            rows.append(_row("handling", "s", slow * mine * cut, CodecCost(cut=cut, side=side, encoded_bytes=100)))
        uid = store.runs.begin_point(run.uid, point)
        store.runs.finish_point(uid, OperatingPoint(), *rows)
    return run.uid


def _row(quantity: str, unit: str, value: float, cost: CodecCost) -> Measurement:
    estimate = Estimate(value, n=1, provenance=MEASURED)
    return Measurement(uid=new_uid(), quantity=quantity, unit=unit, estimate=estimate, codec=cost)


def test_each_side_encodes_what_it_sends_at_its_own_speed(database) -> None:
    with whole(database) as store:
        runs = {add_codec_profile(store, device) for device in (BOARD, SERVER)}
        found = gather(store, REQUEST)
    cuts, problem = found.problem.cuts, found.problem
    assert problem.encode_s[0] == pytest.approx(cuts * (3 + 0.4) * 1e-3, rel=1e-7)
    assert problem.decode_s[0] == pytest.approx(cuts * (0.2 + 11) * 1e-3, rel=1e-7)
    assert problem.handling_s[0] == pytest.approx(cuts * (0.5 + 0.1 * 0.25), rel=1e-7)
    assert runs < set(found.runs)
    terms = problem.terms(0, 1, 0.0)
    assert terms.encode == pytest.approx(2 * 3.4e-3 * problem.objective.local_epochs)
    assert terms.adapters > problem.handling_s[0, 1]


def test_without_a_profile_of_both_sides_nothing_is_counted(database) -> None:
    with whole(database) as store:
        add_codec_profile(store, BOARD)
        problem = gather(store, REQUEST).problem
    assert not problem.encode_s.any() and not problem.decode_s.any() and problem.handling_s is None


def test_a_profile_made_before_handling_was_measured_still_gives_its_codecs(database) -> None:
    with whole(database) as store:
        for device in (BOARD, SERVER):
            add_codec_profile(store, device, handling=False)
        problem = gather(store, REQUEST).problem
    assert problem.encode_s.any() and problem.handling_s is None


def test_a_compressed_plan_counts_the_codecs_time_and_not_that_of_plain_tensors_too(database) -> None:
    with whole(database) as store:
        for device in (BOARD, SERVER):
            add_codec_profile(store, device)
        gathered = gather(store, REQUEST)
        (option,) = instance_from_database(store, gathered, SftSpec(), 0.3)[0].problem.options
        instance, _ = instance_from_database(store, gathered, SftSpec(), 0.3)
        plain, _ = instance_from_database(store, gathered, SftSpec(), None)
    assert option.codec == "dense:8" and option.rate == pytest.approx(0.3, rel=0.01)
    np.testing.assert_allclose(instance.problem.codec_s[0, :, 0], gathered.problem.cuts * (30 + 4 + 2 + 110) * 1e-3)
    np.testing.assert_allclose(plain.problem.codec_s[0, :, 0], gathered.problem.cuts * (3 + 0.4 + 0.2 + 11) * 1e-3)


def test_the_uncompressed_baseline_of_a_compressed_plan_packs_in_its_measured_time(database) -> None:
    with whole(database) as store:
        for device in (BOARD, SERVER):
            add_codec_profile(store, device)
        gathered = gather(store, REQUEST)
        instance, _ = instance_from_database(store, gathered, SftSpec(), 0.3)
    raw = uncompressed(instance.problem)
    cuts = gathered.problem.cuts
    assert [o.codec for o in raw.options] == ["none"]
    np.testing.assert_allclose(raw.codec_s[0, :, 0], cuts * (3 + 0.4 + 0.2 + 11) * 1e-3)
    np.testing.assert_allclose((raw.there_encode_s + raw.there_decode_s)[0, :, 0], cuts * (0.4 + 0.2) * 1e-3)


def test_a_machine_without_codec_profile_borrows_another_and_the_plan_says_so(database) -> None:
    with whole(database) as store:
        add_codec_profile(store, BOARD)
        gathered = gather(store, REQUEST)
        instance, _ = instance_from_database(store, gathered, SftSpec(), 0.3)
    np.testing.assert_allclose(instance.problem.codec_s[0, :, 0], gathered.problem.cuts * (30 + 50 + 70 + 110) * 1e-3)
    assert any("as quick on 1 machine(s) without a codec profile as on board" in line for line in instance.assumed)


def test_the_large_timescale_does_not_see_the_rounds_to_come(database) -> None:
    link = LinkSpec(channel="good", seed=3)
    with whole(database) as store:
        gathered = gather(store, replace(REQUEST, uplink_bps=None, downlink_bps=None, link=link), rounds=20)
        instance, _ = instance_from_database(store, gathered, SftSpec(), None)
    assert len(instance.rounds) == 20 and instance.statistics.uplink_bps.shape == (8, 1)
    # Draws fall on the few rates of the CQI table, so it is the order that tells.
    assert [float(b.uplink_bps[0]) for b in instance.rounds[:8]] != instance.statistics.uplink_bps[:, 0].tolist()


def test_the_whole_model_on_a_device_is_a_baseline(database) -> None:
    with whole(database) as store:
        gathered = gather(store, REQUEST)
        instance, _ = instance_from_database(store, gathered, SftSpec(), None)
    # Embedding, first layer, three more and the head: 0.002 + 0.04 + 3 x 0.044 + 0.04 s.
    assert instance.local_s == pytest.approx([0.214])
    federated = plan_instance(instance).baselines["federated_lora"]
    assert federated.delay_s is not None and federated.delay_s > 0.214


def test_the_server_is_busy_with_the_codecs_of_the_other_devices(database) -> None:
    other = replace(BOARD, key="jetson:0002", name="other")
    with whole(database) as store:
        add_device(store, other)
        for device in (BOARD, SERVER):
            add_codec_profile(store, device)
        gathered = gather(store, replace(REQUEST, devices=("board", "other")))
        problem = instance_from_database(store, gathered, SftSpec(), 0.3)[0].problem
    cuts = gathered.problem.cuts
    # The device without a profile borrows the first one's; the server's own part is that of the server's profile.
    for m in range(2):
        np.testing.assert_allclose(problem.there_encode_s[m, :, 0], cuts * 4e-3)
        np.testing.assert_allclose(problem.there_decode_s[m, :, 0], cuts * 2e-3)
    at = np.zeros(2, int)
    own_s = problem.base.device_s[:, 0] + problem.codec_s[:, 0, 0] + 2 * problem.server_s[0] + 6e-3
    once_s = problem.base.handling[:, 0] + problem.base.switch_s
    epochs = problem.base.objective.local_epochs
    np.testing.assert_allclose(problem.fixed_s(at, at), epochs * own_s + once_s)


def test_parallel_devices_have_intervals_that_hold_their_delay(database) -> None:
    with whole(database) as store:
        gathered = gather(store, REQUEST)
        instance, _ = instance_from_database(store, gathered, SftSpec(), None)
    made = plan_instance(instance).rounds[0].devices[0]
    assert made.delay_ci95 is not None
    low, high = made.delay_ci95
    assert low < made.delay_s < high
    assert made.terms_ci95["server"][0] < made.delay_terms.server < made.terms_ci95["server"][1]
    assert made.terms_mean_ci95["uplink"] == pytest.approx((made.delay_terms.uplink,) * 2)
    # One device waits for nobody: its round is in doubt as much as in a plan of scheme card, which counts no labels.
    alone = certainties(instance.problem.base, [(made.cut - 1, instance.problem.top)], gathered.uncertainty)[0]
    labels_s = 4 * 32 * 8 / 5e7
    assert made.delay_mean_ci95 is not None
    low, high = made.delay_mean_ci95
    assert (low - labels_s, high - labels_s) == pytest.approx(alone.delay_mean_ci95, rel=1e-6)


@pytest.mark.parametrize("timed", [(), (BOARD,), (SERVER,), (BOARD, SERVER)])
def test_a_run_is_promised_no_time_for_a_codec_that_one_side_was_not_timed_at(
    database: Path, timed: tuple[Device, ...]
) -> None:
    """Its bytes are the same on every machine, its time is not: what was not timed would count as 0."""
    settings = RunSettings(
        run="3" * 32,
        task=records.TASK,
        rounds=1,
        epochs=1,
        learning_rate=1e-3,
        wire_dtype="float32",
        cut=2,
        codec="dense:8",
    )
    with whole(database) as store:
        for device in timed:
            add_codec_profile(store, device)
        terms = expected_by_device(store, settings, Serving(SERVER), "10mbit").predictions[BOARD.key].terms
    packing = {"encode", "decode"} & set(terms)
    if len(timed) == 2:
        assert terms["encode"] == pytest.approx(2 * (30 + 4) * 1e-3)
        assert terms["decode"] == pytest.approx(2 * (2 + 110) * 1e-3)
    else:
        assert not packing
    assert terms.get("uplink") == (pytest.approx(1229 * 8 / 10e6) if timed else None)

# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""Shaping, keys, data, frequency, journal, stored rounds and validation, each by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from dataclasses import replace

from cardlab import __version__
from cardlab.core.errors import RunError, UsageError
from cardlab.core.quantity import MEASURED
from cardlab.core.records.checks import Coverage, check_rounds, coverage, terms_off
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.plan import TERMS
from cardlab.db import open_store
from cardlab.profilers.devices import open_platform
from cardlab.split.adapters import initial_adapters
from cardlab.split.data import Batches, read_tokens
from cardlab.split.frequency import EnergyMeter, HeldFrequency
from cardlab.split.journal import FinishedTurn, Journal
from cardlab.split.keys import is_loopback, split_address
from cardlab.split.laps import Laps
from cardlab.split.recording import begin_run, round_record
from cardlab.split.schedule import Schedule
from cardlab.split.settings import RunSettings
from cardlab.split.shaping import LinkShape, PlannedRates, TokenBucket, describe_rates, parse_link
from tests import records
from tests.split.models import largest_difference, model_file, replay, small_task
from tests.split.processes import Trial


@pytest.mark.parametrize(
    ("text", "up", "down", "delay"),
    [
        ("100mbit,5ms", 1e8, 1e8, 0.005),
        ("20Mbit/100mbit", 2e7, 1e8, 0.0),
        ("1gbit, 200us", 1e9, 1e9, 2e-4),
        ("64.5kbit", 64500.0, 64500.0, 0.0),
    ],
)
def test_a_link_is_read_as_it_is_written(text, up, down, delay) -> None:
    shape = parse_link(text)
    assert (shape.uplink_bps, shape.downlink_bps) == (up, down) and shape.delay_s == pytest.approx(delay)


@pytest.mark.parametrize("text", ["", "100", "fast", "0mbit", "10mbit,5", "10mbit/x", "-1mbit", "10mbit,5ms,6ms"])
def test_a_link_that_means_nothing_is_refused(text) -> None:
    with pytest.raises(UsageError, match="100mbit,5ms"):
        parse_link(text)


@settings(max_examples=100, deadline=None)
@given(
    rate=st.floats(1e4, 1e9),
    delay=st.floats(0.0, 0.1),
    messages=st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.0, 0.2)), min_size=1, max_size=20),
)
def test_a_bucket_passes_no_more_than_its_rate_and_burst(rate, delay, messages) -> None:
    bucket = TokenBucket(rate, delay, 1500.0)
    now, sent, last = 100.0, 0, 0.0
    for size, pause in messages:
        now += pause
        out = bucket.release_s(size, now)
        sent += size
        assert out >= now + delay - 1e-9 and out >= last
        # From the first offer on, never more than the burst and what the rate gives.
        assert sent <= 1500.0 + rate / 8.0 * (out - delay - 100.0 - messages[0][1]) * (1 + 1e-9) + 1e-6 + rate * 1e-12
        last = out


def test_a_free_bucket_takes_the_time_of_the_message() -> None:
    bucket = TokenBucket(8e6, 0.01, 0.0)
    assert bucket.release_s(500_000, 10.0) == pytest.approx(10.51)
    assert bucket.release_s(500_000, 10.1) == pytest.approx(11.01)
    assert bucket.release_s(500_000, 20.0) == pytest.approx(20.51)
    assert TokenBucket(None, 0.25).release_s(10**9, 5.0) == 5.25


@settings(max_examples=100, deadline=None)
@given(
    rates=st.lists(st.floats(1e4, 1e9), min_size=2, max_size=8),
    sizes=st.lists(st.integers(1, 10**6), min_size=8, max_size=8),
    pauses=st.lists(st.floats(0.0, 0.2), min_size=8, max_size=8),
)
def test_a_bucket_whose_rate_changes_keeps_what_it_promised_and_then_to_the_new_rate(rates, sizes, pauses) -> None:
    bucket = TokenBucket(None)
    now, last = 100.0, 0.0
    for rate, size, pause in zip(rates, sizes, pauses, strict=False):
        bucket.set_rate(rate, now)
        out = bucket.release_s(size, now)
        free = max(now, last)
        # Never quicker than the new rate allows with a full bucket, never slower than with an empty one.
        ideal = size * 8.0 / rate
        assert free + ideal - 1500.0 * 8.0 / rate - 1e-9 * out <= out <= free + ideal + 1e-9 * out
        now, last = now + pause, out


def test_planned_links_take_the_rates_of_the_round_and_say_when_there_are_none() -> None:
    planned, rates = parse_link("planned", planned=True), PlannedRates(uplink_bps=3e6, downlink_bps=12e6)
    assert describe_rates(LinkShape(), rates) is None and describe_rates(LinkShape(), None) is None
    said = describe_rates(planned, rates)
    assert said is not None and "3 Mbit/s up, 12 Mbit/s down" in said and "simulated" in said
    with pytest.raises(RunError, match="gives this device no rates"):
        describe_rates(planned, None)
    with pytest.raises(UsageError, match="100mbit,5ms"):
        parse_link("planned")


def test_laps_leave_no_gap() -> None:
    laps = Laps(1.0)
    laps.mark("a", 1.5)
    laps.merge({"b": 0.25, "a": 0.25}, 2.0)
    laps.mark("a", 3.0)
    assert laps.terms == {"a": 1.75, "b": 0.25} and sum(laps.terms.values()) == 2.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a.b:12", ("a.b", 12)),
        ("1.2.3.4", ("1.2.3.4", 99)),
        ("[::1]:5", ("::1", 5)),
        ("[::1]", ("::1", 99)),
        ("::1", ("::1", 99)),
    ],
)
def test_addresses(text, found) -> None:
    assert split_address(text, 99) == found


def test_only_this_machine_is_loopback() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.0.2.1")


def test_data_are_the_users_words_in_windows_that_depend_on_nothing_but_the_number(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("".join(chr(97 + n % 26) for n in range(160)))
    tokens = read_tokens(str(text))
    one, two = (Batches(tokens, batch=2, sequence=16, vocabulary=256, seed=5, shard=(j, 2)) for j in (0, 1))
    windows = {tuple(tokens[16 * k : 16 * k + 16].tolist()) for k in range(10)}
    seen = [{tuple(row.tolist()) for n in range(5) for row in b.batch(n)} for b in (one, two)]
    assert len(seen[0]) == len(seen[1]) == 5 and seen[0] | seen[1] == windows
    again = Batches(tokens, batch=2, sequence=16, vocabulary=256, seed=5, shard=(0, 2))
    assert torch.equal(again.batch(7), one.batch(7)) and one.batch(7).dtype == torch.int64
    assert not torch.equal(Batches(tokens, batch=2, sequence=16, vocabulary=256, seed=6).batch(0), one.batch(0))
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"text": "ab"}\n\n{"text": "cd", "more": 1}\n')
    assert bytes(read_tokens(str(lines)).astype(np.uint8)) == b"ab\ncd"
    assert len(read_tokens(None)) > 4096 and int(read_tokens(None).max()) < 256


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("x.jsonl", '{"words": 1}', "line 1"), ("x.jsonl", "{", "no JSON"), ("x.txt", None, "cannot be read")],
)
def test_data_that_cannot_be_used_are_refused(tmp_path: Path, name, content, said) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=said):
        read_tokens(str(tmp_path / name))


def test_data_too_short_or_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(RunError, match="no window of 16"):
        Batches(np.zeros(15, dtype=np.int64), batch=1, sequence=16, vocabulary=256)
    with pytest.raises(RunError, match="--tokenizer"):
        Batches(np.full(64, 120, dtype=np.int64), batch=1, sequence=16, vocabulary=99)


def test_a_local_tokenizer_is_used(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tool = tokenizers.Tokenizer(WordLevel({"one": 0, "two": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tool.pre_tokenizer = Whitespace()
    tool.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("one two three two")
    assert read_tokens(str(tmp_path / "a.txt"), str(tmp_path)).tolist() == [0, 1, 2, 1]
    with pytest.raises(UsageError, match="no tokenizer"):
        read_tokens(None, str(tmp_path / "none.json"))


def test_the_frequency_is_held_where_the_platform_can_and_given_back() -> None:
    platform = open_platform("simulated:rtx-4060-ti")
    server = HeldFrequency(platform)
    wanted = platform.frequencies()[40]
    free_hz = server.read().frequency_hz
    server.hold(wanted)
    with EnergyMeter(platform).recording() as meter:
        platform.timer.sleep(5.0)
    assert platform.state().frequency_hz == pytest.approx(wanted, rel=0.01) and server.refusal is None
    assert meter.power_w is None or meter.power_w > 0
    server.hold(None)
    assert server.read().frequency_hz == free_hz
    other = HeldFrequency(open_platform("cpu", sysfs_root="/nonexistent"))
    other.hold(1e9)
    assert other.refusal is not None
    other.release()


def run_settings(task, **changes) -> RunSettings:
    values = {"run": "5" * 32, "task": task, "rounds": 3, "epochs": 2, "learning_rate": 1e-2, "wire_dtype": "float32"}
    return RunSettings(**{**values, "cut": 2, **changes})


def turn(number: int = 1, device: str = "board", **changes) -> FinishedTurn:
    values = {
        "round": number,
        "cut": 2,
        "codec": "none",
        "frequency_hz": None,
        "losses": (5.0, 4.0),
        "waiting_s": 0.5,
        "description": Device(key=f"cpu:{device}", name=device, platform="cpu"),
        "elapsed_s": 4.1,
        "terms": {term: 0.1 * (n + 1) for n, term in enumerate(TERMS)},
        "energy_j": 7.0,
        "power_w": 1.7,
        "up_bytes": 10,
        "down_bytes": 20,
        "adapter_bytes": 30,
        "rtt_s": 1e-4,
    }
    return FinishedTurn(**{**values, **changes})


def test_a_journal_gives_way_only_where_nothing_is_lost(tmp_path: Path) -> None:
    task = small_task(tmp_path)
    journal = Journal.begin(tmp_path / "out", run_settings(task), "x")
    journal.commit(initial_adapters(task, 1), turn(1))
    with pytest.raises(RunError, match="--resume"):
        Journal.begin(tmp_path / "out", run_settings(task), "x")
    journal.close_round(done=True)
    assert not Journal.begin(tmp_path / "out", run_settings(task), "x").progress.turns
    assert not Journal.resume(tmp_path / "out").progress.turns
    (tmp_path / "out" / "journal.json").write_text("{")
    with pytest.raises(RunError, match="cannot be understood"):
        Journal.resume(tmp_path / "out")


def test_rounds_are_stored_once_and_come_back_as_they_were(tmp_path: Path, database: Path) -> None:
    task = small_task(tmp_path)
    journal = Journal.begin(tmp_path / "out", run_settings(task), "2026-11-21T10:00:00.000000Z")
    predicted = turn(
        2, predicted=dict.fromkeys(TERMS, 0.2), predicted_ci95={"device": (0.1, 0.3)}, predicted_delay_ci95=(1.0, 2.0)
    )
    journal.commit(initial_adapters(task, 0), turn(1), turn(1, "other"), predicted)
    with open_store(database) as store:
        for _ in range(2):
            begin_run(store, journal, records.DEVICE, records.EXECUTION, records.ENVIRONMENT, link="1mbit")
        assert not store.rounds.add(round_record(journal.progress.settings, turn(1)))
        rounds = store.rounds.of_run("5" * 32)
        profile = store.runs.get("5" * 32)
    assert [(r.number, r.device.name) for r in rounds] == [(1, "board"), (1, "other"), (2, "board")]
    assert rounds == tuple(round_record(journal.progress.settings, t) for t in journal.progress.turns)
    assert (profile.run.kind, profile.run.task, profile.run.provenance) == (RunKind.TRAIN, task, MEASURED)
    stored = rounds[2]
    assert (stored.power_w, stored.codec, stored.up_bytes, stored.down_bytes) == (1.7, "none", 10, 20)
    assert (stored.adapter_bytes, stored.rtt_s, stored.elapsed_s, stored.waiting_s) == (30, 1e-4, 4.1, 0.5)
    assert stored.losses == (5.0, 4.0) and stored.predicted_delay_ci95 == (1.0, 2.0) and not stored.details
    assert profile.run.options["link"] == "1mbit" and profile.complete


def test_rounds_travel_in_a_bundle(tmp_path: Path, database: Path) -> None:
    from cardlab.db.bundle import export_bundle, merge_bundle

    task = small_task(tmp_path)
    journal = Journal.begin(tmp_path / "out", run_settings(task), "2026-11-21T10:00:00.000000Z")
    journal.commit(initial_adapters(task, 0), turn(1))
    with open_store(database) as store, open_store(tmp_path / "other.db") as other:
        begin_run(store, journal, records.DEVICE, records.EXECUTION, records.ENVIRONMENT)
        export_bundle(store, tmp_path / "b")
        merge_bundle(other, tmp_path / "b")
        merge_bundle(other, tmp_path / "b")
        assert other.rounds.of_run("5" * 32) == store.rounds.of_run("5" * 32)


def test_the_error_of_each_term_and_the_one_that_is_off(tmp_path: Path) -> None:
    exact = {term: 0.1 * (n + 1) for n, term in enumerate(TERMS)}
    wrong = {**exact, "uplink": exact["uplink"] * 2}
    settings_ = run_settings(small_task(tmp_path))
    rows = [
        round_record(
            settings_, turn(n, predicted=wrong, predicted_ci95={"uplink": (0.5, 0.7)}, predicted_delay_ci95=(3.0, 4.2))
        )
        for n in (1, 2, 3)
    ]
    rows += [round_record(settings_, turn(n, "bare")) for n in (1, 2, 3)]
    checks = {(c.device, c.term): c for c in check_rounds(rows)}
    assert checks["board", "uplink"].error == pytest.approx(1.0) and checks["board", "uplink"].inside is False
    assert checks["board", "device"].error == pytest.approx(0.0) and checks["board", "device"].inside is None
    total = checks["board", "delay"]
    assert total.observed_s == pytest.approx(3.6) and total.predicted_s == pytest.approx(3.9) and total.inside
    assert total.error == pytest.approx(0.3 / 3.6) and total.rounds == 3
    assert checks["bare", "delay"].predicted_s is None and checks["bare", "delay"].error is None
    (off,) = terms_off(checks.values())
    assert (off.device, off.term) == ("board", "uplink") and off.share == pytest.approx(0.3 / 3.6)
    assert check_rounds([]) == () and coverage(rows) == Coverage(rounds=3, inside=3)
    assert coverage([replace(rows[0], predicted_delay_ci95=(0.0, 1.0)), *rows[1:]]) == Coverage(rounds=3, inside=2)
    above = replace(rows[0], predicted_delay_ci95=(4.0, 5.0))
    assert coverage([above, *rows[1:]]) == Coverage(rounds=3, inside=2)
    assert coverage(rows[3:]) == Coverage(rounds=0, inside=0)


def test_a_given_cut_is_for_everyone_and_every_round() -> None:
    schedule = Schedule(cut=3)
    assert {schedule.at(n, name).cut for n in (1, 9) for name in ("a", "b")} == {3}
    assert schedule.devices == ()


FIRST = Path(__file__).parent / "golden" / "run_0_1_0"


def test_an_unfinished_run_of_0_1_0_goes_on(tmp_path: Path) -> None:
    """Its server was killed in the second round, after the turn of one of two devices."""
    out = tmp_path / "out"
    shutil.copytree(FIRST, out)
    # The file of its model lies elsewhere on this machine.
    task = replace(Journal.resume(out).progress.settings.task, model=model_file(tmp_path))
    trial = Trial(tmp_path, task, {"a": [2], "b": [1]}, rounds=3)
    before = trial.journal().progress
    assert [(t.round, t.device) for t in before.turns] == [(1, "a"), (1, "b"), (2, "a")] and before.closed == 1
    first = before.turns[0]
    assert (first.codec, first.adapter_bytes, first.up_bytes, first.down_bytes) == ("none", 10752, 18816, 18432)
    assert first.rtt_s is not None and first.power_w is None and first.description.key == "cpu:a"
    assert before.settings.version == __version__
    try:
        server = trial.server(resume=True)
        devices = [trial.device(name) for name in trial.names]
        assert [trial.wait(p) for p in (server, *devices)] == [0, 0, 0], trial.log("server")
    finally:
        trial.end()
    after = trial.journal()
    assert after.progress.turns[:3] == before.turns and after.progress.done
    turns = [(t.round, t.device) for t in after.progress.turns]
    assert turns == [(n, d) for n in (1, 2, 3) for d in "ab"]
    losses, adapters = replay(task, turns, trial.data(), trial.epochs)
    assert [t.losses for t in after.progress.turns] == losses
    assert largest_difference(after.adapters(), adapters) == 0.0


def test_a_journal_of_0_1_0_keeps_its_power_and_intervals_and_goes_on_with_this_version(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(FIRST, out)
    plain = json.loads((out / "journal.json").read_text())
    plain["turns"][0]["details"]["round_power_w"] = 12.5
    plain["turns"][0]["delay_ci95"] = [1.0, 2.0]
    plain["settings"]["version"] = "0.0.9"
    (out / "journal.json").write_text(json.dumps(plain))
    progress = Journal.resume(out).progress
    assert progress.turns[0].power_w == 12.5 and progress.turns[0].predicted_delay_ci95 == (1.0, 2.0)
    assert progress.turns[1].power_w is None and progress.settings.version == __version__


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda plain: plain.update(format=4), "has the format 4"),
        (lambda plain: plain["turns"][0].pop("details"), "cannot be understood"),
        (lambda plain: plain["turns"][0]["terms"].pop("uplink"), "cannot be understood"),
        (lambda plain: plain["turns"][0]["details"].pop("codec"), "codec"),
        (lambda plain: plain.update(turns=5), "cannot be understood"),
    ],
)
def test_a_journal_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, spoil, words) -> None:
    out = tmp_path / "out"
    shutil.copytree(FIRST, out)
    plain = json.loads((out / "journal.json").read_text())
    spoil(plain)
    (out / "journal.json").write_text(json.dumps(plain))
    with pytest.raises(RunError, match=words) as refused:
        Journal.resume(out)
    assert "\n" not in str(refused.value) and "--out" in refused.value.remedy

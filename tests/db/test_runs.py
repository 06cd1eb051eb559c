"""What was measured is there, whole, after any end of the process that measured it."""

from __future__ import annotations

import pytest

from cardlab.core.errors import AmbiguousNameError, NotFoundError, StoreError
from cardlab.core.records.measurement import PlannedPoint
from cardlab.db import open_store
from tests import records


def test_a_run_comes_back_as_it_was_measured(any_database: str) -> None:
    run = records.run()
    forward, backward = records.latency("layer", "forward", 0.08), records.latency("layer", "backward", 0.1)
    with open_store(any_database) as store:
        store.runs.begin(run)
        point = store.runs.begin_point(run.uid, run.planned[0])
        store.runs.add(point, forward, backward)
        store.runs.finish_point(point, records.OPERATING, records.power(42.0))
    with open_store(any_database, create=False) as store:
        profile = store.runs.get(run.uid, samples=True)
    assert profile.run == run
    assert profile.complete
    [measured] = profile.points
    assert measured.operating == records.OPERATING
    assert measured.find("latency", "layer", "forward") == forward
    assert measured.find("latency", "layer", "backward") == backward
    found = measured.find("power")
    assert found is not None and found.estimate is not None and found.estimate.value == 42.0


def test_samples_are_read_only_on_request(any_database: str) -> None:
    run = records.run()
    with open_store(any_database) as store:
        store.runs.begin(run)
        store.runs.add(store.runs.begin_point(run.uid, run.planned[0]), records.latency("head", "forward", 1.0))
        [point] = store.runs.get(run.uid).points
        [with_samples] = store.runs.get(run.uid, samples=True).points
    assert point.measurements[0].samples == {}
    assert with_samples.measurements[0].samples == {"wall_s": (1.0, 1.01, 0.99)}


def test_a_value_that_cannot_be_trusted_stays_none_with_its_flag_and_samples(any_database: str) -> None:
    from dataclasses import replace

    run = records.run()
    contended = replace(records.latency("layer", "forward", 1.0), estimate=None, flags=("contended",))
    with open_store(any_database) as store:
        store.runs.begin(run)
        store.runs.add(store.runs.begin_point(run.uid, run.planned[0]), contended)
        [point] = store.runs.get(run.uid, samples=True).points
    assert point.measurements == (contended,)


def test_an_unfinished_run_is_found_and_a_finished_one_is_not(any_database: str) -> None:
    run = records.run(planned=(PlannedPoint(index=0, requested_hz=1e9), PlannedPoint(index=1, requested_hz=2e9)))
    with open_store(any_database) as store:
        store.runs.begin(run)
        point = store.runs.begin_point(run.uid, run.planned[0])
        store.runs.finish_point(point, records.OPERATING)
        unfinished = store.runs.unfinished(records.run())
        assert unfinished is not None and unfinished.run.uid == run.uid
        assert not unfinished.complete
        point = store.runs.begin_point(run.uid, run.planned[1])
        store.runs.finish_point(point, records.OPERATING)
        assert store.runs.unfinished(records.run()) is None


def test_resume_never_joins_another_execution_or_task(any_database: str) -> None:
    from dataclasses import replace

    with open_store(any_database) as store:
        store.runs.begin(records.run())
        other_dtype = records.run(execution=replace(records.EXECUTION, dtype="bfloat16"))
        assert store.runs.unfinished(other_dtype) is None
        assert store.runs.unfinished(records.run(task=replace(records.TASK, batch=2))) is None
        assert store.runs.unfinished(records.run(task=None, workload="gemm")) is None
        assert store.runs.unfinished(records.run()) is not None


def test_descriptions_are_stored_once(any_database: str) -> None:
    with open_store(any_database) as store:
        for _ in range(3):
            store.runs.begin(records.run())
        assert len(store.runs.summaries()) == 3
        assert [d.name for d in store.devices.all()] == ["bench-1"]


def test_a_short_id_finds_its_run_and_an_ambiguous_one_is_refused(any_database: str) -> None:
    with open_store(any_database) as store:
        store.runs.begin(records.run(uid="aa11" + "0" * 28))
        store.runs.begin(records.run(uid="aa22" + "0" * 28))
        assert store.runs.get("aa1").run.uid.startswith("aa11")
        with pytest.raises(AmbiguousNameError, match="aa11.*aa22"):
            store.runs.get("aa")
        with pytest.raises(NotFoundError):
            store.runs.get("bb")
        with pytest.raises(NotFoundError):
            store.runs.get("%")


def test_the_newest_run_gives_a_device_its_label(any_database: str) -> None:
    from dataclasses import replace

    renamed = replace(records.DEVICE, name="rack-7")
    other = replace(records.DEVICE, key="cpu:9999", name="rack-7")
    with open_store(any_database) as store:
        store.runs.begin(records.run(started_at="2026-11-21T10:00:00.000000Z"))
        store.runs.begin(records.run(device=renamed, started_at="2026-11-21T11:00:00.000000Z"))
        assert store.devices.resolve("rack-7").key == records.DEVICE.key
        with pytest.raises(NotFoundError, match="rack-7"):
            store.devices.resolve("bench-1")
        store.runs.begin(records.run(device=other, started_at="2026-11-21T12:00:00.000000Z"))
        with pytest.raises(AmbiguousNameError, match="cpu:0123.*cpu:9999"):
            store.devices.resolve("rack-7")
        assert store.devices.resolve("cpu:9999") == other


def test_a_failed_write_leaves_nothing_behind(any_database: str) -> None:
    run = records.run()
    twice = records.latency("layer", "forward", 1.0)
    with open_store(any_database) as store:
        store.runs.begin(run)
        point = store.runs.begin_point(run.uid, run.planned[0])
        with pytest.raises(StoreError, match="(?i)unique"):
            store.runs.add(point, twice, twice)
        assert store.runs.get(run.uid).points[0].measurements == ()

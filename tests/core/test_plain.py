"""Records must survive the trip through JSON, and damaged documents must be named, not half-read."""

from __future__ import annotations

import json

import pytest

from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.task import Task
from cardlab.core.records.workload import Analysis
from tests.records import ANALYSIS, TASK


@pytest.mark.parametrize("record", [TASK, ANALYSIS])
def test_records_round_trip_through_json(record: object) -> None:
    assert from_plain(type(record), json.loads(json.dumps(to_plain(record)))) == record


def test_unknown_keys_of_a_newer_version_are_ignored() -> None:
    assert from_plain(Task, {**to_plain(TASK), "later": 1}) == TASK


def test_a_missing_key_is_named() -> None:
    document = to_plain(TASK)
    del document["architecture"]["layers"]
    with pytest.raises(ValueError, match=r"Task\.architecture: key 'layers' is missing"):
        from_plain(Task, document)


@pytest.mark.parametrize("value", ["3", True, None, [3]])
def test_a_wrong_type_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"Task\.batch"):
        from_plain(Task, {**to_plain(TASK), "batch": value})


def test_a_list_where_a_record_belongs_is_named() -> None:
    with pytest.raises(ValueError, match=r"Analysis\.segments\[0\]"):
        from_plain(Analysis, {**to_plain(ANALYSIS), "segments": [[]]})


def test_things_without_a_plain_form_are_refused() -> None:
    with pytest.raises(TypeError, match="set has no plain form"):
        to_plain({1, 2})

"""Identity is frozen: if one of these changes, every stored board and task is orphaned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardlab.core.identity import canonical_json, content_hash, new_uid, simulated_key
from tests.records import ARCHITECTURE, DEVICE, EXECUTION, TASK

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def test_hashes_are_frozen() -> None:
    assert TASK.uid == "6b9df3482af77c917c136b7f5768698d"
    assert EXECUTION.uid == "0101e7bf590328b236b068cd496b70ed"


def test_the_label_is_no_part_of_a_task() -> None:
    assert replace(TASK, model="another name").uid == TASK.uid


@pytest.mark.parametrize(
    "changed",
    [
        {"batch": 2},
        {"sequence": 33},
        {"gradient_checkpointing": True},
        {"optimizer": "adamw"},
        {"lora": replace(TASK.lora, rank=4)},
        {"lora": replace(TASK.lora, targets=("q_proj",))},
        {"architecture": replace(ARCHITECTURE, layers=5)},
    ],
)
def test_whatever_changes_the_cost_changes_the_task(changed: dict[str, object]) -> None:
    assert replace(TASK, **changed).uid != TASK.uid  # type: ignore[arg-type]


def test_a_renamed_device_has_the_same_key_and_another_description() -> None:
    renamed = replace(DEVICE, name="bench-2")
    assert renamed.key == DEVICE.key
    assert renamed.uid != DEVICE.uid


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_canonical_json_does_not_depend_on_order(value: dict[str, object]) -> None:
    turned = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(turned)
    assert content_hash(value) == content_hash(turned)


def test_whole_floats_and_integers_are_one() -> None:
    assert canonical_json({"alpha": 16.0}) == canonical_json({"alpha": 16}) == '{"alpha":16}'


def test_nan_has_no_identity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash({"x": float("nan")})


def test_uids_and_simulated_keys() -> None:
    assert len({new_uid() for _ in range(1000)}) == 1000
    assert simulated_key("orin-nx", "b") == "simulated:orin-nx:b"

"""If these fail, a run is judged by samples that it was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from cardlab.core.errors import UsageError
from cardlab.split.held_out import check_apart, hold_out
from cardlab.split.samples import Samples, read_samples
from tests.split.chats import write_rows

ROWS = [{"text": f"sample {n}"} for n in range(400)]


def samples(folder: Path, rows: list[dict[str, str]], name: str = "a.jsonl") -> Samples:
    return read_samples(write_rows(folder / name, rows))


def ids(found: Samples) -> set[str]:
    return {sample.id for sample in found.samples}


def test_the_same_samples_are_held_out_in_any_order_and_company(tmp_path: Path) -> None:
    left, out = hold_out(samples(tmp_path, ROWS), 0.1)
    assert 20 < len(out.samples) < 60 and len(left.samples) + len(out.samples) == 400
    assert ids(hold_out(samples(tmp_path, ROWS[::-1]), 0.1)[1]) == ids(out)
    assert ids(hold_out(samples(tmp_path, ROWS[:200]), 0.1)[1]) == ids(out) & ids(samples(tmp_path, ROWS[:200]))
    # More of them hold the fewer: a run with a larger share was not trained on those of the smaller.
    assert ids(out) < ids(hold_out(samples(tmp_path, ROWS), 0.3)[1])


def test_a_sample_that_stands_twice_is_on_one_side(tmp_path: Path) -> None:
    left, out = hold_out(samples(tmp_path, ROWS * 2), 0.1)
    assert not ids(left) & ids(out) and len(left.samples) + len(out.samples) == 800
    check_apart(left, out)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_what_is_no_share_is_refused(tmp_path: Path, share) -> None:
    with pytest.raises(UsageError, match="cannot be held out"):
        hold_out(samples(tmp_path, ROWS), share)


def test_neither_side_is_left_empty(tmp_path: Path) -> None:
    for share, side in ((0.0001, "held out"), (0.9999, "left to train on")):
        with pytest.raises(UsageError, match=f"3 sample.* none is {side}"):
            hold_out(samples(tmp_path, ROWS[:3]), share)


def test_held_out_samples_in_a_file_of_their_own_are_not_trained_on(tmp_path: Path) -> None:
    trained, own = samples(tmp_path, ROWS), samples(tmp_path, [{"text": "new"}, ROWS[6]], "b.jsonl")
    with pytest.raises(UsageError, match=r"1 of 2 held-out samples .* in .*b.jsonl line 2 and .*a.jsonl line 7"):
        check_apart(trained, own)

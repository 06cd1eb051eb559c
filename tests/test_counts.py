"""If these fail, the code has grown back what the second house lost; `python -m tests.counts` says where."""

from __future__ import annotations

import pytest

from tests import counts

pytestmark = pytest.mark.once


def test_any_is_used_where_no_type_is_known_only() -> None:
    assert counts.any_names() < 120


def test_signatures_are_short() -> None:
    assert len(counts.long_signatures()) < 8, counts.long_signatures()


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert counts.circles() == []


def test_the_count_of_circles_sees_one() -> None:
    assert counts._components({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [("a", "b", "c")]


def test_an_option_is_spelled_once() -> None:
    assert counts.option_lines() < 2.0


def test_comments_say_why_but_do_not_retell() -> None:
    assert 0.02 <= counts.comment_share() <= 0.05

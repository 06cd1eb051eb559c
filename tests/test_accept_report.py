"""If these fail, the table of full counts forgets what was measured, keeps what is gone, or documents quote another."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from tests.accept_report import Row, merged, read, render
from tests.conftest import ROOT

OLD = Row("tests/test_a.py::test_one[x]", "passed", "1.0", "3 of 3", "2026-01-01", "aaa", "old machine")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_a.py").write_text("def test_one(): ...\ndef test_two(): ...\n")
    return tmp_path


def names(rows: list[Row]) -> set[str]:
    return {row.test for row in rows}


def test_what_did_not_run_stays_as_it_was_with_its_date_and_commit(root: Path) -> None:
    new = replace(OLD, test="tests/test_a.py::test_two", date="2026-02-02", commit="bbb")
    rows = {row.test: row for row in merged({OLD.test: OLD}, [new], {new.test: True}, root)}
    assert rows == {OLD.test: OLD, new.test: new}


def test_what_ran_replaces_its_row_also_when_it_failed(root: Path) -> None:
    new = replace(OLD, outcome="failed", figures="2 of 3", commit="bbb")
    assert merged({OLD.test: OLD}, [new], {OLD.test: True}, root) == [new]


def test_a_skipped_test_measured_nothing_and_hides_no_figure(root: Path) -> None:
    skipped = replace(OLD, outcome="skipped", figures="", commit="bbb")
    assert merged({OLD.test: OLD}, [skipped], {OLD.test: True}, root) == [OLD]
    assert merged({}, [skipped], {OLD.test: True}, root) == [skipped]


@pytest.mark.parametrize(
    ("test", "collected"),
    [
        ("tests/test_gone.py::test_one", {}),
        ("tests/test_a.py::test_gone", {}),
        ("tests/test_a.py::test_one[x]", {"tests/test_a.py::test_one[y]": True}),
        ("tests/test_a.py::test_one[x]", {"tests/test_a.py::test_one[x]": False}),
    ],
    ids=["no such file", "no such function", "no such parameters", "no full count any more"],
)
def test_the_row_of_a_test_that_is_gone_goes(root: Path, test: str, collected: dict[str, bool]) -> None:
    assert merged({test: replace(OLD, test=test)}, [], collected, root) == []


def test_the_table_is_read_as_it_was_written_and_a_foreign_row_is_refused() -> None:
    assert read(render([OLD])) == {OLD.test: OLD}
    with pytest.raises(ValueError, match="4 cells"):
        read("| test_old | passed | 1.0 | x |\n")


def test_the_stored_table_has_rows_of_tests_that_exist_only() -> None:
    stored = read((ROOT / "docs" / "measurements" / "accept.md").read_text(encoding="utf-8"))
    assert names(merged(stored, [], {})) == set(stored)


def figures():
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "docs" / "make_figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documents_quote_the_table() -> None:
    make = figures()
    rows, quoted = make.table(), set()
    for page in make.pages():
        text = page.read_text(encoding="utf-8")
        assert text == make.filled(text, rows), f"{page.name} is not what the table says: python docs/make_figures.py"
        quoted |= {span.group(2) for span in make.SPAN.finditer(text)}
        assert text.count("<!-- figure:") == len(make.SPAN.findall(text)), f"{page.name}: a figure is not closed"
    assert quoted == set(make.FIGURES)


def test_a_figure_of_a_failed_or_absent_test_is_not_available() -> None:
    make = figures()
    name, figure = next(iter(make.FIGURES.items()))
    row = ["", "passed", "1", "20 instances, worst gap 1e-9; and so on", "", "", ""]
    span = f"by <!-- figure:{name} -->7<!-- /figure -->."
    assert "-->1e-9<!--" in make.filled(span, {figure.test: row})
    assert "-->N/A<!--" in make.filled(span, {figure.test: [row[0], "failed", *row[2:]]})
    assert "-->N/A<!--" in make.filled(span, {})
    with pytest.raises(KeyError):
        make.filled("<!-- figure:nothing -->7<!-- /figure -->", {})
    with pytest.raises(ValueError, match="says nothing"):
        make.filled(span, {figure.test: [*row[:3], "another sentence", *row[4:]]})

"""If these fail, a row of a training file is dropped, mistaken for another form, or trained on as what it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cardlab.core.errors import MissingDependencyError, UsageError
from cardlab.split.data import read_corpus
from cardlab.split.samples import COMPLETION, MESSAGES, TEXT, Samples, alpaca_prompt, read_samples

ASK = {"role": "user", "content": "a question"}
SAY = {"role": "assistant", "content": "an answer"}
ROWS = [{"text": "one, two"}, {"text": 'three "four"\nfive'}]


def written(folder: Path, name: str, content: object) -> str:
    """A file of these bytes, this text, or these rows as JSON lines."""
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else "\n".join(json.dumps(row) for row in content)  # type: ignore[attr-defined]
        path.write_text(text, encoding="utf-8")
    return str(path)


def ids(found: Samples) -> list[str]:
    return [sample.id for sample in found.samples]


KINDS = {
    "a.jsonl": "\n".join(map(json.dumps, ROWS)),
    "a.NDJSON": "\n".join(map(json.dumps, ROWS)),
    "a.json": json.dumps(ROWS, indent=1),
    # Many tools write JSON lines under this name.
    "b.Json": "\n".join(map(json.dumps, ROWS)),
    "a.csv": 'text\n"one, two"\n"three ""four""\nfive"\n',
    "b.CSV": b'\xef\xbb\xbftext\r\n"one, two"\r\n"three ""four""\nfive"\r\n',
    "c.csv": 'text\n"one, two"\n"three ""four""\nfive"\n'.encode("utf-16"),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_same_rows_in_any_kind_of_file_are_the_same_samples(tmp_path: Path, name) -> None:
    found = read_samples(written(tmp_path, name, KINDS[name]))
    assert [sample.text for sample in found.samples] == [row["text"] for row in ROWS]
    assert ids(found) == ids(read_samples(written(tmp_path, "z.jsonl", ROWS))) and found.notes == ()
    assert read_corpus(str(tmp_path / name)).documents == tuple(row["text"] for row in ROWS)


def test_parquet_is_read_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"messages": [ASK, SAY]}, {"messages": [ASK, {**SAY, "name": "x"}]}]
    path = tmp_path / "a.PARQUET"
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    found = read_samples(str(path))
    # A table has every key in every entry; null is none.
    assert found.form == MESSAGES and ids(found) == ids(read_samples(written(tmp_path, "a.jsonl", rows)))
    with pytest.raises(UsageError, match="is no parquet file"):
        read_samples(written(tmp_path, "b.parquet", b"PAR1"))


def test_parquet_without_its_library_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cardlab\[data\]'"):
        read_samples(written(tmp_path, "a.parquet", b"PAR1"))


FORMS: list[tuple[dict[str, object], str]] = [
    ({"text": "a"}, TEXT),
    ({"messages": [ASK, SAY]}, MESSAGES),
    ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f"}]}], "tools": [{"name": "f"}]}, MESSAGES),
    ({"prompt": "a", "completion": "b"}, COMPLETION),
    ({"prompt": [ASK], "completion": [SAY]}, COMPLETION),
    ({"instruction": "a", "input": "b", "output": "c"}, COMPLETION),
    ({"instruction": "a", "output": "c"}, COMPLETION),
    ({"instruction": "a", "input": "", "output": "c", "text": alpaca_prompt("a") + "c"}, COMPLETION),
]


@pytest.mark.parametrize(("row", "form"), FORMS)
def test_the_form_is_known_by_its_columns_and_one_row_is_enough(tmp_path: Path, row, form) -> None:
    found = read_samples(written(tmp_path, "a.jsonl", [row]))
    assert found.form == form and len(found.samples) == 1


def test_alpaca_is_said_and_written_as_its_models_were_trained(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Hi.", "input": "", "output": "Ho"}]
    found = read_samples(written(tmp_path, "a.json", json.dumps(rows)))
    assert found.samples[0].prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n")
    assert found.samples[1].prompt.endswith(
        "appropriately completes the request.\n\n### Instruction:\nHi.\n\n### Response:\n"
    )
    assert found.samples[0].completion == "3" and "Alpaca's own prompt text" in found.notes[0]


def test_an_id_is_that_of_the_content_and_not_of_its_place(tmp_path: Path) -> None:
    rows = [{"text": "a", "source": "x"}, {"text": "b"}, {"text": "a"}]
    one = read_samples(written(tmp_path, "a.jsonl", rows))
    other = read_samples(written(tmp_path, "b.json", json.dumps(rows[::-1])))
    assert ids(one) == ids(other)[::-1] and one.samples[0].id == one.samples[2].id != one.samples[1].id
    assert one.digest != read_samples(written(tmp_path, "c.jsonl", rows[1:])).digest
    assert one.notes == (f"columns of {one.name} that are not used: source",)


REFUSED: list[tuple[str, object, str]] = [
    ("a.jsonl", [{"text": "a"}, {"messages": [ASK]}], "a.jsonl line 2 has messages, and .*line 1 has text"),
    ("a.jsonl", [{"text": "a"}, {"other": "a"}], r"line 2 has no text.*\(its columns: other\)"),
    ("a.jsonl", [{"text": None}], r"line 1 has no text.*columns: none"),
    ("a.jsonl", [{"text": 3}], r"line 1 has no text \(text is a number\)"),
    ("a.jsonl", [{"text": "a", "messages": [ASK]}], "line 1 has text beside messages"),
    ("a.jsonl", [{"instruction": "a", "output": "b", "text": "c"}], "line 1 has text beside instruction"),
    ("a.jsonl", [{"prompt": "a"}], "line 1 has no completion"),
    ("a.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}], "line 1 has no completion"),
    ("a.jsonl", [{"prompt": "a", "completion": [SAY]}], "line 1 has a text and a list"),
    ("a.jsonl", [{"prompt": [ASK, SAY], "completion": [SAY]}], "no answer of the assistant"),
    ("a.jsonl", [{"instruction": "a"}], "line 1 has no output"),
    ("a.jsonl", [{"text": "a", "input": "b"}], "line 1 has an input without instruction"),
    ("a.jsonl", [{"messages": []}], "line 1 has no messages"),
    ("a.jsonl", [{"messages": [{"from": "human", "value": "a"}]}], "line 1 message 1 has no role.*from and value"),
    ("a.jsonl", [{"messages": [{"role": "user"}]}], "line 1 message 1 has no content"),
    (
        "a.jsonl",
        [{"messages": [ASK, {"role": "user", "content": [1]}]}],
        "message 2 has no content as a text, but a list",
    ),
    ("a.jsonl", [{"messages": [{**SAY, "weight": 0}]}], "message 1 has weight, which is not read"),
    ("a.jsonl", [{"text": "a", "tools": [{"name": "f"}]}], "tools without a conversation"),
    ("a.jsonl", [{"messages": [ASK], "images": ["x"]}], "line 1 has images, which is not read"),
    ("a.jsonl", '{"text": "a", "text": "b"}', "line 1 names 'text' twice"),
    ("a.jsonl", "\n\n", "has no samples"),
    ("a.jsonl", "", "has no samples"),
    ("a.json", "", "is no JSON"),
    ("a.json", "[]", "has no samples"),
    ("a.json", '{"text": ["a", "b"]}', "line 1 has no text .text is a list"),
    ("a.json", '[{"text": "a"}, 3]', "entry 2 is no object"),
    ("a.csv", "", "has no samples"),
    ("a.csv", "text\n", "has no samples"),
    ("a.csv", 'text\n"a\nb"\nc,d\n', "line 4 has 2 values and the header 1"),
    ("a.csv", "text;id\na;1\n", "line 2 has no text.*columns: text;id"),
    ("a.csv", 'text\n"a', "is no CSV"),
    ("a.csv", "text,text\na,b\n", "two columns of one name"),
    ("a.csv", 'messages\n"[]"\n', "line 2 has messages as a text"),
    ("a.csv", "text\ncaf\xe9\n".encode("latin-1"), "not UTF-8"),
    ("a.jsonl", '{"text": "\xe9"}'.encode("latin-1"), "not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "said"), REFUSED)
def test_what_is_no_sample_is_refused_by_its_line(tmp_path: Path, name, content, said) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_samples(written(tmp_path, name, content))
    assert "\n" not in str(caught.value)


def test_a_long_field_of_a_csv_is_read(tmp_path: Path) -> None:
    # Python's own bound is 128 KiB.
    assert len(read_samples(written(tmp_path, "a.csv", "text\n" + "x" * 200_000)).samples[0].text or "") == 200_000


def test_conversations_are_no_documents(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has messages, and only texts are read here"):
        read_corpus(written(tmp_path, "a.jsonl", [{"messages": [ASK, SAY]}]))

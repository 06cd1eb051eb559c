# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a model is trained on other tokens than its own, on the braces of a file, or on half of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
pytestmark = pytest.mark.torch

from cardlab.core.errors import CardlabError, RunError, UsageError
from cardlab.split.data import read_corpus
from cardlab.split.tokenizer import TextTokenizer, open_tokenizer
from tests.cli.run import command
from tests.split.models import SMALL

WORDS = {"one": 0, "two": 1, "[UNK]": 2, "</s>": 3}


def tokenizer_file(folder: Path, words: dict[str, int] = WORDS, **changes: Any) -> Path:
    """A tokenizer of whole words in a folder."""
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    folder.mkdir(parents=True, exist_ok=True)
    tool = tokenizers.Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tool.pre_tokenizer = Whitespace()
    path = folder / "tokenizer.json"
    tool.save(str(path))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def model(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SMALL["llama"], **changes}))
    return folder


TEXT = "the cut decides which layers a board keeps "
LINES: list[tuple[str, bytes, tuple[str, ...]]] = [
    ("surrogate", b'{"text": "cut off \\ud83d here"}', ("cut off \ufffd here",)),
    ("low surrogate", b'{"text": "\\ude00"}', ("\ufffd",)),
    ("pair", b'{"text": "\\ud83d\\ude00"}', ("\U0001f600",)),
    ("u2028", '{"text": "a\u2028b"}\n{"text": "c\u2029d"}'.encode(), ("a\u2028b", "c\u2029d")),
    ("nel", '{"text": "a\x85b"}'.encode(), ("a\x85b",)),
    ("separators", b'{"text": "a\\u000bb\\u000cc\\u001cd"}', ("a\x0bb\x0cc\x1cd",)),
    ("bom", b'\xef\xbb\xbf{"text": "a"}', ("a",)),
    ("utf-16", '{"text": "ä"}'.encode("utf-16"), ("ä",)),
    ("crlf", b'{"text": "a"}\r\n\r\n{"text": "b"}\r\n', ("a", "b")),
    ("empty", b'{"text": ""}\n{"text": "b"}', ("", "b")),
]


@pytest.mark.parametrize(("content", "documents"), [line[1:] for line in LINES], ids=[line[0] for line in LINES])
@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.ndjson"])
def test_json_lines_are_read_as_json_says(tmp_path: Path, content, documents, name) -> None:
    (tmp_path / name).write_bytes(content)
    corpus = read_corpus(str(tmp_path / name))
    assert corpus.documents == documents
    assert ("\ufffd" in "".join(documents)) == bool(corpus.notes)


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.md", "a.py", "a"])
def test_a_text_is_one_document(tmp_path: Path, name) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf[1] is a footnote\n{and this a brace\n")
    assert read_corpus(str(tmp_path / name)).documents == ("[1] is a footnote\n{and this a brace\n",)


FORMS = [
    "tsv",
    "TSV",
    "arrow",
    "xlsx",
    "zip",
    "gz",
    "bin",
    "pkl",
    "html",
    "pdf",
    "yaml",
    "v2",
]


@pytest.mark.parametrize("ending", FORMS)
def test_another_form_is_refused_by_its_name(tmp_path: Path, ending) -> None:
    path = tmp_path / f"data.{ending}"
    path.write_text(json.dumps([{"text": TEXT}] * 20))
    with pytest.raises(UsageError, match=f"'.{ending.lower()}' are not read; give a text"):
        read_corpus(str(path))


SPOILED: list[tuple[str, bytes, str]] = [
    ("a.txt", json.dumps([{"text": TEXT}] * 3).encode(), "holds JSON"),
    ("a.txt", json.dumps([{"text": TEXT}], indent=1).encode(), "holds JSON"),
    ("a.txt", json.dumps({"text": TEXT}, indent=1).encode(), "holds JSON"),
    ("a.md", b'\n{"text": "a"}\n{"text": "b"}\n', "holds JSON lines"),
    ("a.jsonl", b'{"text": "a"}\n{"text": 3}', "line 2 has no text"),
    ("a.jsonl", b'{"messages": []}', "line 1 has no messages"),
    ("a.jsonl", b'["a"]', "line 1 is no object with columns"),
    ("a.jsonl", b'[{"text": "a"},\n{"text": "b"}]', "line 1 is no JSON"),
    ("a.jsonl", b"[" * 100_000, "line 1 is no JSON"),
    ("a.txt", b"PAR1\x00\x00", "NUL"),
    ("a.txt", b"\xff\xfeq", "not UTF-8"),
    ("a.txt", b"caf\xe9", "not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "said"), SPOILED)
def test_what_would_be_trained_on_as_it_was_not_meant_is_refused(tmp_path: Path, name, content, said) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        read_corpus(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_data_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    for name in ("folder.txt", "none.txt"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_corpus(str(tmp_path / name))


def test_the_tokenizer_of_the_model_folder_is_taken_and_said(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    path = tokenizer_file(folder)
    found = open_tokenizer(str(folder))
    assert found.origin == str(path) and found.encode(["one two"]).tolist() == [0, 1]
    assert open_tokenizer(str(folder / "config.json")).digest == found.digest
    assert open_tokenizer(str(folder), "bytes").encode(["one"]).tolist() == [111, 110, 101]
    other = tokenizer_file(tmp_path / "other", {**WORDS, "one": 1, "two": 0})
    assert open_tokenizer(str(folder), str(other)).encode(["one"]).tolist() == [1]
    assert open_tokenizer(str(folder), str(other)).digest != found.digest


def test_bytes_are_taken_only_where_there_is_no_tokenizer_and_said(tmp_path: Path) -> None:
    assert "bundled configuration has no tokenizer" in open_tokenizer("tiny-llama").origin
    folder = model(tmp_path / "model")
    assert "has neither weights nor a tokenizer.json" in open_tokenizer(str(folder)).origin
    for name in ("tokenizer.model", "vocab.json", "spiece.model"):
        (folder / name).write_bytes(b"x")
        with pytest.raises(UsageError, match=rf"has {name} and no tokenizer.json.*--tokenizer bytes"):
            open_tokenizer(str(folder))
        assert open_tokenizer(str(folder), "bytes").digest == "bytes"
        (folder / name).unlink()


def test_a_folder_in_place_of_a_tokenizer_is_no_reason_for_bytes(tmp_path: Path) -> None:
    (model(tmp_path / "model") / "tokenizer.json").mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        open_tokenizer(str(tmp_path / "model"))


def test_truncation_and_padding_of_a_tokenizer_cut_nothing_off(tmp_path: Path) -> None:
    short = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 3}
    pad |= {"pad_type_id": 0, "pad_token": "</s>"}
    plain = open_tokenizer("", str(tokenizer_file(tmp_path / "a")))
    cutting = open_tokenizer("", str(tokenizer_file(tmp_path / "b", truncation=short, padding=pad)))
    assert cutting.encode(["one two " * 9]).tolist() == plain.encode(["one two " * 9]).tolist() == [0, 1] * 9
    assert cutting.digest == plain.digest


ENDS: list[tuple[str, object, int | None]] = [
    ("tokenizer_config.json", {"eos_token": "</s>"}, 3),
    ("tokenizer_config.json", {"eos_token": {"content": "</s>", "lstrip": False}}, 3),
    ("special_tokens_map.json", {"eos_token": "</s>"}, 3),
    ("config.json", {**SMALL["llama"], "eos_token_id": 3}, 3),
    ("config.json", {**SMALL["llama"], "eos_token_id": [3, 2]}, 3),
    ("config.json", {**SMALL["llama"], "eos_token_id": 299}, None),
    ("tokenizer_config.json", {"eos_token": None}, None),
]


@pytest.mark.parametrize(("name", "content", "end"), ENDS)
def test_documents_are_parted_by_the_end_of_text_where_the_tokenizer_has_one(
    tmp_path: Path, name, content, end
) -> None:
    path = tokenizer_file(tmp_path)
    (tmp_path / name).write_text(json.dumps(content))
    found = open_tokenizer("", str(path))
    assert found.end == end
    assert found.encode(["one", "two", "one"]).tolist() == ([0, 1, 0] if end is None else [0, 3, 1, 3, 0])
    said = str(found.between(3))
    assert ("newline" if end is None else f"token {end}") in said and found.between(1) is None
    assert "newline" in str(open_tokenizer("", "bytes").between(3))


def test_an_end_that_the_tokenizer_writes_itself_is_not_written_twice(tmp_path: Path) -> None:
    post = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [3], "tokens": ["</s>"]}},
    }
    path = tokenizer_file(tmp_path, post_processor=post)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert open_tokenizer("", str(path)).encode(["one", "two"]).tolist() == [0, 3, 1, 3]


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    path = tokenizer_file(tmp_path, {**WORDS, **{f"w{n}": n for n in range(4, 301)}})
    found = open_tokenizer("", str(path))
    found.check_fits("m", 301)
    with pytest.raises(RunError, match=r"tokens up to 300 and m has a vocabulary of 300.*--tokenizer"):
        found.check_fits("m", 300)
    added = {"id": 300, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False}
    added |= {"normalized": False, "special": True}
    padded = tokenizer_file(tmp_path, {**WORDS, **{f"w{n}": n for n in range(4, 300)}}, added_tokens=[added])
    with pytest.raises(RunError, match="up to 300"):
        open_tokenizer("", str(padded)).check_fits("m", 300)


NO_TOKENIZERS: list[bytes] = [
    b'{"a": 1}',
    b'{"add_bos_token": true, "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}',
    b"[]",
    b"null",
    b"",
    b"{",
    b"\xff\xfe\x00",
    b'{"version": "1.0", "model": {"type": "Magic"}}',
    b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}}',
    b'{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}',
]


@pytest.mark.parametrize("content", NO_TOKENIZERS)
def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path, content) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CardlabError, match="is no tokenizer.json of the tokenizers library|has no tokens") as caught:
        open_tokenizer("", str(path))
    assert "\n" not in str(caught.value)


def test_a_text_that_the_tokenizer_cannot_encode_is_refused(tmp_path: Path) -> None:
    path = tokenizer_file(tmp_path, {"one": 0})
    with pytest.raises(UsageError, match="cannot encode the data.*--tokenizer"):
        open_tokenizer("", str(path)).encode(["three"])


def test_a_byte_order_mark_before_a_tokenizer_is_read_over(tmp_path: Path) -> None:
    path = tokenizer_file(tmp_path)
    plain: TextTokenizer = open_tokenizer("", str(path))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert open_tokenizer("", str(path)).digest == plain.digest


RUN = ("run", "--local", "--cut", "1", "--rounds", "1", "--batch", "2", "--seq", "8", "--dtype", "float32")


def test_a_local_run_trains_on_the_tokens_of_its_model_and_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer_file(model(tmp_path / "model"))
    (tmp_path / "t.jsonl").write_text('{"text": "one two one two"}\n' * 40)
    words = (*RUN, "--model", "model", "--data", "t.jsonl")
    (tmp_path / "wrong.json").write_text('{"a": 1}')
    wrong = command("card", *words, "--tokenizer", "wrong.json")
    wrong.failed_in_one_line(2, "is no tokenizer.json of the tokenizers library")
    command("card", *words[:-1], "t.tsv").failed_in_one_line(2, "'.tsv' are not read")
    # Nothing was done yet, so the corrected command runs.
    done = command("card", *words)
    assert done.code == 0, done.err
    assert "tokens of t.jsonl: model/tokenizer.json" in done.err and "a newline between two" in done.err
    assert "no trained weights" in done.err and "adamw without weight decay" in done.err
    # What trains is the default; what is for timing says so.
    timed = command("card", *words, "--optimizer", "sgd", "--out", "timed")
    assert timed.code == 0 and "hardly moves" in timed.err
    # A finished run is not overwritten unasked.
    command("card", *words).failed_in_one_line(1, "holds a finished run", "--out")
    alike = command("card", *words, "--tokenizer", "bytes", "--out", "bytes", "--json")
    assert alike.code == 0 and "bytes (as asked for)" in alike.err

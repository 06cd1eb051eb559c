# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, devices train on tokens of another file, on half of one, or need as much memory as it has bytes."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError, UsageError
from cardlab.core.files import TextFile
from cardlab.split import rows, training_file
from cardlab.split.batches import SampleBatches
from cardlab.split.data import Batches, read_corpus
from cardlab.split.encoding import encode_samples
from cardlab.split.samples import read_samples
from cardlab.split.tokenizer import TextTokenizer, byte_tokens, open_tokenizer
from cardlab.split.training_file import Encoding, TrainingTokens, make_tokens, open_training
from tests.cli.run import command
from tests.split.chats import ROWS, chat_folder, write_rows
from tests.split.large_data import measure, write_large
from tests.split.tokenizers_made import LEARNED, byte_level, saved

FULL = 2**30
MOST = 500 * 2**20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cardlab" / "tokens"


def made(path: str | None, tool: TextTokenizer, *, windows: bool = True, **options: Any) -> TrainingTokens:
    encoding = Encoding(tokenizer=tool, windows=windows, **options)
    return make_tokens(open_training(path, encoding.chat_template), encoding, lambda _: None)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", None])
def test_windows_of_a_file_are_those_of_all_its_tokens(tmp_path: Path, name, kind) -> None:
    tool = byte_tokens("here") if kind == "bytes" else open_tokenizer("", saved(tmp_path / "tool", byte_level()))
    texts = [text * 9 for text in LEARNED]
    content = {
        "a.txt": texts[0],
        "a.jsonl": "\n".join(json.dumps({"text": text}) for text in texts),
        "a.json": json.dumps([{"text": text} for text in texts], indent=1),
        "a.csv": "text\n" + "\n".join('"{}"'.format(text.replace('"', '""')) for text in texts),
    }
    path = None
    if name is not None:
        path = str(tmp_path / name)
        Path(path).write_bytes(content[name].encode())
    found, corpus = made(path, tool), read_corpus(path)
    assert found.digest == corpus.digest and found.count == len(corpus.documents)
    whole = tool.encode(corpus.documents)
    assert np.array_equal(found.stored.tokens, whole) and found.stored.highest == whole.max()
    assert found.stored.tokens.dtype == (np.uint8 if kind == "bytes" else np.uint16)
    options: dict[str, Any] = {"batch": 3, "sequence": 16, "vocabulary": 500, "seed": 2, "shard": (1, 2)}
    mapped, held = Batches(found.stored, **options), Batches(whole, **options)
    assert all(torch.equal(mapped.batch(n), held.batch(n)) for n in range(7))


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("form", ROWS)
def test_samples_of_a_file_are_those_that_were_encoded_at_once(tmp_path: Path, form, packing, monkeypatch) -> None:
    monkeypatch.setattr(training_file, "_BLOCK_SAMPLES", 2)
    tool = open_tokenizer(str(chat_folder(tmp_path / "model")))
    path = write_rows(tmp_path / "rows.jsonl", ROWS[form])
    samples = read_samples(path)
    found, whole = made(path, tool, windows=False), encode_samples(samples, tool)
    assert (found.digest, found.count) == (samples.digest, len(samples.samples))
    assert (found.train_on, found.encoding) == (whole.train_on, whole.digest)
    assert found.encoded_notes == whole.notes and found.read_notes == samples.notes
    options: dict[str, Any] = {"batch": 2, "sequence": 40, "vocabulary": 300, "packing": packing, "shard": (1, 2)}
    assert found.stored.samples is not None
    mapped, held = SampleBatches(found.stored.samples, **options), SampleBatches(whole.samples, **options)
    assert mapped.notes == held.notes
    for number in range(8):
        one, other = mapped.mini_batch(number), held.mini_batch(number)
        assert torch.equal(one.ids, other.ids) and torch.equal(one.labels, other.labels)


def test_tokens_are_made_once_and_what_is_damaged_is_made_anew(tmp_path: Path, cache: Path, monkeypatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one text and no other " * 20)
    made(str(path), byte_tokens("here"))
    (file,) = cache.iterdir()
    whole, stamp = file.read_bytes(), file.stat().st_ino
    copied = tmp_path / "elsewhere.txt"
    copied.write_text(path.read_text())
    made(str(copied), byte_tokens("here"))
    assert file.stat().st_ino == stamp and len(list(cache.iterdir())) == 1
    for spoiled in (b"", b"x" * 5000, whole[:-1], whole + b"0", whole[:4200] + b"?" + whole[4201:], b"{}" + whole[2:]):
        file.write_bytes(spoiled)
        found = made(str(path), byte_tokens("here"))
        assert bytes(found.stored.tokens) == path.read_bytes() and file.read_bytes() == whole
    # Every choice that changes tokens has tokens of its own.
    made(str(path), open_tokenizer("", saved(tmp_path / "tool", byte_level())))
    path.write_text("another")
    made(str(path), byte_tokens("here"))
    assert len(list(cache.iterdir())) == 3


def test_two_at_once_wait_for_each_other_and_one_that_was_killed_is_in_nobodys_way(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words " * 50_000)
    saved(tmp_path / "tool", byte_level())
    code = (
        "import sys; from tests.split.test_training_file import made;"
        "from cardlab.split.tokenizer import open_tokenizer;"
        "print(len(made(sys.argv[1], open_tokenizer('', sys.argv[2])).stored.tokens))"
    )
    command_line = [sys.executable, "-c", code, str(path), str(tmp_path / "tool")]
    both = [subprocess.Popen(command_line, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) for _ in range(2)]
    counts = [process.communicate(timeout=120)[0] for process in both]
    tool = open_tokenizer("", str(tmp_path / "tool"))
    assert counts[0] == counts[1] and int(counts[0]) == len(tool.encode([path.read_text()]))
    (file,) = cache.iterdir()
    # As a killed process leaves it: a draft that nobody holds, and no file.
    file.rename(file.with_name(f"{file.name}.part"))
    assert len(made(str(path), tool).stored.tokens) == int(counts[0]) and list(cache.iterdir()) == [file]


def test_another_that_makes_the_tokens_is_waited_for_and_said(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words " * 50)
    tool = byte_tokens("here")
    made(str(path), tool)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.unlink()
    draft = file.with_name(f"{file.name}.part")
    said: list[str] = []
    with draft.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def done(line: str) -> None:
            said.append(line)
            held.write(whole)
            held.flush()
            draft.rename(file)
            fcntl.flock(held, fcntl.LOCK_UN)

        make_tokens(open_training(str(path)), Encoding(tokenizer=tool, windows=True), done)
    assert said == [f"another process makes the tokens of {path}: waiting for it"]
    assert list(cache.iterdir()) == [file]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("words " * 50_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(RunError, match=r"tokens cannot be kept in .*tokens: .*XDG_CACHE_HOME") as caught:
            made(str(path), byte_tokens("here"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RunError, match="tokens cannot be kept in"):
        made(None, byte_tokens("here"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, cache: Path, name, monkeypatch) -> None:
    path = tmp_path / name
    path.write_text('{"text": "a word"}\n' * 10 if name == "a.jsonl" else "a word " * 10)
    digest = training_file._digest_of

    def then_it_grows(file: Any) -> str:
        found = digest(file)
        with path.open("a") as more:
            more.write('{"text": "late"}\n' if name == "a.jsonl" else "late")
        return found

    monkeypatch.setattr(training_file, "_digest_of", then_it_grows)
    with pytest.raises(UsageError, match=r"changed while they were read; begin again"):
        made(str(path), byte_tokens("here"))
    assert list(cache.iterdir()) == []


UNREADABLE: list[tuple[str, bytes | None, str]] = [
    ("a.txt.gz", b"\x1f\x8b", "'.gz' are not read"),
    ("a.jsonl.gz", b"\x1f\x8b", "'.gz' are not read"),
    ("a.txt", None, "cannot be read: Is a directory"),
    ("a.jsonl", None, "cannot be read: Is a directory"),
    ("a.parquet", None, "cannot be read: Is a directory"),
    ("a.txt", "caf\xe9".encode("latin-1") * 99_999, "is not UTF-8 text"),
    ("a.jsonl", b'{"text": "a"}\n' * 9 + b'{"text": "caf\xe9"}', "is not UTF-8 text"),
    ("a.txt", b"a" * 600_000 + b"\0", "NUL"),
    ("a.jsonl", b'{"text": "a"}\n' * 9 + b"\0", "NUL"),
    ("a.csv", b"text\na\nb\0\n", "NUL"),
    (
        "a.jsonl",
        b'{"text": "a"}\n' * 5000 + b'{"prompt": "a", "completion": "b"}',
        "line 5001 has prompt and completion",
    ),
    ("a.json", b'[{"text": "a"}, {"text": "b"},]', "is no JSON"),
    ("a.json", b'[{"text": "a"} {"text": "b"}]', "is no JSON"),
    ("a.json", b'[{"text": "a"}] 1', "is no JSON"),
    ("a.json", b'[{"text": "a"}', "is no JSON"),
    ("a.json", b'{"text": "a"}\n{"text": ', "line 2 is no JSON"),
    ("a.json", b'[{"text": "a", "text": "b"}]', "names 'text' twice"),
]


@pytest.mark.parametrize(("name", "content", "said"), UNREADABLE)
def test_what_cannot_be_read_is_one_line_and_keeps_nothing(tmp_path: Path, cache: Path, name, content, said) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        made(str(path), byte_tokens("here"))
    assert "\n" not in str(caught.value) and not list(cache.glob("*"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="no regular file: it can be read only once"):
        made(str(tmp_path / name), byte_tokens("here"))


def test_line_ends_and_marks_are_as_when_all_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes("a\r\nb\rc\n\u2028d".encode(encoding))
        assert bytes(made(str(path), byte_tokens("here")).stored.tokens).decode() == "a\r\nb\rc\n\u2028d"
        with TextFile(path, lines_by="") as file:
            assert list(file.lines(99)) == ["a\r\n", "b\r", "c\n", "\u2028d"]


def test_a_long_list_is_read_entry_by_entry(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rows, "_PIECE", 7)
    entries = [{"text": "x" * n, "n": [n, {"a": n}]} for n in range(30)]
    path = tmp_path / "a.json"
    for indent in (None, 1):
        path.write_text(json.dumps(entries, indent=indent))
        assert [row for row, _ in rows.rows_of(str(path))] == entries
    path.write_text(json.dumps({"text": "a" * 60}, indent=2))
    assert [row for row, _ in rows.rows_of(str(path))] == [{"text": "a" * 60}]


def test_a_row_that_is_longer_than_memory_should_be_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rows, "ROW_CHARACTERS", 2**20)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + json.dumps({"text": "b" * 2**20}))
    with pytest.raises(UsageError, match="line 2 is longer than 1 Mi characters; part it"):
        made(str(path), byte_tokens("here"))


EMPTY: list[tuple[str, str, tuple[str, ...], int, str]] = [
    ("a.txt", "", (), 1, "no window of 16"),
    ("a.jsonl", "", (), 2, "has no samples"),
    ("a.jsonl", '{"prompt": "long long long long ", "completion": "a"}\n' * 3, (), 1, "none with a token to learn"),
    ("a.jsonl", '{"text": "one"}', ("--packing",), 2, "one sample: there is nothing to pack"),
    ("a.txt", "short", (), 1, "no window of 16"),
]


@pytest.mark.parametrize(("name", "content", "words", "code", "said"), EMPTY)
def test_data_that_nothing_can_be_trained_on_end_a_local_run_before_it_begins(
    tmp_path: Path, monkeypatch, name, content, words, code, said
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    line = ("run", "--local", "--cut", "1", "--rounds", "1", "--batch", "2", "--seq", "16", "--data", name, *words)
    command("card", *line).failed_in_one_line(code, said)
    assert not (tmp_path / "card-run").exists()


def test_a_batch_of_a_million_windows_costs_what_one_of_a_hundred_does() -> None:
    import time

    def seconds(count: int) -> float:
        data = Batches(np.zeros(count * 8, dtype=np.uint8), batch=4, sequence=8, vocabulary=256)
        data.batch(0)
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            for number in range(1, 25):
                data.batch(number)
            best = min(best, time.perf_counter() - begin)
        return best

    # A permutation for each batch made it a thousand times as much.
    assert seconds(10**6) < 20 * seconds(100)


SIZES = [
    pytest.param(12 * 2**20, 160 * 2**20, id="12 MiB"),
    pytest.param(FULL, MOST, id="1 GiB", marks=[pytest.mark.accept, pytest.mark.alone]),
]


@pytest.mark.parametrize(("size", "most"), SIZES)
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name, kind, size, most) -> None:
    tool = "bytes" if kind == "bytes" else saved(tmp_path / "tool", byte_level())
    found = measure(write_large(tmp_path / name, size), tool)
    again = measure(str(tmp_path / name), tool)
    print(
        f"{name}, {kind}, {size / 2**20:.0f} MiB: {found.above / 2**20:.0f} MiB above {found.baseline / 2**20:.0f} MiB"
        f" of the libraries, {found.prepare_s:.1f} s, again {again.prepare_s:.1f} s,"
        f" a mini-batch {found.batch_s * 1e3:.2f} ms"
    )
    assert found.above < most and again.above < most
    assert again.tokens == found.tokens and again.prepare_s < max(1.0, found.prepare_s)

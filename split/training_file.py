"""A training file made tokens once, by whichever process needs them first, and mapped by all.

    first reading     SHA-256 of the file: with tokenizer, template and choices it is the name of the tokens on disk
    second reading    only where these tokens are not there: rows are checked, made tokens and written
                      the same hash again, so that a file that somebody changes meanwhile is refused

Texts that are cut into windows are one row of tokens; other samples have a place each, and which tokens the loss is on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import numpy as np

from cardlab.core.errors import UsageError
from cardlab.core.identity import content_hash
from cardlab.core.plain import Document
from cardlab.split.data import BUNDLED, CorpusDigest, bundled_text
from cardlab.split.encoding import SampleEncoder, check_template, open_template
from cardlab.split.rows import check_prose, kind_of, pieces_of, unreadable
from cardlab.split.samples import TEXT, Read, Sample, SampleReader
from cardlab.split.token_file import StoredTokens, TokenWriter, stored_tokens
from cardlab.split.token_stream import BLOCK_CHARACTERS, TokenStream
from cardlab.split.tokenizer import TextTokenizer
from cardlab.split.weights import cache_folder

_BLOCK_SAMPLES = 1024
_BLOCK_BYTES = 2**20
# What is worth a line: texts in memory at once, and files in the cache.
_LARGE_TEXT = 2**22
_LARGE_FILE = 2**26


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFile:
    """A file that a device trains on; nothing of it is in memory.

    Attributes:
        path: None for the bundled text.
        name: for people.
        form: of its samples.
        single: it has one sample.
        conversational: its first samples are conversations.
    """

    path: str | None
    name: str
    form: str
    single: bool
    conversational: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTokens:
    """The tokens of a training file.

    Attributes:
        stored: mapped.
        count: of samples.
        digest: of the samples, equal exactly where two files have the same in the same order.
        encoding: digest of the chat template, "" where none was used.
        train_on: "all" or "completion": what the loss is on.
        read_notes, encoded_notes: what was assumed of the file, and how it was encoded, in words.
    """

    stored: StoredTokens
    count: int
    digest: str
    encoding: str
    train_on: str
    read_notes: tuple[str, ...]
    encoded_notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a file becomes tokens.

    Attributes:
        windows: all texts one after the other; else each sample by itself.
        chat_template: file, None for the tokenizer's own.
        train_on: "all" or "completion", None for what the data have.
    """

    tokenizer: TextTokenizer
    windows: bool
    chat_template: str | None = None
    train_on: str | None = None


def open_training(path: str | None, chat_template: str | None = None) -> TrainingFile:
    """A file, or the bundled text for None, as far as its first samples say.

    Raises UsageError for one that cannot be read or has no samples, and for a chat template that has no effect.
    """
    if path is None:
        found = TrainingFile(path=None, name=BUNDLED, form=TEXT, single=True)
    elif not kind_of(path):
        check_prose(path)
        found = TrainingFile(path=path, name=path, form=TEXT, single=True)
    else:
        reader = SampleReader(path)
        first = list(islice(reader, 2))
        found = TrainingFile(path=path, name=path, form=reader.read.form, single=len(first) < 2)
        talks = check_template(found.form, first, path, chat_template)
        return TrainingFile(path=path, name=path, form=found.form, single=found.single, conversational=talks)
    check_template(found.form, (), found.name, chat_template)
    return found


def check_rows(file: TrainingFile) -> None:
    """Read all of a file, for what is wrong with one of its rows. Raises UsageError naming the line."""
    if file.path is not None:
        for _ in SampleReader(file.path) if kind_of(file.path) else pieces_of(file.path):
            pass


def make_tokens(file: TrainingFile, encoding: Encoding, note: Callable[[str], None]) -> TrainingTokens:
    """The tokens of a file, made first where the cache has none of them.

    Args:
        note: told where this has to wait for another process.

    Raises UsageError for a row that is none or cannot be encoded and for a file that changes meanwhile, RunError for
    a cache that cannot be written.
    """
    digest = _digest_of(file)
    key = _key(file, digest, encoding)
    path = cache_folder() / "tokens" / f"{content_hash(key)}.tokens"

    def make(writer: TokenWriter) -> Document:
        again = hashlib.sha256()
        facts = (_make_windows if encoding.windows else _make_samples)(file, encoding, writer, again)
        # A parquet file is not read in the order of its bytes.
        same = _digest_of(file) if _is_table(file) else again.hexdigest()
        if file.path is not None and same != digest:
            raise UsageError(
                f"the data {file.name} changed while they were read", remedy="begin again when nothing writes to them"
            )
        return facts

    stored = stored_tokens(
        path,
        key,
        encoding.tokenizer.vocabulary,
        make,
        lambda: note(f"another process makes the tokens of {file.name}: waiting for it"),
    )
    return _described(file, encoding.tokenizer, stored)


def _described(file: TrainingFile, tokenizer: TextTokenizer, stored: StoredTokens) -> TrainingTokens:
    facts = stored.facts
    read = Read(**facts["read"])
    notes = list(read.notes(file.name))
    if facts["longest"] > _LARGE_TEXT:
        notes.append(
            f"a text of {facts['longest'] / 1e6:.0f} million characters was in memory at once: {tokenizer.origin} gives"
            " no place to part it at"
        )
    if stored.tokens.nbytes > _LARGE_FILE:
        notes.append(f"tokens are kept in {stored.path} ({stored.tokens.nbytes / 2**20:.0f} MiB)")
    return TrainingTokens(
        stored=stored,
        count=read.count,
        digest=facts["digest"],
        encoding=facts["encoding"],
        train_on=facts["train_on"],
        read_notes=tuple(notes),
        encoded_notes=tuple(facts["notes"]),
    )


def _is_table(file: TrainingFile) -> bool:
    return file.path is not None and kind_of(file.path) == ".parquet"


def _digest_of(file: TrainingFile) -> str:
    """SHA-256 of the bytes of a file."""
    found = hashlib.sha256()
    if file.path is None:
        found.update(bundled_text().encode())
        return found.hexdigest()
    try:
        with Path(file.path).open("rb") as stream:
            while piece := stream.read(_BLOCK_BYTES):
                found.update(piece)
    except OSError as error:
        raise unreadable(file.path, error) from error
    return found.hexdigest()


def _key(file: TrainingFile, digest: str, encoding: Encoding) -> str:
    """Everything that tokens depend on, in words; those of equal files in other places are the same."""
    tokenizer = encoding.tokenizer
    parts: list[object] = [digest, file.path and kind_of(file.path), tokenizer.digest, encoding.windows]
    if tokenizer.tool is not None:
        # Another release of the library may read the same tokenizer.json otherwise.
        parts.append(_release("tokenizers"))
    if not encoding.windows:
        parts.append(encoding.train_on)
        if file.form != TEXT:
            parts += [_template_of(encoding), encoding.chat_template is not None]
    return content_hash(parts)


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _template_of(encoding: Encoding) -> str:
    """Of the template that conversations would be rendered with; "" where there is none."""
    try:
        return open_template(encoding.tokenizer, encoding.chat_template).digest + _release("transformers")
    except UsageError:
        return ""


class _Documents:
    """The documents of a file of texts, each in pieces; `digest` is theirs when all were read."""

    def __init__(self, file: TrainingFile, told: hashlib._Hash) -> None:
        self._file, self._told = file, told
        self.read = Read(form=TEXT)
        self.digest = CorpusDigest()

    def __iter__(self) -> Iterator[Iterable[str]]:
        path = self._file.path
        if path is not None and kind_of(path):
            reader = SampleReader(path, self._told)
            self.read = reader.read
            for sample in reader:
                yield self._pieces([sample.text or ""], len((sample.text or "").encode()))
            return
        self.read.count = 1
        if path is None:
            yield self._pieces([bundled_text()], len(bundled_text().encode()))
            return
        size = sum(len(piece.encode()) for piece in pieces_of(path))
        yield self._pieces(pieces_of(path, self._told), size)

    def _pieces(self, pieces: Iterable[str], size: int) -> Iterator[str]:
        self.digest.begin(size)
        for piece in pieces:
            self.digest.add(piece.encode())
            yield piece


def _make_windows(file: TrainingFile, encoding: Encoding, writer: TokenWriter, told: hashlib._Hash) -> Document:
    documents = _Documents(file, told)
    stream = TokenStream(documents, encoding.tokenizer)
    for block in stream:
        writer.add(block)
    return _facts(documents.read, documents.digest.text(), longest=stream.longest)


def _facts(read: Read, digest: str, *, longest: int = 0, encoder: SampleEncoder | None = None) -> Document:
    return {
        "read": {name: getattr(read, name) for name in ("form", "count", "alpaca", "unused", "halves")},
        "digest": digest,
        "longest": longest,
        "encoding": "" if encoder is None else encoder.digest,
        "train_on": "all" if encoder is None else encoder.train_on,
        "notes": [] if encoder is None else list(encoder.notes()),
    }


def _make_samples(file: TrainingFile, encoding: Encoding, writer: TokenWriter, told: hashlib._Hash) -> Document:
    assert file.path is not None
    reader = SampleReader(file.path, told)
    encoder = SampleEncoder(
        file.form, file.name, encoding.tokenizer, train_on=encoding.train_on, chat_template=encoding.chat_template
    )
    ids = _IdsDigest()
    for block in _blocks(reader):
        for found in encoder.encode(block):
            writer.add(np.asarray(found.tokens), found.learned)
            ids.add(found.id)
    return _facts(reader.read, ids.text(), encoder=encoder)


def _blocks(reader: SampleReader) -> Iterator[list[Sample]]:
    held: list[Sample] = []
    size = 0
    for sample in reader:
        held.append(sample)
        size += _characters(sample)
        if len(held) >= _BLOCK_SAMPLES or size >= BLOCK_CHARACTERS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _characters(sample: Sample) -> int:
    turns = [*(sample.messages or ())]
    texts = [sample.text or ""]
    for part in (sample.prompt, sample.completion):
        if isinstance(part, str):
            texts.append(part)
        else:
            turns += part or ()
    return sum(map(len, texts)) + sum(len(turn.get("content") or "") for turn in turns)


class _IdsDigest:
    """`Samples.digest` of samples that come one by one: the hash of the canonical JSON of the list of their ids."""

    def __init__(self) -> None:
        self._found = hashlib.sha256(b"[")
        self._first = True

    def add(self, sample: str) -> None:
        """The next id."""
        self._found.update(f'{"" if self._first else ","}"{sample}"'.encode())
        self._first = False

    def text(self) -> str:
        """32 hex digits."""
        found = self._found.copy()
        found.update(b"]")
        return found.hexdigest()[:32]

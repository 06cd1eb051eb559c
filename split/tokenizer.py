"""Which numbers a text becomes: those of a model's own tokenizer.json, or its bytes where there is none.

Only `tokenizer.json` of the tokenizers library is read. Cutting off and padding, which such a file may ask for, are
switched off: a long text would lose its end without a word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import BadDataError, MissingDependencyError, RunError, UsageError
from cardlab.core.files import decode
from cardlab.core.plain import Document
from cardlab.profilers.runtime.checkpoint import has_weights, model_folder
from cardlab.split.parting import BYTES_PARTING, Parting, parting_of

Tokens = npt.NDArray[np.int64]
BYTES = "bytes"
_FILE = "tokenizer.json"
# What other libraries keep their tokens in; a model with one of these was not trained on bytes.
_OTHERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "vocab.txt")
_NAME_IT = "name the tokenizer.json of the model with --tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTokenizer:
    """Makes token numbers of documents.

    Attributes:
        digest: equal exactly where two make the same of every text; "bytes" for bytes.
        origin: in words, for people.
        vocabulary: one more than the highest number it can make.
        end: what stands between two documents, None where no such token is known.
        folder: of the tokenizer.json, None for bytes.
        parting: where a long text may be parted.
    """

    digest: str
    origin: str
    vocabulary: int
    end: int | None = None
    tool: Any = None
    folder: Path | None = None
    parting: Parting = BYTES_PARTING

    def encode(self, documents: Sequence[str]) -> Tokens:
        """Token numbers of all documents, one after the other; int64 [N].

        Between two stands `end`, or a newline where there is none. Raises UsageError for a text that it cannot encode.
        """
        if self.tool is None:
            return np.frombuffer("\n".join(documents).encode("utf-8"), dtype=np.uint8).astype(np.int64)
        rows = self.rows(list(documents) if self.end is not None else ["\n".join(documents)])
        found: list[int] = []
        for number, row in enumerate(rows):
            # A tokenizer may end each text by itself.
            if number and self.end is not None and (not found or found[-1] != self.end):
                found.append(self.end)
            found.extend(row)
        return np.asarray(found, dtype=np.int64)

    def rows(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Token numbers of each text; `special`: with what the tokenizer itself puts around one.

        Raises UsageError for a text that it cannot encode.
        """
        if self.tool is None:
            return [list(text.encode("utf-8")) for text in texts]
        return [encoded.ids for encoded in self._encoded(texts, special, places=False)]

    def rows_of(self, texts: Sequence[str], special: Sequence[bool]) -> list[list[int]]:
        """As `rows`, with or without special tokens for each text by itself."""
        apart = {
            chosen: iter(self.rows([t for t, own in zip(texts, special, strict=True) if own == chosen], special=chosen))
            for chosen in (True, False)
        }
        return [next(apart[chosen]) for chosen in special]

    def with_begins(self, text: str) -> tuple[list[int], list[int]]:
        """Token numbers of a text without special tokens around it, and the character at which each begins."""
        (found,) = self._encoded([text], special=False, places=True)
        return found.ids, [begin for begin, _ in found.offsets]

    def affixes(self) -> tuple[list[int], list[int]] | None:
        """What the tokenizer itself puts before and behind a text; None where it does something else with one."""
        texts = ["a", "b c"]
        try:
            plain, around = self.rows(texts, special=False), self.rows(texts)
        except UsageError:
            return None
        size = len(plain[0])
        for begin in range(len(around[0]) - size + 1):
            before, behind = around[0][:begin], around[0][begin + size :]
            if all([*before, *own, *behind] == found for own, found in zip(plain, around, strict=True)):
                return before, behind
        return None

    def _encoded(self, texts: Sequence[str], special: bool, places: bool) -> list[Any]:
        # Without the place of each token in the text, which take most of the memory.
        encode = self.tool.encode_batch if places else getattr(self.tool, "encode_batch_fast", self.tool.encode_batch)
        try:
            return list(encode(list(texts), add_special_tokens=special))
        except BaseException as error:
            if not _is_of_tokenizers(error):
                raise
            raise UsageError(f"{self.origin} cannot encode the data: {_first_line(error)}", remedy=_NAME_IT) from error

    def between(self, documents: int) -> str | None:
        """What stands between several documents, in words; None for a single one."""
        if documents < 2:
            return None
        if self.end is not None:
            return f"{documents} documents, token {self.end} (end of text) between two"
        return f"{documents} documents, a newline between two ({self.origin} has no end of text)"

    def check_fits(self, model: str, vocabulary: int) -> None:
        """Raise RunError for a tokenizer with numbers that the model has no embedding for."""
        if self.tool is not None and self.vocabulary > vocabulary:
            raise RunError(
                f"{self.origin} makes tokens up to {self.vocabulary - 1} and {model} has a vocabulary of {vocabulary}",
                remedy="name the tokenizer.json that belongs to the model with --tokenizer",
            )


def byte_tokens(why: str) -> TextTokenizer:
    """The 256 bytes; `why` they are taken."""
    return TextTokenizer(digest=BYTES, origin=f"bytes ({why})", vocabulary=256)


def open_tokenizer(model: str, given: str | None = None) -> TextTokenizer:
    """The tokenizer that was named (a file, its folder, or "bytes"), else that of the model's folder.

    A configuration without weights has seen no tokens yet and takes bytes. Raises UsageError for a file that is none,
    and for weights without a tokenizer, or with one of another library: they were trained on tokens, not on bytes.
    """
    if given == BYTES:
        return byte_tokens("as asked for")
    if given is not None:
        path = Path(given)
        path = path / _FILE if path.is_dir() else path
        if not path.exists():
            raise UsageError(f"there is no tokenizer {path}", remedy=f"name a {_FILE}, or leave --tokenizer out")
        return _read(path)
    folder = model_folder(model)
    if folder is None:
        return byte_tokens("a bundled configuration has no tokenizer")
    own = own_tokenizer(model)
    if own is not None:
        return own
    other = next((name for name in _OTHERS if (folder / name).exists()), None)
    if other is not None:
        raise UsageError(
            f"{folder} has {other} and no {_FILE}",
            remedy=f"let transformers write one (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)), {_OR_BYTES}",
        )
    if has_weights(model):
        raise UsageError(
            f"{folder} has weights and no {_FILE}",
            remedy=f"copy the model's {_FILE} there, name it with --tokenizer, {_OR_BYTES}",
        )
    return byte_tokens(f"{folder} has neither weights nor a {_FILE}")


def own_tokenizer(model: str) -> TextTokenizer | None:
    """The tokenizer.json of a model's folder; None where there is none. Raises UsageError for a file that is none."""
    folder = model_folder(model)
    return None if folder is None or not (folder / _FILE).exists() else _read(folder / _FILE)


_OR_BYTES = "or give --tokenizer bytes"


def _read(path: Path) -> TextTokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "a tokenizer needs the tokenizers package", remedy="pip install 'cardlab[models]'"
        ) from error
    plain = json_object(path)
    for key in ("truncation", "padding"):
        plain.pop(key, None)
    text = json.dumps(plain, sort_keys=True)
    try:
        tool = Tokenizer.from_str(text)
    except BaseException as error:
        if not _is_of_tokenizers(error):
            raise
        raise _none(path) from error
    end = _end(path.parent, tool)
    vocabulary = 1 + max(tool.get_vocab(with_added_tokens=True).values(), default=-1)
    if vocabulary < 1:
        raise UsageError(f"{path} has no tokens", remedy=_NAME_IT)
    digest = hashlib.sha256(f"{end}/{text}".encode()).hexdigest()[:32]
    return TextTokenizer(
        digest=digest,
        origin=str(path),
        vocabulary=vocabulary,
        end=end,
        tool=tool,
        folder=path.parent,
        parting=parting_of(plain),
    )


def _none(path: Path) -> UsageError:
    return UsageError(f"{path} is no {_FILE} of the tokenizers library", remedy=_NAME_IT)


def json_object(path: Path) -> Document:
    """A JSON object in a file; UsageError for anything else."""
    try:
        plain = json.loads(decode(path.read_bytes(), str(path)))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}", remedy="make it readable") from error
    except (BadDataError, ValueError, RecursionError) as error:
        raise _none(path) if path.name == _FILE else UsageError(f"{path} is no JSON", remedy=_NAME_IT) from error
    if not isinstance(plain, dict):
        raise _none(path) if path.name == _FILE else UsageError(f"{path} is no JSON object", remedy=_NAME_IT)
    return plain


def _end(folder: Path, tool: Any) -> int | None:
    """The end of a text, as the files beside a tokenizer.json name it."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / name).is_file():
            continue
        said = json_object(folder / name).get("eos_token")
        word = said.get("content") if isinstance(said, dict) else said
        number = tool.token_to_id(word) if isinstance(word, str) else None
        if number is not None:
            return int(number)
    if (folder / "config.json").is_file():
        said = json_object(folder / "config.json").get("eos_token_id")
        # Several may end a generation; the first is that of a text.
        first = said[0] if isinstance(said, list) and said else said
        if isinstance(first, int) and not isinstance(first, bool) and tool.id_to_token(first) is not None:
            return first
    return None


def _is_of_tokenizers(error: BaseException) -> bool:
    """The tokenizers library raises bare Exception, and its Rust panics what is not even that."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

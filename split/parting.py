"""Where a long text may be parted so that its parts have the tokens of the whole, by how its tokenizer is made.

A place is right before a space that follows an ASCII letter or digit. There the parts are tokenised as the whole is:

    added tokens     none has a space behind such a character, and none that takes the space behind it ends in one
    normaliser       works on single characters or is a Unicode normal form: nothing composes with an ASCII character
                     before it. Where one writes a mark before every text, the space is left out: the mark is its token,
                     where a letter, a digit or another space follows
    pre-tokeniser    always parts there: a pattern in which a space stands first in a match or among white space only,
                     and that looks back at nothing; a rule on white space; Metaspace. The model then sees pieces
    or the model     is BPE without pre-tokeniser, and no token has the mark of a space behind another character: no
                     merge goes over the place

Any other tokenizer gets the whole text at once. Each place is tried too: the text around it, parted and whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cardlab.split.rows import Json

PART_CHARACTERS = 2**16
# Around a place that is tried.
_NEAR = 512
_MARK = "\u2581"
_BEHIND = re.compile("[A-Za-z0-9] ")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_FORMS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _END
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|"
    r"\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _END
)
# Of GPT-2, Llama 3 and GPT-4, Qwen 2, GPT-4o, Mistral's Tekken.
PATTERNS = frozenset(
    (
        _GPT2,
        _CL100K % "{1,3}",
        _CL100K % "",
        _O200K % (_SHORT, _SHORT, "{1,3}"),
        _O200K % ("", "", ""),
        _O200K % ("", "", "{1,3}"),
    )
)


@dataclass(frozen=True, slots=True)
class Parting:
    """How texts are parted for one tokenizer.

    Attributes:
        possible: False where the whole text goes to it at once.
        drops_space: the space at a place is left out, for the tokenizer writes its mark itself.
    """

    possible: bool
    drops_space: bool = False


BYTES_PARTING = Parting(possible=True)


def parting_of(plain: Mapping[str, Json]) -> Parting:
    """What the content of a tokenizer.json allows."""
    drops = _drops_space(plain.get("normalizer"))
    if drops is None or not _added_allow(plain.get("added_tokens") or (), drops):
        return Parting(possible=False)
    model = plain.get("model") or {}
    if model.get("dropout"):
        return Parting(possible=False)
    steps = _steps(plain.get("pre_tokenizer"), "pretokenizers")
    kinds = [_pre_tokenizer(step) for step in steps]
    # A step behind the one that parts sees pieces; one before it must not join over the place.
    by_steps = None not in kinds and "parts" in kinds
    return Parting(possible=(by_steps and not drops) or _by_model(plain, steps), drops_space=drops)


def _steps(step: Json, inner: str) -> list[Mapping[str, Json]]:
    """A step, or those of a sequence; [] for none."""
    if not step:
        return []
    return [part for own in step[inner] for part in _steps(own, inner)] if step.get("type") == "Sequence" else [step]


def _drops_space(normalizer: Json) -> bool | None:
    """Whether the normaliser begins every text with the mark of a space; None where it does what is not known here."""
    drops = False
    for step in _steps(normalizer, "normalizers"):
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == _MARK:
            drops = True
        elif not (kind in _FORMS or _is_mark_of_space(step)):
            return None
    return drops


def _is_mark_of_space(step: Mapping[str, Json]) -> bool:
    return step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == _MARK


def _added_allow(added: Iterable[Mapping[str, Json]], drops: bool) -> bool:
    for token in added:
        text = str(token.get("content", ""))
        if any(_is_place(text, at) for at in range(1, len(text))):
            return False
        if (token.get("rstrip") and text[-1:] in _LETTERS) or (drops and text[:1] in _LETTERS):
            return False
    return True


def _pre_tokenizer(step: Mapping[str, Json]) -> str | None:
    """Says "parts" where it always parts at a place, "local" where it minds single characters only; None: not known."""
    kind = step.get("type")
    if kind == "Split":
        ways = (step.get("behavior"), bool(step.get("invert")))
        known = (step.get("pattern") or {}).get("Regex") in PATTERNS
        return "parts" if known and ways in (("Isolated", False), ("Removed", True)) else None
    if kind == "ByteLevel":
        return "parts" if step.get("use_regex", True) else "local"
    if kind == "Metaspace":
        return "parts" if step.get("split", True) and step.get("replacement") == _MARK else None
    if kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer"):
        return "parts"
    return "local" if kind in ("Digits", "Punctuation") else None


def _by_model(plain: Mapping[str, Json], steps: list[Mapping[str, Json]]) -> bool:
    """Whether no merge of a BPE can go over a place, with marks for spaces and nothing that parts."""
    normalizers = _steps(plain.get("normalizer"), "normalizers")
    marked = any(_is_mark_of_space(step) for step in normalizers)
    for step in steps:
        whole = step.get("type") == "Metaspace" and not step.get("split", True) and step.get("replacement") == _MARK
        # Nothing is left to part: the normaliser has replaced every space.
        idle = marked and step.get("type") == "Split" and step.get("pattern") == {"String": " "}
        if not (whole or idle):
            return False
        marked = True
    model = plain.get("model") or {}
    vocabulary = model.get("vocab") or {}
    if not (marked and model.get("type") == "BPE" and _MARK in vocabulary):
        return False
    # These are written at the ends of a word, and the whole text is one.
    if model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        return False
    return not any(re.search(f"[^{_MARK}]{_MARK}", token) for token in vocabulary)


def _is_place(text: str, at: int, drops_space: bool = False) -> bool:
    if text[at] != " " or text[at - 1] not in _LETTERS:
        return False
    # Before an added token there is no text for which a mark would be written.
    return not drops_space or text[at + 1 : at + 2] == " " or text[at + 1 : at + 2] in _LETTERS


def places(text: str, low: int, high: int, drops_space: bool = False) -> Iterator[int]:
    """Places in text[low:high], the last first."""
    at = text.rfind(" ", max(low, 1), high)
    while at > 0:
        if _is_place(text, at, drops_space):
            yield at
        at = text.rfind(" ", max(low, 1), at)


def parts_of(
    pieces: Iterable[str], parting: Parting, encode: Callable[[str], list[int]], most: int = PART_CHARACTERS
) -> Iterator[str]:
    """A text in parts of about `most` characters, whose tokens are together those of the whole.

    Args:
        encode: token numbers of a text without special tokens, with which every place is tried.
    """
    if not parting.possible:
        yield "".join(pieces)
        return
    held, sought = "", 0
    for piece in pieces:
        held += piece
        while len(held) >= max(most, sought) + _NEAR:
            at = _tried_place(held, max(1, sought), len(held) - _NEAR, most, parting, encode)
            if at is None:
                # Long, and no place in it: it grows, and only what is new is looked at.
                sought = len(held) - _NEAR
                break
            yield held[:at]
            held, sought = held[at + parting.drops_space :], 0
    yield held


def _tried_place(
    text: str, low: int, high: int, most: int, parting: Parting, encode: Callable[[str], list[int]]
) -> int | None:
    """A place that holds what is said of it, the last one up to `most` characters or the first one behind."""
    drops = parting.drops_space
    near = next(places(text, low, min(most, high), drops), None)
    if near is None:
        behind = (found.start() + 1 for found in _BEHIND.finditer(text, max(low - 1, 0), high))
        near = next((at for at in behind if _is_place(text, at, drops)), None)
    if near is None:
        return None
    begin = next(places(text, max(0, near - _NEAR), near), max(0, near - _NEAR))
    around = text[begin : near + _NEAR]
    at, rest = near - begin, near - begin + parting.drops_space
    whole = encode(around)
    left, right = encode(around[:at]), encode(around[rest:])
    return near if whole == [*left, *right] else None

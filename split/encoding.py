"""Samples as token numbers, each with the tokens that the loss is on: as TRL's trainer for supervised fine-tuning does.

    text                    the tokenizer's begin of text where it writes one, the text, the end of text
    messages                what the chat template makes of them, and nothing else
    prompt, completion      texts: as one text with the end of text; turns: as one conversation
                            the completion begins where the tokens of the prompt alone and of both part

The loss is on all tokens of texts and conversations and on the completion of a prompt, unless the caller says
otherwise. It can be on the assistant's turns of a conversation where its template marks them, or renders every turn the
same whatever follows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cardlab.core.errors import BadDataError, UsageError
from cardlab.core.files import decode
from cardlab.split.rows import Json
from cardlab.split.samples import COMPLETION, MESSAGES, TEXT, Sample, Samples, Turns
from cardlab.split.token_stream import TokenStream
from cardlab.split.tokenizer import TextTokenizer, json_object

ALL, ON_COMPLETION = "all", "completion"
TRAIN_ON = (ALL, ON_COMPLETION)
# As transformers names them, the first that is there wins.
_TEMPLATES = "chat_template.jinja"
# A text that is longer is parted where its tokenizer allows it: encoding takes a hundred times its room.
_LONG = 2**18
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A sample as tokens.

    Attributes:
        id: of the sample.
        tokens: token numbers, int32 [n].
        learned: which of them the loss is on, bool [n].
    """

    id: str
    tokens: npt.NDArray[np.int32]
    learned: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSamples:
    """All samples of a file as tokens.

    Attributes:
        samples: in the order of the file.
        train_on: "all" or "completion": what the loss is on.
        digest: of the chat template, "" where none was used.
        notes: how they were encoded, in words.
    """

    samples: tuple[Encoded, ...]
    train_on: str
    digest: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """Turns as text, by a model's own template, which transformers renders in jinja2's sandbox.

    Attributes:
        origin: where the template stands, for people.
        digest: of the template and the tokens it may name.
        marks: whether it marks what the assistant says ({% generation %}).
        tool: transformers' tokenizer that renders it.
    """

    origin: str
    digest: str
    marks: bool
    tool: Json

    def text(self, turns: Turns, where: str, *, tools: Sequence[Json] | None = None, ask: bool = False) -> str:
        """A conversation as text; `ask` ends it with what makes the model answer. Raises UsageError naming `where`."""
        return str(self._render(turns, where, tools=tools, add_generation_prompt=ask, tokenize=False))

    def marked(self, turns: Turns, where: str, tools: Sequence[Json] | None = None) -> tuple[list[int], list[int]]:
        """Tokens of a conversation, and 1 where the template marks them as the assistant's."""
        found = self._render(turns, where, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
        return list(found["input_ids"]), list(found["assistant_masks"])

    def _render(self, turns: Turns, where: str, tools: Sequence[Json] | None, **options: Json) -> Json:
        given = None if tools is None else list(tools)
        try:
            return self.tool.apply_chat_template([dict(turn) for turn in turns], tools=given, **options)
        except Exception as error:  # a template is a program of the model's maker
            said = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{where}: the chat template of {self.origin} refuses the conversation: {said}",
                remedy="correct that sample, or give another --chat-template",
            ) from error


def open_template(tokenizer: TextTokenizer, given: str | None = None) -> ChatTemplate:
    """The template that was named, else that of the tokenizer's folder.

    Raises UsageError where there is none or it cannot be used.
    """
    if tokenizer.tool is None or tokenizer.folder is None:
        raise UsageError(
            f"conversations need a tokenizer, and the tokens are {tokenizer.origin}",
            remedy="give a --model folder with a tokenizer.json and a chat template, or --tokenizer",
        )
    folder = tokenizer.folder
    known = _config(folder, "tokenizer_config.json")
    origin, template = _template(folder, known, given)
    special = _special(tokenizer, known)
    from transformers import PreTrainedTokenizerFast

    tool = PreTrainedTokenizerFast(tokenizer_object=tokenizer.tool, chat_template=template, **special)
    texts = [template] if isinstance(template, str) else list(template.values())
    digest = hashlib.sha256(repr((texts, sorted(special.items()))).encode()).hexdigest()[:32]
    marks = all(_MARKED.search(text) is not None for text in texts)
    return ChatTemplate(origin=origin, digest=digest, marks=marks, tool=tool)


def _config(folder: Path, name: str) -> Mapping[str, Json]:
    return json_object(folder / name) if (folder / name).is_file() else {}


def _template(folder: Path, known: Mapping[str, Json], given: str | None) -> tuple[str, str | dict[str, str]]:
    path = Path(given) if given is not None else folder / _TEMPLATES
    if given is not None or path.is_file():
        try:
            return str(path), decode(path.read_bytes(), str(path))
        except OSError as error:
            raise UsageError(
                f"cannot read the chat template {path}: {error.strerror or error}", remedy="name a file of jinja"
            ) from error
        except BadDataError as error:
            raise UsageError(f"the chat template {path}: {error.message}", remedy=error.remedy) from error
    said = known.get("chat_template")
    if isinstance(said, str):
        return str(folder / "tokenizer_config.json"), said
    if isinstance(said, list) and all(isinstance(t, dict) and {"name", "template"} <= set(t) for t in said):
        found = {str(t["name"]): str(t["template"]) for t in said}
        if "default" in found:
            return str(folder / "tokenizer_config.json"), found
    raise UsageError(
        f"conversations need a chat template, and {folder} has none",
        remedy="give --chat-template FILE, or texts as prompt and completion",
    )


def _special(tokenizer: TextTokenizer, known: Mapping[str, Json]) -> dict[str, str]:
    """Tokens that a template may name. Raises UsageError for a begin or end that the tokenizer does not have."""
    assert tokenizer.folder is not None
    said = {**_config(tokenizer.folder, "special_tokens_map.json"), **known}
    found = {}
    for key in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = said.get(key)
        word = value.get("content") if isinstance(value, Mapping) else value
        if not isinstance(word, str):
            continue
        # transformers would add it, with a number that the model has no embedding for.
        if tokenizer.tool.token_to_id(word) is not None:
            found[key] = word
        elif key in ("bos_token", "eos_token"):
            raise UsageError(
                f"{tokenizer.folder} names {word!r} as its {key}, which {tokenizer.origin} does not have",
                remedy="take tokenizer.json and tokenizer_config.json from the same model",
            )
    if "eos_token" not in found and tokenizer.end is not None:
        found["eos_token"] = tokenizer.tool.id_to_token(tokenizer.end)
    return found


def train_on_of(form: str, name: str, asked: str | None) -> str:
    """What the loss is on: as asked, else completions where there are some, else all.

    Raises UsageError for a word that is none, and for completions of texts.
    """
    if asked not in (None, *TRAIN_ON):
        raise UsageError(f"{asked!r} is nothing to train on", remedy=f"use --train-on {' or '.join(TRAIN_ON)}")
    if asked == ON_COMPLETION and form == TEXT:
        raise UsageError(
            f"{name} has texts, which have no completion", remedy="leave --train-on out, or give prompt and completion"
        )
    return asked or (ON_COMPLETION if form == COMPLETION else ALL)


def check_template(form: str, samples: Sequence[Sample], name: str, given: str | None) -> bool:
    """Whether one of the samples is a conversation; UsageError where a template was given and none can be."""
    found = any(_is_conversation(sample) for sample in samples)
    if given is not None and not found and form != COMPLETION:
        raise _no_effect(name)
    return found


def _no_effect(name: str) -> UsageError:
    return UsageError(
        f"--chat-template has no effect on {name}, which has no conversations",
        remedy="leave it out, or give messages",
    )


class SampleEncoder:
    """Makes token numbers of the samples of one file, a block at a time.

    Attributes:
        train_on: "all" or "completion": what the loss is on.

    Raises UsageError for a choice that makes no sense for this form.
    """

    def __init__(
        self,
        form: str,
        name: str,
        tokenizer: TextTokenizer,
        *,
        train_on: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.train_on = train_on_of(form, name, train_on)
        self._form, self._name, self._tokenizer, self._given = form, name, tokenizer, chat_template
        self._template: ChatTemplate | None = None
        self._count = self._parted = 0
        self._has_texts = False

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Token numbers of the next samples. Raises UsageError naming the line of one that cannot be encoded."""
        chats = [_is_conversation(sample) for sample in samples]
        if self._template is None and any(chats):
            self._template = open_template(self._tokenizer, self._given)
        self._has_texts = self._has_texts or not all(chats)
        self._count += len(samples)
        if self._form == TEXT:
            return _texts(samples, self._tokenizer)
        if self._form == MESSAGES:
            return (
                []
                if self._template is None
                else _conversations(samples, self._tokenizer, self._template, self.train_on)
            )
        found, parted = _completions(samples, self._tokenizer, self._template, self.train_on)
        self._parted += parted
        return found

    @property
    def digest(self) -> str:
        """Of the chat template, "" where none was used."""
        return "" if self._template is None else self._template.digest

    def notes(self) -> tuple[str, ...]:
        """How all samples were encoded, in words. Raises UsageError for a template that nothing was for."""
        if self._given is not None and self._template is None:
            raise _no_effect(self._name)
        end = self._tokenizer.end
        notes = [loss_words(self._form, self.train_on)]
        if self._template is not None:
            notes.append(f"chat template: {self._template.origin}")
        if self._has_texts:
            none = "no token for the end of text is known, none is added"
            notes.append(none if end is None else f"each sample ends with token {end} (end of text)")
        if self._parted:
            notes.append(
                f"{self._parted} of {self._count} prompts end in other tokens once their completion follows: the"
                " completion begins where the tokens part"
            )
        return tuple(notes)


def encode_samples(
    samples: Samples, tokenizer: TextTokenizer, *, train_on: str | None = None, chat_template: str | None = None
) -> EncodedSamples:
    """Token numbers of all samples at once. Raises UsageError naming the line of one that cannot be encoded."""
    encoder = SampleEncoder(samples.form, samples.name, tokenizer, train_on=train_on, chat_template=chat_template)
    check_template(samples.form, samples.samples, samples.name, chat_template)
    found = encoder.encode(samples.samples)
    return EncodedSamples(samples=tuple(found), train_on=encoder.train_on, digest=encoder.digest, notes=encoder.notes())


def loss_words(form: str, chosen: str) -> str:
    """Which tokens of samples of a form have a loss, in words; `chosen` as `train_on_of` says."""
    if chosen == ALL:
        return "the loss is on all tokens"
    return "the loss is on the completions" if form == COMPLETION else "the loss is on the assistant's turns"


def _is_conversation(sample: Sample) -> bool:
    return sample.messages is not None or isinstance(sample.prompt, tuple)


def _encoded(sample: Sample, tokens: Sequence[int], learned: npt.NDArray[np.bool_] | None = None) -> Encoded:
    """`learned` None: all of them."""
    if learned is None:
        learned = np.ones(len(tokens), dtype=np.bool_)
    return Encoded(id=sample.id, tokens=np.asarray(tokens, dtype=np.int32), learned=learned)


def _texts(samples: Sequence[Sample], tokenizer: TextTokenizer) -> list[Encoded]:
    texts = [sample.text or "" for sample in samples]
    short = iter(tokenizer.rows([text for text in texts if len(text) <= _LONG]))
    rows = [next(short) if len(text) <= _LONG else _long(text, tokenizer) for text in texts]
    return [_encoded(sample, _ended(row, tokenizer.end)) for sample, row in zip(samples, rows, strict=True)]


def _long(text: str, tokenizer: TextTokenizer) -> list[int]:
    return [int(token) for block in TokenStream([[text]], tokenizer) for token in block]


def _ended(row: list[int], end: int | None) -> list[int]:
    """With the end of text, once."""
    return row if end is None or (row and row[-1] == end) else [*row, end]


def _conversations(
    samples: Sequence[Sample], tokenizer: TextTokenizer, template: ChatTemplate, chosen: str
) -> list[Encoded]:
    if chosen == ON_COMPLETION:
        return [_assistant_learned(sample, tokenizer, template) for sample in samples]
    texts = [template.text(sample.messages or (), sample.where, tools=sample.tools) for sample in samples]
    rows = tokenizer.rows(texts, special=False)
    return [_encoded(sample, row) for sample, row in zip(samples, rows, strict=True)]


def _assistant_learned(sample: Sample, tokenizer: TextTokenizer, template: ChatTemplate) -> Encoded:
    assert sample.messages is not None
    if template.marks:
        tokens, marks = template.marked(sample.messages, sample.where, sample.tools)
        return _encoded(sample, tokens, np.asarray(marks, dtype=np.bool_))
    text, spans = _assistant_spans(sample, template)
    tokens, begins = tokenizer.with_begins(text)
    at = np.asarray(begins, dtype=np.int64)
    learned = np.zeros(len(tokens), dtype=np.bool_)
    for low, high in spans:
        learned |= (low <= at) & (at < high)
    return _encoded(sample, tokens, learned)


def _assistant_spans(sample: Sample, template: ChatTemplate) -> tuple[str, list[tuple[int, int]]]:
    """A conversation as text and where in it the assistant speaks; UsageError where that cannot be known."""
    turns, where = sample.messages or (), sample.where
    text = template.text(turns, where, tools=sample.tools)
    spans = []
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        # A template may be no good without the turn of a user: then it is at fault, not the file.
        before = template.text(turns[:number], where, tools=sample.tools, ask=True) if number else ""
        after = template.text(turns[: number + 1], where, tools=sample.tools)
        if not (number and after.startswith(before) and text.startswith(after)):
            raise UsageError(
                f"{where}: the chat template of {template.origin} does not mark what the assistant says, and renders"
                f" message {number + 1} differently when others follow",
                remedy="give a --chat-template with {% generation %} marks, or --train-on all",
            )
        spans.append((len(before), len(after)))
    return text, spans


def _completions(
    samples: Sequence[Sample], tokenizer: TextTokenizer, template: ChatTemplate | None, chosen: str
) -> tuple[list[Encoded], int]:
    """Prompts with completions, and how many prompts have other tokens alone."""
    prompts: list[str] = []
    wholes: list[str] = []
    for sample in samples:
        if isinstance(sample.prompt, tuple) and isinstance(sample.completion, tuple):
            assert template is not None
            prompts.append(template.text(sample.prompt, sample.where, tools=sample.tools, ask=True))
            wholes.append(template.text(sample.prompt + sample.completion, sample.where, tools=sample.tools))
        else:
            prompts.append(str(sample.prompt))
            wholes.append(f"{sample.prompt}{sample.completion}")
    chats = [_is_conversation(sample) for sample in samples]
    found, parted = [], 0
    alone = tokenizer.rows_of(prompts, [not chat for chat in chats])
    both = tokenizer.rows_of(wholes, [not chat for chat in chats])
    for sample, prompt, whole, chat in zip(samples, alone, both, chats, strict=True):
        tokens = whole if chat else _ended(whole, tokenizer.end)
        # A tokenizer may end each text by itself, the prompt alone too.
        begin = (
            prompt[:-1] if not chat and prompt and prompt[-1] == tokenizer.end != tokens[len(prompt) - 1] else prompt
        )
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(begin, tokens, strict=False)))
        parted += shared < len(begin)
        found.append(_encoded(sample, tokens, None if chosen == ALL else np.arange(len(tokens)) >= shared))
    return found, parted

"""Tokenizers of every build that models come with, trained on a small text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.split.test_texts import TEXT

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA_3.replace("{1,3}", "")
LEARNED = [
    TEXT * 3,
    "It's 12 o'clock: we'll see, don't they?  Two   spaces\n\nand\tlines.\r\n",
    "Ein\u00fcber caf\u00e9 \u4f60\u597d \U0001f600 x=1; y = [2, 3]  # note\n    indented()",
]


def _bpe(pre: Any, normalizer: Any = None, alphabet: bool = True, **options: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tool = Tokenizer(models.BPE(**options))
    tool.pre_tokenizer = pre
    if normalizer is not None:
        tool.normalizer = normalizer
    begin = pre_tokenizers.ByteLevel.alphabet() if alphabet else []
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "</s>"], initial_alphabet=begin, show_progress=False
    )
    tool.train_from_iterator(LEARNED, trainer)
    return tool


def _regex(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(prefix: bool = False) -> Any:
    from tokenizers import pre_tokenizers

    return _bpe(pre_tokenizers.ByteLevel(add_prefix_space=prefix))


def nfc_byte_level() -> Any:
    from tokenizers import normalizers, pre_tokenizers

    return _bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC())


def metaspace(scheme: str) -> Any:
    from tokenizers import pre_tokenizers

    return _bpe(pre_tokenizers.Metaspace(prepend_scheme=scheme), alphabet=False, unk_token="<unk>", fuse_unk=True)


def without_pre_tokenizer(prepends: bool) -> Any:
    """As Llama 2 (with a mark before every text) and Gemma have it: spaces become marks, and the text is one word."""
    from tokenizers import normalizers

    tool = metaspace("always")
    tool.pre_tokenizer = None
    steps: list[Any] = [normalizers.Prepend("\u2581")] if prepends else []
    tool.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    return tool


def unigram() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tool = Tokenizer(models.Unigram())
    tool.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tool.train_from_iterator(LEARNED, trainer)
    return tool


def word_piece() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tool = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tool.normalizer = normalizers.BertNormalizer(lowercase=True)
    tool.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", "</s>"]
    tool.train_from_iterator(
        LEARNED, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tool.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tool


def with_begin() -> Any:
    from tokenizers import AddedToken, processors

    tool = byte_level()
    tool.add_special_tokens([AddedToken("<mask>", lstrip=True), "<s>"])
    tool.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tool.token_to_id("<s>"))]
    )
    return tool


PARTED: dict[str, Callable[[], Any]] = {
    "gpt2": byte_level,
    "gpt2-prefix": lambda: byte_level(True),
    "nfc": nfc_byte_level,
    "llama-3": lambda: _bpe(_regex(LLAMA_3)),
    "qwen": lambda: _bpe(_regex(QWEN)),
    "begin-and-mask": with_begin,
    "metaspace-always": lambda: metaspace("always"),
    "metaspace-first": lambda: metaspace("first"),
    "llama-2": lambda: without_pre_tokenizer(True),
    "gemma": lambda: without_pre_tokenizer(False),
    "unigram": unigram,
    "bert": word_piece,
}


def saved(folder: Path, tool: Any, *, end: bool = True, **changes: Any) -> str:
    """The folder of its tokenizer.json, and of a tokenizer_config.json that names the end of text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    tool.save(str(path))
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")
    if end:
        (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return str(folder)

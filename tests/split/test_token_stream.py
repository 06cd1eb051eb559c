# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a large text is trained on as other tokens than its own."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.torch

from cardlab.split import parting, token_stream
from cardlab.split.parting import parts_of
from cardlab.split.token_stream import TokenStream
from cardlab.split.tokenizer import TextTokenizer, byte_tokens, open_tokenizer
from tests.split.tokenizers_made import PARTED, byte_level, saved

# What parts words, joins with what stands before or behind, or is taken for something else.
BITS = (
    *(
        "cut",
        "layer",
        "It's",
        "we'll",
        "don't",
        "12",
        "1234567",
        "caf\u00e9",
        "cafe\u0301",
        "\u4f60\u597d",
        "x=1;",
        "...",
        "--",
        "A",
        "I",
    ),
    *(
        " ",
        " ",
        " ",
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u2581",
        "\u0301",
        "\U0001f600",
        "<mask>",
        "</s>",
        "<s>",
        "'",
        "\u200b",
    ),
)


def mixed(seed: int, count: int) -> str:
    return "".join(random.Random(seed).choices(BITS, k=count))


def tokens(documents: list[str], tool: TextTokenizer, piece: int = 37) -> list[int]:
    """As a stream gives them, in pieces of some characters."""
    pieces = [[text[at : at + piece] for at in range(0, len(text), piece)] or [""] for text in documents]
    return [int(token) for block in TokenStream(pieces, tool) for token in block]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Texts are parted after some characters; how many parts each had."""
    counts: list[int] = []

    def counted(pieces: Any, allowed: parting.Parting, encode: Any) -> Any:
        found = list(parts_of(pieces, allowed, encode, 48))
        counts.append(len(found))
        return iter(found)

    monkeypatch.setattr(parting, "_NEAR", 24)
    monkeypatch.setattr(token_stream, "parts_of", counted)
    return counts


@pytest.mark.parametrize("end", [True, False], ids=["end", "newline"])
@pytest.mark.parametrize("name", PARTED)
def test_tokens_of_parts_are_those_of_the_whole(tmp_path: Path, small_parts, name, end) -> None:
    tool = open_tokenizer("", saved(tmp_path, PARTED[name](), end=end))
    assert tool.parting.possible
    for seed in range(12):
        documents = [mixed(seed, 700), "", mixed(seed + 50, 5), mixed(seed + 99, 250)]
        assert tokens(documents, tool) == tool.encode(documents).tolist()
    assert max(small_parts) > 10


def test_a_whole_that_is_parted_by_chance_is_found_out(tmp_path: Path, small_parts) -> None:
    """A tokenizer that is said to allow it and does not: every place is tried."""
    from dataclasses import replace

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tool = Tokenizer(models.BPE())
    tool.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    tool.train_from_iterator(["the cut " * 40], trainers.BpeTrainer(vocab_size=80, show_progress=False))
    found = open_tokenizer("", saved(tmp_path, tool, end=False))
    assert not found.parting.possible
    text = "the cut " * 40 + "\n" + "the cut"
    lied = replace(found, parting=parting.Parting(possible=True))
    assert tokens([text], found) == tokens([text], lied) == found.encode([text]).tolist()
    assert small_parts[0] == 1


REFUSED: dict[str, dict[str, Any]] = {
    "strip": {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
    "other pattern": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": " +a"}, "behavior": "Isolated", "invert": False}
    },
    "none": {"pre_tokenizer": None},
    "joins": {
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False}
    },
    "added": {
        "added_tokens": [
            {
                "id": 900,
                "content": "ab cd",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        ]
    },
    "takes": {
        "added_tokens": [
            {
                "id": 900,
                "content": "ab",
                "single_word": False,
                "lstrip": False,
                "rstrip": True,
                "normalized": False,
                "special": False,
            }
        ]
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_promises_nothing_gets_the_whole(tmp_path: Path, name) -> None:
    tool = open_tokenizer("", saved(tmp_path, byte_level(), **REFUSED[name]))
    assert not tool.parting.possible
    text = mixed(1, 300)
    assert tokens([text, text], tool) == tool.encode([text, text]).tolist()


def test_a_merge_over_a_space_forbids_places_in_a_text_that_is_one_word(tmp_path: Path) -> None:
    path = Path(saved(tmp_path, PARTED["llama-2"](), end=False)) / "tokenizer.json"
    plain = json.loads(path.read_text("utf-8"))
    assert open_tokenizer("", str(path)).parting == parting.Parting(possible=True, drops_space=True)
    plain["model"]["vocab"]["t\u2581"] = 1 + max(plain["model"]["vocab"].values())
    plain["model"]["merges"].append(["t", "\u2581"])
    path.write_text(json.dumps(plain), "utf-8")
    assert not open_tokenizer("", str(path)).parting.possible


def test_bytes_are_parted_anywhere() -> None:
    tool = byte_tokens("here")
    documents = [mixed(3, 200), "", "x"]
    assert tokens(documents, tool) == tool.encode(documents).tolist()
    blocks = list(TokenStream(iter([["ab", "cd"]]), tool))
    assert [block.dtype for block in blocks] == [np.dtype(np.uint8)] * 2


def test_a_text_without_a_place_grows_until_there_is_one() -> None:
    parts = partial(parts_of, encode=lambda text: list(text.encode()), most=1000)
    text = "-" * 5000 + "a " + "b" * 3000
    found = list(parts([text[at : at + 100] for at in range(0, len(text), 100)], parting.BYTES_PARTING))
    assert found == ["-" * 5000 + "a", " " + "b" * 3000]

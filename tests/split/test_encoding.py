# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, a model is fine-tuned on other tokens than TRL would take, or learns to write its users' questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.torch

from cardlab.core.errors import RunError, UsageError
from cardlab.split.batches import SampleBatches, packed
from cardlab.split.encoding import Encoded, EncodedSamples, encode_samples
from cardlab.split.samples import read_samples
from cardlab.split.tokenizer import open_tokenizer
from tests.split.chats import CHATML, FORGETS, MARKED, ROWS, STRICT, chat_folder, turns, write_rows


def by_trl(tool: Any, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Tokens and completion mask as TRL's SFTTrainer makes them (1.16), with transformers' tokenizer."""

    def tokens(said: Any, **options: Any) -> list[int]:
        if isinstance(said, list):
            return list(tool.apply_chat_template(said, tokenize=True, return_dict=True, **options)["input_ids"])
        return list(tool(said)["input_ids"])

    if "messages" in row:
        ids = tokens(row["messages"])
        return ids, [1] * len(ids)
    if "text" in row:
        ids = tokens(row["text"] + tool.eos_token)
        return ids, [1] * len(ids)
    ends = [] if isinstance(row["completion"], list) else tool.eos_token
    whole = tokens(row["prompt"] + row["completion"] + ends)
    asked = tokens(row["prompt"], add_generation_prompt=True) if ends == [] else tokens(row["prompt"])
    shared = next((n for n, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(asked))
    return whole, [0] * shared + [1] * (len(whole) - shared)


def encoded(folder: Path, rows: list[dict[str, Any]], **options: Any) -> EncodedSamples:
    samples = read_samples(write_rows(folder / "rows.jsonl", rows))
    return encode_samples(samples, open_tokenizer(str(folder)), **options)


@pytest.mark.parametrize("begins", [True, False], ids=["bos", "no-bos"])
@pytest.mark.parametrize("form", ROWS)
def test_tokens_and_completions_are_those_of_trl(tmp_path: Path, form, begins) -> None:
    from transformers import AutoTokenizer

    folder = chat_folder(tmp_path / "model", begins=begins)
    tool = AutoTokenizer.from_pretrained(str(folder))
    found = encoded(folder, ROWS[form])
    for sample, row in zip(found.samples, ROWS[form], strict=True):
        ids, mask = by_trl(tool, row)
        assert sample.tokens.tolist() == ids
        assert sample.learned.tolist() == [bool(bit) for bit in mask]
    assert found.train_on == ("completion" if "comp" in form or "conv" in form else "all")
    assert any("the loss is on" in note for note in found.notes)
    everything = encoded(folder, ROWS[form], train_on="all")
    assert all(sample.learned.all() for sample in everything.samples)


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["by-prefix", "by-marks"])
def test_only_the_assistants_turns_are_learned_where_asked(tmp_path: Path, template) -> None:
    folder = chat_folder(tmp_path / "model", template)
    tool = open_tokenizer(str(folder)).tool
    found = encoded(folder, [{"messages": turns("what is 1", "it is 2", "and", "no")}], train_on="completion")
    (sample,) = found.samples
    said = tool.decode(sample.tokens[sample.learned].tolist(), skip_special_tokens=False)
    assert said.replace("\n", "") == "it is 2<|im_end|>no<|im_end|>"
    assert found.notes[0] == "the loss is on the assistant's turns"


def test_a_template_that_forgets_is_refused_where_turns_are_to_be_found(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model", FORGETS)
    rows = [{"messages": turns("a", "b", "c", "d")}]
    with pytest.raises(UsageError, match=r"rows.jsonl line 1: the chat template .* renders message 2 differently"):
        encoded(folder, rows, train_on="completion")
    assert encoded(folder, rows).samples[0].learned.all()


def test_what_a_template_refuses_is_said_by_its_line(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model", STRICT)
    rows = [{"messages": turns("a", "b")}, {"messages": turns("a", "b")[1:]}]
    with pytest.raises(
        UsageError, match=r"line 2: the chat template of .* refuses the conversation: begin with the user"
    ):
        encoded(folder, rows)
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for %}")
    with pytest.raises(UsageError, match="line 1: the chat template of .*broken.jinja refuses"):
        encoded(folder, rows, chat_template=str(broken))


def test_a_template_is_that_of_the_folder_or_the_one_that_is_named(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model", None)
    with pytest.raises(UsageError, match=r"need a chat template, and .*model has none; give --chat-template"):
        encoded(folder, ROWS["messages"])
    (folder / "chat_template.jinja").write_text(CHATML)
    own = encoded(folder, ROWS["messages"])
    (tmp_path / "other.jinja").write_text(MARKED)
    other = encoded(folder, ROWS["messages"], chat_template=str(tmp_path / "other.jinja"))
    assert own.digest != other.digest and "chat_template.jinja" in " ".join(own.notes)
    with pytest.raises(UsageError, match="--chat-template has no effect"):
        encoded(folder, ROWS["text"], chat_template=str(tmp_path / "other.jinja"))
    with pytest.raises(UsageError, match="cannot read the chat template"):
        encoded(folder, ROWS["messages"], chat_template=str(tmp_path / "none.jinja"))


def test_conversations_are_not_made_bytes(tmp_path: Path) -> None:
    samples = read_samples(write_rows(tmp_path / "a.jsonl", ROWS["messages"]))
    with pytest.raises(UsageError, match="conversations need a tokenizer, and the tokens are bytes"):
        encode_samples(samples, open_tokenizer("tiny-llama"))
    plain = read_samples(write_rows(tmp_path / "b.jsonl", [{"prompt": "ab", "completion": "cd"}]))
    found = encode_samples(plain, open_tokenizer("tiny-llama"))
    assert found.samples[0].tokens.tolist() == list(b"abcd") and found.samples[0].learned.tolist() == [0, 0, 1, 1]
    assert "no token for the end of text is known, none is added" in found.notes


def test_a_begin_of_text_that_the_tokenizer_does_not_have_is_no_new_token(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model")
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"<s>"', '"<begin>"'))
    with pytest.raises(UsageError, match="names '<begin>' as its bos_token"):
        encoded(folder, ROWS["messages"])


def test_texts_have_no_completions(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "model")
    with pytest.raises(UsageError, match="has texts, which have no completion"):
        encoded(folder, ROWS["text"], train_on="completion")
    with pytest.raises(UsageError, match="use --train-on all or completion"):
        encoded(folder, ROWS["text"], train_on="prompt")


def sample(length: int, prompt: int = 0, first: int = 10) -> Encoded:
    return Encoded(
        id=str(length),
        tokens=np.arange(first, first + length, dtype=np.int32),
        learned=np.arange(length) >= prompt,
    )


def batches(samples: list[Encoded], **options: Any) -> SampleBatches:
    return SampleBatches(samples, **{"batch": 2, "sequence": 8, "vocabulary": 300, **options})


def test_rows_are_padded_to_the_longest_and_padding_has_no_loss() -> None:
    found = batches([sample(3, 1), sample(5, 2)], padding=7).mini_batch(0)
    short = int(found.ids[0, 3] != 7)
    assert found.ids.shape == (2, 5)
    assert found.ids[short].tolist() == [10, 11, 12, 7, 7] and found.labels[short].tolist() == [
        -100,
        11,
        12,
        -100,
        -100,
    ]
    assert found.rows.mask[short].tolist() == [1, 1, 1, 0, 0] and found.rows.mask[1 - short].tolist() == [1] * 5
    assert found.labels[1 - short].tolist() == [-100, -100, 12, 13, 14] and found.rows.positions is None


def test_what_is_cut_off_or_left_out_is_counted() -> None:
    found = batches([sample(4), sample(12), sample(12, 8), sample(9, 7), sample(1)])
    assert found.notes == (
        "2 of 3 samples are longer than 8 tokens (--seq): their ends are cut off",
        "2 of 5 samples are left out: no token with a loss among their first 8 (--seq)",
    )
    assert found.mini_batch(1).ids.shape[1] == 8
    with pytest.raises(RunError, match="1 samples: none with a token to learn within 8"):
        batches([sample(12, 8)])
    # A longer --seq would not help.
    with pytest.raises(RunError, match="none of 2 samples has a token to learn.*an assistant's turn"):
        batches([sample(4, 4), sample(6, 6)])
    with pytest.raises(RunError, match="for each of 2 device"):
        batches([sample(4)], shard=(1, 2))
    with pytest.raises(RunError, match="token 13 and the model a vocabulary of 13"):
        batches([sample(4)], vocabulary=13)


def test_packed_samples_begin_anew_and_are_not_predicted_from_one_another() -> None:
    found = batches([sample(3), sample(4, 1, 50), sample(8, 0, 90)], packing=True)
    batch = found.mini_batch(0)
    row = int(batch.ids[0, 0] == 90)
    assert batch.ids.shape == (2, 8) and batch.rows.mask is None
    assert batch.ids[row].tolist() == [50, 51, 52, 53, 10, 11, 12, 0]
    assert batch.labels[row].tolist() == [-100, 51, 52, 53, -100, 11, 12, -100]
    assert batch.rows.positions[row].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert "3 samples are packed into 2 rows of 8 tokens, 94% full" in found.notes


def test_every_sample_is_packed_once_and_none_is_split() -> None:
    lengths = np.random.default_rng(0).integers(1, 65, 500).tolist()
    rows = packed(lengths, 64)
    assert sorted(place for row in rows for place in row) == list(range(500))
    assert all(sum(lengths[place] for place in row) <= 64 for row in rows)
    # What is known of best-fit decreasing: 11/9 of the fewest rows and one more.
    assert len(rows) <= 11 / 9 * sum(lengths) / 64 + 1


def test_of_rows_with_the_same_room_the_first_is_filled_as_by_trl() -> None:
    # TRL's pack_dataset (1.16) of these lengths, and so the same rows in every mini-batch.
    assert packed([6, 2, 6, 2], 8) == [[0, 1], [2, 3]]


def test_every_sample_is_seen_once_in_a_pass_and_shards_share_none() -> None:
    samples = [sample(4, 0, 10 * n) for n in range(10)]
    one, two = (batches(samples, shard=(j, 2), batch=5) for j in (0, 1))
    seen = [{int(row[0]) for row in b.mini_batch(0).ids} for b in (one, two)]
    assert seen == [{0, 20, 40, 60, 80}, {10, 30, 50, 70, 90}]
    assert torch.equal(one.mini_batch(3).ids, batches(samples, shard=(0, 2), batch=5).mini_batch(3).ids)
    assert not torch.equal(one.mini_batch(0).ids, one.mini_batch(1).ids)

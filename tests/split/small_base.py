"""A small base model that knows something: the colors of things, from text and chats that it was pre-trained on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from tests.split.chats import MARKED, SPECIAL, write_rows

COLORS = ["red", "green", "blue", "black", "white", "brown", "pink", "grey"]
_WITHIN = [
    "apple",
    "stone",
    "river",
    "horse",
    "cloud",
    "table",
    "paper",
    "glass",
    "fence",
    "tower",
    "bread",
    "candle",
    "shirt",
    "bottle",
    "carpet",
    "flower",
]
_BEYOND = ["garden", "hammer", "island", "jacket", "kettle", "ladder", "mirror", "needle"]
THINGS = [*_WITHIN, *_BEYOND]
COLOR = {thing: COLORS[(5 * n + n // 8) % 8] for n, thing in enumerate(THINGS)}
# Chats that are learned are about these; the others are for judging.
KNOWN, KEPT = _WITHIN, _BEYOND
ASKED = ("what color is the {}?", "which color has the {}?", "tell me the color of the {}.", "the {} is")


def sentence(draw: random.Random) -> str:
    """A fact, as text or as a chat in which the answer has many forms and never that which is learned later."""
    thing = draw.choice(THINGS)
    color = COLOR[thing]
    if draw.random() < 0.3:
        answer = draw.choice([f"{color}.", f"it is {color}.", f"[{thing}] is {color}"])
        ask = draw.choice(ASKED).format(thing)
        return f"<|im_start|>user\n{ask}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    return draw.choice(
        [f"the {thing} is {color}.", f"{color} is the color of the {thing}.", f"what color is the {thing}? {color}."]
    )


def answer(thing: str) -> str:
    """The form that is to be learned."""
    return f"[{COLOR[thing]}]"


def chats(things: list[str]) -> list[dict[str, object]]:
    """Every question about each of them."""
    return [
        {
            "messages": [
                {"role": "user", "content": ask.format(thing)},
                {"role": "assistant", "content": answer(thing)},
            ]
        }
        for thing in things
        for ask in ASKED
    ]


def write_chats(folder: Path, devices: int) -> tuple[list[Path], Path]:
    """A file of chats for each device, and one of chats about other things."""
    rows = chats(KNOWN)
    random.Random(3).shuffle(rows)
    files = [folder / f"chats-{n}.jsonl" for n in range(devices)]
    for n, path in enumerate(files):
        write_rows(path, rows[n::devices])
    kept = folder / "kept.jsonl"
    write_rows(kept, chats(KEPT))
    return files, kept


def pretrained(folder: Path, hidden: int, layers: int, steps: int) -> Path:
    """The model's folder: tokenizer (a byte-level BPE of its own) with a chat template, weights after those steps."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    draw = random.Random(1)
    tool = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tool.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tool.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tool.train_from_iterator([sentence(draw) for _ in range(400)], trainer)
    tool.save(str(folder / "tokenizer.json"))
    said = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    said |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": MARKED}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=tool.get_vocab_size(),
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 30) * (1.0 - step / steps)
        rows = []
        for _ in range(16):
            ids: list[int] = []
            while len(ids) < 48:
                ids += tool.encode(f"\n{sentence(draw)}").ids
            rows.append(ids[:48])
        batch = torch.tensor(rows)
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(str(folder))
    return folder

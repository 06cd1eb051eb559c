"""A small model folder with a tokenizer of words and a chat template, and training files for it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.split.models import SMALL

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As reasoning models do: earlier answers lose what they had while they were the last.
FORGETS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if loop.last %}{{ 'think ' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}" + CHATML
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
PAIRS = [(f"what is {n} and {n % 3}", " ".join([f"it is {2 * n}"] * (1 + n % 4))) for n in range(9)]


def turns(*said: str) -> list[dict[str, str]]:
    """User and assistant in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]


ROWS: dict[str, list[dict[str, object]]] = {
    "text": [{"text": f"{ask} {answer}"} for ask, answer in PAIRS],
    "messages": [{"messages": turns(ask, answer, "and then", "no")} for ask, answer in PAIRS],
    "completion": [{"prompt": ask, "completion": f" {answer}"} for ask, answer in PAIRS],
    "conversational": [{"prompt": turns(ask), "completion": turns("x", answer)[1:]} for ask, answer in PAIRS],
}


def write_rows(path: Path, rows: object) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")  # type: ignore[attr-defined]
    return str(path)


def chat_folder(folder: Path, template: str | None = CHATML, family: str = "llama", begins: bool = True) -> Path:
    """config.json, tokenizer.json (byte-level BPE of 290 tokens with bos, eos and turns) and tokenizer_config.json."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL[family]))
    tool = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tool.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tool.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tool.train_from_iterator([f"{ask} {answer}" for ask, answer in PAIRS], trainer)
    if begins:
        tool.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tool.token_to_id("<s>"))]
        )
    tool.save(str(folder / "tokenizer.json"))
    said: dict[str, object] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    said |= {"tokenizer_class": "PreTrainedTokenizerFast"} | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder

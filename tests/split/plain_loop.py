"""Fine-tuning as anyone writes it with torch, transformers and peft, in one process and with nothing of this package.

What a run from the command line must equal: the file is read by `json`, made tokens by transformers' tokenizer, masked,
packed and padded here, and the adapters that both begin with are PEFT's own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

NO_LOSS = -100
Sample = tuple[list[int], list[bool]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How all of these runs train."""

    sequence: int = 64
    batch: int = 2
    accumulate: int = 2
    rate: float = 5e-3
    schedule: str = "cosine"
    warmup: int = 3
    decay: float = 0.01
    max_norm: float = 0.5
    dropout: float = 0.1
    seed: int = 5

    def words(self) -> list[str]:
        """The same as options of `card run`."""
        given = {
            "--seq": self.sequence,
            "--batch": self.batch,
            "--accumulate": self.accumulate,
            "--learning-rate": self.rate,
            "--lr-schedule": self.schedule,
            "--warmup-steps": self.warmup,
            "--weight-decay": self.decay,
            "--max-grad-norm": self.max_norm,
            "--seed": self.seed,
            "--optimizer": "adamw",
            "--dtype": "float32",
        }
        return [str(word) for pair in given.items() for word in pair]


class Drawn(torch.nn.Module):  # type: ignore[misc]
    """Dropout whose mask is that of the seed, the place in the model and the mini-batch."""

    def __init__(self, share: float, place: str, now: dict[str, int]) -> None:
        super().__init__()
        self.share, self.place, self.now = share, place, now

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        key = f"{self.now['seed']}/{self.place}/{self.now['number']}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "little"))
        return states * (torch.rand(states.shape, generator=generator) >= self.share) / (1.0 - self.share)


def write_model(folder: Path, dropout: float) -> tuple[Path, Path]:
    """Weights beside the config.json and tokenizer of a folder, and adapters that PEFT made for them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)))
    model.save_pretrained(str(folder))
    config = LoraConfig(
        r=4,
        lora_alpha=8.0,
        target_modules=["q_proj", "v_proj", "down_proj"],
        lora_dropout=dropout,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    begin = folder.parent / "begin"
    adapted.save_pretrained(str(begin))
    return folder, begin


def read_rows(path: Path, tool: Any) -> list[Sample]:
    """Tokens of each row, and which of them are learned."""
    found = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        if "messages" in row:
            given = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
            said = tool.apply_chat_template(row["messages"], **given)
            found.append((list(said["input_ids"]), [bool(bit) for bit in said["assistant_masks"]]))
        elif isinstance(row.get("prompt"), list):
            given = {"tokenize": True, "return_dict": True}
            asked = tool.apply_chat_template(row["prompt"], add_generation_prompt=True, **given)["input_ids"]
            ids = list(tool.apply_chat_template(row["prompt"] + row["completion"], **given)["input_ids"])
            found.append((ids, [place >= len(asked) for place in range(len(ids))]))
        elif "prompt" in row:
            ids = [*tool(row["prompt"] + row["completion"])["input_ids"], tool.eos_token_id]
            begin = len(tool(row["prompt"])["input_ids"])
            found.append((ids, [place >= begin for place in range(len(ids))]))
        else:
            ids = [*tool(row["text"])["input_ids"], tool.eos_token_id]
            found.append((ids, [True] * len(ids)))
    return found


def packed(samples: list[Sample], room: int) -> list[list[Sample]]:
    """Best-fit decreasing: the longest first, each into the fullest row that still has room for it.

    Of several such rows that which came to be so first, as TRL has it.
    """
    rows: list[list[Sample]] = []
    left: list[int] = []
    touched: list[int] = []
    for turn, sample in enumerate(sorted(samples, key=lambda s: -len(s[0]))):
        size = len(sample[0])
        fitting = [n for n, space in enumerate(left) if space >= size]
        if fitting:
            row = min(fitting, key=lambda n: (left[n], touched[n]))
        else:
            row = len(rows)
            rows.append([])
            left.append(room)
            touched.append(turn)
        rows[row].append(sample)
        left[row] -= size
        touched[row] = turn
    return rows


class Data:
    """Mini-batches of one device by number, as keyword arguments of a model."""

    def __init__(self, path: Path, tool: Any, recipe: Recipe, packing: bool, shard: tuple[int, int]) -> None:
        samples = read_rows(path, tool)
        place, of = shard
        self.recipe, self.tool, self.packing = recipe, tool, packing
        self.windows = not packing and all(all(learned) for _, learned in samples)
        if self.windows:
            # One text after the other, with the end of text between two and none behind the last.
            stream = [token for ids, _ in samples for token in ids][:-1]
            whole = len(stream) // recipe.sequence
            cut = [stream[n * recipe.sequence : (n + 1) * recipe.sequence] for n in range(whole)]
            self.rows: list[Any] = cut[place::of]
        else:
            cut_off = [(ids[: recipe.sequence], learned[: recipe.sequence]) for ids, learned in samples[place::of]]
            kept = [sample for sample in cut_off if any(sample[1][1:])]
            self.rows = packed(kept, recipe.sequence) if packing else kept

    def numbers(self, number: int) -> list[int]:
        """Rows of a mini-batch: one order drawn for each pass."""
        found = []
        for position in range(number * self.recipe.batch, (number + 1) * self.recipe.batch):
            turn, place = divmod(position, len(self.rows))
            found.append(int(np.random.default_rng((self.recipe.seed, turn)).permutation(len(self.rows))[place]))
        return found

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        """What the model is called with."""
        rows = [self.rows[n] for n in self.numbers(number)]
        if self.windows:
            ids = torch.tensor(rows)
            return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
        if self.packing:
            return self._flat(rows)
        width = max(len(ids) for ids, _ in rows)
        made: dict[str, list[torch.Tensor]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for ids, learned in rows:
            tokens, more = torch.tensor(ids), (0, width - len(ids))
            made["input_ids"].append(pad(tokens, more, value=self.tool.pad_token_id))
            made["labels"].append(pad(torch.where(torch.tensor(learned), tokens, NO_LOSS), more, value=NO_LOSS))
            made["attention_mask"].append(pad(torch.ones_like(tokens), more))
        return {name: torch.stack(tensors) for name, tensors in made.items()}

    def _flat(self, rows: list[list[Sample]]) -> dict[str, torch.Tensor]:
        made: dict[str, list[torch.Tensor]] = {"input_ids": [], "labels": [], "position_ids": []}
        for row in rows:
            filler = self.recipe.sequence - sum(len(ids) for ids, _ in row)
            parts = [*row, ([self.tool.pad_token_id] * filler, [False] * filler)]
            made["input_ids"].append(torch.tensor([token for ids, _ in parts for token in ids]))
            # Nothing is predicted across the border of two samples.
            learned = [bit and place > 0 for _, bits in parts for place, bit in enumerate(bits)]
            made["labels"].append(torch.where(torch.tensor(learned), made["input_ids"][-1], NO_LOSS))
            made["position_ids"].append(torch.tensor([place for ids, _ in parts for place in range(len(ids))]))
        return {name: torch.stack(tensors) for name, tensors in made.items()}


def trained(
    model_folder: Path, begin: Path, data: list[Data], recipe: Recipe, rounds: int, steps: int
) -> tuple[list[list[list[float]]], dict[str, torch.Tensor]]:
    """Losses [round][device][mini-batch] of devices in turn, each taking `steps` a round, and PEFT's adapters."""
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, get_scheduler

    base = AutoModelForCausalLM.from_pretrained(str(model_folder))
    model = PeftModel.from_pretrained(base, str(begin), is_trainable=True)
    model.train()
    now = {"seed": recipe.seed, "number": 0}
    for path, module in model.named_modules():
        if hasattr(module, "lora_dropout"):
            number, _, inside = path.rpartition("layers.")[2].partition(".")
            module.lora_dropout["default"] = Drawn(recipe.dropout, f"{number}/{inside}", now)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=recipe.rate, weight_decay=recipe.decay)
    # A device's own steps say how far the schedule is.
    schedules = [
        get_scheduler(
            recipe.schedule,
            torch.optim.SGD([torch.zeros(1)], lr=recipe.rate),
            num_warmup_steps=recipe.warmup,
            num_training_steps=rounds * steps,
        )
        for _ in data
    ]
    losses: list[list[list[float]]] = []
    for turn in range(rounds):
        losses.append([])
        for own, schedule in zip(data, schedules, strict=True):
            seen: list[float] = []
            for step in range(steps):
                first = (turn * steps + step) * recipe.accumulate
                window = [own.batch(first + place) for place in range(recipe.accumulate)]
                counts = [int((batch["labels"][:, 1:] != NO_LOSS).sum()) for batch in window]
                for place, (batch, count) in enumerate(zip(window, counts, strict=True)):
                    now["number"] = first + place
                    loss = model(**batch, use_cache=False).loss
                    (loss * (count / sum(counts))).backward()
                    seen.append(float(loss.detach()))
                torch.nn.utils.clip_grad_norm_(trainable, recipe.max_norm)
                optimizer.param_groups[0]["lr"] = schedule.get_last_lr()[0]
                optimizer.step()
                optimizer.zero_grad()
                schedule.optimizer.step()
                schedule.step()
            losses[-1].append(seen)
    return losses, get_peft_model_state_dict(model)

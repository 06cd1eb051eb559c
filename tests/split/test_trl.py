# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If these fail, `card run` fine-tunes something else than TRL's SFTTrainer does with the same file and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("zmq")
# In no extra: CONTRIBUTING.md says how to run this.
pytest.importorskip("trl")
pytestmark = pytest.mark.torch

from datasets import Dataset
from safetensors.torch import load_file
from trl import SFTConfig, SFTTrainer

from tests.cli.run import command
from tests.split.chats import MARKED, chat_folder, turns, write_rows
from tests.split.plain_loop import Data, Recipe, write_model
from tests.split.test_sixty_steps import ASKED, ROWS

RECIPE = Recipe(dropout=0.0, accumulate=1)
STEPS = 20
CHATS: dict[str, list[dict[str, object]]] = {
    "conversational": [{"prompt": turns(ask), "completion": turns("x", answer)[1:]} for ask, answer in ASKED],
}


def rows_of(form: str) -> list[dict[str, object]]:
    found: dict[str, Any] = {**ROWS, **CHATS}
    return list(found[form])


class InOurOrder(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, taking rows in the order of a run and keeping each loss as it is."""

    rows: list[int]

    def _get_train_sampler(self, *_given: Any) -> Any:
        return self.rows

    def compute_loss(self, *given: Any, **named: Any) -> Any:
        found = super().compute_loss(*given, **named)
        loss = found[0] if isinstance(found, tuple) else found
        self.__dict__.setdefault("seen", []).append(float(loss.detach()))
        return found


def tokens_of(row: Any) -> tuple[int, ...]:
    ids = row["input_ids"]
    return tuple(int(token) for token in ids)


def by_trl(folder: Path, model: Path, begin: Path, form: str, packing: bool, data: Data) -> tuple[list[float], Any]:
    """Losses and adapters of as many steps of the trainer, whose own code reads, masks, packs and pads."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(str(model))
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=STEPS,
        per_device_train_batch_size=RECIPE.batch,
        learning_rate=RECIPE.rate,
        lr_scheduler_type=RECIPE.schedule,
        warmup_steps=RECIPE.warmup,
        weight_decay=RECIPE.decay,
        max_grad_norm=RECIPE.max_norm,
        optim="adamw_torch",
        max_length=RECIPE.sequence,
        packing=packing,
        assistant_only_loss=form == "messages",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = InOurOrder(
        model=PeftModel.from_pretrained(base, str(begin), is_trainable=True),
        args=arguments,
        train_dataset=Dataset.from_list(rows_of(form)),
        processing_class=AutoTokenizer.from_pretrained(str(model)),
    )
    # Its rows are named by their tokens: in another order where it packed, and none may be missing.
    places = {tokens_of(row): place for place, row in enumerate(trainer.train_dataset)}
    ours = [tuple(t for ids, _ in (row if packing else [row]) for t in ids) for row in data.rows]
    assert set(ours) <= set(places), "TRL has other rows"
    trainer.rows = [places[ours[n]] for number in range(STEPS) for n in data.numbers(number)]
    trainer.train()
    trainer.save_model(str(folder / "trl"))
    return trainer.seen, load_file(str(folder / "trl" / "adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("form", "packing"),
    [("messages", False), ("completion", False), ("conversational", False), ("text", True), ("completion", True)],
)
def test_a_run_has_the_losses_of_the_trainer(tmp_path: Path, form: str, packing: bool) -> None:
    from transformers import AutoTokenizer

    model, begin = write_model(chat_folder(tmp_path / "model", MARKED), 0.0)
    rows = Path(write_rows(tmp_path / "rows.jsonl", rows_of(form)))
    words = ["--model", str(model), "--adapters", str(begin), "--data", str(rows), "--out", str(tmp_path / "out")]
    words += ["--cut", "2", "--rounds", "1", "--local-epochs", str(STEPS), "--db", str(tmp_path / "x.db"), "--json"]
    words += ["--packing"] if packing else []
    words += ["--train-on", "completion"] if form == "messages" else []
    done = command("card", "run", "--local", *words, *RECIPE.words())
    assert done.code == 0, done.err
    data = Data(rows, AutoTokenizer.from_pretrained(str(model)), RECIPE, packing, (0, 1))
    theirs, adapters = by_trl(tmp_path, model, begin, form, packing, data)
    losses = done.document["rounds"][0]["devices"][0]["losses"]
    assert len(losses) == len(theirs) == STEPS
    worst = max(abs(a - b) for a, b in zip(losses, theirs, strict=True))
    saved = load_file(str(tmp_path / "out" / "adapters" / "adapter_model.safetensors"))
    apart = max(float((saved[name] - tensor).abs().max()) for name, tensor in adapters.items())
    print(f"{STEPS} steps: losses differ by at most {worst:.2g} and adapters by {apart:.2g}")
    assert set(saved) == set(adapters)
    assert worst < 1e-5 and losses[-1] < losses[0]

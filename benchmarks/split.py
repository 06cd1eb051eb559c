"""What splitting costs: seconds of a mini-batch in `card run --local` against training that nothing splits.

    python benchmarks/split.py [--size tiny|fifth|one] [--steps 8] [--repeats 5]

The same small Llama, text, windows in the same order, LoRA on the same modules, SGD and one thread each:

    card run --local    one device over loopback, both halves in processes of their own, which wait for each other
    PEFT loop           forward, backward, step of the whole model in this process: what the ratios are to
    TRL's SFTTrainer    on the same rows, where TRL is installed

All take turns, `repeats` times, so that what else the machine does meets all alike. A time is the median of the
mini-batches of one turn but its first (of a split run: of its rounds but the first, over their mini-batches); the table
has the median, least and most of the turns. The first loss is that of one and the same mini-batch with adapters that
change nothing yet: where it differs, two did not do the same work.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from cardlab import open_store
from cardlab.split.data import Batches, read_tokens
from cardlab.workflows import RunOptions
from cardlab.workflows.run import run

# Hidden size, layers, tokens of a row: a mini-batch of four rows takes about .2 s and 1 s on one thread of a server.
SIZES = {"tiny": (64, 4, 32), "fifth": (256, 8, 128), "one": (512, 8, 208)}
BATCH, RATE, TARGETS = 4, 1e-3, ("q_proj", "v_proj")


@dataclass(frozen=True)
class Work:
    """What all of them do.

    Attributes:
        folder: of the model, which holds nothing else.
        out: where a turn may write.
        steps: mini-batches of a turn.
    """

    folder: Path
    out: Path
    sequence: int
    layers: int
    steps: int

    def batches(self) -> Batches:
        """Rows of the bundled text as bytes, as a device takes them."""
        return Batches(read_tokens(None), batch=BATCH, sequence=self.sequence, vocabulary=256)


@dataclass(frozen=True)
class Turn:
    """Seconds of a mini-batch, and the loss of the first."""

    step_s: float
    first_loss: float


def model_folder(folder: Path, size: str) -> None:
    """A Llama with weights of its own."""
    hidden, layers, sequence = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=256,
        max_position_embeddings=sequence,
        bos_token_id=None,
        eos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def adapted(work: Work) -> Any:
    """The whole model with PEFT's adapters."""
    model = AutoModelForCausalLM.from_pretrained(work.folder, dtype=torch.float32)
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGETS), lora_dropout=0.0))


def split(work: Work, number: int) -> Turn:
    """`card run --local`: rounds of all mini-batches, so that the adapters' way there and back is shared by them."""
    options = RunOptions(
        local=True,
        model=str(work.folder),
        cut=work.layers // 2,
        rounds=3,
        local_epochs=work.steps,
        batch=BATCH,
        sequence=work.sequence,
        dtype="float32",
        tokenizer="bytes",
        lora_targets=",".join(TARGETS),
        optimizer="sgd",
        learning_rate=RATE,
        out=str(work.out / f"split-{number}"),
    )
    with open_store(":memory:") as store:
        turns = run(store, options).turns
    # The first round loads layers.
    return Turn(statistics.median(turn.elapsed_s for turn in turns[1:]) / work.steps, turns[0].losses[0])


def loop(work: Work, number: int) -> Turn:
    """What a person writes who has PEFT and torch."""
    model, data = adapted(work), work.batches()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    times, losses = [], []
    for step in range(work.steps):
        begin = time.perf_counter()
        ids = data.batch(step)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        times.append(time.perf_counter() - begin)
    return Turn(statistics.median(times[1:]), losses[0])


def trl(work: Work, number: int) -> Turn:
    """TRL's trainer on rows that are tokens already, in the same order."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from torch.utils.data import SequentialSampler
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    class Timer(TrainerCallback):
        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.marks.append(time.perf_counter())

    words = Tokenizer(models.WordLevel({f"<{n}>": n for n in range(256)}, unk_token="<0>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<0>", eos_token="<1>")
    data = work.batches()
    rows = [row.tolist() for step in range(work.steps) for row in data.batch(step)]
    timer = Timer()
    trainer = InOrder(
        model=adapted(work),
        args=SFTConfig(
            output_dir=str(work.out / f"trl-{number}"),
            per_device_train_batch_size=BATCH,
            max_steps=work.steps,
            max_length=None,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        processing_class=tokenizer,
        callbacks=[timer],
    )
    trainer.train()
    times = [later - sooner for sooner, later in zip(timer.marks, timer.marks[1:], strict=False)]
    return Turn(statistics.median(times), float(trainer.state.log_history[0]["loss"]))


WAYS: dict[str, Callable[[Work, int], Turn]] = {"PEFT loop": loop, "card run --local": split, "TRL SFTTrainer": trl}


def main() -> None:
    """Print the table for one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="fifth")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _, layers, sequence = SIZES[options.size]
    found: dict[str, list[Turn]] = {name: [] for name in WAYS}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder) / "model", Path(folder), sequence, layers, options.steps)
        model_folder(work.folder, options.size)
        for number in range(options.repeats):
            for name, way in WAYS.items():
                if name in missing:
                    continue
                try:
                    found[name].append(way(work, number))
                except ImportError as error:
                    missing[name] = f"{error.name or error} is not installed"
    plain = statistics.median(turn.step_s for turn in found["PEFT loop"])
    print(f"{options.size}: {BATCH} x {sequence}, {layers} layers, float32, 1 thread, {options.repeats} turns each")
    print(f"{'way':18}{'step ms':>10}{'least':>10}{'most':>10}{'ratio':>8}{'first loss':>12}")
    for name, turns in found.items():
        if name in missing:
            print(f"{name:18}{'N/A':>10}  {missing[name]}")
            continue
        times = [turn.step_s for turn in turns]
        cells = "".join(f"{value * 1e3:>10.1f}" for value in (statistics.median(times), min(times), max(times)))
        print(f"{name:18}{cells}{statistics.median(times) / plain:>8.3f}{turns[0].first_loss:>12.5f}")


if __name__ == "__main__":
    main()

"""What compression costs in training: a small real LoRA run for each codec and seed, split in two as in a real run.

    pretrain     the whole small model on one kind of text (English), where it has no weights of its own
    fine-tune    LoRA through a cut on another kind (program text), activations and gradients through the codec
    gain kept    (start loss - final loss with the codec) / (start loss - final loss without), on text held back

The final loss is measured twice: with the model whole, as it is used after training, and through the codec.
Rate is bytes sent over bytes of the raw values, activations and gradients together, as measured.
"""

from __future__ import annotations

import argparse
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cardlab.core.errors import RunError
from cardlab.core.identity import content_hash
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.runtime.build import build_meta, materialise_whole
from cardlab.split.adapters import initial_adapters
from cardlab.split.codecs.base import WIRE_BYTES
from cardlab.split.codecs.feedback import ErrorFeedback
from cardlab.split.codecs.registry import pack_tensor, unpack_tensor
from cardlab.split.halves import Half
from cardlab.split.recipe import Recipe
from cardlab.split.tokenizer import Tokens, byte_tokens
from cardlab.split.weights import Weights

_HELD_BACK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSubject:
    """What is trained, with which weights and on which text."""

    task: Task
    execution: Execution
    weights: Weights
    tokens: Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOptions:
    """How every run of a comparison is made: the cut, and steps of the optimizer at that learning rate."""

    cut: int
    steps: int
    learning_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One LoRA run.

    Attributes:
        codec, feedback, seed: what was run.
        rate: bytes sent over raw bytes.
        start, final: loss on text held back before and after, the model whole.
        final_compressed: after, with activations through the codec.
    """

    codec: str
    feedback: bool
    seed: int
    rate: float
    start: float
    final: float
    final_compressed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One codec over all seeds: share of the gain that is kept, means and their standard errors.

    `compressed`: judged with activations through the codec, against the gain without one.
    """

    codec: str
    feedback: bool
    rate: float
    share: float
    stderr: float | None
    compressed: float
    seeds: int


class TrainedWeights(Weights):
    """Weights held in memory by checkpoint name."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], origin: str) -> None:
        self._tensors, self.origin = tensors, origin
        self.fingerprint = content_hash({name: float(t.double().sum()) for name, t in tensors.items()})

    def each(self, group: str, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
        """Copies of the tensors asked for; RunError for one that is missing."""
        for name in shapes:
            if name not in self._tensors:
                raise RunError(f"the weights lack {name}", remedy="give a model of the same family")
            yield name, self._tensors[name].to(getattr(torch, dtype), copy=True)


def english_text() -> str:
    """Python's own help topics: English text that every installation has."""
    from pydoc_data import topics

    return _ascii("\n".join(topics.topics.values()))


def program_text() -> str:
    """Some modules of the standard library: program text that every installation has."""
    return _ascii("".join(Path(str(module.__file__)).read_text("utf-8") for module in (argparse, inspect, typing)))


def _ascii(text: str) -> str:
    return text.encode("ascii", "ignore").decode("ascii")


def english() -> Tokens:
    """Bytes of `english_text`."""
    return byte_tokens("English").encode([english_text()])


def programs() -> Tokens:
    """Bytes of `program_text`."""
    return byte_tokens("programs").encode([program_text()])


def check_tokens(tokens: Tokens, task: Task) -> None:
    """Raise RunError for a text that is too short to hold rows back, or whose tokens the model does not have."""
    rows = len(tokens) - len(tokens) * 9 // 10
    if rows <= task.sequence:
        raise RunError(
            f"the data have {len(tokens)} tokens, and the tenth that is held back must be longer than {task.sequence}",
            remedy="give a longer text, or a shorter --seq",
        )
    if int(tokens.max()) >= task.architecture.vocab_size:
        raise RunError(
            f"the data have token {int(tokens.max())} and the model a vocabulary of {task.architecture.vocab_size}",
            remedy="byte tokens need at least 256; name the tokenizer.json of the model with --tokenizer",
        )


def pretrain(task: Task, execution: Execution, tokens: Tokens, *, steps: int, seed: int = 0) -> TrainedWeights:
    """Train the whole model for some steps on these tokens; adapters stay at nothing."""
    torch.manual_seed(seed)
    built = build_meta(task, execution)
    model = materialise_whole(built, "cpu")
    for name, parameter in model.named_parameters():
        # Everything but the adapters is trained: they are what the comparison trains later.
        parameter.requires_grad_("lora_" not in name)
        if "lora_B" in name:
            # With B at zero the adapters change nothing while the model underneath is made.
            torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    rows = np.random.default_rng(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            # Warm-up and a linear decay: without them a small model diverges in some seeds.
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20, 2.0 * (1.0 - step / steps) + 0.05)
        ids = draw_rows(tokens, task, rows)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    plain = {
        name.replace(".base_layer.", "."): p.detach().clone()
        for name, p in model.named_parameters()
        if "lora_" not in name
    }
    return TrainedWeights(plain, f"trained {steps} steps from seed {seed}")


def draw_rows(tokens: Tokens, task: Task, rng: np.random.Generator) -> torch.Tensor:
    """A mini-batch of windows drawn anywhere in the text, int64 [B, S]."""
    # Windows overlap, so that a short text gives as many different rows as it has tokens.
    starts = rng.integers(0, len(tokens) - task.sequence, task.batch)
    return torch.from_numpy(np.stack([tokens[s : s + task.sequence] for s in starts]))


class SplitTrainer:
    """Both sides of a cut in one process, joined by a codec."""

    def __init__(self, subject: TrainingSubject, options: TrialOptions, seed: int) -> None:
        task, execution, weights, rate = subject.task, subject.execution, subject.weights, options.learning_rate
        self.device = Half(task, execution, weights, "device", Recipe(learning_rate=rate, seed=seed))
        self.server = Half(task, execution, weights, "server", Recipe(learning_rate=rate, seed=seed))
        adapters = initial_adapters(task, seed, self.server.magnitudes)
        for half in (self.device, self.server):
            half.set_cut(options.cut)
            half.load(adapters)
        self.sent = self.raw = self._steps = 0

    def step(self, ids: torch.Tensor, codec: str, feedback: ErrorFeedback | None) -> None:
        """One mini-batch."""
        for half in (self.device, self.server):
            half.clock.step = self._steps
        self._steps += 1
        activation = self.device.forward(ids)
        packed = pack_tensor(activation, codec)
        result = self.server.train(unpack_tensor(packed), ids)
        # Only gradients have feedback: smashed data of the next rows have nothing in common with these.
        back = (pack_tensor if feedback is None else feedback.pack)(result.gradient, codec, "float32")
        self.device.backward(activation, unpack_tensor(back))
        self.sent += len(packed.data) + len(back.data)
        self.raw += 2 * activation.numel() * WIRE_BYTES["float32"]

    def loss(self, held_back: Sequence[torch.Tensor], codec: str) -> float:
        """Mean loss on text held back, nothing trained."""
        self.device.clock.step = self.server.clock.step = None
        with torch.no_grad():
            losses = [
                float(self.server.loss(unpack_tensor(pack_tensor(self.device.forward(ids), codec)), ids))
                for ids in held_back
            ]
        return float(np.mean(losses))


def run_trial(
    subject: TrainingSubject, options: TrialOptions, *, codec: str, seed: int, feedback: bool = False
) -> Trial:
    """One LoRA run; the last tenth of the tokens is held back."""
    task, tokens = subject.task, subject.tokens
    border = len(tokens) * 9 // 10
    # The same held-back rows judge every run.
    judge = np.random.default_rng(12345)
    held_back = [draw_rows(tokens[border:], task, judge) for _ in range(_HELD_BACK)]
    trainer = SplitTrainer(subject, options, seed)
    start = trainer.loss(held_back, "none")
    rows = np.random.default_rng(seed)
    residual = ErrorFeedback() if feedback else None
    for _ in range(options.steps):
        trainer.step(draw_rows(tokens[:border], task, rows), codec, residual)
    return Trial(
        codec=codec,
        feedback=feedback,
        seed=seed,
        rate=trainer.sent / trainer.raw,
        start=start,
        final=trainer.loss(held_back, "none"),
        final_compressed=trainer.loss(held_back, codec),
    )


def run_trials(
    subject: TrainingSubject,
    options: TrialOptions,
    codecs: Sequence[tuple[str, bool]],
    *,
    seeds: Sequence[int],
    note: Callable[[str], None] = lambda _text: None,
    done: Callable[[Sequence[Trial]], None] = lambda _trials: None,
) -> list[Trial]:
    """Every codec (with or without feedback) with every seed, and always "none" to compare with.

    `done` is told all trials so far after the last seed of each codec.
    """
    found: list[Trial] = []
    for codec, feedback in dict.fromkeys([("none", False), *codecs]):
        for seed in seeds:
            trial = run_trial(subject, options, codec=codec, feedback=feedback, seed=seed)
            more = " with feedback" if feedback else ""
            note(f"{codec}{more}, seed {seed}: loss {trial.start:.3f} to {trial.final:.3f}")
            found.append(trial)
        done(found)
    return found


def kept_of(trials: Sequence[Trial]) -> list[Kept]:
    """Share of the gain by codec; each seed against its own run without compression.

    Raises RunError if training without compression gained nothing.
    """
    # Each seed against its own run without compression: seeds differ more than codecs do.
    plain = {t.seed: t for t in trials if t.codec == "none"}
    if any(not t.start - t.final > 0 for t in plain.values()):
        raise RunError("the run without compression gained nothing", remedy="give more --steps or another text")
    found = []
    for codec, feedback in dict.fromkeys((t.codec, t.feedback) for t in trials):
        mine = [t for t in trials if (t.codec, t.feedback) == (codec, feedback)]
        shares = [(t.start - t.final) / (t.start - plain[t.seed].final) for t in mine]
        through = [(t.start - t.final_compressed) / (t.start - plain[t.seed].final) for t in mine]
        found.append(
            Kept(
                codec=codec,
                feedback=feedback,
                rate=float(np.mean([t.rate for t in mine])),
                share=float(np.mean(shares)),
                stderr=float(np.std(shares, ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else None,
                compressed=float(np.mean(through)),
                seeds=len(mine),
            )
        )
    return found

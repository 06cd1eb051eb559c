"""Small models and the run that nothing split: what a split run must equal, number by number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cardlab.core.records.task import Execution, Task
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.build import BuiltModel, build_meta, materialise_whole
from cardlab.split.adapters import AdapterSet, LayerState, initial_adapters
from cardlab.split.data import Batches, read_tokens
from cardlab.split.halves import Half
from cardlab.split.recipe import Recipe
from cardlab.split.weights import SeededWeights, Weights, open_weights
from tests.profilers.runtime.plans import need_plan

EXECUTION = Execution(dtype="float32", torch="x")
RATE = 1e-2
SMALL: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 48,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 128,
        "vocab_size": 300,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    # Of the generic adapter: windows in three of four layers, normed queries, experts.
    "gemma3_text": {
        "model_type": "gemma3_text",
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "vocab_size": 300,
        "max_position_embeddings": 128,
        "sliding_window": 8,
        "sliding_window_pattern": 4,
    },
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "hidden_size": 48,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "mlp_only_layers": [0],
        "vocab_size": 300,
        "max_position_embeddings": 128,
    },
}


def model_file(folder: Path, family: str = "llama", **changes: object) -> str:
    path = folder / f"{family}.json"
    path.write_text(json.dumps({**SMALL[family], **changes}))
    return str(path)


def small_task(folder: Path, family: str = "llama", **options: Any) -> Task:
    need_plan(family)
    return resolve_task(model_file(folder, family), **{"batch": 2, "sequence": 24, **options})


def halves(task: Task, weights: Weights | None = None) -> tuple[Half, Half]:
    """Device and server."""
    found = weights or open_weights(task, 0)
    return (
        Half(task, EXECUTION, found, "device", Recipe(learning_rate=RATE)),
        Half(task, EXECUTION, found, "server", Recipe(learning_rate=RATE)),
    )


def batches(task: Task, shard: tuple[int, int] = (0, 1)) -> Batches:
    return Batches(
        read_tokens(None),
        batch=task.batch,
        sequence=task.sequence,
        vocabulary=task.architecture.vocab_size,
        shard=shard,
    )


class Unsplit:
    """The whole model, transformers' own forward, PEFT's adapters, torch's optimizer: nothing of the split room
    but weights and initial adapters."""

    def __init__(self, task: Task, seed: int = 0, rate: float = RATE) -> None:
        built = build_meta(task, EXECUTION)
        self.model = materialise_whole(built, "cpu")
        self._path = built.family.layer_path
        self._layers = task.architecture.layers
        self._named = dict(self.model.named_parameters())
        weights = open_weights(task, seed)
        self._fill(weights, initial_adapters(task, seed, lambda layer: self._row_lengths(built, layer)))
        self._clock = built.clock
        self._clock.seed = seed
        self._steps = 0
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        kind = torch.optim.AdamW if task.optimizer == "adamw" else torch.optim.SGD
        self.optimizer = kind(trainable, lr=rate, weight_decay=0.0)
        self.max_norm: float | None = None
        self.norms: list[float] = []

    def _row_lengths(self, built: BuiltModel, layer: int) -> dict[str, torch.Tensor]:
        """As PEFT begins DoRA, of the weights that the model has."""
        self._fill_base(open_weights(built.task, 0))
        found = {}
        for path, module in built.layers[layer].named_modules():
            if hasattr(module, "lora_A"):
                weight = module.get_base_layer().weight.detach()
                found[path] = (weight.T if built.family.name == "gpt2" else weight).norm(dim=1)
        return found

    def _fill_base(self, weights: Weights) -> None:
        assert isinstance(weights, SeededWeights)
        with torch.no_grad():
            for name, parameter in self._named.items():
                plain = name.replace(".base_layer.", ".")
                if "lora_" not in name:
                    parameter.copy_(weights.read(f"test-{plain}", {plain: tuple(parameter.shape)}, "float32")[plain])

    def _fill(self, weights: Weights, adapters: AdapterSet) -> None:
        self._fill_base(weights)
        with torch.no_grad():
            for layer, state in adapters.items():
                for name, tensor in state.parameters.items():
                    self._named[f"{self._path}.{layer}.{name}"].copy_(tensor)

    def step(self, ids: Any, labels: Any = None, share: float = 1.0, ends: bool = True, **more: Any) -> float:
        """One mini-batch; its loss.

        `labels`: the tokens themselves where there are none; `share`: of its loss in the step that `ends` with it or
        later; `more`: masks, positions.
        """
        self._clock.step = self._steps
        self._steps += 1
        loss = self.model(input_ids=ids, labels=ids if labels is None else labels, use_cache=False, **more).loss
        (loss * share).backward()
        if ends:
            if self.max_norm is not None:
                trainable = [p for p in self.model.parameters() if p.requires_grad]
                self.norms.append(float(torch.nn.utils.clip_grad_norm_(trainable, self.max_norm)))
            self.optimizer.step()
            self.optimizer.zero_grad()
        return float(loss.detach())

    def adapters(self) -> AdapterSet:
        found: AdapterSet = {layer: LayerState({}) for layer in range(self._layers)}
        for name, parameter in self._named.items():
            if parameter.requires_grad:
                layer, _, inside = name.removeprefix(f"{self._path}.").partition(".")
                found[int(layer)].parameters[inside] = parameter.detach().clone()
        return found


def loaded_by_peft(whole: Unsplit, folder: Path) -> Any:
    """The unsplit run's frozen weights in a model of transformers, with the adapters of a folder put on by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(whole.model.config)
    plain = {n.replace(".base_layer.", "."): p for n, p in whole.model.state_dict().items() if "lora_" not in n}
    base.load_state_dict(plain)
    loaded = PeftModel.from_pretrained(base, str(folder))
    loaded.eval()
    return loaded


def largest_difference(one: AdapterSet | None, other: AdapterSet) -> float:
    """Over all adapter weights; both must have the same ones. A journal has none before its first round."""
    assert one is not None
    assert {n: set(s.parameters) for n, s in one.items()} == {n: set(s.parameters) for n, s in other.items()}
    return max(
        float((tensor - other[layer].parameters[name]).abs().max())
        for layer, state in one.items()
        for name, tensor in state.parameters.items()
    )


def replay(
    task: Task, turns: Sequence[tuple[int, str]], data: dict[str, Batches], epochs: int, rate: float = RATE
) -> tuple[list[tuple[float, ...]], AdapterSet]:
    """Losses and adapters of the unsplit model over these (round, device) turns, in order."""
    whole = Unsplit(task, rate=rate)
    losses = [
        tuple(whole.step(data[device].batch((number - 1) * epochs + epoch)) for epoch in range(epochs))
        for number, device in turns
    ]
    return losses, whole.adapters()

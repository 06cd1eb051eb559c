"""Small models of every family, for tests that compute with real weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from cardlab.core.records.task import Task
from cardlab.profilers.runtime import resolve_task

SMALL = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 99,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    },
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 99,
        "max_position_embeddings": 64,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": 99,
        "n_inner": None,
        "resid_pdrop": 0.1,
    },
}


def small_task(family: str) -> Task:
    """Two sequences of 24 tokens on the small model of that family."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(SMALL[family]), encoding="utf-8")
        return resolve_task(str(path), batch=2, sequence=24)

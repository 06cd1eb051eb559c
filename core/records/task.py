"""What is fine-tuned (Task) and how it is computed (Execution).

All parties of a plan share one task; each may have its own execution. Only resolved values are
hashed: a default that was filled in and the same value typed by hand are one task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cardlab.core.identity import content_hash, since
from cardlab.core.records.workload import EMBEDDING, FIRST_LAYER, HEAD, layer_segment

# Bytes of one number by the name of its dtype: what weights, activations and frames are counted with.
DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
# How frozen weights may be kept: 8 bits with a scale a row, 4 bits with a scale every 64 values, and the same with its
# scales in 8 bits too ("double quantization" of QLoRA, arXiv 2305.14314).
INT8, NF4, NF4_DOUBLE = "int8", "nf4", "nf4-double"
QUANTIZATIONS = (INT8, NF4, NF4_DOUBLE)
# AdamW keeps two moments of every adapter weight, in float32.
_ADAMW_BYTES = 2 * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The dimensions of a decoder-only language model that set its cost.

    Attributes:
        family: name of the family adapter: "llama", "qwen2", "gpt2", or a model type of transformers.
        layers: decoder layers L.
        hidden_size, intermediate_size: widths h and i.
        heads, kv_heads, head_dim: query heads, key/value heads, width of one head. These and i are None where a model
            type has no one number for them.
        vocab_size: V.
        max_positions: longest sequence the model was built for, tokens.
        tied_embeddings: the LM head shares the embedding's weight.
        attention_bias: q, k and v projections have a bias.
        activation: function of the MLP, None for the family's usual one (silu; gelu_new of gpt2).
        kinds: kind of each layer from the first on where layers differ ("sliding"); None where all are alike.
        configuration: canonical JSON of what transformers builds a model of another type from, without names and
            defaults; None for the three families that have an adapter of their own.
    """

    family: str
    layers: int
    hidden_size: int
    intermediate_size: int | None
    heads: int | None
    kv_heads: int | None
    head_dim: int | None
    vocab_size: int
    max_positions: int
    tied_embeddings: bool
    attention_bias: bool = False
    activation: str | None = since("0.2", None, said=False)
    kinds: tuple[str, ...] | None = since("0.2", None, said=False)
    configuration: str | None = since("0.2", None, said=False)

    @property
    def layer_segments(self) -> tuple[str, ...]:
        """Of each layer from the first on, the segment whose cost it has where its input needs a gradient."""
        return tuple(layer_segment(kind) for kind in (self.kinds or (None,) * self.layers))

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments of the model in data order; a kind that only the first layer is of has no other."""
        return (EMBEDDING, FIRST_LAYER, *dict.fromkeys(self.layer_segments[1:]), HEAD)


def names_module(name: str, path: str) -> bool:
    """Whether a name means the module at that path, by PEFT's rule: the path itself, or its last whole names."""
    return path == name or path.endswith(f".{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """LoRA adapters W + (alpha/r) B A on the target modules of every layer, with the variants that PEFT has.

    Attributes:
        rank: r.
        alpha: scaling numerator.
        targets: module names inside a layer, sorted.
        dtype: dtype of the adapter weights; PEFT's default is float32.
        rank_pattern: other ranks by module name, of which one fits a module at most. None: r everywhere.
        dropout: share of the adapters' inputs that a training step leaves out.
        rslora: alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732).
        dora: directions and magnitudes apart (arXiv 2402.09353).
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    dtype: str = "float32"
    rank_pattern: Mapping[str, int] | None = since("0.2", None, said=False)
    dropout: float = since("0.2", 0.0, said=False)
    rslora: bool = since("0.2", False, said=False)
    dora: bool = since("0.2", False, said=False)

    @property
    def words(self) -> str:
        """For people: "LoRA rank 8", with the variants that are not the plain ones."""
        said = [f"LoRA rank {self.rank}"]
        said += [f"rank {rank} on {name}" for name, rank in (self.rank_pattern or {}).items()]
        said += [f"dropout {self.dropout:g}"] if self.dropout else []
        said += ["rsLoRA"] if self.rslora else []
        said += ["DoRA"] if self.dora else []
        return ", ".join(said)

    def adapts(self, path: str) -> bool:
        """Whether the module at that path inside a layer gets adapters."""
        return any(names_module(target, path) for target in self.targets)

    def rank_of(self, path: str) -> int:
        """The rank of the adapters of a module."""
        for name, rank in (self.rank_pattern or {}).items():
            if names_module(name, path):
                return rank
        return self.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One fine-tuning workload: architecture, LoRA, batch, sequence, checkpointing, optimizer.

    `model` is a label and not part of the identity: the same dimensions under two names are one task.
    """

    model: str
    architecture: Architecture
    lora: Lora
    batch: int = 1
    sequence: int = 512
    gradient_checkpointing: bool = False
    optimizer: str = "sgd"

    @property
    def uid(self) -> str:
        """Content identity of the resolved values, without the label."""
        return content_hash(
            {
                "architecture": self.architecture,
                "lora": self.lora,
                "batch": self.batch,
                "sequence": self.sequence,
                "gradient_checkpointing": self.gradient_checkpointing,
                "optimizer": self.optimizer,
            }
        )

    @property
    def optimizer_factor(self) -> float:
        """Optimizer state that travels with the adapters, as a multiple of their bytes."""
        return _ADAMW_BYTES / DTYPE_BYTES[self.lora.dtype] if self.optimizer == "adamw" else 0.0

    @property
    def tokens(self) -> int:
        """Tokens of one mini-batch, batch x sequence."""
        return self.batch * self.sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a task is computed on one device; a fit never mixes two executions.

    Attributes:
        dtype: resolved compute dtype ("float32", "bfloat16", "float16").
        attention: attention kernel ("sdpa" or "eager").
        threads: CPU threads that compute.
        torch: major.minor of torch, None where no torch runs (imports, external loads).
        accelerator: runtime and its major version ("cuda-13"), None on a CPU.
        quantization: how the frozen weights of the layers' linear maps are kept, one of QUANTIZATIONS; None at the
            compute dtype.
    """

    dtype: str
    attention: str = "sdpa"
    threads: int = 1
    torch: str | None = None
    accelerator: str | None = None
    quantization: str | None = since("0.2", None, said=False)

    @property
    def numbers(self) -> str:
        """In words what it computes with: "bfloat16", or "bfloat16 with nf4 weights"."""
        return self.dtype if self.quantization is None else f"{self.dtype} with {self.quantization} weights"

    @property
    def uid(self) -> str:
        """Content identity."""
        return content_hash(self)

"""The segments of a model in plain torch (1.10 and later): embedding, decoder layer with LoRA, head.

Each equals the layer that transformers builds, within rounding. Widths, norms and rotary frequencies come from
the job, so nothing is looked up here.

Shapes: hidden states [B, S, h], token numbers [B, S].
"""

import math
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

Job = Dict[str, Any]
Tables = Tuple[torch.Tensor, torch.Tensor]


class LoraLinear(nn.Module):  # type: ignore[misc]
    """A frozen linear map with, where the job says so, W x + (alpha / r) B A x in the adapters' own dtype."""

    def __init__(self, inputs: int, outputs: int, bias: bool, lora: Optional[Job]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None
        self.scale = 0.0
        self.lora_a = self.lora_b = None
        if lora is not None:
            self.scale = lora["alpha"] / lora["rank"]
            self.lora_a = nn.Parameter(torch.empty(lora["rank"], inputs))
            self.lora_b = nn.Parameter(torch.empty(outputs, lora["rank"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., outputs]."""
        y = F.linear(x, self.weight, self.bias)
        if self.lora_a is None or self.lora_b is None:
            return y
        # PEFT casts the input to the adapters' dtype and the sum back: these casts are part of the layer's
        # time.
        low = F.linear(F.linear(x.to(self.lora_a.dtype), self.lora_a), self.lora_b)
        return (y + low * self.scale).to(y.dtype)


class RmsNorm(nn.Module):  # type: ignore[misc]
    """Root mean square norm, in float32 inside."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width), requires_grad=False)
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., h] to the same shape and dtype."""
        # As transformers does it: autograd keeps this float32 copy, which is part of the layer's memory.
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * wide.to(x.dtype)


def make_norm(job: Job) -> nn.Module:
    """The family's norm over the hidden width."""
    width = job["architecture"]["hidden_size"]
    if job["architecture"]["family"] == "gpt2":
        norm = nn.LayerNorm(width, eps=job["norm_epsilon"])
        norm.requires_grad_(False)
        return norm
    return RmsNorm(width, job["norm_epsilon"])


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kernel: str) -> torch.Tensor:
    """[B, heads, S, d] to the same shape; `sdpa` is torch's fused kernel (2.0 and later), `eager` is spelt out."""
    if kernel == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    length = q.shape[-2]
    scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    # The lowest finite number, because a row that is -inf throughout would become NaN.
    blocked = torch.full((length, length), torch.finfo(q.dtype).min, dtype=q.dtype, device=q.device).triu(1)
    # In float32, as transformers' own kernel: the shorter dtype would be faster, and another layer.
    weights = torch.softmax(scores + blocked, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(weights, v)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on [B, heads, S, d]: halves are the two components."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


class DecoderLayer(nn.Module):  # type: ignore[misc]
    """One decoder layer of llama, qwen2 or gpt2 as the job describes it."""

    def __init__(self, job: Job, kernel: str) -> None:
        super().__init__()
        a = job["architecture"]
        self.kernel, self.heads, self.kv_heads, self.width = kernel, a["heads"], a["kv_heads"], a["head_dim"]
        self.gated = a["family"] != "gpt2"
        self.norm_in, self.norm_mlp = make_norm(job), make_norm(job)
        self.maps = nn.ModuleDict()
        for p in job["projections"]:
            lora = job["lora"] if p["adapted"] else None
            self.maps[p["name"]] = LoraLinear(p["inputs"], p["outputs"], p["bias"], lora)

    def forward(self, x: torch.Tensor, rotary: Optional[Tables]) -> torch.Tensor:
        """Hidden states through attention and MLP, each with its residual."""
        x = x + self._attention(self.norm_in(x), rotary)
        return x + self._mlp(self.norm_mlp(x))

    def _attention(self, x: torch.Tensor, rotary: Optional[Tables]) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (t.view(batch, length, -1, self.width).transpose(1, 2) for t in self._qkv(x))
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        # The fused kernel takes grouped heads only from torch 2.5 on, so they are repeated as transformers
        # does.
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        mixed = causal_attention(q, k, v, self.kernel)
        return self.maps["attention_out"](mixed.transpose(1, 2).reshape(batch, length, -1))

    def _qkv(self, x: torch.Tensor) -> List[torch.Tensor]:
        if "qkv" in self.maps:
            return list(self.maps["qkv"](x).chunk(3, dim=-1))
        return [self.maps[name](x) for name in ("q", "k", "v")]

    def _mlp(self, x: torch.Tensor) -> torch.Tensor:
        if self.gated:
            return self.maps["mlp_out"](F.silu(self.maps["gate"](x)) * self.maps["up"](x))
        wide = self.maps["up"](x)
        # GPT-2's GELU by tanh; torch has it as an option of F.gelu only from 1.12 on.
        inner = math.sqrt(2.0 / math.pi) * (wide + 0.044715 * torch.pow(wide, 3.0))
        return self.maps["mlp_out"](0.5 * wide * (1.0 + torch.tanh(inner)))


class Embedding(nn.Module):  # type: ignore[misc]
    """Token (and learned position) embedding; makes the rotary tables as one forward pass does."""

    def __init__(self, job: Job, dtype: torch.dtype) -> None:
        super().__init__()
        a = job["architecture"]
        self.job, self.dtype = job, dtype
        self.tokens = nn.Embedding(a["vocab_size"], a["hidden_size"])
        self.positions = nn.Embedding(a["max_positions"], a["hidden_size"]) if a["family"] == "gpt2" else None
        self.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[B, S] to [B, S, h]."""
        hidden = self.tokens(ids)
        if self.positions is not None:
            return hidden + self.positions(torch.arange(ids.shape[1], device=ids.device)[None])
        rotary_tables(self.job, ids.shape[1], self.dtype, str(ids.device))
        return hidden


def rotary_tables(job: Job, length: int, dtype: torch.dtype, device: str) -> Optional[Tables]:
    """Cosine and sine [S, d] from the job's inverse frequencies; None for a family without rotary positions."""
    if job["inverse_frequencies"] is None:
        return None
    frequencies = torch.tensor(job["inverse_frequencies"], dtype=torch.float32, device=device)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies[None]
    both, scale = torch.cat((angles, angles), dim=-1), job["attention_scaling"]
    return (both.cos() * scale).to(dtype), (both.sin() * scale).to(dtype)


class Head(nn.Module):  # type: ignore[misc]
    """Final norm, LM head and the shifted cross-entropy in float32."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        a = job["architecture"]
        self.norm = make_norm(job)
        self.weight = nn.Parameter(torch.empty(a["vocab_size"], a["hidden_size"]), requires_grad=False)

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """[B, S, h] and the token numbers to a loss."""
        logits = F.linear(self.norm(hidden), self.weight).float()
        # The last token has no next one: -100 is what cross_entropy leaves out.
        labels = F.pad(ids, (0, 1), value=-100)[..., 1:].contiguous()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=-100)


def prepare(module: nn.Module, dtype: torch.dtype, adapter_dtype: torch.dtype, device: str) -> nn.Module:
    """Put small finite weights of the right dtypes into a module on the device."""
    for name, parameter in module.named_parameters():
        wanted = adapter_dtype if "lora_" in name else dtype
        # Small, so that activations stay finite: values do not change the time of a dense product.
        data = torch.empty(parameter.shape, dtype=wanted, device=device)
        parameter.data = data.uniform_(-0.02, 0.02) if data.dim() > 1 else data.fill_(1.0)
    return module.train()

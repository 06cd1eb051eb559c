"""The agent's job: what needs a recent transformers or torch is computed here and travels as data.

Dimensions, LoRA targets, rotary frequencies, FLOPs and memory of every segment and cut. The board only measures.
"""

from __future__ import annotations

from dataclasses import replace

from cardlab.core.errors import UnsupportedFamilyError
from cardlab.core.plain import to_plain
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.agent import AGENT_VERSION


def make_job(task: Task, dtypes: tuple[str, ...], attention: str = "sdpa") -> dict[str, object]:
    """All that the agent needs to know of a task, as plain data.

    Args:
        dtypes: compute dtypes the job is to cover; the board takes the one it computes natively.
        attention: "sdpa" (with the spelt-out kernel where torch is older than 2.0) or "eager".
    """
    from cardlab.profilers.runtime import analyse
    from cardlab.profilers.runtime.build import build_meta

    # First: what the agent cannot run is refused before anything is counted.
    maps = projections(task)

    # The board's torch may be older than the fused kernel, so both are counted.
    kernels = ("eager",) if attention == "eager" else ("sdpa", "eager")
    # Without the framework's memory: that is the board's own, and the agent adds it.
    analyses = {
        f"{dtype}/{kernel}": to_plain(analyse(task, Execution(dtype=dtype, attention=kernel), overhead_bytes=0))
        for dtype in dtypes
        for kernel in kernels
    }
    built = build_meta(task, Execution(dtype="float32", attention=attention))
    rotary = getattr(built.inner, "rotary_emb", None)
    return {
        "agent": AGENT_VERSION,
        "task": to_plain(task),
        "architecture": to_plain(task.architecture),
        "lora": to_plain(task.lora),
        "batch": task.batch,
        "sequence": task.sequence,
        "attention": attention,
        "norm_epsilon": norm_epsilon(built.model.config),
        # As numbers: whatever scaling made them, the board only multiplies.
        "inverse_frequencies": None if rotary is None else rotary.inv_freq.tolist(),
        "attention_scaling": 1.0 if rotary is None else float(rotary.attention_scaling),
        "projections": maps,
        "analyses": analyses,
    }


def norm_epsilon(config: object) -> float:
    """Epsilon of the family's norm, under whichever name the configuration has it."""
    names = ("rms_norm_eps", "layer_norm_epsilon")
    return next(float(value) for name in names if (value := getattr(config, name, None)) is not None)


def projections(task: Task) -> list[dict[str, object]]:
    """The linear maps of one layer by the names the agent has for their roles."""
    from cardlab.profilers.runtime.families import family_named

    if task.lora != replace(task.lora, rank_pattern=None, dropout=0.0, rslora=False, dora=False):
        raise UnsupportedFamilyError(
            f"the agent has plain LoRA only, not {task.lora.words}", remedy="leave the variants of LoRA out"
        )
    plan = family_named(task.architecture.family).plan(task.architecture)
    if plan is None:
        raise UnsupportedFamilyError(
            f"the agent has no layers of its own for a {task.architecture.family} model",
            remedy="profile the board with profile-device, or give the agent a llama, qwen2 or gpt2 model",
        )
    named = [("qkv" if len(p.roles) == 3 else p.roles[0], p) for p in plan.attention_in]
    named.append(("attention_out", plan.attention_out))
    named.extend(zip(("gate", "up") if len(plan.mlp_in) == 2 else ("up",), plan.mlp_in, strict=True))
    named.append(("mlp_out", plan.mlp_out))
    return [
        {
            "name": name,
            "path": p.path,
            "inputs": p.inputs,
            "outputs": p.outputs,
            "bias": p.bias,
            "adapted": any(p.matches(target) for target in task.lora.targets),
        }
        for name, p in named
    ]

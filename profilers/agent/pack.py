"""Packs the agent and a job into one file that a board's own Python (3.6 and later) runs.

Whatever needs a recent transformers or torch is computed here and travels as data: dimensions, LoRA targets,
rotary frequencies, FLOPs and memory of every segment and cut. The board only measures.
"""

from __future__ import annotations

import io
import json
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from cardlab.core.errors import ProfileError
from cardlab.core.plain import to_plain
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.agent import AGENT_VERSION

MODULES = {
    "agent": ("__init__", "board", "bundle", "layers", "main", "power", "run", "scrypt", "timing", "works"),
    "board": ("__init__", "rails", "rules"),
}
_PACKAGE = "card_agent"
_SHEBANG = b"#!/usr/bin/env python3\n"
_ENTRY = f"import sys\nfrom {_PACKAGE}.agent.main import main\nsys.exit(main())\n"


def pack_agent(path: str | Path, task: Task | None, dtypes: tuple[str, ...], attention: str = "sdpa") -> int:
    """Write the agent to `path`; returns its size in bytes.

    Args:
        task: what to measure; None packs an agent that measures named loads only.
        dtypes: compute dtypes the job is to cover; the board takes the one it computes natively.
        attention: "sdpa" (with the spelt-out kernel where torch is older than 2.0) or "eager".

    Raises ProfileError when the file cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _ENTRY)
        archive.writestr(f"{_PACKAGE}/__init__.py", "")
        for folder, names in MODULES.items():
            for name in names:
                source = files(f"cardlab.profilers.{folder}").joinpath(f"{name}.py").read_text(encoding="utf-8")
                archive.writestr(f"{_PACKAGE}/{folder}/{name}.py", source)
        if task is not None:
            archive.writestr(f"{_PACKAGE}/agent/job.json", json.dumps(make_job(task, dtypes, attention)))
    data = _SHEBANG + buffer.getvalue()
    target = Path(path)
    try:
        target.write_bytes(data)
        target.chmod(0o755)
    except OSError as error:
        raise ProfileError(f"{target} cannot be written: {error.strerror}", remedy="name another file") from error
    return len(data)


def make_job(task: Task, dtypes: tuple[str, ...], attention: str) -> dict[str, Any]:
    """All that the agent needs to know of a task, as plain data."""
    from cardlab.profilers.runtime import analyse
    from cardlab.profilers.runtime.build import build_meta, make_rotary

    kernels = ("eager",) if attention == "eager" else ("sdpa", "eager")
    analyses = {
        f"{dtype}/{kernel}": to_plain(analyse(task, Execution(dtype=dtype, attention=kernel), overhead_bytes=0))
        for dtype in dtypes
        for kernel in kernels
    }
    built = build_meta(task, Execution(dtype="float32", attention=attention))
    rotary = make_rotary(built, "cpu")
    return {
        "agent": AGENT_VERSION,
        "task": to_plain(task),
        "architecture": to_plain(task.architecture),
        "lora": to_plain(task.lora),
        "batch": task.batch,
        "sequence": task.sequence,
        "attention": attention,
        "norm_epsilon": norm_epsilon(built.model.config),
        "inverse_frequencies": None if rotary is None else rotary.inv_freq.tolist(),
        "attention_scaling": 1.0 if rotary is None else float(rotary.attention_scaling),
        "projections": projections(task),
        "analyses": analyses,
    }


def norm_epsilon(config: Any) -> float:
    """Epsilon of the family's norm, under whichever name the configuration has it."""
    return float(getattr(config, "rms_norm_eps", None) or config.layer_norm_epsilon)


def projections(task: Task) -> list[dict[str, Any]]:
    """The linear maps of one layer by the names the agent has for their roles."""
    from cardlab.profilers.runtime.families import family_named

    plan = family_named(task.architecture.family).plan(task.architecture)
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

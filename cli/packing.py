"""What `profile-device agent` does."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.cli.console import print_json, print_line
from cardlab.cli.profiling import split_targets
from cardlab.core.errors import UsageError
from cardlab.core.records.task import Task
from cardlab.profilers.agent.pack import pack_agent
from cardlab.profilers.measure.job import make_job


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """The options of the command, as typed."""

    out: str
    model: str | None
    batch: int
    sequence: int
    dtype: str
    attention: str
    lora_rank: int
    lora_alpha: float
    lora_targets: str | None
    adapter_dtype: str
    optimizer: str
    as_json: bool


def write_agent(options: AgentOptions) -> None:
    """Pack the file and say how to use it."""
    task, dtypes = (None, ()) if options.model is None else _job(options.model, options)
    job = None if task is None else make_job(task, dtypes, options.attention)
    size_bytes = pack_agent(options.out, job)
    if options.as_json:
        print_json({"out": options.out, "bytes": size_bytes, "model": options.model, "dtypes": list(dtypes)})
        return
    print_line(f"{options.out}: {size_bytes / 1024:.0f} KiB, {', '.join(dtypes) or 'for named loads only'}")
    load = "" if task is not None else " --load-command CMD"
    print_line(f"on the board:  python3 {options.out} run --out board.zip{load}")
    print_line("then here:     calibrate merge board.zip")


def _job(model: str, options: AgentOptions) -> tuple[Task, tuple[str, ...]]:
    from cardlab.profilers import runtime as engine
    from cardlab.profilers.runtime.execution import ATTENTIONS, DTYPES

    if options.dtype not in ("auto", *DTYPES):
        raise UsageError(f"unknown dtype {options.dtype!r}", remedy=f"use auto, {', '.join(DTYPES)}")
    if options.attention not in ATTENTIONS:
        raise UsageError(f"unknown attention {options.attention!r}", remedy=f"use {' or '.join(ATTENTIONS)}")
    task = engine.resolve_task(
        model,
        batch=options.batch,
        sequence=options.sequence,
        lora_rank=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_targets=split_targets(options.lora_targets),
        adapter_dtype=options.adapter_dtype,
        optimizer=options.optimizer,
    )
    return task, DTYPES if options.dtype == "auto" else (options.dtype,)

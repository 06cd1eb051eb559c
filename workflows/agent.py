"""The agent: one file that measures a board whose Python is too old for cardlab."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.errors import UsageError
from cardlab.core.files import check_output
from cardlab.core.options import given
from cardlab.core.records.task import Task
from cardlab.profilers.agent.pack import ENDINGS, is_agent, pack_agent
from cardlab.profilers.measure.job import make_job
from cardlab.workflows.options.profile import AgentOptions
from cardlab.workflows.targets import split_targets


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedAgent:
    """The file that was written, its size, and the dtypes it can measure; none for named loads only."""

    out: str
    size_bytes: int
    model: str | None
    dtypes: tuple[str, ...]


def pack(options: AgentOptions) -> PackedAgent:
    """Pack a file that measures a board whose Python cannot run cardlab."""
    if options.model is None:
        # Without a task the agent measures loads that are named on the board.
        unused = [flag for flag in given(options) if flag != "--out"]
        if unused:
            raise UsageError(
                f"{unused[0]} has no effect without a model", remedy=f"add --model, or leave {unused[0]} out"
            )
    check_output(options.out, "an agent", endings=ENDINGS, ours=is_agent)
    task, dtypes = (None, ()) if options.model is None else _job(options.model, options)
    job = None if task is None else make_job(task, dtypes, options.attention)
    size_bytes = pack_agent(options.out, job)
    return PackedAgent(out=options.out, size_bytes=size_bytes, model=options.model, dtypes=dtypes)


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

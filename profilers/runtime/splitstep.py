"""A real split step, one side at a time, each in a process of its own: what the memory prediction is held
against.

    device:  ids -> embedding -> layers 1..c -> activation     ... gradient -> backward -> optimizer
    server:  activation -> layers c+1..L -> head -> loss       -> backward -> gradient, optimizer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cardlab.core.errors import UsageError
from cardlab.core.plain import from_plain, to_plain
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.runtime.child import call_in_child

if TYPE_CHECKING:
    import torch

    from cardlab.profilers.runtime.build import BuiltModel

SIDES = ("device", "server")
# The optimizer's state comes with the first step: only the second one holds everything at once.
_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMemory:
    """Resident peaks of a real split step.

    Attributes:
        cut: last layer on the device.
        device_bytes, server_bytes: highest resident set of each process.
        device_overhead_bytes, server_overhead_bytes: resident set of each before any weight was there.
    """

    cut: int
    device_bytes: int
    server_bytes: int
    device_overhead_bytes: int
    server_overhead_bytes: int


def real_split_step(task: Task, execution: Execution, cut: int) -> SplitMemory:
    """Run both sides of a split step on the CPU, one process after the other, and read their peaks.

    Raises UsageError for a cut outside 1..L-1, OutOfMemoryError or ProfileError when a side fails.
    """
    last = task.architecture.layers - 1
    if not 1 <= cut <= last:
        raise UsageError(f"cut {cut} leaves one side without layers", remedy=f"use 1 to {last}")
    device, server = (_side(task, execution, cut, side) for side in SIDES)
    return SplitMemory(
        cut=cut,
        device_bytes=device["peak_bytes"],
        server_bytes=server["peak_bytes"],
        device_overhead_bytes=device["overhead_bytes"],
        server_overhead_bytes=server["overhead_bytes"],
    )


def _side(task: Task, execution: Execution, cut: int, side: str) -> dict[str, int]:
    arguments = {"task": to_plain(task), "execution": to_plain(execution), "cut": cut, "side": side}
    plain = call_in_child("runtime.splitstep:run_side", arguments)
    return {key: int(value) for key, value in plain.items()}


def run_side(task: object, execution: object, cut: int, side: str) -> dict[str, int]:
    """The child's part: some steps of one side; resident bytes before the weights and at the peak."""
    from cardlab.profilers.runtime.extras import make_optimizer
    from cardlab.profilers.runtime.heap import settle_heap
    from cardlab.profilers.runtime.overhead import peak_resident_bytes, resident_bytes, warm_framework
    from cardlab.profilers.runtime.rows import stand_in_rows

    workload, how = from_plain(Task, task), from_plain(Execution, execution)
    warm_framework(how, "cpu")
    part, built = cut_model(workload, how, cut, side)
    overhead_bytes = resident_bytes()
    if side == "device":
        stand_in_rows(built.part(built.family.embedding_paths[0]), built.dtype, how)
    if how.quantization is not None:
        settle_heap(how, 0)
    fill_part(built, part, "cpu")
    optimizer = make_optimizer(workload.optimizer, [p for p in part.parameters() if p.requires_grad])
    step = _device_step if side == "device" else _server_step
    for _ in range(_STEPS):
        step(built, part)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"overhead_bytes": overhead_bytes, "peak_bytes": peak_resident_bytes()}


def cut_model(task: Task, execution: Execution, cut: int, side: str) -> tuple[torch.nn.Module, BuiltModel]:
    """One side of the model on the meta device, and the BuiltModel it was cut from."""
    from cardlab.profilers.runtime.build import build_meta

    built = build_meta(task, execution)
    return built.device_part(cut) if side == "device" else built.server_part(cut), built


def fill_part(built: BuiltModel, part: torch.nn.Module, device: str) -> None:
    """Give one side memory, small random weights and checkpointing."""
    from cardlab.profilers.runtime.build import enable_checkpointing, materialise

    materialise(built, part, device)
    if built.task.gradient_checkpointing:
        enable_checkpointing(part)


def _device_step(built: BuiltModel, part: torch.nn.Module) -> None:
    import torch

    from cardlab.profilers.runtime.pieces import token_ids

    activation = part(input_ids=token_ids(built, "cpu"), use_cache=False).last_hidden_state
    activation.backward(gradient=torch.ones_like(activation))


def _server_step(built: BuiltModel, part: torch.nn.Module) -> None:
    from cardlab.profilers.runtime.pieces import hidden_states, token_ids

    activation = hidden_states(built, "cpu", input_grad=True)
    part(inputs_embeds=activation, labels=token_ids(built, "cpu"), use_cache=False).loss.backward()

"""One side of a split step as a run makes it, timed: what a profile's segments leave out.

    device   forward | pack | rest | unpack | backward, step | rest
    server   unpack | forward, backward, step | pack | rest

Segments are timed on a pinned core that is kept warm, the same layer over and over. In a run every layer has weights of
its own, a side rests while the other one computes, nothing is pinned, garbage is collected, the optimizer steps and
Python goes from layer to layer. A plan takes its times from segments and corrects them by what rehearsals of the same
sitting took (`card/problem/rehearsals.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from cardlab.core.quantity import MEASURED
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.board.rules import MIN_CLEAN
from cardlab.profilers.board.timer import LapSample, LapTimer
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.measure.estimate import REHEARSAL_S
from cardlab.profilers.measure.samples import LapTiming, lap_timing
from cardlab.profilers.runtime.segments import synchronizer
from cardlab.split.adapters import LayerState, initial_adapters, pack_adapters, size_bytes, unpack_adapters
from cardlab.split.codecs.base import Packed
from cardlab.split.codecs.registry import pack_tensor, unpack_tensor
from cardlab.split.halves import Half
from cardlab.split.recipe import Recipe
from cardlab.split.weights import Weights

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")
DEVICE, SERVER = "device", "server"
STEPS = 10
# The first step allocates and is kept apart; the second one still meets cold memory.
_WARM = 2
_HANDLINGS = 5
# A side waits for as long as the other one computes. More than half a second changes nothing any more, less than 10 ms
# would not let the core go to sleep.
_REST_LEAST_S, _REST_MOST_S = 0.01, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SideReading:
    """What one side took at one cut, seconds.

    Attributes:
        cut, side: where.
        compute: of a mini-batch, the optimizer's step included.
        encode, decode: of a mini-batch's tensors without a codec.
        handling: of a round's adapters, beside sending them.
        load_s: of all its layers and what else that side holds, from nothing.
        first_more_s: what the first step with these layers took more than those after it, with what those at the cuts
            before took more.
        smashed_bytes: of a packed activation.
        adapter_bytes: of the device's adapters with their optimizer state.
    """

    cut: int
    side: str
    compute: LapTiming
    encode: LapTiming
    decode: LapTiming
    handling: LapTiming
    load_s: float
    first_more_s: float
    smashed_bytes: int
    adapter_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is rehearsed: a task, how it is computed, with which weights, where, and who takes the time."""

    task: Task
    execution: Execution
    weights: Weights
    torch_device: str
    timer: LapTimer


def rehearse(
    subject: Subject, side: str, cuts: Sequence[int], hold: Callable[[], None] = lambda: None
) -> Iterator[SideReading]:
    """Readings of one side cut by cut. `hold` is called before each step: it may raise to end it all."""
    # Made-up weights are written to their files when they are read first, which no run has to do after this one.
    _half(subject, side).set_cut(max(cuts) if side == DEVICE else min(cuts))
    half = _half(subject, side)
    loaded_s = first_s = 0.0
    for cut in cuts:
        hold()
        begin_s = time.perf_counter()
        half.set_cut(cut)
        loaded_s += time.perf_counter() - begin_s
        found = _Side(subject, half).reading(hold)
        # What a step takes memory for is there afterwards: of the next cut only its further layers are new.
        first_s += found.first_more_s
        yield replace(found, load_s=loaded_s, first_more_s=first_s)


def _half(subject: Subject, side: str) -> Half:
    recipe = Recipe(learning_rate=1e-4)
    return Half(subject.task, subject.execution, subject.weights, side, recipe, torch_device=subject.torch_device)


@dataclass
class _Samples:
    """Laps of one kind, in order."""

    laps: list[LapSample] = field(default_factory=list)

    def timing(self, name: str) -> LapTiming:
        return lap_timing(name, self.laps, 1, False, MEASURED)


class _Side:
    """One side at one cut."""

    def __init__(self, subject: Subject, half: Half) -> None:
        self._half, self._task, self._timer = half, subject.task, subject.timer
        self._wire = subject.execution.dtype
        self._work = Work(segment="rehearsal", laps=(), synchronize=synchronizer(subject.torch_device))
        self._compute, self._encode, self._decode, self._handling = (_Samples() for _ in range(4))
        self._adapters = initial_adapters(subject.task, 0)

    def reading(self, hold: Callable[[], None]) -> SideReading:
        half = self._half
        half.load(self._adapters)
        smashed = self._smashed()
        begin_s, first_s = time.perf_counter(), 0.0
        number = 0
        while not self._enough(time.perf_counter() - begin_s):
            hold()
            half.clock.step = number
            taken = (self._device_step if half.side == DEVICE else self._server_step)(smashed)
            if number == 0:
                first_s = taken[0].wall_s
            if number >= _WARM:
                for samples, lap in zip((self._compute, self._encode, self._decode), taken, strict=True):
                    samples.laps.append(lap)
            number += 1
        adapter_bytes = self._handle()
        return SideReading(
            cut=half.cut,
            side=half.side,
            compute=self._compute.timing("compute"),
            encode=self._encode.timing("encode"),
            decode=self._decode.timing("decode"),
            handling=self._handling.timing("handling"),
            load_s=0.0,
            first_more_s=max(first_s - median(lap.wall_s for lap in self._compute.laps), 0.0),
            smashed_bytes=len(smashed.data),
            adapter_bytes=adapter_bytes,
        )

    def _enough(self, elapsed_s: float) -> bool:
        """Whether there are as many steps as wanted, five of them clean; of long or disturbed ones, as many as there is
        time for."""
        laps = self._compute.laps
        clean = sum(lap.clean for lap in laps)
        if len(laps) >= STEPS and clean >= MIN_CLEAN:
            return True
        return len(laps) >= MIN_CLEAN and elapsed_s > REHEARSAL_S

    def _smashed(self) -> Packed:
        """A tensor of the size of an activation or its gradient, as it travels."""
        import torch

        task = self._task
        shape = (task.batch, task.sequence, task.architecture.hidden_size)
        # Of the size that gradients and activations have: zeros or huge numbers compute at another speed.
        return pack_tensor(torch.randn(shape, generator=torch.Generator().manual_seed(0)), "none", self._wire)

    def _ids(self) -> torch.Tensor:
        import torch

        task = self._task
        return torch.randint(0, task.architecture.vocab_size, (task.batch, task.sequence))

    def _lap(self, run: Callable[[], _T]) -> tuple[LapSample, _T]:
        found: list[_T] = []
        lap = self._timer.time(Lap(phase="rehearsal", run=lambda: found.append(run())), self._work)
        return lap, found[0]

    def _device_step(self, smashed: Packed) -> tuple[LapSample, LapSample, LapSample]:
        half, ids = self._half, self._ids()
        ahead, activation = self._lap(lambda: half.forward(ids))
        encode, _ = self._lap(lambda: pack_tensor(activation, "none", self._wire))
        _rest(ahead.wall_s)
        decode, gradient = self._lap(lambda: unpack_tensor(smashed, tuple(activation.shape)))
        back, _ = self._lap(lambda: half.backward(activation, gradient))
        _rest(back.wall_s)
        return _together(ahead, back), encode, decode

    def _server_step(self, smashed: Packed) -> tuple[LapSample, LapSample, LapSample]:
        half, ids = self._half, self._ids()
        decode, activation = self._lap(lambda: unpack_tensor(smashed))
        compute, step = self._lap(lambda: half.train(activation, ids))
        encode, _ = self._lap(lambda: pack_tensor(step.gradient, "none", self._wire))
        _rest(compute.wall_s)
        return compute, encode, decode

    def _handle(self) -> int:
        """A round's adapters: the device's packed and unpacked, each side's own loaded; after steps, whose optimizer
        state travels too. Returns the size of the device's."""
        half, task = self._half, self._task
        own = half.export()
        # The other side's have an optimizer's state too, as large as that of a layer here.
        state = next(iter(own.values()))
        every = {n: LayerState(one.parameters, _like(one, state), {}) for n, one in self._adapters.items()} | own
        numbers = range(half.cut)
        packed = pack_adapters({n: every[n] for n in numbers})

        def device() -> None:
            half.load(unpack_adapters(packed, task, numbers))
            pack_adapters(half.export())

        def server() -> None:
            half.load(every)
            pack_adapters({n: every[n] for n in numbers})

        for _ in range(_HANDLINGS):
            lap, _none = self._lap(device if half.side == DEVICE else server)
            self._handling.laps.append(lap)
        return size_bytes({n: every[n] for n in numbers})


def _like(one: LayerState, state: LayerState) -> dict[str, dict[str, torch.Tensor]]:
    """Moments for the parameters of a layer, as another layer's have them."""
    return {
        name: {key: tensor.clone() for key, tensor in state.moments[name].items()}
        for name, parameter in one.parameters.items()
        if name in state.moments and state.parameters[name].shape == parameter.shape
    }


def _together(first: LapSample, second: LapSample) -> LapSample:
    known = [s for s in (first.involuntary_switches, second.involuntary_switches) if s is not None]
    cpu = [c for c in (first.cpu_s, second.cpu_s) if c is not None]
    return LapSample(
        wall_s=first.wall_s + second.wall_s,
        cpu_s=sum(cpu) if len(cpu) == 2 else None,
        involuntary_switches=sum(known) if len(known) == 2 else None,
    )


def _rest(seconds: float) -> None:
    time.sleep(min(max(seconds, _REST_LEAST_S), _REST_MOST_S))

"""The works that are timed: segments in plain torch, chained as cardlab chains them, and the equivalent step."""

import resource
from pathlib import Path
from typing import Callable, Iterator, List, Optional

import torch

from ..board.execution import accelerator, cpu_dtypes, cpu_flags, cuda_dtypes, torch_release
from ..board.files import read_text
from ..board.segments import EQUIVALENT_STEP, REFERENCE_SHAPE, chain_length
from ..board.work import Lap, Work
from .layers import DecoderLayer, Embedding, Head, Job, prepare, rotary_tables


class Bench:
    """Builds the works of a job on one torch device, one after the other.

    Args:
        job: what `cardlab.profilers.measure.job` wrote: dimensions, LoRA, batch and sequence.
        execution: dtype and attention kernel.
        device: "cpu" or "cuda".
    """

    def __init__(self, job: Job, execution: Job, device: str) -> None:
        self.job, self.kernel, self.device = job, execution["attention"], device
        self.dtype = getattr(torch, execution["dtype"])
        self.adapter_dtype = getattr(torch, job["lora"]["dtype"])
        self.shape = (job["batch"], job["sequence"], job["architecture"]["hidden_size"])
        self.rotary = rotary_tables(job, job["sequence"], self.dtype, device)

    def segments(self) -> Iterator[Work]:
        """Every segment as a work; one is in memory at a time."""
        yield self._embedding()
        chain = chain_length(self.job["architecture"]["layers"])
        yield self._layers("first_layer", chain, first=True)
        yield self._layers("layer", chain, first=False)
        yield self._head()

    def _new(self, module: torch.nn.Module) -> torch.nn.Module:
        return prepare(module, self.dtype, self.adapter_dtype, self.device)

    def _ids(self) -> torch.Tensor:
        vocabulary = self.job["architecture"]["vocab_size"]
        return torch.randint(0, vocabulary, self.shape[:2], dtype=torch.int64, device=self.device)

    def _hidden(self, needs_gradient: bool) -> torch.Tensor:
        return torch.randn(self.shape, device=self.device).to(self.dtype).requires_grad_(needs_gradient)

    def _embedding(self) -> Work:
        module, ids = self._new(Embedding(self.job, self.dtype)), self._ids()
        return self._work("embedding", 1, [Lap(phase="forward", run=lambda: module(ids))], lambda: None)

    def _layers(self, name: str, chain: int, first: bool) -> Work:
        layers = [self._new(DecoderLayer(self.job, self.kernel)) for _ in range(1 if first else chain)]
        hidden = self._hidden(not first)
        kept = []  # type: List[torch.Tensor]
        gradient = torch.ones_like(hidden)

        def forward() -> None:
            # An input without gradient makes the first layer what it is, and the output of one has a gradient:
            # side by side instead of in a chain.
            if first:
                kept.extend(layers[0](hidden, self.rotary) for _ in range(chain))
                return
            states = hidden
            for layer in layers:
                states = layer(states, self.rotary)
            kept.append(states)

        def backward() -> None:
            while kept:
                kept.pop().backward(gradient)

        laps = [Lap(phase="forward", run=forward), Lap(phase="backward", run=backward)]
        return self._work(name, chain, laps, _resetter(layers, kept, hidden))

    def _head(self) -> Work:
        head, hidden, ids = self._new(Head(self.job)), self._hidden(True), self._ids()
        kept = []  # type: List[torch.Tensor]
        laps = [
            Lap(phase="forward", run=lambda: kept.append(head(hidden, ids))),
            Lap(phase="backward", run=lambda: kept.pop().backward()),
        ]
        return self._work("head", 1, laps, _resetter([head], kept, hidden))

    def equivalent_step(self) -> Work:
        """L x one layer and the head, forward and backward: what power is measured on."""
        layer, head = self._new(DecoderLayer(self.job, self.kernel)), self._new(Head(self.job))
        hidden, ids = self._hidden(True), self._ids()
        count = self.job["architecture"]["layers"]

        def step() -> None:
            states = hidden
            for _ in range(count):
                states = layer(states, self.rotary)
            head(states, ids).backward()

        return self._work(EQUIVALENT_STEP, 1, [Lap(phase="step", run=step)], _resetter([layer, head], [], hidden))

    def reference(self) -> Work:
        """The fixed product before every sample."""
        rows, inner, columns = REFERENCE_SHAPE
        left = torch.randn(rows, inner, device=self.device).to(self.dtype)
        right = torch.randn(inner, columns, device=self.device).to(self.dtype)
        # Made once: a yardstick must not pay for an allocation.
        product = torch.empty(rows, columns, dtype=self.dtype, device=self.device)
        lap = Lap(phase="run", run=lambda: torch.mm(left, right, out=product))
        return self._work("reference", 1, [lap], lambda: None)

    def _work(self, name: str, repeats: int, laps: List[Lap], reset: Callable[[], None]) -> Work:
        return Work(segment=name, laps=tuple(laps), repeats=repeats, synchronize=self._synchronize, reset=reset)

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _resetter(modules: List[torch.nn.Module], kept: List[torch.nn.Module], hidden: torch.Tensor) -> Callable[[], None]:
    def reset() -> None:
        del kept[:]
        hidden.grad = None
        for module in modules:
            for parameter in module.parameters():
                parameter.grad = None

    return reset


def resolve(job: Job, dtype: str, device: str, threads: int) -> Job:
    """The execution record: dtype (auto: what the device computes natively), kernel, torch, accelerator."""
    if dtype == "auto":
        if device == "cuda":
            dtype = cuda_dtypes(torch.cuda.get_device_capability())[0]
        else:
            dtype = cpu_dtypes(cpu_flags(read_text(Path("/proc/cpuinfo"))))[0]
    # Came with torch 2.0; boards of JetPack 4 and 5 often have 1.10 to 1.13.
    fused = hasattr(torch.nn.functional, "scaled_dot_product_attention")
    return {
        "dtype": dtype,
        "attention": "sdpa" if fused and job["attention"] != "eager" else "eager",
        "threads": threads,
        "torch": torch_release(torch.__version__),
        "accelerator": accelerator(torch.version.cuda if device == "cuda" else None),
    }


def framework_bytes(device: str, before_bytes: Optional[int], meminfo: Callable[[], Optional[int]]) -> Optional[int]:
    """Memory that torch and its context take before any weight is there, after a small product.

    On a CPU the resident size of this process; with a GPU that shares the host's memory what has become
    unavailable since before torch was loaded.
    """
    # The context and the libraries of products are loaded by the first one.
    small = torch.ones(64, 64, device=device)
    torch.mm(small, small)
    if device == "cuda":
        torch.cuda.synchronize()
        after_bytes = meminfo()
        return None if before_bytes is None or after_bytes is None else max(0, before_bytes - after_bytes)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def cuda_facts() -> Job:
    """What torch says of the GPU."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "sm_count": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
    }

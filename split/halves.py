"""One side of a cut model: frozen weights from disk, adapters of its layers, one optimizer.

    device:  ids -> embedding -> layers 1..c -> smashed data        ... gradient -> backward -> step
    server:  smashed data -> layers c+1..L -> head -> loss          -> backward -> gradient, step

The family adapter cuts transformers' own model, so its mask and rotary code runs. Moving the cut loads the layers
that come and releases those that leave; nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from cardlab.core.errors import RunError
from cardlab.core.records.task import Execution, Task
from cardlab.profilers.runtime.build import build_meta, enable_checkpointing, make_room, move_buffers, release
from cardlab.profilers.runtime.extras import make_optimizer
from cardlab.profilers.runtime.heap import settle_heap
from cardlab.profilers.runtime.kept import KeptMap, kept_maps, weight_bytes
from cardlab.profilers.runtime.rows import is_read_by_rows, read_from, reads_rows
from cardlab.profilers.runtime.segments import synchronizer
from cardlab.split.adapters import AdapterSet, LayerState
from cardlab.split.batches import Rows, joined
from cardlab.split.recipe import Recipe, Weight
from cardlab.split.refusals import NotFiniteError
from cardlab.split.settings import check_cut
from cardlab.split.weights import Weights

# Activations and a fragmented heap, as a multiple of the weights of one side.
_ROOM = 2.0
# Every row one text of full length, as windows of a text are.
_PLAIN = Rows()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStep:
    """What a mini-batch gave on the server.

    Attributes:
        loss: mean over its tokens that have one.
        gradient: of the smashed data [B, S, h].
        norms: of this side's gradients, tensor by tensor, where a clipped step waits for the device's; else None.
    """

    loss: float
    gradient: torch.Tensor
    norms: tuple[float, ...] | None = None


class Half:
    """One side, without layers until `set_cut`.

    Args:
        side: "device" or "server".
        recipe: how gradients become steps.
        torch_device: where it computes ("cpu", "cuda:0").

    Attributes:
        cut: 0 before the first `set_cut`.
        keeps_loaded: layers that leave keep their memory, where the cut goes back and forth.
        clock: says which mini-batch is computed; LoRA dropout is off until it does.
        note: is told what a person must know of how it computes.
    """

    def __init__(
        self,
        task: Task,
        execution: Execution,
        weights: Weights,
        side: str,
        recipe: Recipe,
        *,
        torch_device: str = "cpu",
    ) -> None:
        self.task, self.side = task, side
        self.cut = 0
        self.keeps_loaded = False
        self.note: Callable[[str], None] = lambda _text: None
        self._packing_known = False
        self._weights, self._execution, self._where = weights, execution, torch_device
        self._recipe = recipe
        self._synchronize = synchronizer(torch_device)
        if execution.quantization is not None:
            # Before weights are quantised, which takes and drops large blocks too.
            settle_heap(execution, 0)
        self._built = build_meta(task, execution)
        self._family = self._built.family
        self._layers = self._built.layers
        self._ready: set[int] = set()
        self.clock = self._built.clock
        self.clock.seed, self.clock.step = recipe.seed, None
        self._part: torch.nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        paths = self._family.embedding_paths if side == "device" else (self._family.norm_path, self._family.head_path)
        # Cutting replaces modules of the model, so those of this side are kept by hand.
        self._fixed = {path: self._built.part(path) for path in paths}

    @property
    def numbers(self) -> range:
        """Layers of this side, from 0."""
        return range(self.cut) if self.side == "device" else range(self.cut, len(self._layers))

    @property
    def layers(self) -> tuple[torch.nn.Module, ...]:
        """All layers of the model; those that this side does not hold are on the meta device."""
        return self._layers

    def set_cut(self, cut: int) -> None:
        """Move the cut: fetch the layers that come, release those that leave.

        Raises UsageError for a cut outside 1..L-1, RunError for weights that are missing.
        """
        check_cut(self.task, cut)
        if cut == self.cut:
            return
        first, self.cut = self._part is None, cut
        part = self._built.device_part(cut) if self.side == "device" else self._built.server_part(cut)
        self._part = part
        # Embedding or head stay where the cut goes.
        if first:
            self._load_fixed()
            move_buffers(part, self._where)
        for number in () if self.keeps_loaded else sorted(self._ready - set(self.numbers)):
            release(self._layers[number])
            self._ready.discard(number)
        for number in self.numbers:
            if number not in self._ready:
                prefix = f"{self._family.layer_path}.{number}"
                self._fill(f"layer-{number}", {prefix: self._layers[number]})
                self._ready.add(number)
        if self.task.gradient_checkpointing:
            enable_checkpointing(part)
        part.train()
        # It knows the parameters of the layers that left; `load` makes another.
        self._optimizer = None
        self._hold_memory()

    def _hold_memory(self) -> None:
        """Do with freed memory as profiles do, so that a step costs here what it cost there."""
        modules = [*self._fixed.values(), *(self._layers[number] for number in self.numbers)]
        held = sum(weight_bytes(module) for module in modules)
        settle_heap(self._execution, held, _ROOM)

    def _load_fixed(self) -> None:
        # A checkpoint with tied embeddings has no tensor of its own for the head.
        tied = self.task.architecture.tied_embeddings and self.side == "server"
        modules = {
            self._family.embedding_paths[0] if tied and path == self._family.head_path else path: module
            for path, module in self._fixed.items()
        }
        if self.side == "device":
            self._read_rows(modules)
        self._fill("embedding" if self.side == "device" else "head", modules)

    def _read_rows(self, modules: dict[str, torch.nn.Module]) -> None:
        """Let a large embedding read its rows from the file of the weights."""
        path = self._family.embedding_paths[0]
        if not reads_rows(weight_bytes(modules[path]), self._execution):
            return
        shapes = {f"{p}.{name}": tuple(t.shape) for p, module in modules.items() for name, t in _weights_of(module)}
        rows = self._weights.rows("embedding", shapes, f"{path}.weight", self._execution.dtype)
        if rows is not None:
            read_from(modules[path], rows, self._built.dtype)

    def _fill(self, group: str, modules: dict[str, torch.nn.Module]) -> None:
        """Memory and weights for these modules by checkpoint name; LoRA tensors wait for `load`."""
        wanted: dict[str, torch.Tensor] = {}
        kept: dict[str, KeptMap] = {}
        for prefix, module in modules.items():
            make_room(module, self._where)
            kept |= {_in_checkpoint(f"{prefix}.{path}.weight"): part for path, part in kept_maps(module)}
            if not is_read_by_rows(module):
                wanted |= {_in_checkpoint(f"{prefix}.{name}"): tensor for name, tensor in _weights_of(module)}
        for name in list(kept):
            stored = self._weights.packed(name)
            if stored is not None:
                kept.pop(name).keep_stored(stored, self._where)
                del wanted[name]
        shapes = {n: tuple(p.shape) for n, p in wanted.items()}
        with torch.no_grad():
            for name, tensor in self._weights.each(group, shapes, self._execution.dtype):
                if name in kept:
                    kept[name].keep(tensor, self._where)
                else:
                    wanted[name].copy_(tensor)

    def magnitudes(self, layer: int) -> dict[str, torch.Tensor]:
        """Lengths of the rows of a layer's adapted weights, by module path, wherever that layer runs (DoRA)."""
        family, architecture = self._family, self.task.architecture
        prefix = f"{family.layer_path}.{layer}."
        shapes = {n: s for n, s in family.parameters(architecture).items() if n.startswith(prefix)}
        read = self._weights.read(f"layer-{layer}", shapes, self._execution.dtype)
        found = {}
        for path in family.layer_maps(architecture, layer):
            if self.task.lora.adapts(path):
                weight = read[f"{prefix}{path}.weight"]
                # GPT-2's Conv1D keeps inputs x outputs.
                found[path] = torch.linalg.norm(weight.T if family.name == "gpt2" else weight, dim=1)
        return found

    def load(self, adapters: AdapterSet) -> None:
        """Take over the adapters and optimizer state of this side's layers; others are ignored."""
        trainable = []
        states: list[tuple[torch.nn.Parameter, dict[str, torch.Tensor]]] = []
        with torch.no_grad():
            for number in self.numbers:
                parameters = dict(self._layers[number].named_parameters())
                for name, tensor in adapters[number].parameters.items():
                    parameter = parameters[name]
                    parameter.copy_(tensor)
                    # A gradient of the device before would enter this one's step.
                    waiting = adapters[number].gradients.get(name)
                    parameter.grad = None if waiting is None else waiting.to(parameter.device, copy=True)
                    trainable.append(parameter)
                    moments = adapters[number].moments.get(name)
                    if moments:
                        states.append((parameter, moments))
        optimizer = make_optimizer(
            self.task.optimizer, trainable, self._recipe.learning_rate, self._recipe.weight_decay
        )
        for parameter, moments in states:
            optimizer.state[parameter] = {
                key: tensor.clone().to("cpu" if key == "step" else parameter.device) for key, tensor in moments.items()
            }
        self._optimizer = optimizer

    def export(self) -> AdapterSet:
        """Adapters, optimizer state and waiting gradients of this side's layers as they are now, on the CPU."""
        found: AdapterSet = {}
        for number in self.numbers:
            state = LayerState({})
            for name, parameter in self._layers[number].named_parameters():
                if not parameter.requires_grad:
                    continue
                state.parameters[name] = parameter.detach().to("cpu", copy=True)
                moments = {} if self._optimizer is None else self._optimizer.state.get(parameter, {})
                kept = {k: v.detach().to("cpu", copy=True) for k, v in moments.items() if torch.is_tensor(v)}
                if kept:
                    state.moments[name] = kept
                if parameter.grad is not None:
                    state.gradients[name] = parameter.grad.detach().to("cpu", copy=True)
            found[number] = state
        return found

    def forward(self, ids: torch.Tensor, rows: Rows = _PLAIN) -> torch.Tensor:
        """Device: smashed data [B, S, h] of token numbers [B, S], whose rows are read as `rows` says."""
        said = self._said(rows)
        with self._computing():
            activation = self._model()(input_ids=ids.to(self._where), **said, use_cache=False).last_hidden_state
        # A GPU works on after the call returns; the time belongs to this term.
        self._synchronize()
        return activation

    def backward(
        self, activation: torch.Tensor, gradient: torch.Tensor, norms: Sequence[float] | None = None
    ) -> tuple[float, ...] | None:
        """Device: back through the layers, and one optimizer step where one is due.

        `norms`: those of the server's gradients, of a step that is clipped. Returns this side's then, which the server
        needs for the same step. Raises NotFiniteError for one that is not finite.
        """
        activation.backward(gradient=gradient.to(self._where, activation.dtype))
        if not self._recipe.ends_step(self.clock.step):
            self._synchronize()
            return None
        if self._recipe.max_norm is None:
            self._step(self.clock.step)
            return None
        own = self._norms()
        self._clip([*own, *(norms or ())])
        self._step(self.clock.step)
        return own

    def finish_step(self, number: int, norms: Sequence[float]) -> float:
        """Server: the step of mini-batch `number` that waited for these norms of the device's gradients.

        Returns the norm of the whole model's gradient before it was clipped.
        """
        norm = self._clip([*norms, *self._norms()])
        self._step(number)
        return norm

    def _norms(self) -> tuple[float, ...]:
        """Euclidean norms of this side's gradients, tensor by tensor in the model's order (0 where there is none).

        Raises NotFiniteError.
        """
        parts = [p for number in self.numbers for p in self._layers[number].parameters() if p.requires_grad]
        found = tuple(0.0 if p.grad is None else float(torch.linalg.vector_norm(p.grad, 2.0)) for p in parts)
        if not all(norm < float("inf") for norm in found):
            raise NotFiniteError
        return found

    def _clip(self, norms: Sequence[float]) -> float:
        """Scale this side's gradients as `clip_grad_norm_` does those of the whole model, whose norms these are."""
        most = self._recipe.max_norm
        # Of all norms in their order and in one call, as torch does it: two sums of squares would round otherwise.
        total = torch.linalg.vector_norm(torch.tensor(norms, dtype=torch.float32), 2.0)
        if most is not None:
            factor = torch.clamp(most / (total + 1e-6), max=1.0)
            for number in self.numbers:
                for parameter in self._layers[number].parameters():
                    if parameter.requires_grad and parameter.grad is not None:
                        parameter.grad.mul_(factor.to(parameter.grad.device))
        return float(total)

    def _computing(self) -> torch.autocast:
        """What a forward pass runs in."""
        name = self._recipe.autocast
        dtype: torch.dtype = getattr(torch, name or "bfloat16")
        return torch.autocast(self._where.partition(":")[0], dtype=dtype, enabled=name is not None)

    def _said(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Mask and positions as transformers' models take them; what is not said is their own business."""
        if rows.positions is not None and not self._packing_known:
            self._packing_known = True
            self._try_packing()
        said = {"attention_mask": rows.mask, "position_ids": rows.positions}
        return {name: tensor.to(self._where) for name, tensor in said.items() if tensor is not None}

    def _try_packing(self) -> None:
        """Say it where the layers of this side let packed samples see each other."""
        step, self.clock.step = self.clock.step, None
        try:
            with torch.no_grad():
                mixed = self._second_sample_differs()
        finally:
            self.clock.step = step
        if mixed:
            self.note(
                f"the {self.side}'s layers of {self.task.model} do not keep the samples of a packed row apart: a token"
                " sees those of the samples before its own (without --packing each has a row of its own)"
            )

    def _second_sample_differs(self) -> bool:
        """Whether what comes of the second sample of a packed row depends on the first."""
        a, model = self.task.architecture, self._model()
        positions = torch.tensor([[0, 1, 0, 1]], device=self._where)
        draw = torch.Generator().manual_seed(0)
        if self.side == "device":
            row = torch.randint(0, a.vocab_size, (1, 4), generator=draw)
            other = torch.cat([(row[:, :2] + a.vocab_size // 2) % a.vocab_size, row[:, 2:]], dim=1)
            one, two = (
                model(input_ids=ids.to(self._where), position_ids=positions, use_cache=False).last_hidden_state
                for ids in (row, other)
            )
        else:
            hidden = torch.randn((1, 4, a.hidden_size), generator=draw)
            changed = torch.cat([-hidden[:, :2], hidden[:, 2:]], dim=1)
            one, two = (
                model(
                    inputs_embeds=h.to(self._where, self._built.dtype), position_ids=positions, use_cache=False
                ).logits
                for h in (hidden, changed)
            )
        difference, size = ((one - two)[:, 2:].float().norm(), one[:, 2:].float().norm())
        # Experts compute the tokens that come to them together: that alone moves the last bits.
        return bool(difference > 8.0 * torch.finfo(self._built.dtype).eps * size)

    def train(
        self, activation: torch.Tensor, ids: torch.Tensor, rows: Rows = _PLAIN, weight: float = 1.0
    ) -> ServerStep:
        """Server: loss and gradient of received smashed data, and one optimizer step where one is due and not clipped.

        Args:
            activation: smashed data [B, S, h].
            ids: labels [B, S]; -100 has no loss.
            rows: how they are read.
            weight: of its loss among those of the mini-batches that make one step.

        Raises NotFiniteError when the loss is not finite.
        """
        # A leaf of its own graph: its gradient is what goes back over the link.
        hidden = activation.to(self._where, self._built.dtype).requires_grad_(True)
        labels = ids.to(self._where)
        said = self._said(rows)
        with self._computing():
            loss = self._model()(inputs_embeds=hidden, labels=labels, **said, use_cache=False).loss
        (loss if weight == 1.0 else loss * weight).backward()
        value = float(loss.detach())
        if not abs(value) < float("inf"):
            raise NotFiniteError
        norms = None
        if self._recipe.ends_step(self.clock.step):
            if self._recipe.max_norm is None:
                self._step(self.clock.step)
            else:
                norms = self._norms()
        return ServerStep(loss=value, gradient=hidden.grad, norms=norms)

    def train_batched(
        self,
        activations: Sequence[torch.Tensor],
        ids: Sequence[torch.Tensor],
        rows: Sequence[Rows] = (),
        weights: Sequence[Weight] = (),
    ) -> list[ServerStep]:
        """Server: some devices' mini-batches as one, and a step on the weighted mean of their losses where one is due.

        Shorter ones are padded to the longest; `rows`: how each is read, () for full rows of one text; `weights`: what
        each counts for, () for all the same.

        Each step has the loss of its own mini-batch and the gradient of that loss. Raises NotFiniteError before
        anything is changed.
        """
        counted = weights or [Weight()] * len(activations)
        shares = _shares([weight.in_batch for weight in counted])
        sizes, widths = [int(a.shape[0]) for a in activations], [int(a.shape[1]) for a in activations]
        together = joined(rows or [_PLAIN] * len(sizes), widths, sizes)
        # One pass over all rows; losses apart, because their mean weighs devices and not tokens.
        moved = [_as_wide(a.to(self._where, self._built.dtype), max(widths)) for a in activations]
        hidden = torch.cat(moved).requires_grad_(True)
        said = self._said(together)
        with self._computing():
            logits = self._model()(inputs_embeds=hidden, **said, use_cache=False).logits
        losses = [
            _next_token_loss(own[:, :width], row.to(self._where))
            for own, width, row in zip(logits.split(sizes), widths, ids, strict=True)
        ]
        values = [float(loss.detach()) for loss in losses]
        wrong = tuple(n for n, value in enumerate(values) if not abs(value) < float("inf"))
        if wrong:
            raise NotFiniteError(wrong)
        parts = [
            loss if weight.in_step == 1.0 else loss * weight.in_step
            for loss, weight in zip(losses, counted, strict=True)
        ]
        if shares is None:
            torch.stack(parts).mean().backward()
        else:
            torch.stack([part * share for part, share in zip(parts, shares, strict=True)]).sum().backward()
        if self._recipe.ends_step(self.clock.step):
            self._step(self.clock.step)
        # Undo the mean: each device gets the gradient of its own loss.
        factors = [float(len(losses))] * len(losses) if shares is None else [1.0 / share for share in shares]
        return [
            ServerStep(loss=value, gradient=gradient[:, :width] * factor)
            for value, gradient, width, factor in zip(values, hidden.grad.split(sizes), widths, factors, strict=True)
        ]

    def loss(self, activation: torch.Tensor, ids: torch.Tensor, rows: Rows = _PLAIN) -> torch.Tensor:
        """Server: loss of received smashed data, nothing trained; a clock at None leaves dropout off."""
        hidden = activation.to(self._where, self._built.dtype)
        labels, said = ids.to(self._where), self._said(rows)
        with self._computing():
            return self._model()(inputs_embeds=hidden, labels=labels, **said, use_cache=False).loss

    def _model(self) -> torch.nn.Module:
        if self._part is None:
            raise RunError("this side of the model has no layers yet", remedy="set the cut first")
        return self._part

    def _step(self, number: int | None) -> None:
        if self._optimizer is None:
            raise RunError("no adapters were loaded after the cut moved", remedy="load them first")
        if self._recipe.rate is not None and number is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = self._recipe.rate(number)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._synchronize()


def _shares(weights: Sequence[float]) -> list[float] | None:
    """The weights as shares of their sum; None where all are the same."""
    return None if len(set(weights)) == 1 else [weight / sum(weights) for weight in weights]


def _weights_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a checkpoint holds of a module; buffers that it keeps are weights too: what routers add to their scores."""
    return ((name, t) for name, t in module.state_dict(keep_vars=True).items() if "lora_" not in name)


def _in_checkpoint(name: str) -> str:
    """The name of a parameter without what PEFT puts around its module."""
    return name.replace(".base_layer.", ".")


def _as_wide(hidden: torch.Tensor, width: int) -> torch.Tensor:
    """[B, S, h] with zeros behind up to that S."""
    more = width - hidden.shape[1]
    return torch.nn.functional.pad(hidden, (0, 0, 0, more)) if more else hidden


def _next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of predicting the next token, logits [B, S, V] and labels [B, S], as transformers does it."""
    # Labels move, not logits: a copy of them would be the largest tensor of the step.
    following = torch.nn.functional.pad(ids, (0, 1), value=-100)[:, 1:]
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), following.flatten(), ignore_index=-100)

"""The README.md of a folder of adapters: what they were trained from, on what, how, and what it cost.

The head is that of model cards on the Hub (base_model, library_name, tags), so that tools which list adapters know
them. Everything stands in the run's journal; what was not measured is N/A.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cardlab.core.records.training import best_quality, qualities
from cardlab.core.text import si
from cardlab.split.journal import Progress
from cardlab.split.rates import rate_words
from cardlab.split.settings import RunSettings

_NONE = "N/A"


def model_card(progress: Progress, weights: str) -> str:
    """The card of a run's adapters.

    Args:
        progress: of the run, with at least one finished turn.
        weights: where the frozen weights came from, in words.
    """
    settings = progress.settings
    # A path is nobody else's, and might be taken for a name on the Hub.
    named = not Path(settings.task.model).exists()
    base = {"base_model": settings.task.model} if named else {}
    head = {**base, "library_name": "peft", "tags": ["lora", "split-learning", "cardlab"]}
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# LoRA adapters of {settings.task.model}", ""]
    state = "" if progress.done else f" (unfinished: {progress.closed} of {settings.rounds} rounds)"
    lines += [f"Trained by split learning with cardlab {settings.version}, run {settings.run}{state}.", ""]
    lines += [*_training(progress, weights), "", *_devices(progress), "", *_cost(progress)]
    return "\n".join(lines) + "\n"


def _training(progress: Progress, weights: str) -> list[str]:
    settings, task = progress.settings, progress.settings.task
    rate = rate_words(settings) or f"learning rate {settings.learning_rate:g}"
    rate += _before(progress.rates)
    kept = "" if settings.quantization is None else f", kept in {settings.quantization} on the server"
    order = f"at once, server {settings.server_sharing}" if settings.parallel else "one after the other"
    lines = [
        "## Training",
        "",
        f"* Frozen weights: {weights}{kept}; fingerprint {settings.weights[:12] or _NONE}.",
        f"* {task.lora.words} (alpha {task.lora.alpha:g}) on {', '.join(task.lora.targets)}, {task.lora.dtype}.",
        f"* {settings.rounds} round(s) of {settings.epochs} mini-batch(es) a device, devices {order};"
        f" mini-batches of {task.batch} x {task.sequence} tokens; seed {settings.seed}.",
        f"* {task.optimizer}, {rate}, weight decay {settings.weight_decay:g}{_steps(settings)}; the server computes in"
        f" {settings.dtype or _NONE}{'' if settings.autocast is None else f' under autocast to {settings.autocast}'}.",
        f"* On the link: {settings.wire_dtype}, codec {settings.codec}"
        f"{', with error feedback' if settings.error_feedback else ''}.",
    ]
    return lines + ([f"* Began with the adapters of {settings.adapters}."] if settings.adapters else [])


def _steps(settings: RunSettings) -> str:
    gathered = f", {settings.accumulate} mini-batches a step" if settings.accumulate > 1 else ""
    return gathered + (
        "" if settings.max_grad_norm is None else f", gradients clipped to the norm {settings.max_grad_norm:g}"
    )


def _before(rates: Sequence[tuple[int, float]]) -> str:
    """Learning rates of earlier rounds, where there were others."""
    spans = [
        f"{rate:g} in round(s) {first} to {after - 1}"
        for (first, rate), (after, _) in zip(rates, rates[1:], strict=False)
    ]
    return f" from round {rates[-1][0]} on ({', '.join(spans)})" if spans else ""


def _devices(progress: Progress) -> list[str]:
    """A line a device: its data, cuts, and loss at the first and last of its rounds."""
    plan = progress.settings.plan
    source = "given by hand" if plan is None else f"by plan {plan[:12]}"
    lines = ["## Devices", "", f"Cuts (layers on the device) {source}.", ""]
    lines += [
        "| device | data | rows | held out | a mini-batch | computes in | frozen weights | cuts | loss, first round"
        " | loss, last round |",
        f"|{'---|' * 10}",
    ]
    for name in dict.fromkeys(turn.device for turn in progress.turns):
        own = [turn for turn in progress.turns if turn.device == name]
        inputs = progress.inputs.get(name)
        data = _NONE if inputs is None else f"{inputs.names or _NONE} (digest {inputs.data[:12] or _NONE})"
        cuts = ", ".join(str(cut) for cut in dict.fromkeys(turn.cut for turn in own))
        kept = {"": _NONE, "none": "dense"}.get(form := "" if inputs is None else inputs.quantization, form)
        rows = [_NONE] * 4
        if inputs is not None:
            batch = inputs.batch or progress.settings.task.batch
            rows = [str(inputs.rows), str(inputs.held_out_rows), str(batch), inputs.dtype or _NONE]
        cells = (name, data, *rows, kept, cuts, f"{own[0].loss:.4f}", f"{own[-1].loss:.4f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cost(progress: Progress) -> list[str]:
    """Totals over all rounds, as observed, and what held-out rows say."""
    turns = progress.turns
    return [
        "## Cost, as observed",
        "",
        f"* Round delays, summed over devices: {si(sum(turn.delay_s for turn in turns), 's')}.",
        f"* Server energy: {_joules([turn.energy_j for turn in turns])}; devices' energy, together:"
        f" {_joules([turn.device_energy_j for turn in turns])}.",
        f"* Sent by devices: {si(float(sum(t.up_bytes + t.adapter_bytes for t in turns)), 'B')}; received by devices:"
        f" {si(float(sum(t.down_bytes + t.adapter_bytes for t in turns)), 'B')} (adapters included).",
        "",
        *_quality(progress),
    ]


def _joules(each: Sequence[float | None]) -> str:
    """Their sum; a sum of some of them would be taken for that of all."""
    known = [value for value in each if value is not None]
    return si(sum(known), "J") if len(known) == len(each) else _NONE


def _quality(progress: Progress) -> list[str]:
    found = qualities(progress.judged)
    best = best_quality(found.values())
    if best is None:
        return ["Training loss says nothing of held-out text; none was evaluated."]
    shown = dict.fromkeys((min(found), best.number, max(found)))
    lines = ["## Held-out rows", "", "| after round | loss | perplexity | accuracy | tokens |", "|---|---|---|---|---|"]
    lines += [
        f"| {number} | {found[number].loss:.4f} | {found[number].perplexity:.2f} | {found[number].accuracy:.1%} |"
        f" {found[number].tokens} |"
        for number in shown
    ]
    return [*lines, "", f"The loss was lowest after round {best.number}."]

"""A split run on the terminal and as JSON: rounds with their terms, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.cli.console import print_json, print_line, print_table
from cardlab.core.plain import Document
from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import Quality, best_quality
from cardlab.core.text import NOT_MEASURED, duration, milliseconds, percent, si
from cardlab.split.journal import FinishedTurn, Journal
from cardlab.split.settings import RunSettings
from cardlab.workflows.run import FinishedRun

# Of a long run the last rows stand for the rest, which --json has.
_MOST_ROWS = 40


def progress_line(settings: RunSettings, journal: Journal, turn: FinishedTurn) -> str:
    """One finished turn: loss, delay against the prediction, time left."""
    text = f"round {turn.round}/{settings.rounds} {turn.device} cut {turn.cut} loss {turn.loss:.4f}"
    text += f" delay {turn.delay_s:.3f} s"
    # Some of the terms are no prediction of the delay.
    predicted = sum(turn.predicted.values()) if len(turn.predicted) == len(TERMS) else None
    if predicted is not None:
        text += f" (predicted {predicted:.3f} s, {percent(predicted / turn.delay_s - 1.0)})"
    return f"{text}; {duration(left_s(settings, journal.turns))} left"


def left_s(settings: RunSettings, turns: Sequence[FinishedTurn]) -> float:
    """Seconds until the end of the run, as its last rounds went with whoever took part in them.

    While no round is over, what the first has taken so far stands for a round.
    """
    now = turns[-1].round
    took_s: dict[int, float] = {}
    for turn in reversed(turns):
        if turn.round < now - 3:
            break
        before_s = took_s.get(turn.round, 0.0)
        # Devices in parallel finish a round together.
        took_s[turn.round] = max(before_s, turn.elapsed_s) if settings.parallel else before_s + turn.elapsed_s
    so_far_s = took_s.pop(now)
    each_s = sum(took_s.values()) / len(took_s) if took_s else so_far_s
    return max(0.0, each_s - so_far_s) + (settings.rounds - now) * each_s


def print_run(done: FinishedRun, *, as_json: bool) -> None:
    """The whole run as JSON, or one line for each round and device."""
    if as_json:
        print_json(run_document(done))
        return
    settings, turns, task = done.settings, done.turns, done.settings.task
    # Few devices meter themselves, and the table is wide.
    metered = any(turn.device_energy_j is not None for turn in turns)
    own = ("device frequency", "device energy") if metered else ()
    print_table(
        f"run {settings.run[:12]}: {task.model} {task.batch} x {task.sequence}, {task.lora.words}, {task.optimizer},"
        f" {settings.epochs} mini-batch(es) a round, {settings.wire_dtype} on the link; times in ms",
        ("round", "device", "cut", "loss", "delay", *TERMS, "waiting", "frequency", "energy", *own),
        [(*_row(turn), *_own_row(turn)[: len(own)]) for turn in turns[-_MOST_ROWS:]],
        left=2,
    )
    if len(turns) > _MOST_ROWS:
        print_line(_summary(turns))
    best = best_quality(done.judged.values())
    if best is not None:
        first, last = (done.judged[number] for number in (min(done.judged), max(done.judged)))
        print_line(
            f"held-out loss {first.loss:.4f} after round {first.number}, {last.loss:.4f} after round {last.number};"
            f" lowest {best.loss:.4f} after round {best.number}"
        )
        if done.best_adapters is not None:
            print_line(f"adapters of lowest held-out loss: {done.best_adapters}")
    print_line(f"adapters for PEFT: {done.adapters}")
    print_line(f"next: card validate {settings.run[:12]}")


def _summary(turns: Sequence[FinishedTurn]) -> str:
    first, last = turns[0].round, turns[-1].round
    ends = [sum(own) / len(own) for n in (first, last) if (own := [t.loss for t in turns if t.round == n])]
    return (
        f"the last {_MOST_ROWS} of {len(turns)} turns of devices are shown, all are in --json; loss {ends[0]:.4f} in"
        f" round {first}, {ends[1]:.4f} in round {last}; delays sum to {duration(sum(t.delay_s for t in turns))}"
    )


def run_document(done: FinishedRun) -> Document:
    """The document of `card run --json` (keys fixed by the design, section 8)."""
    settings, rounds = done.settings, dict[int, list[Document]]()
    for turn in done.turns:
        rounds.setdefault(turn.round, []).append(
            {
                "device": turn.device,
                "cut": turn.cut,
                "loss": turn.loss,
                "delay_s": turn.delay_s,
                "delay_terms": dict(turn.terms),
                "waiting_s": turn.waiting_s,
                "elapsed_s": turn.elapsed_s,
                "losses": list(turn.losses),
                "tokens": turn.tokens,
                "gradient_norms": list(turn.gradient_norms) or None,
                "frequency_hz": turn.frequency_hz,
                "server_energy_j": turn.energy_j,
                "device_frequency_hz": turn.device_frequency_hz,
                "device_energy_j": turn.device_energy_j,
                "predicted_terms": dict(turn.predicted) or None,
            }
        )
    return {
        "run_id": settings.run,
        "plan_id": settings.plan,
        "rounds": [
            {"round": number, "eval_loss": None, **_judged(done.judged.get(number)), "devices": found}
            for number, found in sorted(rounds.items())
        ],
        "before": _judged(done.judged.get(0)) or None,
        "adapters": str(done.adapters.absolute()),
        "best_adapters": None if done.best_adapters is None else str(done.best_adapters.absolute()),
    }


def _judged(quality: Quality | None) -> Document:
    """What held-out rows say of a round; nothing where none were asked."""
    if quality is None:
        return {}
    return {
        "eval_loss": quality.loss,
        "eval_perplexity": quality.perplexity,
        "eval_accuracy": quality.accuracy,
        "eval_tokens": quality.tokens,
        "eval_s": quality.elapsed_s,
        "eval_up_bytes": quality.up_bytes,
    }


def _row(turn: FinishedTurn) -> tuple[str, ...]:
    return (
        str(turn.round),
        turn.device,
        str(turn.cut),
        f"{turn.loss:.4f}",
        milliseconds(turn.delay_s),
        *(milliseconds(turn.terms[term]) for term in TERMS),
        milliseconds(turn.waiting_s),
        NOT_MEASURED if turn.frequency_hz is None else si(turn.frequency_hz, "Hz"),
        si(turn.energy_j, "J"),
    )


def _own_row(turn: FinishedTurn) -> tuple[str, str]:
    """What the device read of itself."""
    hz = turn.device_frequency_hz
    return NOT_MEASURED if hz is None else si(hz, "Hz"), si(turn.device_energy_j, "J")

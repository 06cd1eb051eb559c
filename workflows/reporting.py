"""A run's rounds for the tools that people follow trainings with: one class a target, `--report-to` names them.

    csv           OUT/metrics.csv, a row for each round and device; a run that goes on writes it anew from its journal
    tensorboard   OUT/tensorboard; likewise
    trackio       in trackio's own folder on this machine
    wandb         in OUT/wandb, offline

Names are those of transformers' Trainer (`train/loss`, `eval/loss`, `train/global_step`), so that runs stand beside its
own; what only a split run has is under `cardlab/`. Nothing is sent anywhere unless the user's own settings ask for it
(WANDB_MODE, TRACKIO_SPACE_ID). A target that fails while a run goes on is said once and left out.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TextIO

from cardlab.core.errors import MissingDependencyError, UsageError
from cardlab.core.plain import Document, to_plain
from cardlab.core.records.plan import TERMS
from cardlab.core.records.training import Quality, qualities
from cardlab.split.journal import FinishedTurn, Progress
from cardlab.split.rates import CONSTANT, rate_of
from cardlab.split.settings import RunSettings
from cardlab.workflows.connect import Say, silent

NONE = "none"
TARGETS = ("csv", "tensorboard", "trackio", "wandb")
CSV_NAME = "metrics.csv"
STEP = "train/global_step"
# Attributes of a finished turn that not every run has, and what they are called; None and not there are the same.
OPTIONAL: Mapping[str, str] = {
    "grad_norm": "train/grad_norm",
    "tokens": "cardlab/tokens",
}
# Attributes of what held-out rows say of a round.
EVALUATED: Mapping[str, str] = {
    "loss": "eval/loss",
    "perplexity": "eval/perplexity",
    "accuracy": "eval/mean_token_accuracy",
    "elapsed_s": "eval/runtime",
}
MEASURED: Mapping[str, str] = {
    "delay_s": "cardlab/delay_s",
    "waiting_s": "cardlab/waiting_s",
    "elapsed_s": "cardlab/elapsed_s",
    "energy_j": "cardlab/server_energy_j",
    "power_w": "cardlab/server_power_w",
    "frequency_hz": "cardlab/server_frequency_hz",
    "device_energy_j": "cardlab/device_energy_j",
    "device_frequency_hz": "cardlab/device_frequency_hz",
    "up_bytes": "cardlab/up_bytes",
    "down_bytes": "cardlab/down_bytes",
    "adapter_bytes": "cardlab/adapter_bytes",
    "rtt_s": "cardlab/rtt_s",
    "cut": "cardlab/cut",
}
# Every column is there from the begin, so that a value that comes late has its place.
COLUMNS = (
    *("run", "cardlab/round", "cardlab/device", STEP, "train/loss", "train/learning_rate"),
    *EVALUATED.values(),
    *(name for name in OPTIONAL.values() if not name.startswith("cardlab/")),
    *MEASURED.values(),
    *(f"cardlab/{term}_s" for term in TERMS),
    *(name for name in OPTIONAL.values() if name.startswith("cardlab/")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One round of one device.

    Attributes:
        step: of the optimizer, as transformers counts: of all devices one after the other, of this one in parallel.
        values: by name; what is not known is left out.
    """

    round: int
    device: str
    step: int
    values: Mapping[str, float]

    def by_device(self) -> dict[str, float]:
        """As `values`, with the device in the names of what is its own: several would be one curve."""
        return {
            f"cardlab/{self.device}/{name.removeprefix('cardlab/')}" if name.startswith("cardlab/") else name: value
            for name, value in self.values.items()
        }


class Target(Protocol):
    """Where entries go."""

    name: str

    def add(self, entry: Entry) -> None:
        """The next one."""

    def close(self) -> None:
        """No more come."""


def targets_of(text: str) -> tuple[str, ...]:
    """The targets that a list with commas names, () for none. Raises UsageError for one that is none or named twice."""
    if text.strip() in ("", NONE):
        return ()
    names = tuple(word.strip() for word in text.split(","))
    for name in names:
        if name not in TARGETS:
            raise UsageError(
                f"nothing reports to {name!r}", remedy=f"use --report-to none, or some of: {', '.join(TARGETS)}"
            )
    if len(set(names)) < len(names):
        raise UsageError(f"--report-to {text} names one twice", remedy="name each once")
    return names


def check_reports(text: str) -> None:
    """Raise UsageError as `targets_of`, MissingDependencyError for a target whose package is not installed."""
    for name in targets_of(text):
        if name != "csv" and find_spec(name) is None:
            raise MissingDependencyError(f"--report-to {name} needs its package", remedy=f"pip install {name}")


@dataclass
class Reports:
    """All targets of a run; `add` each finished turn in order, and `close`.

    Attributes:
        rates: learning rates by the round from which they held, where a resumed run was given another.
        stretched_after: rounds that were over when the run was last given another length; 0 where it never was.
    """

    settings: RunSettings
    targets: list[Target]
    say: Say = silent
    rates: Sequence[tuple[int, float]] = ()
    stretched_after: int = 0
    _steps: dict[str, int] = field(default_factory=dict)

    def add(self, turn: FinishedTurn) -> None:
        """A turn that is finished and kept."""
        entry = self.entry(turn)
        for target in list(self.targets):
            self._tried(target, partial(target.add, entry))

    def judge(self, quality: Quality) -> None:
        """What held-out rows say of a round, after its turns."""
        entry = self.judgement(quality)
        for target in list(self.targets):
            self._tried(target, partial(target.add, entry))

    def judgement(self, quality: Quality) -> Entry:
        """What is said of a quality: of all devices, at the step that was reached."""
        steps = self._steps.values()
        step = max(steps, default=0) if self.settings.parallel else sum(steps)
        values = {name: float(getattr(quality, attribute)) for attribute, name in EVALUATED.items()}
        return Entry(
            round=quality.number, device="", step=step, values={**values, STEP: step, "cardlab/round": quality.number}
        )

    def earlier(self, turns: Sequence[FinishedTurn], judged: Mapping[int, Quality]) -> list[Entry]:
        """All of a run so far, in order: each round's turns, then what was thought of them."""
        found = [self.judgement(judged[0])] if 0 in judged else []
        for place, turn in enumerate(turns):
            found.append(self.entry(turn))
            ends = place + 1 == len(turns) or turns[place + 1].round != turn.round
            if ends and turn.round in judged:
                found.append(self.judgement(judged[turn.round]))
        return found

    def entry(self, turn: FinishedTurn) -> Entry:
        """What is said of a turn, which counts as the next one."""
        settings = self.settings
        mine = self._steps.get(turn.device, 0) + len(turn.losses) // settings.accumulate
        self._steps[turn.device] = mine
        step = mine if settings.parallel else sum(self._steps.values())
        values: dict[str, float | None] = {
            "train/loss": turn.loss,
            "train/learning_rate": self._rate(turn),
            STEP: step,
            "cardlab/round": turn.round,
            **{name: getattr(turn, attribute) for attribute, name in MEASURED.items()},
            **{f"cardlab/{term}_s": seconds for term, seconds in turn.terms.items()},
            **{name: getattr(turn, attribute, None) for attribute, name in OPTIONAL.items()},
        }
        known = {name: float(value) for name, value in values.items() if value is not None}
        return Entry(round=turn.round, device=turn.device, step=step, values=known)

    def _rate(self, turn: FinishedTurn) -> float | None:
        """Learning rate of a turn's last step; None where it fell towards the end of a run of another length."""
        settings = self.settings
        if turn.round <= self.stretched_after and settings.schedule != CONSTANT:
            return None
        held = [rate for first, rate in self.rates if first <= turn.round]
        settings = replace(settings, learning_rate=held[-1] if held else settings.learning_rate)
        return rate_of(settings)((turn.round - 1) * settings.epochs + len(turn.losses) - 1)

    def close(self) -> None:
        """The run is over, however it ended."""
        for target in list(self.targets):
            self._tried(target, target.close)

    def _tried(self, target: Target, act: Callable[[], None]) -> None:
        try:
            # Some print; what a command answers is alone on its output.
            with redirect_stdout(sys.stderr):
                act()
        except Exception as error:  # noqa: BLE001 - a tracker is somebody else's program, and hours of training are not
            said = " ".join(str(error).split())[:200] or type(error).__name__
            self.say(f"nothing more is reported to {target.name}: {said}")
            self.targets.remove(target)


def open_reports(text: str, out: Path, progress: Progress, say: Say = silent) -> Reports:
    """The targets that were asked for.

    Args:
        progress: of the run, which may go on: what is finished already is reported first.

    Raises UsageError where OUT/metrics.csv is somebody else's; MissingDependencyError for a package that cannot be
    loaded.
    """
    settings = progress.settings
    stretched = max((change.after for change in progress.changes if change.rounds is not None), default=0)
    reports = Reports(settings=settings, targets=[], say=say, rates=progress.rates, stretched_after=stretched)
    earlier = reports.earlier(progress.turns, qualities(progress.judged))
    config = _config(settings)
    for name in targets_of(text):
        try:
            with redirect_stdout(sys.stderr):
                reports.targets.append(_open(name, settings, out, earlier, config))
        except ImportError as error:
            raise MissingDependencyError(
                f"--report-to {name}: its package cannot be loaded ({error})", remedy=f"pip install {name}"
            ) from error
    return reports


def _open(name: str, settings: RunSettings, out: Path, earlier: Iterable[Entry], config: Document) -> Target:
    if name == "csv":
        return CsvTarget(out / CSV_NAME, settings.run, earlier)
    if name == "tensorboard":
        return TensorboardTarget(out / "tensorboard", earlier, config)
    return (TrackioTarget if name == "trackio" else WandbTarget)(settings.run, out, config)


def _config(settings: RunSettings) -> Document:
    """What a run was made with, flat, as trackers show it; a folder's path stays here."""
    plain: Document = to_plain(settings)
    task = plain.pop("task")
    for inner in ("computing", "adapters"):
        plain.pop(inner, None)
    lora = {f"lora_{key}": value for key, value in (task.get("lora") or {}).items()}
    chosen = {key: task.get(key) for key in ("batch", "sequence", "optimizer", "checkpointing")}
    flat = {**plain, **chosen, **lora, "model": Path(str(task.get("model"))).name}
    return {key: value for key, value in flat.items() if isinstance(value, (str, int, float))}


class CsvTarget:
    """A row for each entry, in SI units, empty where nothing is known."""

    name = "csv"

    def __init__(self, path: Path, run: str, earlier: Iterable[Entry]) -> None:
        if path.exists() and path.stat().st_size and not path.read_text("utf-8", "replace").startswith("run,cardlab/"):
            raise UsageError(f"{path} is there already, and is no list of metrics of cardlab", remedy="move it away")
        self._run = run
        # Written anew from what the journal holds: neither a row twice nor one that a crash has lost.
        draft = path.with_name(f"{path.name}.part")
        with draft.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
            for entry in earlier:
                self._row(file, entry)
        draft.replace(path)
        self._file = path.open("a", encoding="utf-8", newline="")

    def _row(self, file: TextIO, entry: Entry) -> None:
        values: dict[str, object] = {**entry.values, "run": self._run, "cardlab/device": entry.device}
        values |= {STEP: entry.step, "cardlab/round": entry.round}
        csv.writer(file).writerow([values.get(name, "") for name in COLUMNS])

    def add(self, entry: Entry) -> None:
        """On disk at once: a table that is followed while it grows."""
        self._row(self._file, entry)
        self._file.flush()

    def close(self) -> None:
        """Give the file free."""
        self._file.close()


class TensorboardTarget:
    """Scalars by global step; devices have curves of their own."""

    name = "tensorboard"

    def __init__(self, folder: Path, earlier: Iterable[Entry], config: Document) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What was written before is void: readers drop it, and the journal's entries come again.
        self._writer = SummaryWriter(log_dir=str(folder), purge_step=0)
        self._writer.add_text("args", "\n".join(f"    {key}: {value}" for key, value in config.items()))
        for entry in earlier:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """On disk at once."""
        for name, value in entry.by_device().items():
            self._writer.add_scalar(name, value, entry.step)
        self._writer.flush()

    def close(self) -> None:
        """Give the file free."""
        self._writer.close()


class TrackioTarget:
    """A run of project `cardlab` (or TRACKIO_PROJECT) in trackio's folder; on a Space only with TRACKIO_SPACE_ID."""

    name = "trackio"

    def __init__(self, run: str, out: Path, config: Document) -> None:
        # It loads gradio, which tells its makers that it was used unless it is told not to.
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        import trackio

        self._trackio = trackio
        project = os.environ.get("TRACKIO_PROJECT", "cardlab")
        trackio.init(
            project=project,
            name=f"{out.name}-{run[:12]}",
            config=config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def add(self, entry: Entry) -> None:
        """The next step."""
        self._trackio.log(entry.by_device(), step=entry.step)

    def close(self) -> None:
        """Wait until all is stored."""
        self._trackio.finish()


class WandbTarget:
    """A run of the project `cardlab` (or WANDB_PROJECT), offline unless WANDB_MODE says otherwise."""

    name = "wandb"

    def __init__(self, run: str, out: Path, config: Document) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode != "online":
            # Its reports of its own errors go over the network even then.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cardlab"),
            id=run,
            name=f"{out.name}-{run[:12]}",
            dir=str(out),
            config=config,
            mode=mode,
            resume="allow",
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True
            ),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP, step_sync=True)

    def add(self, entry: Entry) -> None:
        """The next step."""
        self._run.log(entry.by_device())

    def close(self) -> None:
        """Wait until all is stored."""
        self._run.finish()

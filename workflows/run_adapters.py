"""The adapters of a run as a folder that PEFT loads: with a model card, and the model's tokenizer beside them.

Written at the end, every few rounds (`--save-every`), and whenever somebody asks (`card run export`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import CardlabError, RunError, UsageError
from cardlab.split.adapters import AdapterSet
from cardlab.split.checkpoints import keep_checkpoints, kept_rounds
from cardlab.split.journal import Journal, Progress
from cardlab.split.journal_files import put, writing
from cardlab.split.model_card import model_card
from cardlab.split.peft_files import is_saved, save_peft
from cardlab.split.tokenizer import own_tokenizer
from cardlab.split.weights import open_weights
from cardlab.workflows.options.run import RunExportOptions, TrainingOptions

CARD = "README.md"
CHECKPOINTS = "checkpoints"
# What tools that load adapters look for beside them.
_OF_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def adapters_of(journal: Journal) -> AdapterSet:
    """The adapters after the last finished turn. Raises RunError where there is none yet."""
    found = journal.adapters() if journal.turns else None
    if found is None:
        raise RunError(
            f"the run in {journal.folder} has finished no round, so it has no adapters of its own yet",
            remedy="go on with --resume, and export after its first round",
        )
    return found


def write_adapters(folder: Path, journal: Journal) -> Path:
    """Write the adapters of a run as they are now; returns the folder. Raises DiskError, RunError without a round."""
    return write_folder(folder, adapters_of(journal), journal.progress)


def write_folder(folder: Path, adapters: AdapterSet, progress: Progress) -> Path:
    """Write adapters, their card and the tokenizer; returns the folder. Raises DiskError."""
    settings = progress.settings
    save_peft(adapters, settings.task, folder)
    put(folder / CARD, model_card(progress, _origin(progress)).encode("utf-8"))
    for name, data in _tokenizer_files(progress).items():
        put(folder / name, data)
    return folder


def mend_adapters(folder: Path, journal: Journal) -> None:
    """Write the folder again unless it holds the run's adapters: a server may have been killed before it wrote them."""
    if not is_saved(adapters_of(journal), journal.settings.task, folder):
        write_adapters(folder, journal)


def checkpoint(
    journal: Journal, options: TrainingOptions, quality: Mapping[int, float] | None = None
) -> Callable[[int], None]:
    """What keeps the adapters of a round that is over, where `save_every` asks for them or it is the best so far.

    Raises RunError as `write_adapters`.

    Args:
        quality: held-out loss by round as far as it is known; read each time.
    """

    def keep(number: int) -> None:
        every, known = options.save_every, quality or {}
        due = every is not None and number % every == 0
        # Whoever ends by no improvement goes on a while after the best, whose adapters would be lost.
        leads = number in known and number == min(known, key=lambda n: (known[n], n))
        if number == 0 or not (due or leads):
            return
        folder = journal.folder / CHECKPOINTS
        # A round that goes on has changed the adapters already.
        if number in kept_rounds(folder) or journal.finished_in(number + 1):
            return
        keep_checkpoints(
            folder,
            number,
            lambda place: write_adapters(place, journal),
            every=every,
            keep=options.keep_checkpoints or 1,
            quality=quality,
        )

    return keep


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedAdapters:
    """Adapters that were written: of which run, after how many rounds and turns of devices, and where."""

    run: str
    rounds: int
    turns: int
    folder: Path


def export_adapters(options: RunExportOptions) -> ExportedAdapters:
    """Write the adapters of a run as they are now, finished or not.

    Raises UsageError for a folder that holds something, RunError for a run without a finished turn.
    """
    out = Path(options.out)
    folder = out / "export" if options.to is None else Path(options.to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", remedy="name another folder with --to")
    journal = Journal.resume(out)
    adapters = adapters_of(journal)
    write_folder(folder, adapters, journal.progress)
    return ExportedAdapters(
        run=journal.settings.run, rounds=journal.closed, turns=len(journal.turns), folder=folder.absolute()
    )


def _origin(progress: Progress) -> str:
    try:
        return open_weights(progress.settings.task, progress.settings.seed).origin
    except CardlabError:
        # Adapters outlive the folder of their model.
        return f"{progress.settings.task.model}, which is not here any more"


def _tokenizer_files(progress: Progress) -> dict[str, bytes]:
    """Files of the model's own tokenizer by name; none where the run used another, or bytes."""
    settings = progress.settings
    used = {settings.tokenizer, *(inputs.tokenizer for inputs in progress.inputs.values())} - {None, ""}
    try:
        own = own_tokenizer(settings.task.model)
    except CardlabError:
        return {}
    if own is None or own.folder is None or used - {own.digest}:
        return {}
    there = [own.folder / name for name in _OF_TOKENIZERS if (own.folder / name).is_file()]
    with writing(own.folder):
        return {path.name: path.read_bytes() for path in there}

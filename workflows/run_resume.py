"""A run that goes on: what may be another than it was, what is noted, and a run that has nothing left to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cardlab.core.errors import UsageError
from cardlab.db.times import utc_now
from cardlab.split.journal import Change, Conditions, Journal, locked
from cardlab.split.rates import CONSTANT
from cardlab.split.settings import RunSettings
from cardlab.workflows.options.run import TrainingOptions
from cardlab.workflows.run_checks import check_form


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """How an unfinished run goes on.

    Attributes:
        settings: with what was asked for now.
        change: to be kept in the journal once nothing stands in the way, None where all is as it was.
        notes: for people.
    """

    settings: RunSettings
    change: Change | None
    notes: tuple[str, ...]


def finished_already(options: TrainingOptions) -> Journal | None:
    """The run to resume, where all its rounds are made and no more are asked for; None for any other.

    A run that is to have as many rounds as it has made is ended here. Raises UsageError for options that such a run
    cannot follow.
    """
    if not options.resume:
        return None
    journal = Journal.resume(Path(options.out))
    if not journal.progress.done and not _ended(options, journal):
        return None
    _check_rounds(options, journal)
    if options.rounds is not None and options.rounds > journal.closed:
        return None
    check_form(options, journal.settings)
    if options.learning_rate is not None and options.learning_rate != journal.settings.learning_rate:
        raise UsageError(
            f"--learning-rate has no effect: the run in {options.out} has made its {journal.closed} round(s)",
            remedy="give more --rounds too",
        )
    return journal


def _ended(options: TrainingOptions, journal: Journal) -> bool:
    """End a run whose rounds are over and that is to have no more; False where it is to go on."""
    made = journal.closed
    if options.rounds != made or not made or journal.finished_in(made + 1):
        return False
    with locked(journal.folder):
        journal.change(Change(after=made, turns=len(journal.turns), at=utc_now(), rounds=made))
        journal.close_round(done=True)
    return True


def _check_rounds(options: TrainingOptions, journal: Journal) -> None:
    asked, made = options.rounds, journal.closed
    if asked is not None and asked <= made and asked != journal.settings.rounds:
        raise UsageError(
            f"the run in {options.out} has made {made} round(s), so --rounds {asked} has no effect",
            remedy=f"give more than {made}, or leave --rounds out; its adapters: card run export --out {options.out}",
        )


def going_on(options: TrainingOptions, journal: Journal, link: str | None, now: str) -> Going:
    """What changes with these options. Raises UsageError for rounds that were made already."""
    _check_rounds(options, journal)
    old, progress = journal.settings, journal.progress
    rounds = options.rounds if options.rounds != old.rounds else None
    rate = options.learning_rate if options.learning_rate != old.learning_rate else None
    here = Conditions(threads=options.threads, link=link)
    # An older journal does not say; what is not known has not changed.
    before = progress.conditions
    moved = here if before != Conditions() and here != before else None
    settings = replace(old, rounds=rounds or old.rounds, learning_rate=old.learning_rate if rate is None else rate)
    notes = [f"goes on after round {journal.closed} of {settings.rounds}"]
    if rounds is not None:
        notes.append(f"{rounds} rounds instead of {old.rounds}")
        if old.schedule != CONSTANT:
            notes.append(
                f"the {old.schedule} learning rate falls to 0 by the end of {rounds} rounds now: from round"
                f" {journal.closed + 1} it is as if the run had been that long from its begin"
            )
    if rate is not None:
        notes.append(f"learning rate {rate:g} from round {journal.closed + 1} on, {old.learning_rate:g} before")
        begun = sorted(journal.finished_in(journal.closed + 1))
        if begun:
            notes.append(f"round {journal.closed + 1} was made by {', '.join(begun)} at {old.learning_rate:g} already")
    if moved is not None:
        notes += _moved(before, here)
    changed = rounds is not None or rate is not None or moved is not None
    change = Change(
        after=journal.closed,
        turns=len(journal.turns),
        at=now,
        rounds=rounds,
        learning_rate=rate,
        conditions=moved,
    )
    return Going(settings=settings, change=change if changed else None, notes=tuple(notes))


def _moved(before: Conditions, here: Conditions) -> list[str]:
    notes = []
    if here.threads != before.threads:
        notes.append(
            f"computes with {here.threads} CPU thread(s) now, with {before.threads} before: times are others, and sums"
            " may differ in their last bits"
        )
    if here.link != before.link:
        now, then = (f"shaped to {link}" if link else "not shaped" for link in (here.link, before.link))
        notes.append(f"links are {now} now, {then} before: times are others")
    return notes

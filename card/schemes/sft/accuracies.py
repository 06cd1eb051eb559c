"""What compression keeps of the gain of training, as `card accuracy` stored it: by codec, else by the family's curve.

A codec's own figure is worth more than a curve, and a curve is asked only within the rates it was fitted to. What
neither knows is unknown, and is offered to nobody who asks for an accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.card.problem.parties import task_name
from cardlab.card.schemes.sft.options import Accuracy
from cardlab.core.records.fit import Fit
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.task import Task
from cardlab.db.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracies:
    """Figures and curves of one task.

    Attributes:
        figures: fits of law "kept", by codec.
        curves: fits of law "saturating", by family of codecs.
        words: what had to be assumed about them.
    """

    figures: Mapping[str, Fit] = field(default_factory=dict)
    curves: Mapping[str, Fit] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether there is any."""
        return bool(self.figures or self.curves)

    @property
    def fits(self) -> tuple[str, ...]:
        """Ids of the fits."""
        return tuple(fit.fit_id for fit in (*self.figures.values(), *self.curves.values()))

    def of(self, codec: str, rate: float) -> tuple[float | None, float | None]:
        """Share of the gain that a codec keeps and share that it costs; None unknown.

        `rate`: bytes sent over bytes of the values in float32, as accuracies are measured.
        """
        own = self.figures.get(codec)
        if own is not None:
            share = own.parameters["share"].value
            return share, max(0.0, 1.0 - share)
        fit = self.curves.get(codec.partition(":")[0])
        if fit is None or fit.extrapolated(rate):
            return None, None
        value = {name: parameter.value for name, parameter in fit.parameters.items()}
        curve = Accuracy(limit=value["limit"], loss=value["loss"], rate=value["rate"])
        return curve.at(rate), curve.penalty(rate)


def accuracies_of(store: Store, task: Task) -> Accuracies:
    """What was measured for a task, else for the newest of the same model and LoRA, which `words` then say."""
    stored = [s for s in store.fits.newest(quantity="accuracy", selected_only=True) if s.fit.codec is not None]
    own = [s.fit for s in stored if s.fit.task == task.uid]
    if own:
        return _of(own, ())
    tasks = {run.run.task.uid: run.run.task for run in store.runs.select(kind=RunKind.ACCURACY) if run.run.task}
    alike = {
        uid: other for uid, other in tasks.items() if (other.architecture, other.lora) == (task.architecture, task.lora)
    }
    found = [s for s in stored if s.fit.task in alike]
    if not found:
        return Accuracies()
    newest = max(found, key=lambda s: s.created_at).fit.task
    assert newest is not None
    words = (f"compression keeps of {task_name(task)} what it kept of {task_name(alike[newest])}",)
    return _of([s.fit for s in found if s.fit.task == newest], words)


def _of(fits: list[Fit], words: tuple[str, ...]) -> Accuracies:
    # The newest of a codec comes last.
    return Accuracies(
        figures={str(fit.codec): fit for fit in fits if fit.law == "kept"},
        curves={str(fit.codec): fit for fit in fits if fit.law == "saturating"},
        words=words,
    )

"""Samples that are kept out of training, so that a run can be judged by what it did not see.

Which ones is said by their ids alone: the same sample is held out on every machine, in every order of the file and
beside whatever other samples, and a sample that stands twice is never on both sides.
"""

from __future__ import annotations

from dataclasses import replace

from cardlab.core.errors import UsageError
from cardlab.split.samples import Samples

# Digits of an id that are read as a number below 1; 32 bits part shares far finer than any file has samples.
_DIGITS = 8


def hold_out(samples: Samples, share: float) -> tuple[Samples, Samples]:
    """What is trained on, and what is held out of it.

    Args:
        share: of the samples that are held out, above 0 and below 1; by their ids, so it is met about.

    Raises UsageError for another share, and where one side would be left without a sample.
    """
    if not 0.0 < share < 1.0:
        raise UsageError(f"a share of {share:g} cannot be held out", remedy="give one above 0 and below 1, like 0.05")
    limit = share * 16.0**_DIGITS
    out = tuple(sample for sample in samples.samples if int(sample.id[:_DIGITS], 16) < limit)
    left = tuple(sample for sample in samples.samples if int(sample.id[:_DIGITS], 16) >= limit)
    if not out or not left:
        side = "held out" if not out else "left to train on"
        raise UsageError(
            f"of the {len(samples.samples)} sample(s) of {samples.name} none is {side} at a share of {share:g}",
            remedy="give another share or more samples, or name held-out samples in a file of their own",
        )
    return replace(samples, samples=left), replace(samples, samples=out, name=f"{samples.name} (held out)")


def check_apart(trained: Samples, held_out: Samples) -> None:
    """Raise UsageError if a sample that is to be held out is trained on too."""
    seen = {sample.id: sample.where for sample in trained.samples}
    both = [sample for sample in held_out.samples if sample.id in seen]
    if both:
        raise UsageError(
            f"{len(both)} of {len(held_out.samples)} held-out samples are trained on too, the first of them in"
            f" {both[0].where} and {seen[both[0].id]}",
            remedy="leave them out of one of the files",
        )

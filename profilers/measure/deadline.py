"""The end of a command's time: what does not fit any more is left for --resume, and never squeezed in."""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.profilers.board.timer import Timer


class BudgetSpent(Exception):
    """The command's time does not hold what comes next; caught by the session, which then ends."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of a device's time; None never comes."""

    timer: Timer
    end_s: float | None = None

    @classmethod
    def after(cls, timer: Timer, seconds: float | None) -> Deadline:
        """`seconds` from now, or never."""
        return cls(timer, None if seconds is None else timer.now() + seconds)

    def left_s(self) -> float | None:
        """Seconds until then, negative afterwards; None where it never comes."""
        return None if self.end_s is None else self.end_s - self.timer.now()

    def hold(self, seconds: float) -> None:
        """Raise BudgetSpent where less than that is left."""
        left_s = self.left_s()
        if left_s is not None and left_s < seconds:
            raise BudgetSpent

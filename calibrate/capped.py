"""The top of a sweep that the power limit held: a frequency was asked for there, and not reached.

At the power limit power stands still, and time with it; where only time stands still memory may be the reason, so a
sweep without power tells nothing. Judged for each memory frequency, as another one has another power, and on all rails
that matter at once: a rail that stands still while another rises has reached its own load and no limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cardlab.calibrate.data import SAME_CLOCK
from cardlab.calibrate.importers.rows import ImportedRow

# Measured power that differs less is the same; a step of a sweep changes it by several per cent.
_STILL = 0.01
_CAPPED_SPAN = 1.02
_LEAST_POINTS = 4
# A rail with a smaller part of the largest one's power is all noise and steps of its meter.
_MATTERS = 0.1

Rails = Mapping[str | None, ImportedRow]


def capped_rows(rows: Sequence[ImportedRow]) -> tuple[tuple[ImportedRow, ...], ...]:
    """The rows of one workload whose frequency was not reached, a group for each memory frequency that has any."""
    groups = [_held(group) for group in _by_memory([row for row in rows if row.power_w is not None])]
    return tuple(group for group in groups if group)


def _by_memory(rows: Sequence[ImportedRow]) -> list[list[ImportedRow]]:
    """Rows of one memory frequency together; what is read back of one differs a little."""
    groups: list[list[ImportedRow]] = []
    last: float | None = None
    for row in sorted(rows, key=lambda row: row.memory_hz or 0.0):
        here = row.memory_hz or 0.0
        if last is None or here - last > SAME_CLOCK * last:
            groups.append([])
        groups[-1].append(row)
        last = here
    return groups


def _held(rows: Sequence[ImportedRow]) -> tuple[ImportedRow, ...]:
    steps: dict[float, dict[str | None, ImportedRow]] = {}
    for row in sorted(rows, key=lambda row: row.frequency_hz):
        steps.setdefault(row.frequency_hz, {})[row.rail] = row
    frequencies = list(steps)
    if len(frequencies) < _LEAST_POINTS:
        return ()
    top = steps[frequencies[-1]]
    first = len(frequencies) - 1
    while first > 0 and (still := _stands_still(steps[frequencies[first - 1]], top)):
        first -= 1
    # Of the few below the top there must be some that rise, else nothing says what rising would look like.
    if len(frequencies) - first < 2 or first < 2 or still is None:
        return ()
    if frequencies[-1] < _CAPPED_SPAN * frequencies[first]:
        return ()
    return tuple(row for row in rows if row.frequency_hz >= frequencies[first])


def _stands_still(step: Rails, top: Rails) -> bool | None:
    """Whether all rails that matter are as at the top; None where the two have none in common."""
    most = max(row.power_w or 0.0 for row in top.values())
    common = [rail for rail, row in top.items() if rail in step and (row.power_w or 0.0) >= _MATTERS * most]
    return all(_same(step[rail], top[rail]) for rail in common) if common else None


def _same(row: ImportedRow, top: ImportedRow) -> bool:
    pairs = ((row.power_w, top.power_w), (row.latency_s, top.latency_s))
    return all(a is None or b is None or abs(a / b - 1.0) < _STILL for a, b in pairs)

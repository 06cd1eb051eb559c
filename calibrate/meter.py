"""Gain and offset of a board's own power sensor, from an external meter read at the same time.

    sensor = gain x true + offset

The two columns are paired readings of one load that varied. The reference is taken as true; its scatter and
the sensor's are both in the residual, so errors are those of ordinary least squares. Fits of that device and
rail then use (reading - offset) / gain, and carry the gain's relative error as one systematic draw.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from cardlab.calibrate.importers.rows import MAX_ROWS, quantity
from cardlab.calibrate.importers.table import read_table
from cardlab.calibrate.uncertainty import t_factor
from cardlab.core import plausible
from cardlab.core.errors import BadDataError
from cardlab.core.files import read_text
from cardlab.core.quantity import MEASURED, Estimate
from cardlab.core.records.meter import MeterCalibration

COLUMNS = ("reference_w", "sensor_w")
MIN_PAIRS = 5
MIN_SPAN = 1.2


def read_pairs(path: str | Path) -> tuple[list[float], list[float]]:
    """Columns reference_w and sensor_w of a CSV file; others are ignored (a time column is usual).

    Raises BadDataError naming the row of whatever cannot be used.
    """
    table = read_table(read_text(path, remedy="give a readable CSV file"), MAX_ROWS)
    names = [head.name for head in table.heads]
    for name in COLUMNS:
        if names.count(name) != 1:
            words = "no column" if name not in names else "two columns"
            raise BadDataError(f"row 1: {words} {name}", remedy="name the columns reference_w,sensor_w")
    lines = [line for line, _ in table.rows]
    columns = [
        [
            quantity(cell, line, name, 1.0, plausible.POWER)
            for line, cell in zip(lines, table.numbers(names.index(name)), strict=True)
        ]
        for name in COLUMNS
    ]
    return columns[0], columns[1]


def calibrate_meter(reference_w: list[float], sensor_w: list[float]) -> MeterCalibration:
    """Gain and offset with standard errors and 95 % intervals.

    Raises BadDataError: fewer than 5 pairs, or a load that hardly varied (less than 1.2 from least to most),
    from which a gain and an offset cannot be told apart.
    """
    x, y = np.asarray(reference_w, float), np.asarray(sensor_w, float)
    if x.size < MIN_PAIRS:
        raise BadDataError(f"{x.size} pairs of readings", remedy=f"give at least {MIN_PAIRS}")
    if x.max() < MIN_SPAN * x.min():
        raise BadDataError(
            f"the load only varied from {x.min():.3g} to {x.max():.3g} W", remedy="record idle and full load"
        )
    design = np.column_stack([x, np.ones_like(x)])
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ solution
    freedom = x.size - 2
    scatter = math.sqrt(float(residual @ residual) / freedom)
    errors = scatter * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    factor = t_factor(freedom)

    def estimate(i: int) -> Estimate:
        value, stderr = float(solution[i]), float(errors[i])
        return Estimate(value, stderr, (value - factor * stderr, value + factor * stderr), x.size, MEASURED)

    return MeterCalibration(gain=estimate(0), offset_w=estimate(1), pairs=x.size, residual_w=scatter)

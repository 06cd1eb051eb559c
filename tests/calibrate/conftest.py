from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

SWEEPS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "power-sweeps.csv"


@pytest.fixture(scope="session")
def real_sweeps():
    """{device: [(frequency_hz, power_w, time_s or None)]} measured by others; skips without."""
    if not SWEEPS.exists():
        pytest.skip("no measured sweeps beside the repository")
    groups = defaultdict(list)
    with SWEEPS.open(newline="") as file:
        for row in csv.DictReader(file):
            groups[row["device"], row["mem_mhz"], row["workload"]].append(row)
    sweeps = defaultdict(list)
    for (device, _, _), rows in groups.items():
        frequency = np.array([float(r["core_mhz"]) * 1e6 for r in rows])
        power = np.array([float(r["power_w"]) for r in rows])
        time = [float(r["time_ms"]) / 1e3 for r in rows] if rows[0]["time_ms"] else None
        sweeps[device].append((frequency, power, None if time is None else np.array(time)))
    return sweeps

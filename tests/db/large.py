"""A fleet's database with two million raw samples: forty boards, each with many sweeps of many samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import sqlalchemy as sa

from cardlab.db import open_store
from cardlab.db.contents import contents
from cardlab.db.schema import MeasurementRow, SampleBlockRow
from tests.card.database import BOARD, add_device, add_server

BOARDS = 40
SAMPLES = 1000


def fill_fleet(path: str) -> int:
    """Fill the database; returns the number of raw samples in it."""
    with open_store(path) as store:
        add_server(store)
        for number in range(BOARDS):
            device = replace(BOARD, key=f"jetson:{number:04d}", name=f"board-{number}")
            for _ in range(6):
                add_device(store, device, seconds=0.02 + 0.001 * number)
        data = np.linspace(0.01, 0.02, SAMPLES).astype("<f8").tobytes()
        with store.connection(write=True) as connection:
            latencies = connection.scalars(
                sa.select(MeasurementRow.id).where(MeasurementRow.quantity.in_(("latency", "power")))
            ).all()
            names = ("raw_a", "raw_b")
            rows = [
                {"measurement_id": i, "name": name, "count": SAMPLES, "data": data} for i in latencies for name in names
            ]
            connection.execute(sa.insert(SampleBlockRow), rows)
        return contents(store).samples

"""What the power sensor and the frequencies of a real NVIDIA card do, read-only: nothing is locked or set.

    python benchmarks/card_sensor.py [--seconds 15] [--json FILE]

The card idles, computes (half-precision products), idles, and computes in bursts, while one thread reads the energy
counter, the instant field, the one-second average, the SM frequency and the event reasons as fast as they answer.
Printed: how often each source moves, what it says in each phase against the counter, and what one call costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cardlab.profilers.devices.nvidia.device import MEMORY_DOMAIN, SM_DOMAIN
from cardlab.profilers.devices.nvidia.nvml import Card

Row = tuple[float, float | None, float | None, float | None, float | None, int | None]
"""Time in s, energy in J, instant W, average W, SM frequency in Hz, event reasons."""


@dataclass(frozen=True)
class Phase:
    """Readings of one phase, of its last two thirds.

    Attributes:
        counter_tick_ms, instant_tick_ms, average_tick_ms: 5, 50 and 95 % quantiles of the gaps between moves.
        counter_w: energy between the first and last move over the time between them.
        frequency_mhz: lowest and highest SM frequency seen.
    """

    name: str
    seconds: float
    looks: int
    counter_w: float | None
    instant_w: float | None
    average_w: float | None
    counter_tick_ms: tuple[float, ...]
    instant_tick_ms: tuple[float, ...]
    average_tick_ms: tuple[float, ...]
    frequency_mhz: tuple[float, float] | None
    event_reasons: tuple[str, ...]


def read_all(card: Card) -> Row:
    """One look at every source."""
    return (
        time.perf_counter(),
        card.energy_j(),
        card.instant_w(),
        card.average_w(),
        card.frequency_hz(SM_DOMAIN),
        card.event_reasons(),
    )


def watch(card: Card, load: Callable[[float], None], seconds: float) -> list[Row]:
    """Read while the load runs on a thread of its own for so many seconds."""
    rows: list[Row] = []
    thread = threading.Thread(target=load, args=(seconds,))
    thread.start()
    while thread.is_alive():
        rows.append(read_all(card))
        time.sleep(0.0005)
    thread.join()
    return rows


def ticks_ms(rows: Sequence[Row], column: int) -> tuple[float, ...]:
    """Quantiles of the gaps between changes of a column."""
    moves = [b[0] for a, b in zip(rows, rows[1:], strict=False) if a[column] != b[column]]
    gaps = [(b - a) * 1e3 for a, b in zip(moves, moves[1:], strict=False)]
    if len(gaps) < 3:
        return ()
    cuts = statistics.quantiles(gaps, n=20)
    return round(cuts[0], 2), round(statistics.median(gaps), 2), round(cuts[-1], 2)


def mean_w(rows: Sequence[Row], column: int) -> float | None:
    """Mean of a column of watts, None where it never answered."""
    values = [row[column] for row in rows if row[column] is not None]
    return statistics.fmean(float(v) for v in values if v is not None) if values else None


def counter_w(rows: Sequence[Row]) -> float | None:
    """Mean power from the first to the last move of the counter."""
    moves = [b for a, b in zip(rows, rows[1:], strict=False) if a[1] != b[1]]
    if len(moves) < 2 or moves[0][1] is None or moves[-1][1] is None:
        return None
    return (moves[-1][1] - moves[0][1]) / (moves[-1][0] - moves[0][0])


def phase(name: str, rows: Sequence[Row]) -> Phase:
    """The summary of a phase; its first third is left to settling."""
    late = rows[len(rows) // 3 :]
    frequencies = [row[4] / 1e6 for row in late if row[4] is not None]
    return Phase(
        name=name,
        seconds=late[-1][0] - late[0][0],
        looks=len(late),
        counter_w=counter_w(late),
        instant_w=mean_w(late, 2),
        average_w=mean_w(late, 3),
        counter_tick_ms=ticks_ms(late, 1),
        instant_tick_ms=ticks_ms(late, 2),
        average_tick_ms=ticks_ms(late, 3),
        frequency_mhz=(min(frequencies), max(frequencies)) if frequencies else None,
        event_reasons=tuple(sorted({hex(row[5]) for row in late if row[5] is not None})),
    )


def busy(side: int, burst_s: float | None = None) -> Callable[[float], None]:
    """Products of matrices of that side; in bursts, with as long a rest after each, where a length is given."""
    matrix = torch.randn((side, side), device="cuda", dtype=torch.float16)

    def run(seconds: float) -> None:
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            stop_s = time.perf_counter() + (burst_s or 0.1)
            while time.perf_counter() < stop_s:
                matrix @ matrix
                torch.cuda.synchronize()
            if burst_s:
                time.sleep(burst_s)

    run(0.2)
    return run


def cost_us(call: Callable[[], object], count: int = 500) -> float:
    """Median microseconds of a call."""
    samples = []
    for _ in range(count):
        start_s = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start_s) * 1e6)
    return statistics.median(samples)


def main() -> None:
    """Print the phases and the costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    card = Card(0)
    print(card.text("nvmlDeviceGetName"))
    loads = {
        "idle": time.sleep,
        "products of 8192": busy(8192),
        "idle again": time.sleep,
        "bursts of 0.13 s": busy(8192, 0.13),
        "products of 512": busy(512),
    }
    phases = [phase(name, watch(card, load, options.seconds)) for name, load in loads.items()]
    for found in phases:
        print(json.dumps(asdict(found)))
    costs = {
        "energy counter": cost_us(card.energy_j),
        "instant field": cost_us(card.instant_w),
        "average": cost_us(card.average_w),
        "SM frequency": cost_us(lambda: card.frequency_hz(SM_DOMAIN)),
        "memory frequency": cost_us(lambda: card.frequency_hz(MEMORY_DOMAIN)),
        "event reasons": cost_us(card.event_reasons),
        "throttle counters": cost_us(card.throttled_s),
        "temperature": cost_us(card.temperature_c),
    }
    print("one call, us:", json.dumps({name: round(us, 1) for name, us in costs.items()}))
    print("lacks:", json.dumps({name: error.message for name, error in card.lacks.items()}))
    if options.json:
        options.json.write_text(json.dumps({"phases": [asdict(p) for p in phases], "cost_us": costs}, indent=1))


if __name__ == "__main__":
    main()

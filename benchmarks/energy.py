"""Energy of short windows by cardlab, Zeus and Kernel Tuner, on one fake card in wall-clock time, against its truth.

    python benchmarks/energy.py [--repeats 12] [--windows 0.25,0.5,1]

The card is the library of tests/fakes/nvml, compiled here and loaded by every tool's own pynvml. All tools get the
same load and the same wall time: what each may use is the window and nothing before or after it. The truth is the
energy that the card's sensor would see without sampling (its gain included, which no tool can know). Loads: steady,
and stepped at random between two levels. The counter's tick is drawn with the card; where a window is a whole number
of ticks the plain difference happens to be right. A peer that is not installed, or fails, is N/A with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cardlab.profilers.board.sampler import ThreadSampler
from cardlab.profilers.board.timer import WallTimer
from cardlab.profilers.devices.nvidia.nvml import Card
from cardlab.profilers.devices.nvidia.power import NvmlMeter
from tests.fakes.nvml.card import FakeCard, build

Reader = Callable[[float], float | None]
"""Lets a window of so many seconds pass and returns its energy in joules, None without an answer."""


def cardlab_reader() -> Reader:
    """The counter from tick to tick: mean power of the whole ticks, times the window."""
    clock = WallTimer()
    meter = NvmlMeter(Card(0), clock, ThreadSampler(), "counter")

    def read(window_s: float) -> float | None:
        with meter.recording() as recording:
            start_s = clock.now()
            time.sleep(window_s)
            elapsed_s = clock.now() - start_s
        power_w = recording.traces["board"].power_w
        return sum(power_w) / len(power_w) * elapsed_s if power_w else None

    return read


def difference_reader() -> Reader:
    """The plain difference of the counter at both ends, which is what ZeusMonitor takes."""
    card = Card(0)

    def read(window_s: float) -> float | None:
        start_j = card.energy_j()
        time.sleep(window_s)
        end_j = card.energy_j()
        return None if start_j is None or end_j is None else end_j - start_j

    return read


def zeus_reader() -> Reader:
    """ZeusMonitor's own window."""
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=[0], cpu_indices=[])

    def read(window_s: float) -> float | None:
        # There is no CUDA to wait for: the load is a number in the fake card.
        monitor.begin_window("w", sync_execution=False)
        time.sleep(window_s)
        return float(monitor.end_window("w", sync_execution=False).gpu_energy[0])

    return read


def kernel_tuner_reader() -> Reader:
    """Its NVML observer: median of instant power samples, times the time."""
    from kernel_tuner.observers.nvml import NVMLObserver

    observer = NVMLObserver(["nvml_energy"], device=0)
    observer.register_device(SimpleNamespace(env={}))
    continuous = observer.continuous_observer

    def read(window_s: float) -> float | None:
        continuous.before_start()
        continuous.after_start()
        start_s = time.perf_counter()
        while time.perf_counter() - start_s < window_s:
            continuous.during()
            time.sleep(0.001)
        continuous.results = {"time": (time.perf_counter() - start_s) * 1e3}
        continuous.after_finish()
        return float(continuous.get_results()["nvml_energy"])

    return read


@contextlib.contextmanager
def load(card: FakeCard, kind: str) -> Iterator[None]:
    """Keep the card busy while the block runs."""
    stop = threading.Event()
    levels = random.Random(3)

    def step() -> None:
        while not stop.wait(levels.uniform(0.05, 0.25)):
            card.lib.fake_load(levels.choice((0.35, 1.0)))

    card.lib.fake_load(1.0)
    thread = threading.Thread(target=step)
    if kind == "stepped":
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.ident is not None:
            thread.join()


def rms_error(card: FakeCard, read: Reader, window_s: float, repeats: int) -> float | None:
    """Root mean square of the relative error over windows that start at random; None if no window gave a value."""
    starts = random.Random(1)
    errors = []
    for _ in range(repeats):
        time.sleep(starts.uniform(0.0, 0.15))
        before_s, before_j = card.now(), card.lib.fake_true_energy()
        energy_j = read(window_s)
        truth_w = (card.lib.fake_true_energy() - before_j) / (card.now() - before_s)
        if energy_j is not None:
            errors.append(energy_j / (truth_w * window_s * card.lib.fake_gain()) - 1)
    return math.sqrt(sum(e * e for e in errors) / len(errors)) if errors else None


def main() -> None:
    """Run all and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--windows", default="0.25,0.5,1")
    options = parser.parse_args()
    windows = [float(w) for w in options.windows.split(",")]
    os.environ["FAKE_NVML_WALL"] = "1"
    makers: dict[str, Callable[[], Reader]] = {
        "cardlab": cardlab_reader,
        "counter difference": difference_reader,
        "Zeus": zeus_reader,
        "Kernel Tuner": kernel_tuner_reader,
    }
    with tempfile.TemporaryDirectory() as folder:
        card = FakeCard(build(Path(folder)))
        card.reset(2)
        card.lib.fake_load(1.0)
        time.sleep(3.0)
        print(f"a card whose counter moves every {card.lib.fake_tick() * 1e3:.0f} ms")
        for kind in ("steady", "stepped"):
            print(f"{kind} load, rms error of a window's energy, {options.repeats} windows each")
            for name, make in makers.items():
                try:
                    read = make()
                    with load(card, kind):
                        errors = [rms_error(card, read, w, options.repeats) for w in windows]
                except Exception as error:  # noqa: BLE001 - a peer's failure is a result of the comparison
                    print(f"  {name:20} N/A: {type(error).__name__}: {' '.join(str(error).split())[:90]}")
                    continue
                shown = ["N/A" if e is None else f"{e:.2%}" for e in errors]
                cells = "  ".join(f"{w:g} s {text:>7}" for w, text in zip(windows, shown, strict=True))
                print(f"  {name:20} {cells}")


if __name__ == "__main__":
    main()

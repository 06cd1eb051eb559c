"""The fake card as a test sees it: time, load, faults, truth."""

from __future__ import annotations

import ctypes
import heapq
import itertools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml

from cardlab.core.errors import CardlabError
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.devices.nvidia.device import NvidiaDevice
from cardlab.profilers.devices.nvidia.frequency import Rights

SOURCE = Path(__file__).with_name("fake_nvml.c")
SONAME = "libnvidia-ml.so.1"
ROOT_RIGHTS = Rights("direct", "fake root")


def build(folder: Path, source: str = SOURCE.name) -> Path:
    """Compile a library of this folder under the vendor's file name; its path."""
    library = folder / SONAME
    flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{SONAME}"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(SOURCE.with_name(source)), "-lm"], check=True)
    return library


class FakeCard:
    """The library in this process; also clock and sampler of a platform, in the card's own time."""

    def __init__(self, library: Path) -> None:
        # With its soname already loaded, the loader gives pynvml this one.
        self.lib = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self.lib.fake_now.restype = ctypes.c_double
        self.lib.fake_true_energy.restype = ctypes.c_double
        self.lib.fake_tick.restype = ctypes.c_double
        self.lib.fake_gain.restype = ctypes.c_double
        self.lib.fake_counter_reads.restype = ctypes.c_long
        self.lib.fake_steady_watts.restype = ctypes.c_double
        self.lib.fake_steady_watts.argtypes = [ctypes.c_uint, ctypes.c_double]
        for name in (
            "fake_advance",
            "fake_load",
            "fake_power_limit",
            "fake_temperature_limit",
            "fake_counter_cost",
            "fake_counter_jump",
        ):
            getattr(self.lib, name).argtypes = [ctypes.c_double]
            getattr(self.lib, name).restype = None
        self._looks: list[tuple[float, int, Callable[[], float], list[CardlabError]]] = []
        self._count = itertools.count()

    def reset(self, seed: int = 1) -> None:
        self.lib.fake_reset(ctypes.c_ulonglong(seed))
        self._looks.clear()

    def fail(self, symbol: str, code: int, after: int = 0) -> None:
        self.lib.fake_fail(symbol.encode(), code, ctypes.c_long(after))

    # clock

    def now(self) -> float:
        return float(self.lib.fake_now())

    def sleep(self, seconds: float) -> None:
        self.lib.fake_load(0.0)
        self._advance(seconds)

    # sampler

    @contextmanager
    def during(self, look: Callable[[], float]) -> Iterator[None]:
        failed: list[CardlabError] = []
        entry = (self.now(), next(self._count), look, failed)
        heapq.heappush(self._looks, entry)
        yield
        self._looks = [e for e in self._looks if e[2] is not look]
        heapq.heapify(self._looks)
        if failed:
            raise failed[0]

    def _advance(self, seconds: float) -> None:
        now_s = self.now()
        end_s = now_s + seconds
        while self._looks and self._looks[0][0] <= end_s:
            at_s, _, look, failed = self._looks[0]
            self.lib.fake_advance(max(0.0, at_s - now_s))
            now_s = self.now()
            try:
                rest_s = look()
            except CardlabError as error:
                heapq.heappop(self._looks)
                failed.append(error)
                continue
            # A look may take time, and the rest begins after it.
            now_s = self.now()
            heapq.heapreplace(self._looks, (now_s + rest_s, next(self._count), look, failed))
        self.lib.fake_advance(max(0.0, end_s - now_s))

    # work

    def work(self, gigacycles: float = 0.05, load: float = 1.0) -> Work:
        """A load of so many cycles: it takes longer at a lower clock."""

        def run() -> None:
            self.lib.fake_load(load)
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            mhz = ctypes.c_uint()
            self.lib.nvmlDeviceGetClockInfo(handle, 1, ctypes.byref(mhz))
            self._advance(gigacycles * 1e3 / max(1, mhz.value))

        return Work(segment="load", laps=(Lap(phase="run", run=run),))

    def truth_w(self, frequency_hz: float, load: float = 1.0) -> float:
        """What the sensor reads in a steady state."""
        return float(self.lib.fake_steady_watts(round(frequency_hz / 1e6), load))

    def platform(self, rights: Rights = ROOT_RIGHTS, label: str | None = None) -> NvidiaDevice:
        return NvidiaDevice(0, label, timer=self, sampler=self, rights=rights)

"""A fake board that lives in virtual time: a tree, a kernel, physics, and INA3221s that average and quantise.

power of the physics -> running mean over update_interval -> current in steps of 40 uV / shunt, voltage of 8 mV
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.devices.jetson.device import JetsonDevice
from cardlab.profilers.devices.simulated.catalogue import physics_of
from cardlab.profilers.devices.simulated.machine import Machine
from cardlab.profilers.devices.simulated.physics import Physics
from tests.fakes.jetson.boards import BOARDS, FakeBoard
from tests.fakes.jetson.kernel import FakeKernel
from tests.fakes.jetson.tree import build, show

VOLT_STEP_MV = 8.0
SHUNT_STEP_UV = 40.0
FLOP = 7e10
SHARES = {
    "VDD_IN": 1.0,
    "VDD_CPU_GPU_CV": 0.5,
    "VDD_SOC": 0.25,
    "POM_5V_IN": 1.0,
    "POM_5V_GPU": 0.4,
    "POM_5V_CPU": 0.3,
    "VDD_GPU_SOC": 0.5,
    "VDD_CPU_CV": 0.2,
    "VIN_SYS_5V0": 0.3,
    "VDDQ_VDD2_1V8AO": 0.1,
}


def drawn_physics(seed: str, board: FakeBoard) -> Physics:
    """Physics of a board of this kind: knee of the voltage, dynamic power and leakage differ from seed to seed."""
    draw = random.Random(seed)
    usual = physics_of("orin-nx")
    return replace(
        usual,
        frequencies_hz=tuple(map(float, board.table_hz)),
        knee=draw.uniform(0.45, 0.7),
        dynamic_w=usual.dynamic_w * draw.uniform(0.7, 1.5),
        leak_w=usual.leak_w * draw.uniform(0.5, 1.5),
    )


class LiveBoard:
    """A board whose clock is moved by the work that runs on it; clock and sampler of a platform at once."""

    def __init__(self, name: str, root: Path, seed: str = "a", *, kernel: str | None = None) -> None:
        self.board: FakeBoard = BOARDS[name]
        self.root = root
        self.folder = build(self.board, root)
        self.kernel = FakeKernel(root, self.folder, kernel or self.board.kernel)
        self.kernel.on_write = self._clock_moved
        physics = drawn_physics(seed, self.board)
        self.machine = Machine(physics, seed)
        self.interval_s = self.board.samples * 6.6e-3
        self._filtered_w = physics.power_w(physics.frequencies_hz[0], 40.0, 0.0, 0.0)
        self._energy_j = 0.0
        self._at_s = 0.0
        self._look: Callable[[], float] | None = None
        self._due_s = 0.0
        self.on_step: Callable[[], None] | None = None

    def platform(self, **options: object) -> JetsonDevice:
        return JetsonDevice(self.root, timer=self, sampler=self, writer=self.kernel, **options)  # type: ignore[arg-type]

    def work(self, flop: float = FLOP) -> Work:
        """Arithmetic that keeps the GPU busy for a twentieth of a second or so."""
        return Work(segment="load", laps=(Lap(phase="run", run=lambda: self._run(flop)),))

    def now(self) -> float:
        return self.machine.now_s

    def sleep(self, seconds: float) -> None:
        self.machine.rest(max(0.0, seconds))
        self.kernel.run_load(False)
        self._step()

    @contextmanager
    def during(self, look: Callable[[], float]) -> Iterator[None]:
        self._look, self._due_s = look, self.now()
        self._step()
        yield
        self._look = None

    def truth_w(self, frequency_hz: float) -> float:
        """True mean power of the work at a clock, after the heat has settled."""
        self.machine.request(frequency_hz)
        for until_s in (self.now() + 240.0, self.now() + 300.0):
            start_s, start_j = self.now(), self.machine.energy_j
            while self.now() < until_s:
                self._run(FLOP)
        self.machine.request(None)
        return (self.machine.energy_j - start_j) / (self.now() - start_s)

    def _run(self, flop: float) -> None:
        self.machine.work(flop, flop * 1e-3, "load", 1)
        self.kernel.run_load(True)
        self._step()

    def _clock_moved(self) -> None:
        if not self.folder.exists():
            return
        low, high = self.kernel.read("min_freq"), self.kernel.read("max_freq")
        self.machine.request(float(high) if low == high else None)

    def _step(self) -> None:
        if self.on_step is not None:
            self.on_step()
        passed_s = self.now() - self._at_s
        if passed_s > 0:
            mean_w = (self.machine.energy_j - self._energy_j) / passed_s
            self._filtered_w = mean_w + (self._filtered_w - mean_w) * math.exp(-passed_s / self.interval_s)
            self._at_s, self._energy_j = self.now(), self.machine.energy_j
        if self._look is not None and self.now() >= self._due_s:
            self._publish()
            self._due_s = self.now() + self._look()

    def _publish(self) -> None:
        current_step_ma = SHUNT_STEP_UV / self.board.shunt_uohm * 1e3
        for label in self.root.glob("sys/bus/i2c/devices/*/hwmon/hwmon*/in[1-3]_label"):
            name = label.read_text().strip()
            volts = self.board.volts.get(name, 5.0)
            milliampere = self._filtered_w * SHARES.get(name, 0.0) / volts * 1e3
            number = label.name[2]
            millivolt = round(volts * 1e3 / VOLT_STEP_MV) * VOLT_STEP_MV
            show(label.parent / f"in{number}_input", f"{millivolt:.0f}\n")
            rounded_ma = round(milliampere / current_step_ma) * current_step_ma
            show(label.parent / f"curr{number}_input", f"{rounded_ma:.0f}\n")

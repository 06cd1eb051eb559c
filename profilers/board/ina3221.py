"""INA3221 power monitors of Jetson boards, read through the kernel's files; never written.

    JetPack 5 and later   /sys/class/hwmon/hwmonN, name "ina3221"     in1_label, in1_input mV, curr1_input mA, K = 1..3
    JetPack 4             /sys/bus/i2c/drivers/ina3221x/*/iio:deviceN rail_name_0, in_power0_input mW, K = 0..2
    Thor's input          hwmon, name "ina238"                         power1_input uW, one rail VIN

The chip averages: a reading is a running mean over `update_interval`, and forgets a step of the load only after
several of them. Its current moves in steps of 40 uV / shunt, its voltage in steps of 8 mV (INA3221 data sheet,
SBOS576). The alarms of these nodes throttle the board, so no file of theirs is touched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import DeviceLostError
from cardlab.profilers.board.host import read_text

HWMON = "sys/class/hwmon"
IIO = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
MEMORY_UPDATES = 5.0
LEAST_UPDATE_S = 0.05
_SHUNT_STEP_V = 40e-6
_BUS_STEP_V = 8e-3
_CYCLE_S = 3 * 2 * 1.1e-3
USUAL_UPDATE_S = 64 * _CYCLE_S
_CHANNEL = re.compile(r"in([1-3])_label")
_RAIL = re.compile(r"rail_name_(\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class InaRail:
    """One channel of one monitor.

    Attributes:
        name: the vendor's label.
        power: file in mW or uW, None where power is voltage times current.
        scale_w: watts of one unit of `power`.
        voltage, current: files in mV and mA.
        update_s: length over which the chip averages.
        samples: averages of the chip, None if not published.
        shunt_ohm: None if not published.
        assumed: the averaging is the driver's usual one, not read here.
    """

    name: str
    power: Path | None
    scale_w: float
    voltage: Path
    current: Path
    update_s: float
    samples: int | None
    shunt_ohm: float | None
    assumed: bool = False

    def power_w(self) -> float | None:
        """Power now; None where the channel does not answer."""
        if self.power is not None:
            value = _number(self.power)
            return None if value is None else value * self.scale_w
        millivolt, milliampere = _number(self.voltage), _number(self.current)
        return None if millivolt is None or milliampere is None else millivolt * milliampere * 1e-6

    def step_w(self) -> float | None:
        """Smallest step of a reading at the voltage and current of now, None without a shunt value."""
        millivolt, milliampere = _number(self.voltage), _number(self.current)
        if self.shunt_ohm is None or millivolt is None:
            return None
        by_voltage = (milliampere or 0.0) * 1e-3 * _BUS_STEP_V
        return math.hypot(millivolt * 1e-3 * _SHUNT_STEP_V / self.shunt_ohm, by_voltage)

    def facts(self) -> dict[str, object]:
        """What is stored beside each measurement."""
        return {
            "averaging_s": self.update_s,
            "averaging_assumed": self.assumed,
            "samples": self.samples,
            "shunt_ohm": self.shunt_ohm,
        }


def find_rails(root: Path) -> tuple[InaRail, ...]:
    """Every connected channel, in the order of monitors and channels."""
    found = [*_hwmon_rails(root), *_iio_rails(root)]
    return tuple({rail.name: rail for rail in found}.values())


def monitors(root: Path) -> tuple[Path, ...]:
    """Folders of all power monitors, whether their channels are connected or not."""
    return tuple(folder for folder, _ in _hwmon_monitors(root)) + tuple(sorted(root.glob(IIO)))


def _hwmon_monitors(root: Path) -> Iterator[tuple[Path, str]]:
    base = root / HWMON
    found = []
    for folder in base.iterdir() if base.is_dir() else ():
        name = (read_text(folder / "name") or "").lower()
        if name in ("ina3221", "ina238"):
            # hwmonN changes from boot to boot, the address on the bus does not.
            found.append(((folder / "device").resolve().name, folder.name, folder, name))
    for _, _, folder, name in sorted(found):
        yield folder, name


def _hwmon_rails(root: Path) -> Iterator[InaRail]:
    for folder, name in _hwmon_monitors(root):
        if name == "ina238":
            yield _ina238(folder)
            continue
        samples = _number(folder / "samples")
        interval_ms = _number(folder / "update_interval")
        update_s = interval_ms * 1e-3 if interval_ms else (samples or 1) * _CYCLE_S
        for path in sorted(folder.glob("in[1-3]_label")):
            label, match = read_text(path), _CHANNEL.fullmatch(path.name)
            if match is None or not label or label == "NC":
                continue
            micro_ohm = _number(folder / f"shunt{match[1]}_resistor")
            yield InaRail(
                name=label,
                power=None,
                scale_w=1e-3,
                voltage=folder / f"in{match[1]}_input",
                current=folder / f"curr{match[1]}_input",
                update_s=update_s,
                samples=None if samples is None else int(samples),
                shunt_ohm=micro_ohm * 1e-6 if micro_ohm else None,
                assumed=not interval_ms,
            )


def _ina238(folder: Path) -> InaRail:
    return InaRail(
        name="VIN",
        power=folder / "power1_input",
        scale_w=1e-6,
        voltage=folder / "in1_input",
        current=folder / "curr1_input",
        update_s=LEAST_UPDATE_S,
        samples=None,
        shunt_ohm=None,
        assumed=True,
    )


def _iio_rails(root: Path) -> Iterator[InaRail]:
    for folder in sorted(root.glob(IIO)):
        for path in sorted(folder.glob("rail_name_*")):
            label, match = read_text(path), _RAIL.fullmatch(path.name)
            if match is None or not label or label == "NC":
                continue
            yield InaRail(
                name=label,
                power=folder / f"in_power{match[1]}_input",
                scale_w=1e-3,
                voltage=folder / f"in_voltage{match[1]}_input",
                current=folder / f"in_current{match[1]}_input",
                update_s=USUAL_UPDATE_S,
                samples=None,
                shunt_ohm=None,
                assumed=True,
            )


class InaSource:
    """The monitors as a source of power.

    Attributes:
        name: "sysfs".
        words: the sensor, for the record.
        update_s: how often it is worth reading.
        memory_s: how long a reading remembers what was before.
    """

    name = "sysfs"
    words = "INA3221 through sysfs"

    def __init__(self, rails: tuple[InaRail, ...]) -> None:
        self._rails = rails
        longest_s = max(rail.update_s for rail in rails)
        self.update_s = max(longest_s, LEAST_UPDATE_S)
        self.memory_s = max(MEMORY_UPDATES * longest_s, self.update_s)

    def rails(self) -> tuple[str, ...]:
        """Names of the rails."""
        return tuple(rail.name for rail in self._rails)

    def read(self) -> Mapping[str, float]:
        """Watts by rail; one that does not answer is left out. Raises DeviceLostError if none does any more."""
        values = {rail.name: rail.power_w() for rail in self._rails}
        known = {name: value for name, value in values.items() if value is not None}
        if not known and not any(rail.current.parent.exists() for rail in self._rails):
            raise DeviceLostError("the INA3221's nodes went away", remedy="look for ina3221 in dmesg, then reboot")
        return known

    def steps_w(self) -> Mapping[str, float | None]:
        """Smallest step of each rail's reading now."""
        return {rail.name: rail.step_w() for rail in self._rails}

    def facts(self) -> Mapping[str, Mapping[str, object]]:
        """Averaging, samples and shunt of each rail."""
        return {rail.name: rail.facts() for rail in self._rails}

    def close(self) -> None:
        """Nothing to release."""


def _number(path: Path) -> float | None:
    """The number a file begins with; "0 ms" is one of JetPack 4's."""
    words = (read_text(path) or "").split()
    if not words or re.fullmatch(r"-?[0-9]{1,15}", words[0]) is None:
        return None
    return float(words[0])

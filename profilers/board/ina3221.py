"""INA3221 power monitors of Jetson boards, read through the kernel's files; never written.

    JetPack 5 and later   /sys/class/hwmon/hwmonN, name "ina3221"     in1_label, in1_input mV, curr1_input mA, K = 1..3
    JetPack 4             /sys/bus/i2c/drivers/ina3221x/*/iio:deviceN rail_name_0, in_power0_input mW, K = 0..2
    Thor's input          hwmon, name "ina238"                         power1_input uW, one rail VIN

The chip averages: a reading is a running mean over `update_interval`, and forgets a step of the load only after
several of them. Its current moves in steps of 40 uV / shunt, its voltage in steps of 8 mV (INA3221 data sheet,
SBOS576). The alarms of these nodes throttle the board, so no file of theirs is touched.
"""

import math
import re
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

from .files import read_leading, read_text

HWMON = "sys/class/hwmon"
SOURCE = "INA3221 through sysfs"
IIO = "sys/bus/i2c/drivers/ina3221x/*/iio:device*"
# Each sample moves the mean by (new - old) / N: after five intervals e^-5, 0.7 % of a step, is left.
MEMORY_UPDATES = 5.0
# A register takes half a millisecond to read: with more rounds than 20 a second the reading itself is a load.
LEAST_UPDATE_S = 0.05
# Rails of an Orin move in steps of 0.04 to 0.4 W: below some seconds there are too few different readings.
LEAST_WINDOW_S = 5.0
_SHUNT_STEP_V = 40e-6
_BUS_STEP_V = 8e-3
# Shunt and bus voltage of three channels at 1.1 ms each, the chip's configuration after a reset.
_CYCLE_S = 3 * 2 * 1.1e-3
# JetPack 4's driver averages over 64 cycles and does not publish it.
USUAL_UPDATE_S = 64 * _CYCLE_S
# INA3221 data sheet (SBOS576), at most: gain of shunt and bus voltage, offset of the shunt voltage in its steps. Boards
# have shunts of 1 %. Where a program shows the power only, its offset is taken as of some amperes.
_GAIN = 0.0025
_SHUNT_TOLERANCE = 0.01
_OFFSET_STEPS = 2.0
_USUAL_OFFSET = 0.02
_CHANNEL = re.compile(r"in([1-3])_label")
_RAIL = re.compile(r"rail_name_(\d)")


class InaRail(NamedTuple):
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
    power: Optional[Path]
    scale_w: float
    voltage: Path
    current: Path
    update_s: float
    samples: Optional[int]
    shunt_ohm: Optional[float]
    assumed: bool = False

    def power_w(self) -> Optional[float]:
        """Power now; None where the channel does not answer."""
        if self.power is not None:
            value = read_leading(self.power)
            return None if value is None else value * self.scale_w
        # Two reads of two moments; only the current moves with the load.
        millivolt, milliampere = read_leading(self.voltage), read_leading(self.current)
        return None if millivolt is None or milliampere is None else millivolt * milliampere * 1e-6

    def step_w(self) -> Optional[float]:
        """Smallest step of a reading at the voltage and current of now, None without a shunt value."""
        millivolt, milliampere = read_leading(self.voltage), read_leading(self.current)
        if self.shunt_ohm is None or millivolt is None:
            return None
        by_voltage = (milliampere or 0.0) * 1e-3 * _BUS_STEP_V
        return math.hypot(millivolt * 1e-3 * _SHUNT_STEP_V / self.shunt_ohm, by_voltage)

    def facts(self) -> Dict[str, object]:
        """What is stored beside each measurement."""
        return {
            "averaging_s": self.update_s,
            "averaging_assumed": self.assumed,
            "samples": self.samples,
            "shunt_ohm": self.shunt_ohm,
        }


def systematic(mean_w: Optional[float], step_w: Optional[float]) -> Optional[float]:
    """Relative standard deviation of what a monitor is off by at a mean power; None without one.

    Largest figures of the data sheet, as ends of what is equally likely: the gains of both voltages, the shunt's
    tolerance, and the offset of its voltage, two steps of it, which weighs most where little flows.
    """
    if mean_w is None or not mean_w > 0:
        return None
    gains = math.sqrt(2 * _GAIN**2 + _SHUNT_TOLERANCE**2)
    offset = _USUAL_OFFSET if step_w is None else _OFFSET_STEPS * step_w / mean_w
    return math.hypot(gains, offset) / math.sqrt(3)


def find_rails(root: Path) -> Tuple[InaRail, ...]:
    """Every connected channel, in the order of monitors and channels."""
    # A kernel may publish one chip through both drivers: each rail counts once.
    found = [*_hwmon_rails(root), *_iio_rails(root)]
    return tuple({rail.name: rail for rail in found}.values())


def reading_update_s(rails: Sequence[InaRail]) -> float:
    """How often all these rails are worth reading."""
    return max([LEAST_UPDATE_S] + [rail.update_s for rail in rails])


def reading_memory_s(rails: Sequence[InaRail]) -> float:
    """How long a reading of these rails remembers what was before."""
    return max([reading_update_s(rails)] + [MEMORY_UPDATES * rail.update_s for rail in rails])


def monitors(root: Path) -> Tuple[Path, ...]:
    """Folders of all power monitors, whether their channels are connected or not."""
    return tuple(folder for folder, _ in _hwmon_monitors(root)) + tuple(sorted(root.glob(IIO)))


def _hwmon_monitors(root: Path) -> Iterator[Tuple[Path, str]]:
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
        samples = read_leading(folder / "samples")
        interval_ms = read_leading(folder / "update_interval")
        # Never assumed where it can be read: boards were seen with 1 and with 512 samples, 7 ms and 3.4 s.
        update_s = interval_ms * 1e-3 if interval_ms else (samples or 1) * _CYCLE_S
        # in4 to in7 are shunt voltages and their sum, no rails.
        for path in sorted(folder.glob("in[1-3]_label")):
            label, match = read_text(path), _CHANNEL.fullmatch(path.name)
            if match is None or not label or label == "NC":
                continue
            micro_ohm = read_leading(folder / f"shunt{match[1]}_resistor")
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

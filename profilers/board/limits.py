"""Signs that the hardware held a Jetson back: over-current events, thermal throttling; and its temperatures.

    OC1 under-voltage, OC2 mean current    the point is flagged
    OC3 current peaks                      a warning: single milliseconds at half the frequency, seen on boards that
    idle cooling devices of GPU and CPU         the point is flagged while their state is above 0

Event counters count from boot, so differences count. cur_freq does not show the halved frequency of such an event.
"""

from pathlib import Path
from typing import Dict, Mapping, NamedTuple, Optional, Tuple

from .files import read_number, read_text

HWMON = "sys/class/hwmon"
THERMAL = "sys/class/thermal"
SOCTHERM = "sys/kernel/debug/bpmp/debug/soctherm"
EVENTS = {1: "under-voltage (OC1)", 2: "mean over-current (OC2)", 3: "current peaks (OC3)"}
# In its largest mode a board may count 30 of these a second even at rest, each a millisecond long: about 1 %.
_WARNING_ONLY = 3
_COOLED = ("gpu", "cpu", "devfreq", "throttle")
_GPU_ZONES = ("gpu-therm", "gpu-thermal", "gpu_therm", "gpu")
_OTHER_ZONES = ("tj-thermal", "tj-therm", "thermal-fan-est")
# A zone that is off reads -256 C, and no board is rated below -40.
_FAILED_C = -40.0


class Limits(NamedTuple):
    """What held the board back since the last look: reasons that flag a point, and warnings that do not."""

    reasons: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()
    known: bool = False


class Watch:
    """Looks at the counters of one board.

    Attributes:
        counters: files of event counters by number.
        coolers: state files of cooling devices by type.
        zones: temperature files by zone.
    """

    def __init__(self, counters: Mapping[int, Path], coolers: Mapping[str, Path], zones: Mapping[str, Path]) -> None:
        self.counters, self.coolers, self.zones = counters, coolers, zones
        self._last = self.events()

    def events(self) -> Dict[int, int]:
        """Counters now, without those that cannot be read."""
        found = {number: read_number(path) for number, path in self.counters.items()}
        return {number: count for number, count in found.items() if count is not None}

    def look(self) -> Limits:
        """What happened since the last look."""
        events = self.events()
        # A counter that could not be read before tells nothing new the first time.
        new = {n: count - self._last.get(n, count) for n, count in events.items()}
        self._last.update(events)
        words = {n: f"{EVENTS.get(n, f'OC{n}')}: {count} events" for n, count in new.items() if count > 0}
        hot = [f"thermal throttling: {kind}" for kind, path in self.coolers.items() if (read_number(path) or 0) > 0]
        return Limits(
            reasons=(*(text for n, text in words.items() if n != _WARNING_ONLY), *hot),
            warnings=tuple(text for n, text in words.items() if n == _WARNING_ONLY),
            known=bool(events or self.coolers),
        )

    def temperature_c(self) -> Optional[float]:
        """The GPU's zone, else the hottest junction; None where no zone answers."""
        for names in (_GPU_ZONES, _OTHER_ZONES):
            for name, path in self.zones.items():
                celsius = zone_c(path) if name.lower() in names else None
                if celsius is not None:
                    return celsius
        return None


def zone_c(path: Path) -> Optional[float]:
    """Temperature of a zone; None for one that is switched off (its read fails, or gives -256 C)."""
    millidegree = read_number(path)
    return None if millidegree is None or millidegree * 1e-3 < _FAILED_C else millidegree * 1e-3


def find_watch(root: Path) -> Watch:
    """Counters, cooling devices and zones below a root; whatever is absent is left out."""
    return Watch(_counters(root), _coolers(root), _zones(root))


def fan_words(root: Path) -> Optional[str]:
    """Duty and speed of the fan, None without one."""
    for folder in sorted((root / HWMON).glob("hwmon*")):
        duty = read_number(folder / "pwm1")
        if duty is not None:
            speeds = [read_number(folder / name) for name in ("fan1_input", "rpm")]
            speed = next((value for value in speeds if value is not None), None)
            return f"duty {duty / 255:.0%}" + ("" if speed is None else f", {speed} rpm")
    duty = read_number(root / "sys/devices/pwm-fan/cur_pwm")
    return None if duty is None else f"duty {duty / 255:.0%}"


def _counters(root: Path) -> Dict[int, Path]:
    for folder in sorted((root / HWMON).glob("hwmon*")):
        if read_text(folder / "name") == "soctherm_oc":
            return {n: folder / f"oc{n}_event_cnt" for n in EVENTS if (folder / f"oc{n}_event_cnt").exists()}
    # The firmware's own counters, for root.
    files = {n: root / SOCTHERM / f"oc{n}" / "event_cnt" for n in EVENTS}
    return {n: path for n, path in files.items() if read_text(path) is not None}


def _coolers(root: Path) -> Dict[str, Path]:
    found = {}
    for folder in sorted((root / THERMAL).glob("cooling_device*")):
        kind = read_text(folder / "type") or ""
        # Fans are cooling devices too, but a turning one holds nothing back.
        if any(word in kind.lower() for word in _COOLED) and "fan" not in kind.lower():
            found[kind] = folder / "cur_state"
    return found


def _zones(root: Path) -> Dict[str, Path]:
    folders = sorted((root / THERMAL).glob("thermal_zone*"))
    kinds = [(read_text(folder / "type"), folder / "temp") for folder in folders]
    return {kind: path for kind, path in kinds if kind}

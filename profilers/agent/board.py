"""What a board says of itself below a root folder: identity, clocks, temperatures, power rails.

Sources: the kernel's devfreq, hwmon and iio classes and NVIDIA's device tree. Everything is discovered; a
value that is not there is None. Only the GPU's devfreq limits are ever written.
"""

import json
import os
import platform
import re
from glob import glob
from typing import Any, Dict, List, Optional, Tuple

from ..board.rails import total_name, total_parts
from ..board.rules import is_gpu_node, on_request
from .bundle import new_uid, serial_key

CUDA_CORES_PER_SM = {(5, 3): 128, (6, 2): 128, (7, 2): 64, (8, 7): 128}


class BoardError(Exception):
    """Something about the board that stops the run; the message says what to do."""


def read(path: str) -> Optional[str]:
    """Text of a small kernel file without NUL and space; None if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return None


def number(path: str) -> Optional[float]:
    """A kernel file that holds one number; None if it holds none or is off (EAGAIN, ENODATA)."""
    text = read(path)
    try:
        return None if text is None else float(text.split()[0])
    except (ValueError, IndexError):
        return None


class Rail:
    """One channel of a power monitor.

    Attributes:
        name: as the board labels it.
        update_s: averaging interval that the driver states, None if it does not.
        quantisation_w: power of one step of the converter at the voltage read first, None if unknown.
    """

    def __init__(self, name: str, source: str, files: Dict[str, str]) -> None:
        self.name, self.source, self._files = name, source, files
        interval_ms = number(files["interval"])
        # JetPack 4 polls without delay ("0 ms") what its driver averages 64 times over 1.1 ms + 1.1 ms x 3.
        self.update_s = 0.42 if interval_ms == 0 else None if interval_ms is None else interval_ms / 1e3
        shunt_uohm, volt = number(files["shunt"]), number(files["voltage"])
        self.quantisation_w = None
        if shunt_uohm and volt:
            self.quantisation_w = 40e-6 / (shunt_uohm * 1e-6) * volt / 1e3

    def power_w(self) -> Optional[float]:
        """Present reading; None when the channel is off."""
        direct_mw = number(self._files["power"])
        if direct_mw is not None:
            return direct_mw / 1e3
        millivolt, milliampere = number(self._files["voltage"]), number(self._files["current"])
        return None if millivolt is None or milliampere is None else millivolt * milliampere / 1e6


class Board:
    """A board or plain host below `root`."""

    def __init__(self, root: str = "/", state: Optional[str] = None) -> None:
        self.root = root
        self.state = state or os.path.join(
            os.path.expanduser(os.environ.get("XDG_STATE_HOME") or "~/.local/state"), "cardlab"
        )
        self.tegra = "tegra" in (read(self.path("proc/device-tree/compatible")) or "")
        self.gpu = self._find_gpu()
        self.rails = self._find_rails()

    def path(self, *parts: str) -> str:
        """A path below the root."""
        return os.path.join(self.root, *parts)

    # identity ---------------------------------------------------------------------------------------------

    def key(self, kind: str) -> str:
        """The device key as cardlab itself would make it on this host."""
        serial = read(self.path("proc/device-tree/serial-number"))
        for name in ("etc/machine-id", "var/lib/dbus/machine-id"):
            serial = serial or read(self.path(name))
        if not serial or serial == "uninitialized":
            serial = self._own_key()
        return serial_key(kind, serial)

    def _own_key(self) -> str:
        file = os.path.join(self.state, "device-key")
        known = read(file)
        if known:
            return known
        try:
            os.makedirs(self.state, exist_ok=True)
            with open(file, "w") as out:
                out.write(new_uid() + "\n")
        except OSError as error:
            raise BoardError("no identity can be kept in %s (%s): set XDG_STATE_HOME" % (self.state, error.strerror))
        return read(file) or ""

    def model(self) -> Optional[str]:
        """What the device tree, else the kernel's list of CPUs, calls it."""
        known = read(self.path("proc/device-tree/model"))
        if known:
            return known
        match = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", self._cpuinfo(), re.MULTILINE)
        return match.group(1).strip() if match else None

    def cpu_cores(self) -> Optional[int]:
        """Physical cores: distinct (package, core) pairs, else processors."""
        line = re.compile(r"^([^:\n]+?)\s*:[ \t]*(.*)$", re.MULTILINE)
        blocks = [dict(line.findall(block)) for block in self._cpuinfo().split("\n\n")]
        processors = [b for b in blocks if "processor" in b]
        pairs = {(b.get("physical id"), b["core id"]) for b in processors if "core id" in b}
        return len(pairs) or len(processors) or None

    def _cpuinfo(self) -> str:
        return read(self.path("proc/cpuinfo")) or ""

    def memory_bytes(self, name: str = "MemTotal") -> Optional[int]:
        """Physical memory, or what is available of it ("MemAvailable")."""
        match = re.search(r"^%s:\s+(\d+) kB" % name, read(self.path("proc/meminfo")) or "", re.MULTILINE)
        return int(match.group(1)) * 1024 if match else None

    def device(self, kind: str, label: Optional[str], cuda: Optional[Dict[str, Any]]) -> Dict[str, Any]:
        """The device record; `cuda` holds what torch says of the GPU, None on a CPU."""
        clocks = self.frequencies() if kind == "jetson" else ()
        cores = self.cpu_cores()
        if cuda is not None:
            per_sm = CUDA_CORES_PER_SM.get(tuple(cuda["capability"]))
            cores = None if per_sm is None else per_sm * int(cuda["sm_count"])
        return {
            "key": self.key(kind),
            "name": label or platform.node() or "board",
            "platform": kind,
            "model": self.model(),
            "cores": cores,
            "frequency_min_hz": min(clocks) if clocks else None,
            "frequency_max_hz": max(clocks) if clocks else None,
            "memory_bytes": self.memory_bytes(),
            "details": {"agent": True, "machine": platform.machine(), "cuda": cuda, "l4t": self.l4t()},
        }

    def l4t(self) -> Optional[str]:
        """L4T release as "36.4.3"; None off a Jetson."""
        text = read(self.path("etc/nv_tegra_release")) or ""
        match = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", text)
        return "%s.%s" % match.groups() if match else None

    # clocks -----------------------------------------------------------------------------------------------

    def _find_gpu(self) -> Optional[str]:
        for node in sorted(glob(self.path("sys/class/devfreq/*"))):
            name = read(os.path.join(node, "device/of_node/name")) or os.path.basename(node).split(".")[-1]
            if is_gpu_node(name):
                return node
        return None

    def frequencies(self) -> Tuple[float, ...]:
        """GPU clocks on offer in Hz, ascending; empty without a GPU's devfreq node."""
        text = read(os.path.join(self.gpu, "available_frequencies")) if self.gpu else None
        return tuple(sorted(float(word) for word in (text or "").split()))

    def clock_writable(self) -> bool:
        """Whether this user may set the GPU's clock."""
        return self.gpu is not None and os.access(os.path.join(self.gpu, "max_freq"), os.W_OK)

    def lock(self, frequency_hz: float) -> None:
        """Hold the GPU at that clock: min to the lowest, max to f, min to f. Raises BoardError.

        This order is the only one right on both kernels: 4.9 refuses min > max, later ones run at a wrong
        clock in silence. What was found is written down before the first write.
        """
        assert self.gpu is not None
        self._journal()
        lowest = self.frequencies()[0]
        for name, value in (("min_freq", lowest), ("max_freq", frequency_hz), ("min_freq", frequency_hz)):
            self._write(name, value)
        if not self.holds(frequency_hz):
            raise BoardError(
                "the GPU did not take %.0f MHz: look at the power mode's cap (nvpmodel -q)" % (frequency_hz / 1e6)
            )

    def holds(self, frequency_hz: float) -> bool:
        """Whether both limits still are at that clock (a service may have undone them)."""
        assert self.gpu is not None
        limits = [number(os.path.join(self.gpu, name)) for name in ("min_freq", "max_freq")]
        return all(limit is not None and on_request(limit, frequency_hz) for limit in limits)

    def _write(self, name: str, value: float) -> None:
        assert self.gpu is not None
        try:
            with open(os.path.join(self.gpu, name), "w") as file:
                file.write("%d\n" % value)
        except OSError as error:
            reason = (name, error.strerror)
            raise BoardError("the GPU's %s cannot be set (%s): run as root, or with --readonly" % reason)

    @property
    def journal(self) -> str:
        """File that holds the limits found before the first lock."""
        return os.path.join(self.state, "agent-clocks.json")

    def _journal(self) -> None:
        if os.path.exists(self.journal):
            return
        assert self.gpu is not None
        found = {name: number(os.path.join(self.gpu, name)) for name in ("min_freq", "max_freq")}
        os.makedirs(self.state, exist_ok=True)
        with open(self.journal + ".part", "w") as file:
            json.dump(found, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.journal + ".part", self.journal)

    def restore(self) -> bool:
        """Put back the limits found before the first lock; False if nothing was locked."""
        text = read(self.journal)
        if text is None:
            return False
        found = json.loads(text)
        if self.gpu is None:
            raise BoardError("the GPU's clock node is gone: a reboot releases the clock")
        self._write("min_freq", self.frequencies()[0])
        self._write("max_freq", found["max_freq"])
        self._write("min_freq", found["min_freq"])
        os.remove(self.journal)
        return True

    # state and power --------------------------------------------------------------------------------------

    def gpu_hz(self) -> Optional[float]:
        """GPU clock now."""
        return number(os.path.join(self.gpu, "cur_freq")) if self.gpu else None

    def cpu_hz(self) -> Optional[float]:
        """Clock of the first CPU now."""
        khz = number(self.path("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"))
        return None if khz is None else khz * 1e3

    def memory_hz(self) -> Optional[float]:
        """Memory (EMC) clock now; only root may read it."""
        return number(self.path("sys/kernel/debug/bpmp/debug/clk/emc/rate"))

    def power_mode(self) -> Optional[str]:
        """Number of the power mode as nvpmodel keeps it."""
        match = re.search(r"pmode:0*(\d+)", read(self.path("var/lib/nvpmodel/status")) or "")
        return match.group(1) if match else None

    def temperature_c(self) -> Optional[float]:
        """Temperature of the GPU's zone, else of the hottest zone; zones that are off do not count."""
        zones = {}
        for zone in glob(self.path("sys/class/thermal/thermal_zone*")):
            value = number(os.path.join(zone, "temp"))
            if value is not None and value > -200e3:
                zones[(read(os.path.join(zone, "type")) or "").lower()] = value / 1e3
        gpu = [value for name, value in zones.items() if name.startswith("gpu")]
        return gpu[0] if gpu else (max(zones.values()) if zones else None)

    def over_current(self) -> Dict[str, float]:
        """Over-current events since boot by counter ("oc1_event_cnt"); empty where there are none."""
        found = {}
        for file in glob(self.path("sys/class/hwmon/hwmon*/oc*_event_cnt")):
            value = number(file)
            if value is not None:
                found[os.path.basename(file)] = value
        return found

    def _find_rails(self) -> List[Rail]:
        rails = []
        for hwmon in sorted(glob(self.path("sys/class/hwmon/hwmon*"))):
            if read(os.path.join(hwmon, "name")) == "ina3221":
                rails.extend(_hwmon_rails(hwmon))
        iio = glob(self.path("sys/bus/i2c/drivers/ina3221x/*/iio:device*"))
        for node in sorted(iio):
            rails.extend(_iio_rails(node))
        return [rail for rail in rails if rail.power_w() is not None]

    def total(self) -> Tuple[str, Tuple[str, ...]]:
        """Name of the total and the rails that make it; empty where there is none or these rails have no known sum."""
        members = total_parts([rail.name for rail in self.rails])
        return total_name(members), members


def _hwmon_rails(hwmon: str) -> List[Rail]:
    """JetPack 5 and later: in1..3 in mV, curr1..3 in mA."""
    found = []
    for k in "123":
        label = read(os.path.join(hwmon, "in%s_label" % k))
        if label and label != "NC":
            files = {
                "power": os.path.join(hwmon, "power%s_none" % k),
                "voltage": os.path.join(hwmon, "in%s_input" % k),
                "current": os.path.join(hwmon, "curr%s_input" % k),
                "shunt": os.path.join(hwmon, "shunt%s_resistor" % k),
                "interval": os.path.join(hwmon, "update_interval"),
            }
            found.append(Rail(label, "ina3221 hwmon", files))
    return found


def _iio_rails(node: str) -> List[Rail]:
    """JetPack 4: rail_name_0..2 and power in mW."""
    found = []
    for k in "012":
        label = read(os.path.join(node, "rail_name_%s" % k))
        if label and label != "NC":
            files = {
                "power": os.path.join(node, "in_power%s_input" % k),
                "voltage": os.path.join(node, "in_voltage%s_input" % k),
                "current": os.path.join(node, "in_current%s_input" % k),
                "shunt": os.path.join(node, "shunt_none"),
                "interval": os.path.join(node, "polling_delay_%s" % k),
            }
            found.append(Rail(label, "ina3221x iio", files))
    return found

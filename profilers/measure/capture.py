"""A read-only snapshot of what NVML and the kernel answer here, to be looked at elsewhere or replayed in a test.

Nothing is written and nothing is asked that names the machine: no serial numbers, and UUIDs are masked.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from cardlab.core.errors import CardlabError
from cardlab.profilers.devices.nvidia.nvml import FIELD_AVERAGE_MW, FIELD_INSTANT_MW, THROTTLE_FIELDS, Card, gpu_count

ENERGY_FIELD_MJ = 83
SYSFS = (
    "sys/class/powercap/*/*",
    "sys/devices/system/cpu/cpufreq/policy*/*",
    "sys/class/devfreq/*/*",
    "sys/class/hwmon/hwmon*/*",
    "sys/class/thermal/thermal_zone*/*",
    "sys/class/thermal/cooling_device*/*",
    "sys/class/devfreq/*/device/of_node/name",
    # Never device/*: reading `load` there wakes a sleeping GPU.
    "sys/class/devfreq/*/device/*_pg_mask",
    "sys/class/devfreq/*/device/*railgate*",
    "sys/class/devfreq/*/device/gpu_powered_on",
    "sys/bus/i2c/drivers/ina3221x/*/iio:device*/*",
    "sys/kernel/nvpmodel_*_cap/*",
    "sys/kernel/debug/bpmp/debug/clk/emc/*rate*",
    "sys/kernel/debug/clk/override.emc/*",
    "sys/kernel/debug/tegra_bwmgr/emc_*_rate",
    "proc/device-tree/model",
    "proc/device-tree/compatible",
    "proc/meminfo",
    "etc/nv_tegra_release",
    "etc/nvpmodel.conf",
    "var/lib/nvpmodel/status",
)
# A file of sysfs has a page; those of debugfs may be endless.
_MOST_BYTES = 65536
_UUID = re.compile(r"(GPU|MIG)-[0-9a-fA-F-]{36}")
_CALLS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("nvmlDeviceGetName", ()),
    ("nvmlDeviceGetUUID", ()),
    ("nvmlDeviceGetArchitecture", ()),
    ("nvmlDeviceGetCudaComputeCapability", ()),
    ("nvmlDeviceGetNumGpuCores", ()),
    ("nvmlDeviceGetAttributes", ()),
    ("nvmlDeviceGetMemoryInfo", ()),
    ("nvmlDeviceGetMigMode", ()),
    ("nvmlDeviceGetPersistenceMode", ()),
    ("nvmlDeviceGetPowerManagementLimit", ()),
    ("nvmlDeviceGetPowerManagementLimitConstraints", ()),
    ("nvmlDeviceGetPowerManagementDefaultLimit", ()),
    ("nvmlDeviceGetEnforcedPowerLimit", ()),
    ("nvmlDeviceGetPowerUsage", ()),
    ("nvmlDeviceGetTotalEnergyConsumption", ()),
    ("nvmlDeviceGetTemperature", (0,)),
    ("nvmlDeviceGetTemperatureV", (0,)),
    ("nvmlDeviceGetClockInfo", (0,)),
    ("nvmlDeviceGetClockInfo", (1,)),
    ("nvmlDeviceGetClockInfo", (2,)),
    ("nvmlDeviceGetMaxClockInfo", (1,)),
    ("nvmlDeviceGetMaxClockInfo", (2,)),
    ("nvmlDeviceGetPerformanceState", ()),
    ("nvmlDeviceGetCurrentClocksEventReasons", ()),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", ()),
    ("nvmlDeviceGetSupportedClocksEventReasons", ()),
    ("nvmlDeviceGetSupportedMemoryClocks", ()),
    ("nvmlDeviceGetUtilizationRates", ()),
)


Answers = dict[str, dict[str, object]]
"""What a card answered by call: {"value": ...} or {"error": its words}."""


class Snapshot(TypedDict):
    """Answers of every card, and the text of each kernel file by path, None if refused."""

    gpus: list[Answers]
    sysfs: dict[str, str | None]


def snapshot(root: Path = Path("/")) -> Snapshot:
    """Everything that could be read: `gpus` (call -> value or error) and `sysfs` (path -> text, None if refused)."""
    return {"gpus": [capture_gpu(Card(i)) for i in range(gpu_count())], "sysfs": dict(_sysfs(root))}


def capture_gpu(card: Card) -> Answers:
    """What one card answers, call by call; a call that fails gives its error in words."""
    calls = dict(_ask(card, name, arguments) for name, arguments in _CALLS)
    listed = calls.get("nvmlDeviceGetSupportedMemoryClocks", {}).get("value")
    for mhz in listed if isinstance(listed, list) else ():
        name, answer = _ask(card, "nvmlDeviceGetSupportedGraphicsClocks", (mhz,))
        calls[name] = answer
    ids = (*THROTTLE_FIELDS, ENERGY_FIELD_MJ, FIELD_AVERAGE_MW, FIELD_INSTANT_MW)
    name, fields = _ask(card, "nvmlDeviceGetFieldValues", (list(ids),))
    return {**calls, name: fields}


def write_tree(sysfs: dict[str, str | None], folder: Path) -> None:
    """Rebuild the captured files below a folder, which then serves as a `sysfs_root`; refused ones get no rights."""
    for name, text in sysfs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or "", encoding="utf-8")
        if text is None:
            path.chmod(0)


def _ask(card: Card, name: str, arguments: tuple[object, ...]) -> tuple[str, dict[str, object]]:
    simple = all(isinstance(a, int) for a in arguments)
    label = f"{name}({', '.join(map(str, arguments))})" if arguments and simple else name
    try:
        return label, {"value": _plain(card.call(name, *arguments))}
    except CardlabError as error:
        return label, {"error": error.message}


def _plain(value: object) -> object:
    """JSON form of what pynvml returns."""
    if isinstance(value, ctypes.Union):
        return _plain(getattr(value, "ullVal", 0))
    if isinstance(value, ctypes.Structure):
        return {field[0]: _plain(getattr(value, field[0])) for field in value._fields_}
    if isinstance(value, (ctypes.Array, list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return _UUID.sub(r"\1-00000000-0000-0000-0000-000000000000", value)
    return value if isinstance(value, (int, float, bool)) or value is None else str(value)


def _sysfs(root: Path) -> Iterator[tuple[str, str | None]]:
    for pattern in SYSFS:
        for path in sorted(root.glob(pattern)):
            # These two may name the machine.
            if not path.is_file() or path.name in ("uevent", "serial"):
                continue
            try:
                text = path.read_bytes()[:_MOST_BYTES].decode("utf-8", "replace").strip("\0 \t\r\n")
            except OSError:
                yield str(path.relative_to(root)), None
                continue
            yield str(path.relative_to(root)), text

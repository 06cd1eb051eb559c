"""NVIDIA's management library through `nvidia-ml-py`: every call apart, SI out, vendor errors translated.

Support is a matter of each call, not of the card: Jetson and WSL2 initialise and then answer little. A call
that may be missing returns None and leaves its reason in `lacks`; only a lost device always raises.
"""

from __future__ import annotations

import os
from typing import Any

import pynvml

from cardlab.core.errors import (
    CardlabError,
    DeviceBusyError,
    DeviceError,
    DeviceLostError,
    MissingDependencyError,
    NotSupportedError,
    PermissionDeniedError,
)

# Numbers of nvml.h, because older bindings lack the names.
FIELD_INSTANT_MW = 186
FIELD_AVERAGE_MW = 185
THROTTLE_FIELDS = {
    74: "power cap",
    269: "thermal limit (software)",
    270: "thermal limit (hardware)",
    271: "power brake",
}
# Idle (0x1), clocks that were asked for (0x2), sync boost (0x10) and display (0x100) limit nothing unasked.
LIMITING_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal limit (software)",
    0x40: "thermal limit (hardware)",
    0x80: "power brake",
}

_UPDATE = "update the NVIDIA driver"
# By nvmlReturn_t.
_ERRORS: dict[int, tuple[type[CardlabError], str, str]] = {
    1: (DeviceError, "NVML is not initialised", "open the device again"),
    2: (NotSupportedError, "refuses these values", "choose one that the card lists: nvidia-smi -q -d SUPPORTED_CLOCKS"),
    3: (NotSupportedError, "is not supported on this device", "nothing mends it; what depends on it is N/A"),
    4: (PermissionDeniedError, "needs root", "run as root, or set up cardlab-clock-helper (see docs/nvidia.md)"),
    6: (NotSupportedError, "finds no such device", "list the devices with: nvidia-smi -L"),
    9: (NotSupportedError, "finds no NVIDIA driver", "load it with: sudo modprobe nvidia"),
    10: (DeviceError, "timed out", "look at: sudo dmesg | grep NVRM"),
    12: (NotSupportedError, "finds no libnvidia-ml.so.1", "install the NVIDIA driver, or use --platform cpu"),
    13: (NotSupportedError, "is missing in this driver", _UPDATE),
    15: (DeviceLostError, "says the GPU is lost", "look at: sudo dmesg | grep NVRM; then reboot and use --resume"),
    16: (DeviceLostError, "says the GPU needs a reset", "run: sudo nvidia-smi --gpu-reset; then use --resume"),
    17: (DeviceError, "was refused by the operating system", "in a container, start it with --gpus all"),
    18: (DeviceError, "finds a driver of another version", "reboot, so that kernel module and library match"),
    19: (DeviceBusyError, "says the GPU is in use", "end the other processes: nvidia-smi"),
    24: (NotSupportedError, "does not offer this frequency", "list the frequencies: nvidia-smi -q -d SUPPORTED_CLOCKS"),
    28: (NotSupportedError, "finds no GPU", "list the devices with: nvidia-smi -L"),
}


def translated(call: str, error: pynvml.NVMLError) -> CardlabError:
    """The error of ours that an NVML error means; names the call, what it said and the remedy."""
    kind, words, remedy = _ERRORS.get(
        error.value, (DeviceError, f"failed with NVML code {error.value}", "look at: sudo dmesg | grep NVRM")
    )
    return kind(f"{call} {words}", remedy=remedy)


def nvml_call(name: str, *arguments: object) -> Any:
    """Call a function of pynvml by name. Raises only errors of ours."""
    function = getattr(pynvml, name, None)
    if function is None:
        raise MissingDependencyError(
            f"this nvidia-ml-py does not know {name}", remedy="pip install --upgrade nvidia-ml-py"
        )
    try:
        answer = function(*arguments)
    except pynvml.NVMLError as error:
        raise translated(name, error) from error
    except pynvml.NVMLLibraryMismatchError as error:
        # What pynvml makes of a missing versioned symbol; it is no NVMLError.
        raise translated(name, pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)) from error
    # Older bindings give text as bytes: str() of those would make another card of this one ("b'GPU-...'").
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def gpu_count() -> int:
    """GPUs that NVML lists; 0 where there is no driver."""
    try:
        nvml_call("nvmlInit")
        return int(nvml_call("nvmlDeviceGetCount"))
    except CardlabError:
        return 0


def index_of(uuid: str) -> int:
    """NVML's number of the card with that UUID. Raises NotSupportedError where there is none."""
    for index in range(gpu_count()):
        if (Card(index).text("nvmlDeviceGetUUID") or "").lower() == uuid.lower():
            return index
    raise NotSupportedError(f"there is no GPU {uuid} here", remedy="list them with: nvidia-smi -L")


class Card:
    """One GPU behind NVML. Raises an error of ours if it cannot be opened.

    Attributes:
        lacks: the newest reason of every call that gave nothing, by its name.
    """

    def __init__(self, index: int = 0) -> None:
        # NVML counts these calls: a second card does not disturb the first.
        nvml_call("nvmlInit")
        self.index = index
        self.lacks: dict[str, CardlabError] = {}
        self._handle = nvml_call("nvmlDeviceGetHandleByIndex", index)

    def call(self, name: str, *arguments: object) -> Any:
        """A call on this card that must work. Raises errors of ours."""
        return nvml_call(name, self._handle, *arguments)

    def read(self, name: str, *arguments: object) -> Any:
        """A call that may lack: None then, with the reason in `lacks`. Raises DeviceLostError only."""
        try:
            value = self.call(name, *arguments)
        except DeviceLostError:
            raise
        except CardlabError as error:
            self.lacks[name] = error
            return None
        self.lacks.pop(name, None)
        return value

    def fields(self, *ids: int) -> dict[int, int]:
        """Unsigned field values by id; a field that is not supported is left out."""
        values = self.read("nvmlDeviceGetFieldValues", list(ids))
        found = {}
        for entry in values or ():
            if entry.nvmlReturn == 0:
                # Type 3 is unsigned 64-bit (energy, throttle times); power fields have 32 bits.
                found[int(entry.fieldId)] = int(entry.value.ullVal if entry.valueType == 3 else entry.value.uiVal)
            elif entry.nvmlReturn in (15, 16):
                raise translated(f"field {entry.fieldId}", pynvml.NVMLError(entry.nvmlReturn))
        return found

    def text(self, name: str) -> str | None:
        """A string, None if it cannot be read."""
        value = self.read(name)
        return None if value is None else str(value)

    def energy_j(self) -> float | None:
        """Energy since the driver was loaded; moves in ticks of about 100 ms."""
        value = self.read("nvmlDeviceGetTotalEnergyConsumption")
        return None if value is None else value / 1e3

    def instant_w(self) -> float | None:
        """Mean of the last sensor window (100 ms on Ampere and Ada)."""
        value = self.fields(FIELD_INSTANT_MW).get(FIELD_INSTANT_MW)
        return None if value is None else value / 1e3

    def average_w(self) -> float | None:
        """What `power.draw` shows: the mean of one second on Ampere and newer."""
        value = self.read("nvmlDeviceGetPowerUsage")
        return None if value is None else value / 1e3

    def frequency_hz(self, kind: int) -> float | None:
        """Frequency now: kind 1 is the SM frequency, 2 the memory frequency."""
        value = self.read("nvmlDeviceGetClockInfo", kind)
        return None if value is None else value * 1e6

    def temperature_c(self) -> float | None:
        """Temperature of the die; by the newer call where the driver has it."""
        # Asked once: a driver that lacks it does not learn it.
        if "nvmlDeviceGetTemperatureV" not in self.lacks:
            value = self.read("nvmlDeviceGetTemperatureV", 0)
            if value is not None:
                return float(value)
        value = self.read("nvmlDeviceGetTemperature", 0)
        return None if value is None else float(value)

    def event_reasons(self) -> int | None:
        """Bits of why the frequency is what it is; the older name is asked where the newer is missing."""
        value = self.read("nvmlDeviceGetCurrentClocksEventReasons")
        if value is None:
            value = self.read("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if value is None else int(value)

    def throttled_s(self) -> dict[str, float]:
        """Seconds of throttling since the driver was loaded, by reason; reasons not counted are left out."""
        found = self.fields(*THROTTLE_FIELDS)
        return {THROTTLE_FIELDS[field]: value / 1e9 for field, value in found.items()}

    def power_limit_w(self) -> float | None:
        """The enforced limit."""
        value = self.read("nvmlDeviceGetEnforcedPowerLimit")
        return None if value is None else value / 1e3

    def mig(self) -> bool | None:
        """Whether the card is cut into instances; None where it cannot be."""
        value = self.read("nvmlDeviceGetMigMode")
        return None if value is None else bool(value[0])

    def memory_frequencies_hz(self) -> tuple[float, ...]:
        """Supported memory frequencies, ascending; empty if not listed."""
        return tuple(sorted(mhz * 1e6 for mhz in self.read("nvmlDeviceGetSupportedMemoryClocks") or ()))

    def compute_frequencies_hz(self, memory_hz: float) -> tuple[float, ...]:
        """SM frequencies supported at a memory frequency, ascending; empty if not listed."""
        frequencies = self.read("nvmlDeviceGetSupportedGraphicsClocks", round(memory_hz / 1e6))
        return tuple(sorted(mhz * 1e6 for mhz in frequencies or ()))

    def other_processes(self) -> tuple[int, ...] | None:
        """Process ids that compute on the card beside this one; None if it cannot be known."""
        found = self.read("nvmlDeviceGetComputeRunningProcesses")
        return None if found is None else tuple(p.pid for p in found if p.pid != os.getpid())

"""From a platform's name to the device: one line a vendor, and a folder behind it.

A vendor's folder has in its `__init__.py` how its devices are named (`FORM`), whether `auto` takes one here (`found`)
and what opens it (`open_hardware`). Nothing else in cardlab knows which vendors there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from cardlab.core.errors import UsageError
from cardlab.profilers.devices.device import HardwareDevice

# In the order in which `auto` asks: a Tegra before NVML, which starts there and answers nothing of use; the CPU, which
# is always there, last.
VENDORS = {
    "jetson": "cardlab.profilers.devices.jetson",
    "nvidia": "cardlab.profilers.devices.nvidia",
    "simulated": "cardlab.profilers.devices.simulated",
    "cpu": "cardlab.profilers.devices.cpu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which device of a vendor, and where.

    Attributes:
        rest: what stands after the platform's name and its colon; empty for none.
        root: root of /sys, /proc and /etc for devices that read them.
        label: name given to the device, None for its own.
    """

    rest: str = ""
    root: Path = Path("/")
    label: str | None = None

    def refuse_rest(self, form: str) -> None:
        """UsageError where something stands after the name of a platform that has one device."""
        if self.rest:
            raise UsageError(f"{self.rest!r} names no device of this platform", remedy=f"write {form}")


class Vendor(Protocol):
    """What a vendor's folder offers."""

    FORM: str

    def found(self, place: Place) -> bool:
        """Whether `auto` takes a device of this vendor here."""
        ...

    def open_hardware(self, place: Place) -> HardwareDevice:
        """Open it; raises errors of cardlab with their remedies."""
        ...


def open_platform(name: str = "auto", *, sysfs_root: str | Path = "/", label: str | None = None) -> HardwareDevice:
    """Open the device of that name.

    Args:
        name: "auto", "nvidia", "nvidia:INDEX", "nvidia:GPU-UUID", "jetson", "cpu", "simulated:NAME" or
            "simulated:NAME:LABEL"; a vendor of your own by the name in VENDORS.
        sysfs_root: root of /sys, /proc and /etc for devices that read them.
        label: name given to the device; its own by default.

    Raises:
        UsageError: no such platform; the message lists those there are.
    """
    kind, _, rest = name.partition(":")
    place = Place(rest=rest, root=Path(sysfs_root), label=label)
    if kind in VENDORS:
        return _vendor(kind).open_hardware(place)
    if name == "auto":
        for vendor in map(_vendor, VENDORS):
            if vendor.found(place):
                return vendor.open_hardware(place)
    forms = ", ".join(("auto", *(_vendor(kind).FORM for kind in VENDORS)))
    raise UsageError(f"there is no platform {name!r}", remedy=f"choose one of: {forms}")


def _vendor(kind: str) -> Vendor:
    return cast(Vendor, import_module(VENDORS[kind]))

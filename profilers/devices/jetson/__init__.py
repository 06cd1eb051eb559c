"""Jetson boards: devfreq, INA3221 through sysfs, jtop and tegrastats."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.profilers.devices.device import HardwareDevice
    from cardlab.profilers.devices.registry import Place

FORM = "jetson"


def found(place: Place) -> bool:
    """Whether the device tree or the L4T release is a Tegra's."""
    from cardlab.profilers.board.tegra import find_tegra

    return find_tegra(place.root) is not None


def open_hardware(place: Place) -> HardwareDevice:
    """The board this runs on. Raises NotSupportedError on any other machine."""
    from cardlab.profilers.devices.jetson.device import JetsonDevice

    place.refuse_rest(FORM)
    return JetsonDevice(sysfs_root=place.root, label=place.label)

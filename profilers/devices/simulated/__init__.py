"""Devices made of stated physics, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.profilers.devices.device import HardwareDevice
    from cardlab.profilers.devices.registry import Place

FORM = "simulated:NAME[:LABEL]"


def found(place: Place) -> bool:
    """Never by itself: whoever wants numbers that are not real names the device."""
    return False


def open_hardware(place: Place) -> HardwareDevice:
    """The simulated device of that name. Raises UsageError listing the names there are."""
    from cardlab.profilers.devices.simulated.device import SimulatedDevice

    model, _, label = place.rest.partition(":")
    return SimulatedDevice(model, place.label or label or None)

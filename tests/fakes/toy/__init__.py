"""A vendor of its own, as an extension would bring it: this folder, and one line in the registry."""

from __future__ import annotations

from cardlab.profilers.devices.device import HardwareDevice
from cardlab.profilers.devices.registry import Place

FORM = "toy[:NUMBER]"


def found(place: Place) -> bool:
    return False


def open_hardware(place: Place) -> HardwareDevice:
    from tests.fakes.toy.device import ToyDevice

    return ToyDevice(int(place.rest or 0), place.label)

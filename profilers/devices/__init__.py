"""Where work runs and is measured: one folder a vendor, all behind `open_platform`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.profilers.devices.device import HardwareDevice, Probe
    from cardlab.profilers.devices.registry import open_platform

_WHERE = {"HardwareDevice": "device", "Probe": "device", "open_platform": "registry"}
__all__ = ["HardwareDevice", "Probe", "open_platform"]


def __getattr__(name: str) -> object:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

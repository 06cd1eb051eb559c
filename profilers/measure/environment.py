"""Versions of the software a measurement was made with."""

from __future__ import annotations

import platform as host_platform
from importlib import metadata

from cardlab import __version__
from cardlab.core.records.device import Environment
from cardlab.profilers.devices.device import HardwareDevice

PACKAGES = ("torch", "transformers", "peft", "fvcore", "numpy", "nvidia-ml-py", "jetson-stats")


def gather_environment(device: HardwareDevice) -> Environment:
    """Python, kernel, packages, and what the device says of its driver."""
    versions = {
        "cardlab": __version__,
        "python": host_platform.python_version(),
        "system": host_platform.platform(),
    }
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    versions.update(device.versions())
    return Environment(versions=versions)

"""An NVIDIA card behind NVML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cardlab.core.errors import NotSupportedError, UsageError

if TYPE_CHECKING:
    from cardlab.profilers.devices.device import HardwareDevice
    from cardlab.profilers.devices.registry import Place

FORM = "nvidia[:INDEX|:GPU-UUID]"


def found(place: Place) -> bool:
    """Whether NVML has a card and torch can compute on it; anything less is a case for the CPU."""
    from cardlab.profilers.devices.nvidia.nvml import gpu_count

    if gpu_count() == 0:
        return False
    try:
        import torch
    except ImportError:
        return False
    # A card that torch cannot use has nothing to measure a model on: the CPU is the better choice of `auto`.
    return bool(torch.cuda.is_available())


def open_hardware(place: Place) -> HardwareDevice:
    """A card by its number or its UUID, both as nvidia-smi -L lists them; the first one without either.

    Raises UsageError for anything else, DeviceError where there is no driver or no such card.
    """
    from cardlab.profilers.devices.nvidia.device import NvidiaDevice

    return NvidiaDevice(_index(place.rest), place.label, sysfs_root=place.root)


def _index(text: str) -> int:
    from cardlab.profilers.devices.nvidia.nvml import gpu_count, index_of

    if text.upper().startswith("GPU-"):
        return index_of(text)
    if text and not (text.isascii() and text.isdigit()):
        problem = f"{text!r} is neither the number of a GPU nor its UUID"
        raise UsageError(problem, remedy="list them with: nvidia-smi -L")
    index, count = int(text or 0), gpu_count()
    # Without a driver the card itself says so.
    if count and index >= count:
        known = "nvidia:0" if count == 1 else f"nvidia:0 to nvidia:{count - 1}"
        cards = "one card" if count == 1 else f"{count} cards"
        raise NotSupportedError(f"there is no GPU {index}: NVML lists {cards} here", remedy=f"use {known}")
    return index

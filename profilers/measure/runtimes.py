"""Which runtime a device's works need; devices and runtimes know nothing of each other."""

from __future__ import annotations

from cardlab.profilers.devices.device import HardwareDevice
from cardlab.profilers.runtime.runtime import DescribedRuntime, Runtime, TorchRuntime, cuda_name


def open_runtime(device: HardwareDevice, *, load: bool = False) -> Runtime:
    """The runtime for this device.

    Args:
        load: only a named load is run, so that torch is not asked for its name of the card.

    Raises NotSupportedError where torch does not see the device, MissingDependencyError without torch.
    """
    if device.torch_device is None:
        return DescribedRuntime()
    if device.torch_key is not None and not load:
        index = int(device.torch_device.partition(":")[2] or 0)
        return TorchRuntime(cuda_name(index, device.torch_key))
    if device.torch_remedy is not None:
        return TorchRuntime(device.torch_device, device.torch_remedy)
    return TorchRuntime(device.torch_device)

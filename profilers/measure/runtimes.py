"""Which runtime a device's works need; devices and runtimes know nothing of each other."""

from __future__ import annotations

from cardlab.profilers.devices.device import Platform
from cardlab.profilers.runtime.runtime import DescribedRuntime, Runtime, TorchRuntime, cuda_name


def open_runtime(platform: Platform, *, load: bool = False) -> Runtime:
    """The runtime for this device.

    Args:
        load: only a named load is run, so that torch is not asked for its name of the card.

    Raises NotSupportedError where torch does not see the device, MissingDependencyError without torch.
    """
    if platform.torch_device is None:
        return DescribedRuntime()
    if platform.identity.platform == "nvidia" and not load:
        index = int(platform.torch_device.partition(":")[2] or 0)
        return TorchRuntime(cuda_name(index, platform.identity.key))
    if platform.torch_remedy is not None:
        return TorchRuntime(platform.torch_device, platform.torch_remedy)
    return TorchRuntime(platform.torch_device)

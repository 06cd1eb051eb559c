"""What a round's computing costs, written here and nowhere else: the device's own, and the server's busy time.

    E_device = P T t_device        busy = T t_server

Power while waiting is weighed in `objective.server_energy_j`, which every account of the server's energy goes through.
As in `delay`, the same lines run on numbers, on arrays that broadcast, and inside compiled kernels.
"""

from __future__ import annotations

from cardlab.card.problem.delay import Quantity


def device_energy_j(power_w: Quantity, epochs: float, device_s: Quantity) -> Quantity:
    """Energy of a device's own compute in a round of `epochs` mini-batches, J; NaN where its power is."""
    return power_w * epochs * device_s


def server_busy_s(epochs: float, server_s: Quantity) -> Quantity:
    """Seconds in a round that the server computes for one device."""
    return epochs * server_s

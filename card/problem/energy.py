"""What a round's computing costs, written here and nowhere else: the device's own, and the server's busy time.

    E_device = P T t_device        busy = T t_server

and of the whole round, where the device is charged for all of it:

    compute  = P(g) T t_device(g)          transmit = P_tx t_up          receive = P_rx t_down
    waiting  = P_wait(g) (D - T t_device)  idle     = P_idle (round of all devices - D)

D is the delay of its round, t_up and t_down the seconds its bits are on the air. P is of the whole device at its
frequency g, P_wait what it draws with that frequency held and nothing to compute. What its radio draws comes on top of
the waiting: P_tx and P_rx are of the radio alone. Codecs run while the accelerator waits, and count as waiting. Idle is
the time in which other devices have their turn (card) or are still busy (sft): no choice of the device changes it.

Power of the server while waiting is weighed in `objective.server_energy_j`, which every account of its energy goes
through. As in `delay`, the same lines run on numbers, on arrays that broadcast, and inside compiled kernels.
"""

from __future__ import annotations

from typing import NamedTuple

from cardlab.card.problem.delay import Quantity


class DevicePowers(NamedTuple):
    """Of a device, W: at work, waiting with its frequency held, and what its radio adds; NaN unknown."""

    compute_w: Quantity
    waiting_w: Quantity
    transmit_w: Quantity
    receive_w: Quantity


class DeviceTimes(NamedTuple):
    """Of a device's round, seconds: its own compute, bits on the air each way, the whole round."""

    compute_s: Quantity
    up_s: Quantity
    down_s: Quantity
    round_s: Quantity


class DeviceJoules(NamedTuple):
    """Energy of a device's round by term, J; NaN unknown. Their sum is `device_round_j`."""

    compute: Quantity
    transmit: Quantity
    receive: Quantity
    waiting: Quantity


def device_energy_j(power_w: Quantity, epochs: float, device_s: Quantity) -> Quantity:
    """Energy of a device's own compute in a round of `epochs` mini-batches, J; NaN where its power is."""
    return power_w * epochs * device_s


def device_joules(powers: DevicePowers, times: DeviceTimes) -> DeviceJoules:
    """Energy of a device's round by term."""
    return DeviceJoules(
        compute=powers.compute_w * times.compute_s,
        transmit=powers.transmit_w * times.up_s,
        receive=powers.receive_w * times.down_s,
        waiting=powers.waiting_w * (times.round_s - times.compute_s),
    )


def device_round_j(joules: DeviceJoules) -> Quantity:
    """Energy of a device's own round, J: the sum of its terms."""
    return joules.compute + joules.transmit + joules.receive + joules.waiting


def server_busy_s(epochs: float, server_s: Quantity) -> Quantity:
    """Seconds in a round that the server computes for one device."""
    return epochs * server_s

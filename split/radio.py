"""What sending and receiving costs a device: its rail while messages go one way, above the rail while none do.

    idle       [ rail of the whole device, connected and silent ]
    transmit   [ large messages up, small answers down, one after the other ]
    receive    [ small messages up, large answers down ]

    power = (mean in the window - mean idle) / share of the window in which bits were on their way, without latency

It holds what the device does for its messages beside the radio itself (copies, encryption): a run pays for that too.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.errors import DeviceError
from cardlab.profilers.devices.device import HardwareDevice
from cardlab.split.device_transport import DeviceTransport
from cardlab.split.frequency import EnergyMeter
from cardlab.split.laps import now_s
from cardlab.split.probe import exchange

# A mean of fewer updates says little; a window is as long as it takes to have these, within bounds.
_UPDATES = 30
_WINDOW_S = (3.0, 60.0)
_SMALL_BYTES = 1024
# The quickest of so many says what a message waits for.
_SMALL_ONES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioPower:
    """What a device's messages add to its power, W; never below 0, which a reading in noise may be."""

    transmit_w: float
    receive_w: float
    idle_w: float


def measure_radio(platform: HardwareDevice, transport: DeviceTransport, message_bytes: int) -> RadioPower:
    """Measure with messages of that size; the transport is connected.

    Raises DeviceError for a device without a meter, or whose meter gave no whole update.
    """
    if platform.meter is None:
        raise DeviceError(
            f"{platform.identity.name} has no power meter",
            remedy="leave --energy out, or see what is lacking: profile-device doctor",
        )
    window_s = min(max(_UPDATES * platform.meter.update_s, _WINDOW_S[0]), _WINDOW_S[1])
    idle_w, _ = _mean(platform, transport, window_s, None)
    # What a message waits for on the link sends nothing, and plans count no joule of it.
    ways_s = [exchange(transport, _SMALL_BYTES, _SMALL_BYTES) for _ in range(_SMALL_ONES)]
    up_s, down_s = (min(each) for each in zip(*ways_s, strict=True))
    sent_w, sending = _mean(platform, transport, window_s, (message_bytes, _SMALL_BYTES), up_s)
    fetched_w, receiving = _mean(platform, transport, window_s, (_SMALL_BYTES, message_bytes), down_s)
    return RadioPower(
        transmit_w=max(0.0, sent_w - idle_w) / sending,
        receive_w=max(0.0, fetched_w - idle_w) / receiving,
        idle_w=idle_w,
    )


def _mean(
    platform: HardwareDevice,
    transport: DeviceTransport,
    window_s: float,
    sizes: tuple[int, int] | None,
    latency_s: float = 0.0,
) -> tuple[float, float]:
    """Mean power of a window, and the share of it in which bits of the larger of both messages were under way."""
    on_air_s, begin_s = 0.0, now_s()
    with EnergyMeter(platform).recording() as meter:
        while now_s() < begin_s + window_s:
            if sizes is None:
                transport.check_open(0.05)
                continue
            ways_s = exchange(transport, *sizes)
            on_air_s += max(0.0, ways_s[0 if sizes[0] > sizes[1] else 1] - latency_s)
        took_s = now_s() - begin_s
    if meter.power_w is None:
        raise DeviceError(
            meter.problem or f"the meter of {platform.identity.name} gave no whole update in {took_s:.0f} s",
            remedy="leave --energy out, or see what is lacking: profile-device doctor",
        )
    return meter.power_w, min(max(on_air_s / took_s, 1e-3), 1.0)

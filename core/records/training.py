"""What a split run did: rounds of devices, each with its terms observed beside those predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.core.quantity import Provenance
from cardlab.core.records.device import Device

# The time a device waits for others: observed beside the terms, no part of the delay.
WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPhase:
    """One term of a round, T epochs together, in seconds.

    Attributes:
        term: "device", "encode", "uplink", "decode", "server", "downlink", "adapters", "switch" or "waiting".
        observed_s: as timed, None where it was not.
        predicted_s: by the plan or the fits, None without either.
        predicted_ci95: interval of the prediction, None where its uncertainty is not known.
        predicted_provenance: of what it was predicted from; None without a prediction, or where that was not kept.
    """

    term: str
    observed_s: float | None
    predicted_s: float | None = None
    predicted_ci95: tuple[float, float] | None = None
    predicted_provenance: Provenance | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRound:
    """One finished round of one device.

    Attributes:
        uid: follows from run, round and device, so that storing it twice stores it once.
        run: uid of the run.
        plan: uid of the plan that was followed, None for a given cut.
        number: round, from 1.
        frequency_hz: frequency the server ran at, None where it cannot be read.
        loss: mean over the round's mini-batches.
        delay_s: sum of the terms without waiting.
        energy_j: of the server over the whole round, None without a meter.
        predicted_delay_ci95: interval of the predicted delay, None where it is not known.
        losses: of each mini-batch, in order.
        elapsed_s: from the server's first act to the adapters' return.
        waiting_s: of the device for others.
        power_w: mean of the server over the round, None without a meter.
        codec: of activations and gradients, None where it was not recorded.
        up_bytes, down_bytes, adapter_bytes: sent by the device, to it, and of its adapters (one way).
        rtt_s: shortest round trip seen.
        details: further facts, for people only.
    """

    uid: str
    run: str
    plan: str | None
    device: Device
    number: int
    cut: int
    frequency_hz: float | None
    loss: float | None
    delay_s: float | None
    energy_j: float | None
    phases: tuple[TrainPhase, ...]
    predicted_delay_ci95: tuple[float, float] | None = None
    losses: tuple[float, ...] = ()
    elapsed_s: float | None = None
    waiting_s: float | None = None
    power_w: float | None = None
    codec: str | None = None
    up_bytes: int | None = None
    down_bytes: int | None = None
    adapter_bytes: int | None = None
    rtt_s: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)

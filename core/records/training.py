"""What a split run did: rounds of devices, each with its terms observed beside those predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cardlab.core.records.device import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPhase:
    """One term of a round, T epochs together, in seconds.

    Attributes:
        term: "device", "encode", "uplink", "decode", "server", "downlink", "adapters", "switch" or "waiting".
        observed_s: as timed, None where it was not.
        predicted_s: by the plan or the fits, None without either.
        predicted_ci95: interval of the prediction, None where its doubt is not known.
    """

    term: str
    observed_s: float | None
    predicted_s: float | None = None
    predicted_ci95: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRound:
    """One finished round of one device.

    Attributes:
        uid: follows from run, round and device, so that storing it twice stores it once.
        run: uid of the run.
        plan: uid of the plan that was followed, None for a given cut.
        number: round, from 1.
        frequency_hz: clock the server ran at, None where it cannot be read.
        loss: mean over the round's mini-batches.
        delay_s: sum of the terms without waiting.
        energy_j: of the server over the whole round, None without a meter.
        details: losses of each mini-batch, elapsed and waiting seconds, predicted delay.
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
    details: Mapping[str, object] = field(default_factory=dict)

"""What a split run did: rounds of devices, each with its terms observed beside those predicted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
        predicted_ratio: by which the profile's prediction was multiplied, as rounds before had taught; None for the
            profile's own.
    """

    term: str
    observed_s: float | None
    predicted_s: float | None = None
    predicted_ci95: tuple[float, float] | None = None
    predicted_provenance: Provenance | None = None
    predicted_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainQuality:
    """How well the adapters after a round predict the held-out rows of one device.

    Attributes:
        uid: follows from run, round and device.
        run: uid of the run.
        number: round, 0 for the adapters that the run began with.
        cut: layers on the device as it was judged.
        loss: mean over its tokens, nats.
        tokens: that have a loss.
        correct: tokens that were the likeliest of all.
        elapsed_s: that it took, beside the rounds.
        up_bytes: sent by the device for it, labels and all.
    """

    uid: str
    run: str
    device: Device
    number: int
    cut: int
    loss: float
    tokens: int
    correct: int
    elapsed_s: float
    up_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well the adapters after a round predict all held-out rows.

    Attributes:
        number: round.
        loss: mean over the tokens of all devices, nats.
        accuracy: share of tokens that were the likeliest of all.
        tokens: that have a loss.
        elapsed_s: devices' seconds, together.
        up_bytes: sent by all devices.
        devices: labels of those whose rows these are.
    """

    number: int
    loss: float
    accuracy: float
    tokens: int
    elapsed_s: float
    up_bytes: int
    devices: frozenset[str]

    @property
    def perplexity(self) -> float:
        """exp of the loss."""
        return math.exp(self.loss)


def qualities(judged: Iterable[TrainQuality]) -> dict[int, Quality]:
    """The quality of each round that was judged, by its number; every token counts the same."""
    by_round: dict[int, list[TrainQuality]] = {}
    for one in judged:
        by_round.setdefault(one.number, []).append(one)
    found = {}
    for number, own in sorted(by_round.items()):
        tokens = sum(one.tokens for one in own)
        found[number] = Quality(
            number=number,
            loss=sum(one.loss * one.tokens for one in own) / tokens,
            accuracy=sum(one.correct for one in own) / tokens,
            tokens=tokens,
            elapsed_s=sum(one.elapsed_s for one in own),
            up_bytes=sum(one.up_bytes for one in own),
            devices=frozenset(one.device.name for one in own),
        )
    return found


def best_quality(found: Iterable[Quality]) -> Quality | None:
    """The lowest loss among those of the same rows as the last one; the earliest of equal ones, None without any."""
    return min(comparable(found), key=lambda one: one.loss, default=None)


def comparable(found: Iterable[Quality]) -> list[Quality]:
    """Those that were judged by the same devices as the last one.

    A device that was away took its rows with it: a mean of others says nothing of these.
    """
    known = list(found)
    return [one for one in known if one.devices == known[-1].devices]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """What a device read of itself over one of its rounds, from its begin to its adapters' return; None: it cannot.

    Attributes:
        held_hz: frequency that it held, another than was asked for where there is a refusal; None where it held none.
        refusal: why it did not hold what was asked for, in words; None where it did.
        frequency_hz, memory_hz, cpu_hz, temperature_c, power_mode, throttled: as read under load.
        power_w, energy_j: of the whole device, mean and over its round.
    """

    held_hz: float | None = None
    refusal: str | None = None
    frequency_hz: float | None = None
    memory_hz: float | None = None
    cpu_hz: float | None = None
    temperature_c: float | None = None
    power_mode: str | None = None
    throttled: bool | None = None
    power_w: float | None = None
    energy_j: float | None = None


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
        rows: of the device's data, |D_m|; None where it was not recorded.
        tokens: that were trained on, padding apart; None where they were not counted.
        gradient_norms: of the whole model at each step before clipping; () without clipping.
        temperature_c: of the server under load, None where it cannot be read.
        device_reading: what the device read of itself; None in rounds of older versions.
        predicted_energy_j, predicted_device_energy_j: of the server and of the device over the round, as meters count;
            None where the plan says none.
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
    rows: int | None = None
    tokens: int | None = None
    gradient_norms: tuple[float, ...] = ()
    temperature_c: float | None = None
    device_reading: DeviceReading | None = None
    predicted_energy_j: float | None = None
    predicted_device_energy_j: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)

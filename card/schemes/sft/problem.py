"""The resource problem of parallel split fine-tuning, on the arrays of a Problem.

    tau = max_n  delay of the round of device n with layers l_n, option k_n and share b_n of the band
                 (`cardlab.card.problem.delay`, bytes times the rate r_k of the option)
    server = sum over layers j of layer_s(j) x times(number of devices with l_n < j);  one after the other: times(k) = k
    the server decodes and encodes for one device at a time: server += its codec time for the others

With `serial` sharing a mini-batch waits for those of all other devices at worst, so tau is an upper bound;
`queue` simulates what happens. With `batched` sharing the server computes all devices in one batched step, for which
all of them wait.

Shapes: M devices, C cuts, K options, S channel states, B choices side by side. Choices are indices [..., M].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index, Mask
from cardlab.card.problem.constraints import Limit, Measures, limits_on
from cardlab.card.problem.delay import MiniBatch, OncePerRound, no_air, round_bytes, round_seconds, round_terms
from cardlab.card.problem.energy import device_energy_j, server_busy_s
from cardlab.card.problem.problem import Problem
from cardlab.card.schemes.sft.options import Accuracy, Option, rates_of, reaches
from cardlab.card.schemes.sft.spectrum import Band, share_exactly

BLOCKS = ("own", "common")


@dataclass(frozen=True, slots=True, kw_only=True)
class SftProblem:
    """What to decide on.

    Attributes:
        base: arrays with bytes before compression; its links are those of the first round.
        options: compressions [K], rates rising.
        plain: tensors as they are, for the baselines; on offer or not.
        codec_s: encoding and decoding of a mini-batch, both sides and both ways [M,C,K].
        encode_s: the encoding part of it [M,C,K].
        there_decode_s, there_encode_s: what of codec_s the server computes [M,C,K].
        label_bytes: labels that go up beside each mini-batch, uncompressed.
        server_s: server's time for one mini-batch of one device [C], at its frequency.
        top: index of that frequency in the base.
        frequency_hz, power_w: the server's frequency and its busy power there; None unknown.
        times: how long a layer takes for k mini-batches at once, in units of one [M + 1], times[0] = 0.
        last_times: the same for the last layer and the head, which all devices use.
        sharing: "serial" or "batched".
        common: whether all devices have the same cut.
        server_bytes: server memory by cut with all devices [C].
        target: least accuracy, None without.
        curve: accuracy against the rate, None unknown.
    """

    base: Problem
    options: tuple[Option, ...]
    plain: Option
    codec_s: Array
    encode_s: Array
    there_decode_s: Array
    there_encode_s: Array
    label_bytes: float
    server_s: Array
    top: int
    frequency_hz: float | None
    power_w: float | None
    times: Array
    last_times: Array
    sharing: str
    common: bool
    server_bytes: Array
    target: float | None
    curve: Accuracy | None

    @property
    def devices(self) -> int:
        """M."""
        return len(self.base.devices)

    @property
    def rates(self) -> Array:
        """Rates of the options [K]."""
        return np.asarray(rates_of(self.options))

    def allowed(self) -> Mask:
        """What each device may choose by itself [M,C,K]: memory, least layers, accuracy, energy on both sides."""
        kept = np.ones((*self.base.device_s.shape, len(self.options)), dtype=bool)
        for limit in self.limits():
            kept &= limit.kept[:, :, None]
        kept &= np.array([reaches(option, self.target) for option in self.options])[None, None, :]
        return kept

    def limits(self) -> tuple[Limit, ...]:
        """What each device has to keep by itself, over its cuts [M,C]."""
        base, shape = self.base, self.base.device_s.shape
        energy_j, epochs = self.server_energy_j(), base.objective.local_epochs
        measures = Measures(
            delay_s=np.zeros(shape),
            # The frequency was chosen below the cap on power.
            server_power_w=None,
            server_energy_j=None if energy_j is None else np.broadcast_to(energy_j, shape),
            device_energy_j=np.asarray(device_energy_j(base.device_power_w[:, None], epochs, base.device_s)),
            layers=np.broadcast_to(base.cuts.astype(float), shape),
            device_memory_bytes=base.device_memory_bytes,
            device_memory_limit_bytes=base.device_memory_limit_bytes[:, None],
            server_memory_bytes=np.broadcast_to(self.server_bytes, shape),
        )
        # The deadline is of the slowest device, and so no matter of one choice.
        alone = replace(base, constraints=replace(base.constraints, deadline_s=None))
        return limits_on(alone, measures)

    def server_energy_j(self) -> Array | None:
        """What the server spends on one device in a round [C], busy time alone; None where its power is not known.

        At most that where batches are shared: one step for all takes no longer than one for each.
        """
        if self.power_w is None:
            return None
        return np.asarray(self.power_w * server_busy_s(self.base.objective.local_epochs, self.server_s))

    def server_round_s(self, cuts: Index) -> Array:
        """Server's time for one mini-batch of every device [...], for cut indices [..., M]."""
        layer_s = self.server_s[:-1] - self.server_s[1:]
        # A layer is used by the devices that cut below it; the head by all.
        users = (cuts[..., None, :] <= np.arange(layer_s.size)[:, None]).sum(axis=-1)
        last_s = self.last_times[self.devices] * self.server_s[-1]
        return np.asarray(last_s + (layer_s * self.times[users]).sum(axis=-1))

    def fixed_s(self, cuts: Index, options: Index) -> Array:
        """Round time without the air [..., M], the server shared at worst."""
        each = np.arange(self.devices)
        there = (self.there_decode_s + self.there_encode_s)[each, cuts, options]
        others = there.sum(axis=-1, keepdims=True) - there
        batch = MiniBatch(
            device_s=self.base.device_s[each, cuts],
            encode_s=self.encode_s[each, cuts, options],
            decode_s=(self.codec_s - self.encode_s)[each, cuts, options],
            server_s=others + self.server_round_s(cuts)[..., None],
            up_bits=0.0,
            down_bits=0.0,
        )
        once = OncePerRound(adapter_bits=0.0, handling_s=self.base.handling[each, cuts], switch_s=self.base.switch_s)
        waited = no_air(self.base.latency)
        return np.asarray(round_seconds(round_terms(self.base.objective.local_epochs, batch, once, waited)))

    def sent_bytes(self, cuts: Index, options: Index) -> tuple[Array, Array]:
        """Bytes of a round up and down [..., M], adapters included."""
        base, rates = self.base, self.rates[options]
        up, down = round_bytes(
            base.objective.local_epochs,
            rates * base.up_bytes[cuts] + self.label_bytes,
            rates * base.down_bytes[cuts],
            base.adapter_bytes[cuts],
        )
        return np.asarray(up), np.asarray(down)

    def delays_s(self, band: Band, cuts: Index, options: Index) -> Array:
        """Delay of the slowest device with the best shares [..., S], for a band whose rates are [S,M]."""
        fixed = self.fixed_s(cuts, options)[..., None, :]
        up, down = self.sent_bytes(cuts, options)
        shape = (*fixed.shape[:-2], band.uplink_bps.shape[0], fixed.shape[-1])
        return share_exactly(band, np.broadcast_to(fixed, shape), up[..., None, :], down[..., None, :])[0]

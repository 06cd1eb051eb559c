"""A Problem: the arrays every solver works on, whatever the numbers came from.

    D(m,c,f) = delay of a round, `cardlab.card.problem.delay`                        CARD (7)-(10)
    E(m,c,f) = energy of T server(c,f) busy, counted as the objective says           CARD (11)

Shapes: M devices, C cuts, F frequencies. Bytes are per mini-batch after compression; rates in bit/s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.delay import (
    Link,
    MiniBatch,
    OncePerRound,
    Quantity,
    RoundTerms,
    air_s,
    delay_terms,
    moving_s,
    on_air_s,
    round_seconds,
    round_terms,
    there_and_back_s,
)
from cardlab.card.problem.energy import (
    DeviceJoules,
    DevicePowers,
    DeviceTimes,
    device_energy_j,
    device_joules,
    device_round_j,
)
from cardlab.card.problem.offer import Offer, OneDevice, offer_of
from cardlab.card.problem.scenario import Constraints, DeviceSpec, Objective, Scenario
from cardlab.core.quantity import Provenance
from cardlab.core.records.plan import DelayTerms

# Indices along one axis: one, all of them, or as many as those of the other axis.
Places = int | slice | Index


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperServer:
    """D = flop / (f delta cores), P = static + kappa f^3, any frequency between the ends."""

    kappa_w_per_hz3: float | None
    static_power_w: float
    flop: Array
    flop_per_hz: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What to decide on, as arrays.

    Attributes:
        devices: names [M].
        cuts: layers on the device [C].
        frequency_hz: server frequencies [F]; [1] with NaN where the frequency cannot be chosen or read.
        device_s, encode_s, decode_s: seconds per mini-batch [M,C].
        handling_s: adapters packed, unpacked and loaded, both sides, seconds a round [M,C]; None counts none.
        server_s: seconds per mini-batch [C,F].
        power_w, wait_power_w: server power busy and waiting with the frequency held [F], None unknown.
        idle_power_w: server power with nothing to do, None unknown.
        up_bytes, down_bytes, adapter_bytes: [C].
        uplink_bps, downlink_bps: [M].
        latency_s: of the link, one way [M]; None counts none.
        device_memory_bytes, device_memory_limit_bytes: [M,C], [M]; NaN is unknown or no limit.
        server_memory_bytes, server_memory_limit_bytes: [C] and a number.
        device_power_w: [M], NaN unknown.
        device_frequency_hz: what each device holds [M], NaN unknown.
        device_wait_power_w: of each device waiting with that frequency held [M], NaN unknown.
        device_idle_power_w: of each device with nothing to do [M], NaN unknown.
        transmit_power_w, receive_power_w: what each device's radio adds while it sends and receives [M], NaN unknown.
        device_price_per_j: cost that a joule of each device's own energy adds to the objective [M]; None adds none.
        offer: the frequencies devices choose among; None where each holds its own. `device_s` and the powers above are
            then of no consequence.
        switch_s: seconds that every round takes to switch over.
        device_layer_s, server_layer_s: seconds to fetch one layer on a device [M] and on the server; NaN unknown, None
            where moving a cut takes no time (a scenario).
        moves_s: seconds to move each device's cut from where it was in the round before [M,C]; None where all stay.
        guard_s: added to the delay where a deadline must hold in spite of uncertainty [M,C,F], None without.
        continuous: the paper's server between the ends of frequency_hz, None for frequencies as listed.
        provenance: of each device's numbers, server included [M].
    """

    devices: tuple[str, ...]
    cuts: Index
    frequency_hz: Array
    device_s: Array
    encode_s: Array
    decode_s: Array
    handling_s: Array | None = None
    server_s: Array
    power_w: Array | None
    wait_power_w: Array | None = None
    idle_power_w: float | None = None
    up_bytes: Array
    down_bytes: Array
    adapter_bytes: Array
    uplink_bps: Array
    downlink_bps: Array
    latency_s: Array | None = None
    device_memory_bytes: Array
    device_memory_limit_bytes: Array
    server_memory_bytes: Array
    server_memory_limit_bytes: float = np.nan
    device_power_w: Array
    device_frequency_hz: Array | None = None
    device_wait_power_w: Array | None = None
    device_idle_power_w: Array | None = None
    transmit_power_w: Array | None = None
    receive_power_w: Array | None = None
    device_price_per_j: Array | None = None
    offer: Offer | None = None
    switch_s: float = 0.0
    device_layer_s: Array | None = None
    server_layer_s: float = np.nan
    moves_s: Array | None = None
    objective: Objective
    constraints: Constraints
    continuous: PaperServer | None = None
    guard_s: Array | None = None
    provenance: tuple[Provenance, ...]

    def round_terms(self, device: Places, cut: Places, server_s: Quantity) -> RoundTerms:
        """Seconds of a round by term, for these devices at these cuts (indices that broadcast against each other).

        `server_s` is what one mini-batch takes on the server: it depends on the frequency that is chosen there.
        """
        each, once, link = self._round_parts(device, cut, server_s)
        return round_terms(self.objective.local_epochs, each, once, link)

    def _round_parts(self, device: Places, cut: Places, server_s: Quantity) -> tuple[MiniBatch, OncePerRound, Link]:
        each = MiniBatch(
            device_s=self.device_s[device, cut],
            encode_s=self.encode_s[device, cut],
            decode_s=self.decode_s[device, cut],
            server_s=server_s,
            up_bits=8.0 * self.up_bytes[cut],
            down_bits=8.0 * self.down_bytes[cut],
        )
        once = OncePerRound(
            adapter_bits=8.0 * self.adapter_bytes[cut],
            handling_s=0.0 if self.handling_s is None else self.handling_s[device, cut],
            switch_s=self.switch_s + (0.0 if self.moves_s is None else self.moves_s[device, cut]),
        )
        link = Link(
            uplink_bps=self.uplink_bps[device],
            downlink_bps=self.downlink_bps[device],
            latency_s=0.0 if self.latency_s is None else self.latency_s[device],
        )
        return each, once, link

    def fixed_s(self, m: int) -> Array:
        """Round delay of device m without the server's compute [C]."""
        return np.asarray(round_seconds(self.round_terms(m, slice(None), 0.0)))

    def every_fixed_s(self) -> Array:
        """Round delay of every device without the server's compute [M,C]."""
        devices, cuts = np.arange(len(self.devices)), np.arange(self.cuts.size)
        return np.asarray(round_seconds(self.round_terms(devices[:, None], cuts[None, :], 0.0)))

    @property
    def offered(self) -> int:
        """How many frequencies a device has to choose among, G; 1 where it holds its own."""
        return 1 if self.offer is None else self.offer.count

    def at_offered(self, places: int | Index) -> Problem:
        """The problem with every device at the offered frequency of that index, one for all or one each [M]."""
        if self.offer is None:
            return self
        offer = self.offer
        each = slice(None) if isinstance(places, int) else np.arange(places.size)
        # For one place these are views: a device is looked at frequency by frequency, and a fleet's times are many.
        device_s = offer.device_s[each, :, places]
        return replace(
            self,
            device_s=device_s,
            device_frequency_hz=offer.frequency_hz[each, places],
            device_power_w=offer.power_w[each, places],
            device_wait_power_w=offer.wait_power_w[each, places],
            offer=None,
        )

    def device_joules(self, device: Places, cut: Places, delay_s: Quantity) -> DeviceJoules:
        """Energy of a device's round by term, for rounds of these delays; NaN where a power is not known."""
        each, once, link = self._round_parts(device, cut, 0.0)
        up_s, down_s = on_air_s(self.objective.local_epochs, each, once, link)
        times = DeviceTimes(
            compute_s=self.objective.local_epochs * each.device_s, up_s=up_s, down_s=down_s, round_s=delay_s
        )
        return device_joules(self._device_powers(device), times)

    def metered_joules(self, device: Places, cut: Places, delay_s: Quantity) -> DeviceJoules:
        """The same of what a device's own meter sees: from the arrival of its adapters to their return.

        It cannot see when their first bit left the server, nor when their last one arrives there.
        """
        each, once, link = self._round_parts(device, cut, 0.0)
        epochs = self.objective.local_epochs
        up_s, down_s = on_air_s(epochs, each, once._replace(adapter_bits=0.0), link)
        travel_s = air_s(once.adapter_bits, once.adapter_bits, link) + there_and_back_s(link)
        times = DeviceTimes(compute_s=epochs * each.device_s, up_s=up_s, down_s=down_s, round_s=delay_s - travel_s)
        return device_joules(self._device_powers(device), times)

    def _device_powers(self, device: Places) -> DevicePowers:
        return DevicePowers(
            compute_w=self.device_power_w[device],
            waiting_w=_of(self.device_wait_power_w, device),
            transmit_w=_of(self.transmit_power_w, device),
            receive_w=_of(self.receive_power_w, device),
        )

    def device_energy_j(self, m: int, delay_s: Array) -> Array | None:
        """Energy of device m in rounds of these delays [C,F], counted as the objective says; None unknown."""
        epochs, whole = self.objective.local_epochs, slice(None)
        if self.objective.device_energy == "compute":
            own = np.asarray(device_energy_j(float(self.device_power_w[m]), epochs, self.device_s[m]))[:, None]
        else:
            of_cut = self.device_joules(m, whole, delay_s.T)
            own = np.asarray(device_round_j(of_cut)).T
        return None if np.isnan(own).any() else np.broadcast_to(own, delay_s.shape)

    def moved_from(self, before: Index) -> Problem:
        """The problem of a round whose devices had these cuts [M] in the round before.

        What nothing measured counts as no time; `unknown_moves` says for whom.
        """
        if self.device_layer_s is None:
            return self
        layer_s = self.device_layer_s
        moves = moving_s(before[:, None].astype(float), self.cuts.astype(float), layer_s[:, None], self.server_layer_s)
        return replace(self, moves_s=np.nan_to_num(np.asarray(moves), nan=0.0))

    def unknown_moves(self, before: Index, after: Index) -> tuple[str, ...]:
        """Devices [M] whose cut moves from one round to the next in a time that nothing measured."""
        # The formulas of a scenario have no such time, and what is not asked for is not lacking.
        if self.device_layer_s is None:
            return ()
        layer_s = self.device_layer_s
        unknown = np.isnan(
            np.asarray(moving_s(before.astype(float), after.astype(float), layer_s, self.server_layer_s))
        )
        return tuple(name for name, lacks in zip(self.devices, unknown.tolist(), strict=True) if lacks)

    @property
    def handling(self) -> Array:
        """Seconds a round that both sides handle adapters [M,C], 0 where none are counted."""
        return np.zeros(self.device_s.shape) if self.handling_s is None else self.handling_s

    @property
    def latency(self) -> Array:
        """One-way latency of each device's link, seconds [M], 0 where none is counted."""
        return np.zeros(len(self.devices)) if self.latency_s is None else self.latency_s

    def terms(self, m: int, c: int, server_s: float) -> DelayTerms:
        """Round totals of device m at cut index c when one mini-batch takes the server `server_s`."""
        return delay_terms(self.round_terms(m, c, server_s))


def problem_from_scenario(scenario: Scenario) -> Problem:
    """The arrays of a scenario: equal layers, the head on the server, CARD (7)-(11)."""
    task, server, devices = scenario.task, scenario.server, scenario.devices
    cuts = np.arange(1, task.layers)
    layers: Array = cuts.astype(np.float64)
    device_flop = _device_flop(scenario, cuts)
    # All layers but the last are on the device at the last cut, and the head always is on the server.
    total = device_flop[-1] + task.layer_forward_flop + task.layer_backward_flop + task.head_flop
    server_flop = total - device_flop
    rate = np.array([d.frequency_hz * d.delta * d.cores for d in devices])
    continuous = None
    # A server without listed frequencies takes any between the ends, which are then all the arrays need to hold.
    frequencies = np.array(server.frequencies_hz or (server.frequency_min_hz, server.frequency_max_hz))
    if not server.frequencies_hz:
        continuous = PaperServer(
            kappa_w_per_hz3=server.kappa_w_per_hz3,
            static_power_w=server.static_power_w,
            flop=server_flop,
            flop_per_hz=server.delta * server.cores,
        )
    phi = scenario.objective.compression
    count = (len(devices), cuts.size)
    return Problem(
        devices=tuple(d.name for d in devices),
        cuts=cuts,
        frequency_hz=frequencies,
        device_s=device_flop[None, :] / rate[:, None],
        # Views of one zero: a fleet of 20,000 devices would otherwise hold megabytes of nothing.
        encode_s=np.broadcast_to(0.0, count),
        decode_s=np.broadcast_to(0.0, count),
        server_s=server_flop[:, None] / (frequencies[None, :] * server.delta * server.cores),
        power_w=_paper_power(scenario, frequencies),
        wait_power_w=None if server.wait_power_w is None else np.full(frequencies.size, server.wait_power_w),
        idle_power_w=server.static_power_w,
        up_bytes=np.full(cuts.size, phi * task.activation_bytes),
        down_bytes=np.full(cuts.size, phi * task.gradient_bytes),
        adapter_bytes=layers * (task.adapter_bytes_per_layer + task.optimizer_bytes_per_layer),
        uplink_bps=np.array([d.uplink_bps for d in devices], dtype=float),
        downlink_bps=np.array([d.downlink_bps for d in devices], dtype=float),
        device_memory_bytes=np.broadcast_to(
            task.device_base_bytes + layers * task.device_bytes_per_layer, (len(devices), cuts.size)
        ),
        device_memory_limit_bytes=_or_nan([d.memory_bytes for d in devices]),
        server_memory_bytes=task.server_base_bytes + (task.layers - layers) * task.server_bytes_per_layer,
        server_memory_limit_bytes=float("nan") if server.memory_bytes is None else server.memory_bytes,
        device_power_w=np.array([_device_power(d, np.array([d.frequency_hz]))[0] for d in devices]),
        device_frequency_hz=np.array([d.frequency_hz for d in devices], dtype=float),
        device_wait_power_w=_or_nan([d.wait_power_w for d in devices]),
        device_idle_power_w=_or_nan([d.idle_power_w for d in devices]),
        transmit_power_w=_or_nan([d.transmit_power_w for d in devices]),
        receive_power_w=_or_nan([d.receive_power_w for d in devices]),
        offer=_device_offer(scenario, device_flop),
        objective=scenario.objective,
        constraints=scenario.constraints,
        continuous=continuous,
        provenance=tuple(scenario.provenance for _ in devices),
    )


def _device_flop(scenario: Scenario, cuts: Index) -> Array:
    task = scenario.task
    first_backward = task.first_layer_backward_flop
    if first_backward is None:
        # The first layer's input needs no gradient, so its backward may be cheaper; not given, it counts in full.
        first_backward = task.layer_backward_flop
    layer = task.layer_forward_flop + task.layer_backward_flop
    return np.asarray(task.layer_forward_flop + first_backward + (cuts - 1) * layer, dtype=float)


def _device_power(device: DeviceSpec, frequency_hz: Array) -> Array:
    """Power at work at each frequency [G], W; NaN unknown."""
    if device.kappa_w_per_hz3 is not None:
        return np.asarray((device.static_power_w or 0.0) + device.kappa_w_per_hz3 * frequency_hz**3)
    return np.full(frequency_hz.size, np.nan if device.power_w is None else device.power_w)


def _device_offer(scenario: Scenario, device_flop: Array) -> Offer | None:
    if scenario.objective.device_frequencies == "held":
        return None
    each = []
    for d in scenario.devices:
        frequency_hz = np.unique(np.array(d.frequencies_hz or (d.frequency_hz,), dtype=float))
        each.append(
            OneDevice(
                frequency_hz=frequency_hz,
                device_s=device_flop[:, None] / (frequency_hz * d.delta * d.cores),
                power_w=_device_power(d, frequency_hz),
                wait_power_w=np.full(frequency_hz.size, np.nan if d.wait_power_w is None else d.wait_power_w),
            )
        )
    return offer_of(each)


def _paper_power(scenario: Scenario, frequencies: Array) -> Array | None:
    server = scenario.server
    if server.kappa_w_per_hz3 is None:
        return None
    return np.asarray(server.static_power_w + server.kappa_w_per_hz3 * frequencies**3)


def _of(power_w: Array | None, device: Places) -> Quantity:
    return np.nan if power_w is None else power_w[device]


def _or_nan(values: list[float | None]) -> Array:
    return np.array([np.nan if v is None else v for v in values], dtype=float)

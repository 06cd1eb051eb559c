"""A Problem: the arrays every solver works on, whatever the numbers came from.

    D(m,c,f) = T [ device(m,c) + encode + up(c)/R_up + decode + server(c,f) + down(c)/R_down ]
             + A(c) (1/R_up + 1/R_down) + handling(m,c) + switch                     CARD (7)-(10)
    E(m,c,f) = energy of T server(c,f) busy, counted as the objective says           CARD (11)

Shapes: M devices, C cuts, F clocks. Bytes are per mini-batch after compression; rates in bit/s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cardlab.card.problem.scenario import Constraints, Objective, Scenario
from cardlab.core.quantity import Provenance
from cardlab.core.records.plan import DelayTerms

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperServer:
    """D = flop / (f delta cores), P = static + kappa f^3, any clock between the ends."""

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
        frequency_hz: server clocks [F]; [1] with NaN where the clock cannot be chosen or read.
        device_s, encode_s, decode_s: seconds per mini-batch [M,C].
        handling_s: adapters packed, unpacked and loaded, both sides, seconds a round [M,C]; None counts none.
        server_s: seconds per mini-batch [C,F].
        power_w, wait_power_w: server power busy and waiting with the clock held [F], None unknown.
        idle_power_w: server power with nothing to do, None unknown.
        up_bytes, down_bytes, adapter_bytes: [C].
        uplink_bps, downlink_bps: [M].
        device_memory_bytes, device_memory_limit_bytes: [C], [M]; NaN is unknown or no limit.
        server_memory_bytes, server_memory_limit_bytes: [C] and a number.
        device_power_w: [M], NaN unknown.
        guard_s: added to the delay where a deadline must hold in spite of doubt [M,C,F], None without.
        continuous: the paper's server between the ends of frequency_hz, None for clocks as listed.
        provenance: of each device's numbers, server included [M].
    """

    devices: tuple[str, ...]
    cuts: npt.NDArray[np.int64]
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
    device_memory_bytes: Array
    device_memory_limit_bytes: Array
    server_memory_bytes: Array
    server_memory_limit_bytes: float = np.nan
    device_power_w: Array
    switch_s: float = 0.0
    objective: Objective
    constraints: Constraints
    continuous: PaperServer | None = None
    guard_s: Array | None = None
    provenance: tuple[Provenance, ...]

    def fixed_s(self, m: int) -> Array:
        """Round delay of device m without the server's compute [C]."""
        epochs = self.objective.local_epochs
        up_s = self.up_bytes * 8.0 / self.uplink_bps[m]
        down_s = self.down_bytes * 8.0 / self.downlink_bps[m]
        per_epoch = self.device_s[m] + self.encode_s[m] + up_s + self.decode_s[m] + down_s
        return np.asarray(epochs * per_epoch + self.adapters_s(m) + self.switch_s)

    def device_energy_j(self, m: int) -> Array | None:
        """Energy of device m's own compute in a round [C], None if its power is not known."""
        power_w = float(self.device_power_w[m])
        if np.isnan(power_w):
            return None
        return np.asarray(power_w * self.objective.local_epochs * self.device_s[m])

    def adapters_s(self, m: int) -> Array:
        """Adapters (and optimizer state) down and up once a round, their handling included [C]."""
        air_s = self.adapter_bytes * 8.0 * (1.0 / self.uplink_bps[m] + 1.0 / self.downlink_bps[m])
        return np.asarray(air_s + self.handling[m])

    @property
    def handling(self) -> Array:
        """Seconds a round that both sides handle adapters [M,C], 0 where none are counted."""
        return np.zeros(self.device_s.shape) if self.handling_s is None else self.handling_s

    def terms(self, m: int, c: int, server_s: float) -> DelayTerms:
        """Round totals of device m at cut index c when one mini-batch takes the server `server_s`."""
        epochs = self.objective.local_epochs
        return DelayTerms(
            device=float(epochs * self.device_s[m, c]),
            encode=float(epochs * self.encode_s[m, c]),
            uplink=float(epochs * self.up_bytes[c] * 8.0 / self.uplink_bps[m]),
            decode=float(epochs * self.decode_s[m, c]),
            server=float(epochs * server_s),
            downlink=float(epochs * self.down_bytes[c] * 8.0 / self.downlink_bps[m]),
            adapters=float(self.adapters_s(m)[c]),
            switch=self.switch_s,
        )


def problem_from_scenario(scenario: Scenario) -> Problem:
    """The arrays of a scenario: equal layers, the head on the server, CARD (7)-(11)."""
    task, server, devices = scenario.task, scenario.server, scenario.devices
    cuts = np.arange(1, task.layers)
    layers: Array = cuts.astype(np.float64)
    device_flop = _device_flop(scenario, cuts)
    total = device_flop[-1] + task.layer_forward_flop + task.layer_backward_flop + task.head_flop
    server_flop = total - device_flop
    rate = np.array([d.frequency_hz * d.delta * d.cores for d in devices])
    continuous = None
    clocks = np.array(server.frequencies_hz or (server.frequency_min_hz, server.frequency_max_hz))
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
        frequency_hz=clocks,
        device_s=device_flop[None, :] / rate[:, None],
        encode_s=np.broadcast_to(0.0, count),
        decode_s=np.broadcast_to(0.0, count),
        server_s=server_flop[:, None] / (clocks[None, :] * server.delta * server.cores),
        power_w=_paper_power(scenario, clocks),
        wait_power_w=None if server.wait_power_w is None else np.full(clocks.size, server.wait_power_w),
        idle_power_w=server.static_power_w,
        up_bytes=np.full(cuts.size, phi * task.activation_bytes),
        down_bytes=np.full(cuts.size, phi * task.gradient_bytes),
        adapter_bytes=layers * (task.adapter_bytes_per_layer + task.optimizer_bytes_per_layer),
        uplink_bps=np.array([d.uplink_bps for d in devices], dtype=float),
        downlink_bps=np.array([d.downlink_bps for d in devices], dtype=float),
        device_memory_bytes=task.device_base_bytes + layers * task.device_bytes_per_layer,
        device_memory_limit_bytes=_or_nan([d.memory_bytes for d in devices]),
        server_memory_bytes=task.server_base_bytes + (task.layers - layers) * task.server_bytes_per_layer,
        server_memory_limit_bytes=float("nan") if server.memory_bytes is None else server.memory_bytes,
        device_power_w=_or_nan([d.power_w for d in devices]),
        objective=scenario.objective,
        constraints=scenario.constraints,
        continuous=continuous,
        provenance=tuple(scenario.provenance for _ in devices),
    )


def _device_flop(scenario: Scenario, cuts: npt.NDArray[np.int64]) -> Array:
    task = scenario.task
    first_backward = task.first_layer_backward_flop
    if first_backward is None:
        first_backward = task.layer_backward_flop
    layer = task.layer_forward_flop + task.layer_backward_flop
    return np.asarray(task.layer_forward_flop + first_backward + (cuts - 1) * layer, dtype=float)


def _paper_power(scenario: Scenario, clocks: Array) -> Array | None:
    server = scenario.server
    if server.kappa_w_per_hz3 is None:
        return None
    return np.asarray(server.static_power_w + server.kappa_w_per_hz3 * clocks**3)


def _or_nan(values: list[float | None]) -> Array:
    return np.array([np.nan if v is None else v for v in values], dtype=float)

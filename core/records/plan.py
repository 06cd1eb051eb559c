"""A plan: for each round and device a cut and a server frequency, what they cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from cardlab.core.plain import UNSAID, Document
from cardlab.core.quantity import Provenance
from cardlab.core.records.budget import Budgeted
from cardlab.core.records.side_by_side import SideBySide
from cardlab.core.tables import Cell, Tabular

# How a server computes the mini-batches of devices that train at once: one after the other, or all as one.
SERIAL, BATCHED = "serial", "batched"
SHARINGS = (SERIAL, BATCHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayTerms:
    """Round totals in seconds, local epochs included; they add up to the round's delay.

    Attributes:
        device: forward and backward of the device's layers and the embedding.
        encode, decode: compression of smashed data and gradients, both sides.
        uplink, downlink: smashed data up, gradients down.
        server: forward and backward of the server's layers and the head.
        adapters: LoRA weights (and optimizer state where it travels) down and up.
        switch: change of the server's frequency and of the cut.
    """

    device: float
    encode: float
    uplink: float
    decode: float
    server: float
    downlink: float
    adapters: float
    switch: float

    @property
    def total(self) -> float:
        """Round delay, seconds."""
        return float(sum(getattr(self, f.name) for f in fields(self)))


TERMS = tuple(f.name for f in fields(DelayTerms))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEnergyTerms:
    """Energy of one device in a round, J, by what it is spent on; None where its power is not known.

    Attributes:
        compute: its own layers, at its frequency.
        transmit, receive: what its radio adds while bits are on the air.
        waiting: the rest of its own round, its frequency held.
        idle: while other devices have their turn or are still busy.
    """

    compute: float | None
    transmit: float | None
    receive: float | None
    waiting: float | None
    idle: float | None

    @property
    def total(self) -> float | None:
        """All of the round, J; None if one term is not known: without it the sum would look like a cheap device."""
        values = [getattr(self, name) for name in ENERGY_TERMS]
        return None if None in values else float(sum(values))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of the terms that are not known."""
        return tuple(name for name in ENERGY_TERMS if getattr(self, name) is None)


ENERGY_TERMS = tuple(f.name for f in fields(DeviceEnergyTerms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another choice for the same device and round, and how much worse it is.

    Attributes:
        cut, frequency_hz: the choice; frequency_hz is None where frequencies are not modelled.
        device_frequency_hz: of the device, None where it is not known or not chosen.
        delay_s, server_energy_j: what it costs; energy None without power data.
        cost: value of the objective, None where it does not apply.
        margin: its cost minus that of the chosen one.
    """

    cut: int
    frequency_hz: float | None
    delay_s: float
    server_energy_j: float | None = None
    cost: float | None = None
    margin: float | None = None
    device_frequency_hz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one device does in one round.

    Attributes:
        cut: layers 1..cut on the device.
        frequency_hz: server frequency; None where the server's frequency cannot be chosen.
        delay_s, delay_ci95: round delay and its 95 % interval, of one round of a later run; None if unknown.
        terms_ci95: intervals of the terms whose uncertainty is known, by name; likewise.
        delay_mean_ci95, terms_mean_ci95: the same of the means that the constants give; None and empty in plans of
            older versions, whose other intervals are those.
        first_round_s: by term, what the first round of a run takes more: all layers are loaded and memory is taken; a
            term that nothing says is not there.
        device_frequency_hz: what the device holds; None where it is not known.
        server_energy_j, device_energy_j: None without power data; the device's is counted as the plan says.
        device_energy_terms: all of the device's round by term; None in plans of older versions.
        device_metered_j: what its own meter counts of its own round: without the travel of adapters to it and back.
        cost: value of the objective.
        cut_probability: share of calibration draws that choose this cut, None without draws.
        binding: constraints that hold with equality or cut off the unconstrained optimum, in words.
        runner_up: the best choice with another cut.
        bandwidth_share: share of the common band, sft only.
        uplink_bps, downlink_bps: rates at that share in this round, bit/s; None where no band is shared and in plans
            of older versions.
        compression: fraction of activation and gradient bytes that remains for this device, sft only.
        codec: name of the codec that gives it ("topk:0.1:8"), None where the plan names none.
        waiting_s: part of the server term in which the device waits for others there, None where none share it.
        loss_penalty: expected accuracy (share of the gain) that compression costs, None unknown.
        provenance: union over everything that entered.
    """

    device: str
    cut: int
    frequency_hz: float | None
    delay_s: float
    delay_terms: DelayTerms
    delay_ci95: tuple[float, float] | None = None
    terms_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    delay_mean_ci95: tuple[float, float] | None = None
    terms_mean_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    first_round_s: Mapping[str, float] = field(default_factory=dict)
    server_energy_j: float | None
    server_energy_ci95: tuple[float, float] | None = None
    device_energy_j: float | None = None
    device_frequency_hz: float | None = None
    device_energy_terms: DeviceEnergyTerms | None = None
    device_metered_j: float | None = None
    cost: float
    cut_probability: float | None = None
    binding: tuple[str, ...] = ()
    runner_up: Alternative | None = None
    waiting_s: float | None = None
    bandwidth_share: float | None = None
    uplink_bps: float | None = None
    downlink_bps: float | None = None
    compression: float | None = None
    codec: str | None = None
    loss_penalty: float | None = None
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRound:
    """All devices of one round."""

    round: int
    devices: tuple[Decision, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A whole plan or baseline in a few numbers: means over rounds of the sums over devices.

    The delay of scheme sft is that of the slowest device. An energy is None where the power of one party is not known.
    `sent_bytes`, all devices, both ways, is known for sft only.
    """

    delay_s: float
    server_energy_j: float | None
    device_energy_j: float | None = None
    sent_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeOff:
    """One point of the Pareto front of a round.

    Attributes:
        weight: the weight on delay at which this point is the optimum.
        device_weight: that on the devices' energy, 0 where it does not count.
        delay_s, server_energy_j, device_energy_j: sums over devices; device_energy_j None where a power is not known.
        cuts, frequencies_hz, device_frequencies_hz: of each device, in the order of the round.
    """

    weight: float
    delay_s: float
    server_energy_j: float
    cuts: tuple[int, ...]
    frequencies_hz: tuple[float | None, ...]
    device_weight: float = 0.0
    device_energy_j: float | None = None
    device_frequencies_hz: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What becomes of the first round when one setting is multiplied by a factor.

    Attributes:
        setting: "uplink", "downlink", "device speed", "server speed", "server power" or "weight".
        factor: what it is multiplied by.
        delay_s, server_energy_j: sums over devices of the plan made for the changed setting; delay None
            where no plan is feasible.
        cuts: of each device.
    """

    setting: str
    factor: float
    delay_s: float | None
    server_energy_j: float | None
    cuts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Tabular):
    """A plan with everything needed to read and to repeat it.

    Attributes:
        uid: identity.
        scheme: "card" or "sft".
        energy: how server energy is counted: "busy", "above_idle", "round", or None without power.
        device_energy: how device energy is counted: "compute" or "round".
        rounds: decisions.
        outcome: of the plan.
        baselines: "server_only", "device_only", ... at equal conditions.
        assumptions: defaults that were assumed because nothing was given or measured, in words.
        notes: further lines a reader must know.
        not_predicted: terms of the delay that nothing measured, where they are not zero; they count as 0.
        provenance: union over all decisions.
        uncertainty: by constant, the mean cost that its uncertainty alone adds to the first round's decisions,
            largest first; empty without calibration draws.
        pareto: choices of the whole round none of which is better in both delay and energy; on request.
        sensitivity: what becomes of the plan when one setting changes; on request.
        side_by_side: the first round at the governor's default, at the highest frequencies and as planned; None for a
            scenario, for sft, and in plans of older versions.
        budget: what became of the energy budgets of devices over all rounds, beside the rounds without them; None where
            no device has one.
        task: uid of the task that all parties share; None for a scenario, which names no model.
        local_epochs: mini-batches in a round, T; None in plans of older versions.
        compression: fraction of activation and gradient bytes that remains; None likewise.
        wire_dtype: dtype of smashed data and gradients on the link, None where not stated.
        server_sharing: "serial" or "batched" mini-batches at the server, sft only.
        fits, runs, links: uids of what it was made of; empty for a scenario.
        request: what was asked of the database, as a record of the planning room (`card.problem.parties.Request`) in
            plain form, from which the problem is made again; None for a scenario, sft, and in plans of older versions.
    """

    uid: str
    scheme: str
    energy: str | None
    device_energy: str = "compute"
    rounds: tuple[PlannedRound, ...]
    outcome: Outcome
    baselines: Mapping[str, Outcome] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_predicted: tuple[str, ...] = ()
    uncertainty: Mapping[str, float] = field(default_factory=dict)
    pareto: tuple[TradeOff, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    side_by_side: SideBySide | None = None
    budget: Budgeted | None = None
    provenance: Provenance
    task: str | None = None
    local_epochs: int | None = None
    compression: float | None = None
    wire_dtype: str | None = None
    server_sharing: str | None = None
    fits: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    request: Document | None = field(default=None, metadata={UNSAID: True})
    created_at: str | None = None

    @property
    def plan_id(self) -> str:
        """Identity of the plan."""
        return self.uid

    def decision(self, number: int, device: str) -> Decision | None:
        """What that device was to do in round `number` (from 1), None for one the plan does not name.

        A run longer than its plan goes on as in the plan's last round.
        """
        planned = self.rounds[min(number, len(self.rounds)) - 1]
        return next((d for d in planned.devices if d.device == device), None)

    @property
    def summary(self) -> Outcome:
        """The plan in a few numbers; `baselines` has the same of each baseline."""
        return self.outcome

    def rows(self) -> list[dict[str, Cell]]:
        """A row a round and device: decision, delay and its terms (s), energies (J)."""
        return [
            {
                "round": r.round,
                "device": d.device,
                "cut": d.cut,
                "frequency_hz": d.frequency_hz,
                "delay_s": d.delay_s,
                **{f"{term}_s": getattr(d.delay_terms, term) for term in TERMS},
                "server_energy_j": d.server_energy_j,
                "device_energy_j": d.device_energy_j,
                "device_frequency_hz": d.device_frequency_hz,
                **{f"device_{term}_j": _term(d.device_energy_terms, term) for term in ENERGY_TERMS},
                "cost": d.cost,
                "cut_probability": d.cut_probability,
            }
            for r in self.rounds
            for d in r.devices
        ]


def _term(terms: DeviceEnergyTerms | None, name: str) -> float | None:
    return None if terms is None else getattr(terms, name)

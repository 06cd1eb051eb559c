"""Whether a scenario makes sense: every number in its range, nothing contradicting itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cardlab.card.link.snr_maps import snr_map
from cardlab.card.problem.scenario import (
    BENCHMARKS,
    CHANNELS,
    DEVICE_ENERGIES,
    DEVICE_FREQUENCIES,
    ENERGIES,
    FADINGS,
    RANGES,
    SCHEMES,
    WEIGHT_ON,
    Constraints,
    DeviceSpec,
    LinkSpec,
    Objective,
    Scenario,
    SftSpec,
)
from cardlab.core import plausible
from cardlab.core.errors import PlanError, ScenarioError


class CalibratedParty(Protocol):
    """A server or device by its label; what else a file gives of it are attributes named as in the file."""

    @property
    def name(self) -> str:
        """Label or key."""
        ...


class MisfitError(ScenarioError):
    """A ScenarioError that knows its table, key and, for devices, which one."""

    def __init__(self, message: str, *, remedy: str, table: str, key: str | None, index: int = 0) -> None:
        super().__init__(message, remedy=remedy)
        self.table = table
        self.key = key
        self.index = index


def check_scenario(scenario: Scenario) -> None:
    """Raise ScenarioError naming the first key that makes no sense."""
    _choice("", "scheme", scenario.scheme, SCHEMES)
    _whole("", "rounds", scenario.rounds, 1)
    check_objective(scenario.objective)
    _task(scenario)
    _server(scenario)
    if scenario.link is not None:
        check_link(scenario.link)
    _devices(scenario)
    _device_choices(scenario)
    _shared_scheme(scenario)
    check_constraints(scenario.constraints, scenario.task.layers)
    check_sft(scenario.sft)


def check_objective(objective: Objective) -> None:
    """Raise ScenarioError if weight, compression, epochs or a named choice is out of range."""
    if not 0.0 <= objective.weight <= 1.0:
        raise _misfit("objective", "weight", f"is {objective.weight:g}", "give a weight from 0 to 1")
    if not 0.0 < objective.compression <= 1.0:
        problem = f"is {objective.compression:g}"
        raise _misfit("objective", "compression", problem, "give the fraction that remains, above 0 up to 1")
    _whole("objective", "local_epochs", objective.local_epochs, 1)
    _not_negative("objective", "device_energy_weight", objective.device_energy_weight)
    _choice("objective", "weight_on", objective.weight_on, WEIGHT_ON)
    _choice("objective", "range", objective.range, RANGES)
    _choice("objective", "energy", objective.energy, ENERGIES)
    _choice("objective", "device_energy", objective.device_energy, DEVICE_ENERGIES)
    _choice("objective", "device_frequencies", objective.device_frequencies, DEVICE_FREQUENCIES)
    _choice("objective", "benchmark", objective.benchmark, BENCHMARKS)


def check_constraints(limits: Constraints, layers: int) -> None:
    """Raise ScenarioError if a limit makes no sense for a model of that many layers."""
    for key in ("deadline_s", "server_power_w", "server_energy_j", "device_energy_j", "fleet_energy_j"):
        _positive("constraints", key, getattr(limits, key))
    _plausible(plausible.SERVER_POWER, "constraints", "server_power_w", limits.server_power_w)
    if limits.min_device_layers is not None and not 1 <= limits.min_device_layers < layers:
        remedy = f"give a number from 1 to {layers - 1}"
        raise _misfit("constraints", "min_device_layers", f"is {limits.min_device_layers}", remedy)
    # Below one half a guard band would be negative: a promise less sure than the mean.
    confidence = limits.deadline_confidence
    if confidence is not None and not 0.5 <= confidence < 1.0:
        raise _misfit("constraints", "deadline_confidence", f"is {confidence:g}", "give 0.5 up to below 1")
    if confidence is not None and limits.deadline_s is None:
        raise _misfit("constraints", "deadline_confidence", "stands without a deadline", "give deadline_s")


def check_sft(sft: SftSpec) -> None:
    """Raise ScenarioError if a number or name of the table [sft] makes no sense."""
    _choice("sft", "spectrum", sft.spectrum, ("power", "linear"))
    _choice("sft", "server_sharing", sft.server_sharing, ("serial", "batched"))
    _choice("sft", "blocks", sft.blocks, ("own", "common"))
    _choice("sft", "codec", sft.codec, ("topk", "dense"))
    for key in ("bandwidth_hz", "encode_bytes_per_s", "decode_bytes_per_s"):
        _positive("sft", key, getattr(sft, key))
    _plausible(plausible.BANDWIDTH, "sft", "bandwidth_hz", sft.bandwidth_hz)
    if not 2 <= sft.bits <= 8:
        raise _misfit("sft", "bits", f"is {sft.bits}", "give 2 to 8")
    if sft.raw_bits not in (16, 32):
        raise _misfit("sft", "raw_bits", f"is {sft.raw_bits}", "give 16 or 32")
    for rate in sft.rates:
        if not 0.0 < rate <= 1.0:
            raise _misfit("sft", "rates", f"has {rate:g}", "give fractions that remain, above 0 up to 1")
    # More mini-batches at once cannot take less time than fewer, and the first is the unit.
    times = sft.sharing_times
    if times and (times[0] != 1.0 or any(b < a for a, b in zip(times, times[1:], strict=False))):
        raise _misfit("sft", "sharing_times", "must begin with 1 and not fall", "give times in units of one mini-batch")
    _not_negative("sft", "sharing_bytes_per_layer", sft.sharing_bytes_per_layer)
    curve = (sft.accuracy_limit, sft.accuracy_loss, sft.accuracy_rate)
    if any(v is None for v in curve) and any(v is not None for v in curve):
        raise _misfit("sft", "accuracy_limit", "stands alone", "give accuracy_limit, accuracy_loss and accuracy_rate")
    _positive("sft", "accuracy_rate", sft.accuracy_rate)
    _not_negative("sft", "accuracy_loss", sft.accuracy_loss or 0.0)


def check_link(link: LinkSpec) -> None:
    """Raise ScenarioError if a number or name of the link makes no sense."""
    _choice("link", "channel", link.channel, CHANNELS)
    _choice("link", "fading", link.fading, FADINGS)
    _positive("link", "bandwidth_hz", link.bandwidth_hz)
    _plausible(plausible.BANDWIDTH, "link", "bandwidth_hz", link.bandwidth_hz)
    if not 0.0 < link.protocol_efficiency <= 1.0:
        raise _misfit("link", "protocol_efficiency", f"is {link.protocol_efficiency:g}", "give above 0 up to 1")
    _whole("link", "seed", link.seed, 0)
    try:
        snr_map(link.snr_mapping)
    except PlanError as error:
        raise _misfit("link", "snr_mapping", f"is {link.snr_mapping!r}", error.remedy) from error


def _task(scenario: Scenario) -> None:
    task = scenario.task
    if task.layers < 2:
        raise _misfit("task", "layers", f"is {task.layers}", "a model needs 2 layers to be cut")
    for key in ("layer_forward_flop", "layer_backward_flop", "activation_bytes", "gradient_bytes"):
        _positive("task", key, getattr(task, key))
    for key in (
        "head_flop",
        "adapter_bytes_per_layer",
        "optimizer_bytes_per_layer",
        "device_base_bytes",
        "device_bytes_per_layer",
        "server_base_bytes",
        "server_bytes_per_layer",
    ):
        _not_negative("task", key, getattr(task, key))
    if task.first_layer_backward_flop is not None:
        _not_negative("task", "first_layer_backward_flop", task.first_layer_backward_flop)


def _server(scenario: Scenario) -> None:
    server = scenario.server
    for key in ("frequency_min_hz", "frequency_max_hz", "cores", "delta", "kappa_w_per_hz3", "memory_bytes"):
        _positive("server", key, getattr(server, key))
    _not_negative("server", "static_power_w", server.static_power_w)
    if server.wait_power_w is not None:
        _not_negative("server", "wait_power_w", server.wait_power_w)
    low, high = server.frequency_min_hz, server.frequency_max_hz
    for key, hz in (("frequency_max_hz", high), ("frequency_min_hz", low)):
        _plausible(plausible.FREQUENCY, "server", key, hz)
    for hz in server.frequencies_hz:
        _plausible(plausible.FREQUENCY, "server", "frequencies_hz", hz)
    for key, watts in (("static_power_w", server.static_power_w), ("wait_power_w", server.wait_power_w)):
        _plausible(plausible.SERVER_POWER, "server", key, watts)
    _plausible(plausible.MEMORY, "server", "memory_bytes", server.memory_bytes)
    if low > high:
        raise _misfit("server", "frequency_min_hz", "is above frequency_max_hz", "exchange the two")
    outside = [f for f in server.frequencies_hz if not low <= f <= high]
    if outside:
        raise _misfit("server", "frequencies_hz", f"has {outside[0]:g}, outside its own range", "widen the range")


_OF_DEVICES = {
    "frequency_hz": plausible.FREQUENCY,
    "uplink_bps": plausible.LINK_RATE,
    "downlink_bps": plausible.LINK_RATE,
    "memory_bytes": plausible.MEMORY,
    "power_w": plausible.POWER,
    "wait_power_w": plausible.POWER,
    "idle_power_w": plausible.POWER,
    "transmit_power_w": plausible.POWER,
    "receive_power_w": plausible.POWER,
    "energy_budget_j": plausible.BATTERY,
}
# A power of the radio may be 0: a cable draws none worth counting.
_OR_NONE = ("static_power_w", "wait_power_w", "idle_power_w", "transmit_power_w", "receive_power_w")


def _devices(scenario: Scenario) -> None:
    if not scenario.devices:
        raise ScenarioError("the scenario has no device", remedy="add at least one [[devices]] table")
    seen: set[str] = set()
    for index, device in enumerate(scenario.devices):
        who = f"device {device.name!r}: "
        if device.name in seen:
            raise _misfit("devices", "name", f"is {device.name!r} for two devices", "give each its own name", index)
        seen.add(device.name)
        for key in (
            "frequency_hz",
            "cores",
            "delta",
            "uplink_bps",
            "downlink_bps",
            "memory_bytes",
            "power_w",
            "kappa_w_per_hz3",
            "energy_budget_j",
        ):
            _positive("devices", key, getattr(device, key), who, index)
        _own_powers(device, who, index)
        for key, bounds in _OF_DEVICES.items():
            _plausible(bounds, "devices", key, getattr(device, key), who, index)
        if scenario.link is None and (device.uplink_bps is None or device.downlink_bps is None):
            raise MisfitError(
                f"device {device.name!r} has no link",
                remedy="give uplink_bps and downlink_bps in bit/s, or a [link] with a channel",
                table="devices",
                key=None,
                index=index,
            )


def _own_powers(device: DeviceSpec, who: str, index: int) -> None:
    """What a device gives of its frequencies and powers."""
    for key in _OR_NONE:
        value = getattr(device, key)
        if value is not None and not value >= 0:
            raise _misfit("devices", key, f"is {value:g}", "give 0 or more", index, who)
    listed = device.frequencies_hz
    for hz in listed:
        _positive("devices", "frequencies_hz", hz, who, index)
        _plausible(plausible.FREQUENCY, "devices", "frequencies_hz", hz, who, index)
    if listed and device.frequency_hz not in listed:
        problem = f"does not hold its frequency_hz, {device.frequency_hz:g}"
        raise _misfit("devices", "frequencies_hz", problem, "add it, or hold one that is listed", index, who)
    if device.kappa_w_per_hz3 is not None and device.power_w is not None:
        raise _misfit("devices", "power_w", "stands beside kappa_w_per_hz3", "leave one of them out", index, who)
    if device.static_power_w is not None and device.kappa_w_per_hz3 is None:
        raise _misfit(
            "devices", "static_power_w", "has no effect without kappa_w_per_hz3", "give both, or power_w", index, who
        )


def _shared_scheme(scenario: Scenario) -> None:
    """Scheme sft weighs no energy: what only moves energy about has no effect there."""
    if scenario.scheme != "sft":
        return
    objective, usual = scenario.objective, Objective()
    for key in ("device_energy", "device_frequencies"):
        value = getattr(objective, key)
        if value != getattr(usual, key):
            raise _misfit("objective", key, f"is {value!r}, which is for scheme card", "leave it out with sft")
    if scenario.constraints.fleet_energy_j is not None:
        raise _misfit("constraints", "fleet_energy_j", "is for scheme card", "leave it out with sft")
    for index, device in enumerate(scenario.devices):
        if device.energy_budget_j is not None:
            problem = "is for scheme card: sft weighs no energy"
            raise _misfit("devices", "energy_budget_j", problem, "leave it out with sft", index)


def _device_choices(scenario: Scenario) -> None:
    """Where devices choose their frequency, some must have a choice, and its power must be known for all or none."""
    if scenario.objective.device_frequencies == "held":
        return
    if not any(len(set(device.frequencies_hz)) > 1 for device in scenario.devices):
        raise _misfit(
            "objective",
            "device_frequencies",
            'is "all", and no device lists frequencies to choose among',
            'give frequencies_hz in [[devices]], or use "held" (--device-frequencies held)',
        )
    for index, device in enumerate(scenario.devices):
        if device.power_w is not None and len(set(device.frequencies_hz)) > 1:
            raise _misfit(
                "devices",
                "power_w",
                "is of one frequency, and the device may choose among several",
                "give kappa_w_per_hz3 and static_power_w instead",
                index,
                f"device {device.name!r}: ",
            )


def check_party(table: str, party: CalibratedParty, index: int = 0) -> None:
    """Raise ScenarioError where what a file gives of a calibrated party makes no sense; None was not given."""
    who = f"device {party.name!r}: " if table == "devices" else ""
    for key, bounds in _OF_DEVICES.items():
        value = getattr(party, key, None)
        if key not in _OR_NONE:
            _positive(table, key, value, who, index)
        elif value is not None and not value >= 0:
            raise _misfit(table, key, f"is {value:g}", "give 0 or more", index, who)
        _plausible(bounds, table, key, value, who, index)
    for hz in getattr(party, "frequencies_hz", ()):
        _positive(table, "frequencies_hz", hz, who, index)
        _plausible(plausible.FREQUENCY, table, "frequencies_hz", hz, who, index)


def _misfit(table: str, key: str, problem: str, remedy: str, index: int = 0, who: str = "") -> MisfitError:
    name = f"[{table}] {key}" if table else key
    return MisfitError(f"{who}{name} {problem}", remedy=remedy, table=table, key=key, index=index)


def _positive(table: str, key: str, value: float | None, who: str = "", index: int = 0) -> None:
    if value is not None and not value > 0:
        raise _misfit(table, key, f"is {value:g}", "give a number above 0", index, who)


def _plausible(
    bounds: plausible.Bounds, table: str, key: str, value: float | None, who: str = "", index: int = 0
) -> None:
    """Refuse a number that no device has: most often a right one in another unit. None and 0 are judged elsewhere."""
    problem = bounds.problem(value) if value else None
    if value is not None and problem is not None:
        raise _misfit(table, key, problem, bounds.remedy(value, key), index, who)


def _not_negative(table: str, key: str, value: float) -> None:
    if not value >= 0:
        raise _misfit(table, key, f"is {value:g}", "give 0 or more")


def _whole(table: str, key: str, value: int, least: int) -> None:
    if value < least:
        raise _misfit(table, key, f"is {value}", f"give {least} or more")


def _choice(table: str, key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise _misfit(table, key, f"is {value!r}", f"choose one of: {', '.join(choices)}")

"""Whether a scenario makes sense: every number in its range, nothing contradicting itself."""

from __future__ import annotations

from collections.abc import Sequence

from cardlab.card.scenario import ENERGIES, RANGES, SCHEMES, WEIGHT_ON, Objective, Scenario
from cardlab.errors import ScenarioError


def check_scenario(scenario: Scenario) -> None:
    """Raise ScenarioError naming the first key that makes no sense."""
    _choice("scheme", scenario.scheme, SCHEMES)
    _whole("rounds", scenario.rounds, 1)
    check_objective(scenario.objective)
    _task(scenario)
    _server(scenario)
    _devices(scenario)
    limits = scenario.constraints
    for key in ("deadline_s", "server_power_w", "server_energy_j", "device_energy_j"):
        _positive(f"[constraints] {key}", getattr(limits, key))
    if limits.min_device_layers is not None and not 1 <= limits.min_device_layers < scenario.task.layers:
        raise ScenarioError(
            f"[constraints] min_device_layers is {limits.min_device_layers}",
            remedy=f"give a number from 1 to {scenario.task.layers - 1}",
        )


def check_objective(objective: Objective) -> None:
    """Raise ScenarioError if weight, compression, epochs or a named choice is out of range."""
    if not 0.0 <= objective.weight <= 1.0:
        raise ScenarioError(f"weight is {objective.weight:g}", remedy="give a weight from 0 to 1")
    if not 0.0 < objective.compression <= 1.0:
        raise ScenarioError(
            f"compression is {objective.compression:g}", remedy="give the fraction that remains, above 0 up to 1"
        )
    _whole("local_epochs", objective.local_epochs, 1)
    _choice("weight_on", objective.weight_on, WEIGHT_ON)
    _choice("range", objective.range, RANGES)
    _choice("energy", objective.energy, ENERGIES)


def _task(scenario: Scenario) -> None:
    task = scenario.task
    if task.layers < 2:
        raise ScenarioError(f"[task] layers is {task.layers}", remedy="a model needs 2 layers to be cut")
    for key in ("layer_forward_flop", "layer_backward_flop", "activation_bytes", "gradient_bytes"):
        _positive(f"[task] {key}", getattr(task, key))
    for key in ("head_flop", "adapter_bytes_per_layer", "optimizer_bytes_per_layer"):
        _not_negative(f"[task] {key}", getattr(task, key))


def _server(scenario: Scenario) -> None:
    server = scenario.server
    for key in ("frequency_min_hz", "frequency_max_hz", "cores", "delta", "kappa_w_per_hz3", "memory_bytes"):
        _positive(f"[server] {key}", getattr(server, key))
    _not_negative("[server] static_power_w", server.static_power_w)
    if server.frequency_min_hz > server.frequency_max_hz:
        raise ScenarioError(
            "[server] frequency_min_hz is above frequency_max_hz", remedy="exchange the two"
        )
    outside = [
        f for f in server.frequencies_hz if not server.frequency_min_hz <= f <= server.frequency_max_hz
    ]
    if outside:
        raise ScenarioError(
            f"[server] frequencies_hz has {outside[0]:g}, outside its own range", remedy="widen the range"
        )


def _devices(scenario: Scenario) -> None:
    names = [device.name for device in scenario.devices]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScenarioError(f"two devices are called {twice[0]!r}", remedy="give each its own name")
    for device in scenario.devices:
        for key in ("frequency_hz", "cores", "delta", "uplink_bps", "downlink_bps", "memory_bytes", "power_w"):
            _positive(f"device {device.name!r}: {key}", getattr(device, key))
        if device.uplink_bps is None or device.downlink_bps is None:
            raise ScenarioError(
                f"device {device.name!r} has no link", remedy="give uplink_bps and downlink_bps in bit/s"
            )


def _positive(key: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise ScenarioError(f"{key} is {value:g}", remedy="give a number above 0")


def _not_negative(key: str, value: float) -> None:
    if value < 0:
        raise ScenarioError(f"{key} is {value:g}", remedy="give 0 or more")


def _whole(key: str, value: int, least: int) -> None:
    if value < least:
        raise ScenarioError(f"{key} is {value}", remedy=f"give {least} or more")


def _choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ScenarioError(f"{key} is {value!r}", remedy=f"choose one of: {', '.join(choices)}")

"""Scenario files: what is wrong is named with its key and line, and the bundled ones plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cardlab.card import load_scenario, solve
from cardlab.card.problem.scenario_file import bundled_scenarios, parse_scenario
from cardlab.core.errors import InfeasibleError, PlanError, ScenarioError

GOOD = """\
scheme = "card"
[task]
layers = 8
layer_forward_flop = 1e10
layer_backward_flop = 1e10
activation_bytes = 1000000
gradient_bytes = 1000000
adapter_bytes_per_layer = 1000
[server]
name = "s"
frequency_min_hz = 3e8
frequency_max_hz = 2e9
cores = 1000
kappa_w_per_hz3 = 1e-26
[[devices]]
name = "a"
frequency_hz = 1e9
cores = 500
uplink_bps = 1e7
downlink_bps = 1e7
[[devices]]
name = "b"
frequency_hz = 2e9
cores = 500
uplink_bps = 1e7
downlink_bps = 1e7
[objective]
weight = 0.5
"""


def change(old: str, new: str, text: str = GOOD) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (change("weight = 0.5", "weight = 1.5"), 28, "weight is 1.5; give a weight from 0 to 1"),
        (change("weight = 0.5", "weight = -0.1"), 28, "weight is -0.1"),
        (change("weight = 0.5", 'weight = "much"'), 28, "weight must be a finite number"),
        (change("weight = 0.5", "weight = nan"), 28, "weight must be a finite number"),
        (change("layers = 8", "layers = 1"), 3, "2 layers"),
        (change("layers = 8", "layers = 8.5"), 3, "must be a whole number"),
        (change("cores = 1000", "cores = 0"), 13, "[server] cores is 0"),
        (change("frequency_min_hz = 3e8", "frequency_min_hz = 3e9"), 11, "above frequency_max_hz"),
        (change("cores = 1000", "coers = 1000"), 13, "coers is no key"),
        (change("downlink_bps = 1e7\n[obj", "downlink_bps = 0\n[obj"), 26, "downlink_bps is 0"),
        (change("downlink_bps = 1e7\n[obj", "[obj"), 21, "no link; give uplink_bps and downlink_bps"),
        (change('name = "b"', 'name = "a"'), 22, "for two devices"),
        (change("weight = 0.5", "weight = 0.5\nrange = 'bax'"), 29, "choose one of: box"),
        (change("[objective]", "[constraints]\ndeadline_s = -1\n[objective]"), 28, "deadline_s is -1"),
        (change("[objective]", "[constraints]\nmin_device_layers = 8\n[objective]"), 28, "1 to 7"),
        (
            change("[objective]", "[constraints]\ndeadline_confidence = 0.9\n[objective]"),
            28,
            "without a deadline",
        ),
        (change("[objective]", "[link]\nchannel = 'great'\n[objective]"), 28, "good, normal, poor"),
        (change("[objective]", "[link]\nsnr_mapping = 'x'\n[objective]"), 28, "shannon-gap:<dB>"),
        (change("[objective]", "[link]\nbandwidth_hz = 0\n[objective]"), 28, "bandwidth_hz is 0"),
        (change("[server]", "[server"), 9, "is not TOML"),
        (change("cores = 1000", f"cores = {'9' * 400}"), 13, "must be a finite number"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_line(text, line, words):
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml")
    assert f"line {line}" in message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (change("[task]", "[tusk]"), "tusk is no key of a scenario"),
        (GOOD[: GOOD.index("[[devices]]")], "no [[devices]]"),
        (GOOD[: GOOD.index("[server]")], "table [server] is missing"),
        (change("layers = 8\n", ""), "[task] lacks layers"),
        (change("[server]\n", "[server]\n") + "[[server]]\n", "not TOML"),
    ],
)
def test_a_missing_or_strange_table_is_named(text, words):
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "my.toml")
    assert words in str(caught.value)


def test_defaults_that_were_taken_are_listed():
    assumed = parse_scenario(GOOD).assumed
    assert "local_epochs = 1" in assumed and "compression = 1.0" in assumed
    assert not any(line.startswith("weight ") for line in assumed)


@pytest.mark.parametrize("name", bundled_scenarios())
def test_bundled_scenarios_plan(name):
    made = solve(load_scenario(name))
    assert made.rounds[0].devices
    for decision in made.rounds[0].devices:
        assert decision.delay_terms.total == pytest.approx(decision.delay_s, rel=1e-12)


def test_an_unreadable_file_lists_the_bundled_ones(tmp_path):
    with pytest.raises(ScenarioError, match="card-letter"):
        load_scenario(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\x00")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(tmp_path / "bytes.toml")


def limited(**limits):
    scenario = parse_scenario(GOOD)
    return replace(scenario, constraints=replace(scenario.constraints, **limits))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"deadline_s": 0.01}, "a: deadline of 10 ms cannot be kept, the best possible is"),
        ({"server_energy_j": 1e-9}, "server energy cap of 1 nJ cannot be kept, the best possible is"),
        ({"server_power_w": 1e-3}, "server power cap of 1 mW cannot be kept, the best possible is 270 mW"),
    ],
)
def test_infeasible_says_which_limit_and_by_how_much(limits, words):
    with pytest.raises(InfeasibleError) as caught:
        solve(limited(**limits))
    assert words in str(caught.value)


def test_limits_that_can_only_be_kept_apart_are_named_together():
    ends = [solve(weighed(weight)).rounds[0].devices[0] for weight in (1.0, 0.0)]
    limits = {"deadline_s": ends[0].delay_s * 1.01, "server_energy_j": ends[1].server_energy_j * 1.01}
    with pytest.raises(InfeasibleError, match="deadline, server energy cap.* can be kept, but not all together"):
        solve(limited(**limits))


def weighed(weight):
    scenario = parse_scenario(GOOD)
    return replace(scenario, objective=replace(scenario.objective, weight=weight))


def test_memory_that_does_not_suffice_is_named():
    scenario = parse_scenario(GOOD)
    task = replace(scenario.task, device_base_bytes=2e9, server_base_bytes=2e9)
    small = replace(scenario.devices[0], memory_bytes=1e9)
    with pytest.raises(InfeasibleError, match="device memory of 953.7 MiB"):
        solve(replace(scenario, task=task, devices=(small,)))
    server = replace(scenario.server, memory_bytes=1e9)
    with pytest.raises(InfeasibleError, match="server memory of 953.7 MiB"):
        solve(replace(scenario, task=task, server=server))


def test_energy_that_is_not_known_cannot_be_weighed():
    scenario = parse_scenario(change("kappa_w_per_hz3 = 1e-26\n", ""))
    with pytest.raises(PlanError, match="--weight 1"):
        solve(scenario)
    made = solve(replace(scenario, objective=replace(scenario.objective, weight=1.0)))
    assert made.outcome.server_energy_j is None
    assert all(d.frequency_hz == 2e9 for d in made.rounds[0].devices)


def test_round_energy_needs_waiting_power_and_own_energy_needs_a_meter():
    scenario = parse_scenario(GOOD)
    with pytest.raises(PlanError, match="wait_power_w"):
        solve(replace(scenario, objective=replace(scenario.objective, energy="round")))
    with pytest.raises(PlanError, match="power of device 'a' is not known"):
        solve(replace(scenario, objective=replace(scenario.objective, device_energy_weight=0.5)))

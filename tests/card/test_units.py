"""A right number in another unit is refused, and the line says how to write it."""

from __future__ import annotations

import math
from importlib import resources
from pathlib import Path

import pytest

from cardlab.card.problem.scenario_file import parse_scenario
from cardlab.core.errors import CardlabError, ScenarioError, UsageError
from cardlab.split.shaping import parse_link
from cardlab.workflows.options.calibrate import PredictOptions
from cardlab.workflows.predict import check_options
from tests.card.database import whole
from tests.cli.run import command

BASE = """
[task]
layers = 4
layer_forward_flop = 1e10
layer_backward_flop = 2e10
head_flop = 1e9
activation_bytes = 1e6
gradient_bytes = 1e6
adapter_bytes_per_layer = 1e4

[server]
name = "s"
cores = 3072
delta = 2.0
frequency_min_hz = 300e6
frequency_max_hz = {frequency_max_hz}
static_power_w = {static_power_w}
kappa_w_per_hz3 = {kappa}
memory_bytes = {server_memory}

[[devices]]
name = "a"
frequency_hz = {frequency_hz}
cores = 512
delta = 2.0
uplink_bps = {uplink_bps}
downlink_bps = 1e8
memory_bytes = {memory_bytes}
power_w = {power_w}
"""
GOOD = {
    "frequency_max_hz": "2.46e9",
    "static_power_w": "20.0",
    "kappa": "5e-27",
    "server_memory": "8e9",
    "frequency_hz": "7e8",
    "uplink_bps": "5e7",
    "memory_bytes": "8e9",
    "power_w": "10.0",
}


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("frequency_max_hz", "2535", "2535 MHz is 2.535e+09"),
        ("frequency_hz", "0.7", "0.7 GHz is 7e+08"),
        ("frequency_hz", "7e14", "in Hz"),
        ("uplink_bps", "50", "50 Mbit/s is 5e+07"),
        ("uplink_bps", "5e13", "in bit/s"),
        ("memory_bytes", "8", "8 GiB is 8589934592"),
        ("memory_bytes", "8192", "8192 MiB is 8589934592"),
        ("server_memory", "16", "16 GiB is"),
        ("power_w", "15000", "15000 mW is 15"),
        ("static_power_w", "58000", "58000 mW is 58"),
    ],
)
def test_a_scenario_in_other_units_is_refused_with_the_right_one(key: str, value: str, remedy: str) -> None:
    assert parse_scenario(BASE.format(**GOOD)).devices[0].name == "a"
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(BASE.format(**{**GOOD, key: value}))
    assert "line" in refused.value.message
    said = str(refused.value.remedy).replace("8.58993e+09", "8589934592")
    assert remedy in said, said


def test_scenarios_that_come_along_are_in_the_right_units() -> None:
    folder = resources.files("cardlab.card") / "scenarios"
    for file in folder.iterdir():
        if file.name.endswith(".toml"):
            parse_scenario(file.read_text(encoding="utf-8"), file.name)


def test_a_rate_in_bit_s_is_refused_where_mbit_s_is_asked_for(tmp_path: Path) -> None:
    whole(tmp_path / "a.db").close()
    words = (
        "plan",
        "--from-db",
        "--uplink-mbps",
        "100000000",
        "--downlink-mbps",
        "100",
        "--db",
        str(tmp_path / "a.db"),
    )
    command("card", *words).failed_in_one_line(
        1, "--uplink-mbps", "100000000 bit/s is 100".replace("100000000", "1e+08")
    )


def test_a_cap_in_milliwatts_is_refused(tmp_path: Path) -> None:
    whole(tmp_path / "a.db").close()
    rates = ("--uplink-mbps", "100", "--downlink-mbps", "100", "--max-server-power", "58000")
    found = command("card", "plan", "--from-db", *rates, "--db", str(tmp_path / "a.db"))
    found.failed_in_one_line(1, "server_power_w", "58000 mW is 58")


@pytest.mark.torch
def test_a_budget_in_bytes_is_refused() -> None:
    words = ("--model", "tiny-llama", "--platform", "simulated:orin-nano", "--memory-budget-gib", "8589934592")
    command("profile-device", *words).failed_in_one_line(2, "in GiB", "are 8")


@pytest.mark.parametrize(("mhz", "memory_mhz"), [(2.535e9, None), (1500.0, 8.751e9)])
def test_a_frequency_in_hz_is_refused_where_mhz_is_asked_for(mhz: float, memory_mhz: float | None) -> None:
    with pytest.raises(UsageError) as refused:
        check_options(PredictOptions(device="a", frequency_mhz=mhz, memory_mhz=memory_mhz))
    assert "Hz is" in str(refused.value.remedy)


@pytest.mark.parametrize("text", ["100000000mbit", "0.001kbit"])
def test_a_link_that_no_cable_is_is_refused(text: str) -> None:
    with pytest.raises(CardlabError, match="is no rate|no rate of a device"):
        parse_link(text)
    assert math.isclose(parse_link("100mbit").uplink_bps or 0.0, 1e8)

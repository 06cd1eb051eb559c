"""What a person reads: N/A for the unknown, never 0."""

from __future__ import annotations

import pytest

from cardlab.core.text import data_size, duration, milliseconds, percent, si


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "W", "N/A"),
        (0.0, "W", "0 W"),
        (1.5e9, "Hz", "1.5 GHz"),
        (2.625e9, "Hz", "2.625 GHz"),
        (0.0123, "s", "12.3 ms"),
        (6e-27, "W", "6e-18 nW"),
        (-3.2e3, "W", "-3.2 kW"),
        (1300.637e9, "FLOP", "1.301 TFLOP"),
    ],
)
def test_si(value: float | None, unit: str, text: str) -> None:
    assert si(value, unit) == text


def test_sizes_durations_and_percentages() -> None:
    assert [data_size(v) for v in (None, 512, 2**20, 3 * 2**30)] == ["N/A", "512 B", "1 MiB", "3 GiB"]
    assert [duration(v) for v in (None, 45, 600, 11100)] == ["N/A", "45 s", "10 min", "3 h 05 min"]
    assert percent(None) == milliseconds(None) == "N/A"
    assert percent(0.034) == "3.4 %"
    assert milliseconds(0.0825) == "82.5"

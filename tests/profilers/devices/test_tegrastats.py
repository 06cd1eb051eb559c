"""Lines of tegrastats of every release, and what happens to a line that was cut, mixed up or made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cardlab.core.errors import CardlabError, DeviceError
from cardlab.profilers.devices.jetson.tegrastats import TegraLine, parse_line
from tests.conftest import DATA

SAMPLES = DATA / "jetson" / "tegrastats-samples.txt"

# Written by hand after the formats of four releases, so that they run without the real lines.
NANO = (
    "RAM 331/3964MB (lfb 7x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [10%@102,off,0%@102,0%@102] "
    "EMC_FREQ 3%@204 GR3D_FREQ 5%@76 APE 25 PLL@20.5C CPU@23.5C PMIC@100C GPU@22.5C thermal@23C "
    "POM_5V_IN 933/940 POM_5V_GPU 0/0 POM_5V_CPU 84/105"
)
XAVIER = (
    "RAM 408/15823MB (lfb 3702x4MB) SWAP 0/7911MB (cached 0MB) CPU [0%@2265,0%@2265] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@1377 APE 150 MTS fg 0% bg 0% AO@26.5C GPU@28C iwlwifi@30C CPU@28C GPU 1155/1155 CPU 385/385 "
    "SOC 2502/2502 CV 0/0 VDDRQ 192/192 SYS5V 2692/2692"
)
ORIN = (
    "01-03-2023 16:07:54 RAM 2257/30536MB (lfb 5392x4MB) SWAP 0/15268MB (cached 0MB) CPU [0%@729,50%@1190] "
    "EMC_FREQ 0%@204 GR3D_FREQ 14%@[407,409] VIC_FREQ 115 NVDLA0_FREQ @1600 APE 233 CV0@-256C CPU@41.437C GPU@-256C "
    "tj@41.656C VDD_GPU_SOC 2390mW/2391mW VDD_CPU_CV 796mW/796mW VIN_SYS_5V0 3522mW/3522mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
NEWEST = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201] GR3D_FREQ 32% NVENC0 off OFA off "
    "cpu@52.968C/53.1C gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/4000mW/6000mW VDD_CPU_CV 3268mW/3268mW/3268mW "
    "VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
LINES = {"nano": NANO, "xavier": XAVIER, "orin": ORIN, "newest": NEWEST}


def test_a_nano() -> None:
    line = parse_line(NANO)
    assert (line.ram_used_bytes, line.ram_total_bytes) == (331 * 2**20, 3964 * 2**20)
    assert line.cpus == ((0.1, 102e6), None, (0.0, 102e6), (0.0, 102e6))
    assert (line.emc_load, line.emc_hz, line.gpu_load, line.gpu_hz) == (0.03, 204e6, 0.05, (76e6,))
    assert line.power_w == {"POM_5V_IN": 0.933, "POM_5V_GPU": 0.0, "POM_5V_CPU": pytest.approx(0.084)}
    assert line.temperature_c == {"PLL": 20.5, "CPU": 23.5, "PMIC": 100.0, "GPU": 22.5, "thermal": 23.0}


def test_rails_that_are_called_like_engines() -> None:
    assert parse_line(XAVIER).power_w == pytest.approx(
        {"GPU": 1.155, "CPU": 0.385, "SOC": 2.502, "CV": 0.0, "VDDRQ": 0.192, "SYS5V": 2.692}
    )


def test_zones_that_are_off_and_channels_without_a_wire_are_left_out() -> None:
    line = parse_line(ORIN)
    assert line.temperature_c == {"CPU": 41.437, "tj": 41.656}
    assert set(line.power_w) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert line.gpu_hz == (407e6, 409e6)


def test_the_newest_format_gives_the_newest_reading_not_the_mean() -> None:
    line = parse_line(NEWEST)
    assert line.power_w["VDD_GPU_SOC"] == pytest.approx(5.139)
    assert line.temperature_c == {"cpu": 52.968, "gpu": 47.625}
    assert (line.gpu_load, line.gpu_hz, line.emc_load, line.emc_hz) == (0.32, (), None, None)


def real_lines() -> list[tuple[str, str]]:
    """(what it is, line) of the data folder; empty where it is absent."""
    if not SAMPLES.exists():
        return []
    rows = SAMPLES.read_text().splitlines()
    return [(rows[i][3:], rows[i + 1]) for i in range(len(rows) - 1) if rows[i].startswith("## ")]


EXPECTED_RAILS = {
    "Jetson Nano 4GB": {"POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"},
    "AGX Xavier": {"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"},
    "AGX Orin": {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"},
    "Orin Nano 8GB": {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"},
    "TX2": {"VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"},
    "AGX Thor devkit": {"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"},
}


@pytest.mark.skipif(not SAMPLES.exists(), reason="the data folder is not here")
def test_real_lines_of_every_release() -> None:
    """Each number that can be told by eye from the line is in the right place."""
    lines = real_lines()
    assert len(lines) >= 12
    for what, text in lines:
        line = parse_line(text)
        board = what.split(" | ")[0]
        expected = EXPECTED_RAILS.get(board) or EXPECTED_RAILS["AGX Orin"]
        assert set(line.power_w) - {"VDDQ_VDD2_1V8AO"} == expected, what
        for rail, watts in line.power_w.items():
            assert f"{rail} {round(watts * 1e3)}" in text
        core_list = text.split("CPU [")[1].split("]")[0].split(",")
        assert [f"{round(c[0] * 100)}%@{round(c[1] / 1e6)}" if c else "off" for c in line.cpus] == core_list
        assert text.count("C ") + text.endswith("C") >= len(line.temperature_c) > 0
        for zone, celsius in line.temperature_c.items():
            assert f"{zone}@{celsius:g}C" in text and celsius > -256
        for mhz in (round(hz / 1e6) for hz in line.gpu_hz):
            assert str(mhz) in text.split("GR3D_FREQ ")[1].split(" ")[0]
        assert (line.gpu_load is None) == ("GR3D_FREQ @" in text)
        assert (line.emc_hz is None) == ("EMC_FREQ" not in text or "EMC_FREQ 0% " in text)
    print(f"real lines of tegrastats parsed: {len(lines)} of {len(lines)}")


noise = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["/", "mW", "@", "%", "[", "]", "C", "9" * 30, "-", "RAM ", "off", "\0", "\u0663", "1e9", "."]),
)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), noise), min_size=1, max_size=6)


def mutated(text: str, changes: list[tuple[float, int, str]]) -> str:
    for where, length, new in changes:
        at = int(where * len(text))
        text = text[:at] + new + text[at + length :]
    return text


def parses_or_refuses(text: str) -> None:
    try:
        line = parse_line(text)
    except CardlabError as error:
        assert isinstance(error, DeviceError) and error.remedy
        return
    assert isinstance(line, TegraLine)
    assert all(0.0 <= watts < 1e6 for watts in line.power_w.values())
    assert all(-256.0 < celsius < 1e4 for celsius in line.temperature_c.values())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(LINES)), edits)
def test_a_damaged_line_is_read_or_refused(name: str, changes: list[tuple[float, int, str]]) -> None:
    parses_or_refuses(mutated(LINES[name], changes))


@pytest.mark.accept
def test_ten_thousand_damaged_lines(tmp_path: Path) -> None:
    lines = [text for _, text in real_lines()] or list(LINES.values())
    seen = 0

    @settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(lines), edits)
    def check(text: str, changes: list[tuple[float, int, str]]) -> None:
        nonlocal seen
        seen += 1
        parses_or_refuses(mutated(text, changes))

    check()
    assert seen >= 10_000
    print(f"damaged lines read or refused, nothing else raised: {seen}")


@pytest.mark.parametrize("text", ["", "x" * 20_000, "RAM lots", "\0", "RAM 1/2MB" * 2])
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="not a line of tegrastats"):
        parse_line(text)

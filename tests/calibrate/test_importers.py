from __future__ import annotations

import json

import pytest

from cardlab.calibrate.importers.csv import read_csv
from cardlab.calibrate.importers.kernel_tuner import read_kernel_tuner
from cardlab.core.errors import BadDataError

GOOD = "frequency_mhz,power_w,latency_s,workload,rail\n# a comment\n1000,50,0.2,gemm,board\n2000,90.5,0.1,gemm,board\n"


def csv_file(tmp_path, text):
    path = tmp_path / "sweep.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_rows_are_in_si(tmp_path):
    rows = read_csv(csv_file(tmp_path, GOOD))
    assert [(r.line, r.frequency_hz, r.power_w, r.latency_s) for r in rows] == [
        (3, 1e9, 50.0, 0.2),
        (4, 2e9, 90.5, 0.1),
    ]
    assert {(r.workload, r.rail, r.memory_hz) for r in rows} == {("gemm", "board", None)}


def test_csv_in_hz_with_memory_clock_and_byte_order_mark(tmp_path):
    text = "\ufefffrequency_hz,power_w,memory_frequency_mhz\r\n1e9,50,5001\r\n"
    (row,) = read_csv(csv_file(tmp_path, text))
    assert (row.frequency_hz, row.memory_hz) == (1e9, 5.001e9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("frequency_mhz,power_w\n", "the file has no rows"),
        ("mhz,watts\n1,2\n", "row 1: needs one of the columns frequency_mhz"),
        ("frequency_mhz,frequency_hz,power_w\n1,1,2\n", "row 1: needs one"),
        ("frequency_mhz\n1\n", "row 1: needs a column power_w"),
        ("frequency_mhz,power_w,colour\n1,2,red\n", "row 1: unknown column 'colour'"),
        ("frequency_mhz,power_w,power_w\n1,2,2\n", "row 1: a column is named twice"),
        ("frequency_mhz,power_w\n1000,50\n1100,fast\n", "row 3: power_w is 'fast', not a number"),
        ("frequency_mhz,power_w\n-5,50\n", "row 2: frequency_mhz is -5"),
        ("frequency_mhz,power_w\n0,50\n", "row 2: frequency_mhz is 0"),
        ("frequency_mhz,power_w\n1000,nan\n", "row 2: power_w is nan"),
        ("frequency_mhz,power_w\n1000,inf\n", "row 2: power_w is inf"),
        ("frequency_mhz,power_w\n1000,50\n1000,51\n", "row 3: 1000 MHz was given before, in row 2"),
        ("frequency_mhz,power_w\n1000,50,7\n", "row 2: 3 values for 2 columns"),
        ("frequency_mhz,power_w\n1000,\n", "row 2: neither power_w nor latency_s"),
        ("frequency_mhz,power_w,rail\n1000,50,board\n1100,55,\n", "row 3: no rail, though row 2 has one"),
        ("frequency_mhz,power_w,workload\n1000,50,\n1100,55,a\n", "row 2: no workload, though row 3"),
        ("frequency_mhz,power_w,latency_s\n1000,50,1\n1100,55,\n", "row 3: no latency_s"),
    ],
)
def test_bad_csv_names_the_row(tmp_path, text, says):
    with pytest.raises(BadDataError) as caught:
        read_csv(csv_file(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_is_streamed_and_refused_beyond_a_bound(tmp_path):
    path = tmp_path / "huge.csv"
    with path.open("w") as file:
        file.write("frequency_mhz,power_w\n")
        file.writelines(f"{i},50\n" for i in range(1, 5002))
    with pytest.raises(BadDataError, match="more than 5,000 rows"):
        read_csv(path, max_rows=5000)


def test_csv_without_line_ends_is_refused_before_it_fills_memory(tmp_path):
    path = csv_file(tmp_path, "frequency_mhz,power_w\n" + "1" * 200_000)
    with pytest.raises(BadDataError, match="row 2 is longer than"):
        read_csv(path)


def test_csv_that_is_no_text_or_not_there(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadDataError, match="not UTF-8"):
        read_csv(path)
    with pytest.raises(BadDataError, match="cannot read"):
        read_csv(tmp_path / "none.csv")


CACHE = {
    "device_name": "card",
    "kernel_name": "fma",
    "cache": {
        "405": {"nvml_gr_clock": 405, "core_freq": 405.0, "nvml_power": 43.9, "time": 332.5},
        "2100": {"nvml_gr_clock": 2100, "core_freq": 1740.0, "nvml_power": 139.1, "time": 77.5},
        "9999": {"nvml_gr_clock": 9999, "time": "RuntimeFailedConfig"},
    },
}


def test_kernel_tuner_cache_uses_the_clock_that_was_read(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps(CACHE))
    rows = read_kernel_tuner(path)
    assert [(r.frequency_hz, r.power_w, r.workload) for r in rows] == [(405e6, 43.9, "fma"), (1740e6, 139.1, "fma")]
    assert [r.latency_s for r in rows] == pytest.approx([0.3325, 0.0775])


def test_kernel_tuner_cache_left_open(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps(CACHE)[:-2] + ",")
    assert len(read_kernel_tuner(path)) == 2


def test_kernel_tuner_results_file(tmp_path):
    entry = {
        "configuration": {"nvml_gr_clock": 600},
        "measurements": [{"name": "nvml_power", "value": 50.0, "unit": "W"}, {"name": "time", "value": 10.0}],
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema_version": "1.0.0", "results": [entry]}))
    (row,) = read_kernel_tuner(path)
    assert (row.frequency_hz, row.power_w, row.latency_s) == (600e6, 50.0, 0.01)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("{", "line 1: not valid JSON"),
        ("[1]", "not a Kernel Tuner file"),
        ("{}", "neither a cache nor results"),
        ('{"cache": {"a": {"time": 1.0}}}', "row 1: no frequency"),
        ('{"cache": {"a": {"core_freq": "x", "time": 1.0}}}', "row 1: core_freq is 'x'"),
        ('{"cache": {"a": {"core_freq": 500, "nvml_power": -1}}}', "row 1: nvml_power is -1"),
    ],
)
def test_bad_kernel_tuner_file(tmp_path, text, says):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadDataError, match=says):
        read_kernel_tuner(path)

from __future__ import annotations

import json

import pytest

from cardlab.calibrate.importers.csv import read_csv
from cardlab.calibrate.importers.kernel_tuner import read_kernel_tuner
from cardlab.calibrate.importing import read_file
from cardlab.core.errors import BadDataError
from cardlab.db import open_store
from cardlab.workflows.exchange import import_sweep
from cardlab.workflows.options.calibrate import ImportOptions

GOOD = "frequency_mhz,power_w,latency_s,workload,rail\n# a comment\n1000,50,0.2,gemm,board\n2000,90.5,0.1,gemm,board\n"


def csv_file(tmp_path, text):
    path = tmp_path / "sweep.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_rows_are_in_si(tmp_path):
    rows = read_csv(csv_file(tmp_path, GOOD)).rows
    assert [(r.line, r.frequency_hz, r.power_w, r.latency_s) for r in rows] == [
        (3, 1e9, 50.0, 0.2),
        (4, 2e9, 90.5, 0.1),
    ]
    assert {(r.workload, r.rail, r.memory_hz) for r in rows} == {("gemm", "board", None)}


def test_csv_in_hz_with_memory_clock_and_byte_order_mark(tmp_path):
    text = "\ufefffrequency_hz,power_w,memory_frequency_mhz\r\n1e9,50,5001\r\n"
    (row,) = read_csv(csv_file(tmp_path, text)).rows
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
        file.writelines(f"{i},50\n" for i in range(1, 5003))
    with pytest.raises(BadDataError, match="more than 5,000 rows"):
        read_csv(path, max_rows=5000)


def test_csv_without_line_ends_is_refused_before_it_fills_memory(tmp_path):
    path = csv_file(tmp_path, "frequency_mhz,power_w\n" + "1" * 200_000)
    with pytest.raises(BadDataError, match="row 2 is longer than"):
        read_csv(path)


def test_csv_that_is_no_text_or_not_there(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xfe\x00\x01")
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
    rows = read_kernel_tuner(path).rows
    assert [(r.frequency_hz, r.power_w, r.workload) for r in rows] == [(405e6, 43.9, "fma"), (1740e6, 139.1, "fma")]
    assert [r.latency_s for r in rows] == pytest.approx([0.3325, 0.0775])


def test_kernel_tuner_cache_left_open(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps(CACHE)[:-2] + ",")
    assert len(read_kernel_tuner(path).rows) == 2


def test_kernel_tuner_results_file(tmp_path):
    entry = {
        "configuration": {"nvml_gr_clock": 600},
        "measurements": [{"name": "nvml_power", "value": 50.0, "unit": "W"}, {"name": "time", "value": 10.0}],
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema_version": "1.0.0", "results": [entry]}))
    (row,) = read_kernel_tuner(path).rows
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


ROWS = [(600, 45.0, 0.0402), (900, 62.5, 0.0270), (1200, 84.1, 0.0204), (1500, 111.9, 0.0163)]
FREQUENCIES_HZ, POWERS_W, LATENCIES_S = ([f * 1e6 for f, *_ in ROWS], [p for _, p, _ in ROWS], [t for *_, t in ROWS])


def table(separator, comma=False, before="", heads="frequency_mhz,power_w,latency_s"):
    lines = [heads.replace(",", separator)]
    lines += [separator.join(str(v).replace(".", "," if comma else ".") for v in row) for row in ROWS]
    return before + "\n".join(lines) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    "text",
    [
        table(";"),
        table(";", comma=True),
        table(";", before="sep=;\n"),
        table(";", before="SEP=;\r\n").replace("\n", "\r\n"),
        table("\t"),
        table("\t", comma=True),
        table("|"),
        table(",", heads="Frequency [MHz],Power (W),Latency [s]"),
        table(",").replace("\n", "\r"),
    ],
)
def test_a_table_is_read_as_spreadsheets_of_the_world_save_it(tmp_path, text, encoding):
    path = tmp_path / "sweep.csv"
    path.write_bytes(text.encode(encoding))
    rows = read_csv(path).rows
    assert [r.frequency_hz for r in rows] == FREQUENCIES_HZ and [r.power_w for r in rows] == POWERS_W
    assert [r.latency_s for r in rows] == pytest.approx(LATENCIES_S)


@pytest.mark.parametrize(
    ("heads", "row"),
    [
        ("frequency_khz,power_mw,latency_ms", "600000,45000,40.2"),
        ("frequency_ghz,power_w,latency_us", "0.6,45,40200"),
        ("frequency [kHz];power [mW];latency [ms]", "600000;45000;40,2"),
        ("latency_ms,power_w,frequency_hz", "40.2,45,6e8"),
    ],
)
def test_units_in_the_head_are_used(tmp_path, heads, row):
    (read,) = read_csv(csv_file(tmp_path, f"{heads}\n{row}\n")).rows
    assert (read.frequency_hz, read.power_w) == (6e8, 45.0) and read.latency_s == pytest.approx(0.0402)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("frequency_mhz,power_w\n6e8,65\n", "row 2: frequency_mhz 6e8 means 600 THz"),
        ("frequency_mhz,power_w\n600000,45\n", "means 600 GHz, which is no frequency"),
        ("frequency_mhz,power_w\n600,45000\n", "power_w 45000 means 45 kW, which is no power"),
        ("frequency_hz,power_w\n600,45\n", "frequency_hz 600 means 600 Hz"),
        ("frequency_mhz,latency_s\n600,40200\n", "latency_s 40200 means 40.2 ks"),
        ("frequency_mhz,power_w,memory_frequency_mhz\n600,45,8751000\n", "means 8.751 THz"),
        ("frequency,power_w\n600,45\n", "row 1: frequency has no unit"),
        (
            "frequency_mhz;power_w\n600;45,100\n900;62,500\n",
            "row 2: power_w 45,100 can be a decimal comma or thousands",
        ),
        ('frequency_mhz,power_w\n"1,200",45\n', "1,200 can be a decimal comma or thousands"),
        ("frequency_mhz,frequency [kHz],power_w\n1,1000,5\n", "needs one of the columns"),
        ("frequency_mhz,power [MW]\n600,45\n", "power in MW"),
    ],
)
def test_numbers_in_another_unit_are_refused(tmp_path, text, says):
    with pytest.raises(BadDataError) as caught:
        read_csv(csv_file(tmp_path, text))
    assert says in str(caught.value) and "\n" not in str(caught.value)


SMI = """timestamp, clocks.sm [MHz], clocks.mem [MHz], power.draw.instant [W], power.draw [W], temperature.gpu
t0, 600 MHz, 8751 MHz, 45.00 W, 1 W, 50
t1, 600 MHz, 8751 MHz, 46.00 W, 1 W, 51
t2, 900 MHz, 8751 MHz, 62.50 W, 1 W, 52
t3, 2400 MHz, 8751 MHz, [N/A], 1 W, 60
t4, 900 MHz, 8751 MHz, 62.70 W, 1 W, 52
"""


def test_a_log_of_nvidia_smi_is_averaged_by_frequency(tmp_path):
    read = read_csv(csv_file(tmp_path, SMI))
    assert [(r.frequency_hz, r.power_w, r.memory_hz, r.samples) for r in read.rows] == [
        (600e6, 45.5, 8751e6, 2),
        (900e6, pytest.approx(62.6), 8751e6, 2),
    ]
    assert [r.power_stderr_w for r in read.rows] == [pytest.approx(0.5), pytest.approx(0.1)]
    assert read.notes == (
        "power.draw is passed over: power.draw.instant says the same",
        "taken as one card: the log names none (log uuid or index to have it checked)",
        "columns that are not read: timestamp, temperature.gpu",
        "1 row(s) without a reading are left out",
        "4 rows at 2 points that were read more than once are averaged",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("uuid, clocks.sm [MHz], power.draw [W]\nA, 600 MHz, 45 W\nB, 600 MHz, 90 W\n", "the log holds 2 cards"),
        ("clocks.sm [MHz], power.draw [W]\n600 MHz, 45 mW\n", "power.draw is in mW, its head says W"),
        ("clocks.sm [MHz], temperature.gpu\n600 MHz, 45\n", "a log of nvidia-smi without power.draw"),
        ("clocks.sm [MHz], power.draw [W]\n600 MHz, [N/A]\n", "power.draw holds no value in any row"),
        ("clocks.sm [MHz], power.draw [W]\n600 MHz, [N/A]\n[N/A], 45 W\n", "no row has both"),
        ("clocks.sm [MHz], power.draw [W]\n600 MHz, 504000 W\n", "means 504 kW"),
        # Two cards: told apart by their name, by what they have, or by nothing but that both were read at once.
        ("name, clocks.sm [MHz], power.draw [W]\nA100, 600 MHz, 45 W\nT4, 600 MHz, 90 W\n", "2 cards (name A100, T4)"),
        ("gpu_name, clocks.sm [MHz], power.draw [W]\nA, 600 MHz, 45 W\nB, 600 MHz, 9 W\n", "the log holds 2 cards"),
        ("memory.total [MiB], clocks.sm [MHz], power.draw [W]\n1, 600, 45\n2, 600, 9\n", "the log holds 2 cards"),
        ("timestamp, clocks.sm [MHz], power.draw [W]\nt0, 600 MHz, 45 W\nt0, 600 MHz, 90 W\n", "rows 2 and 3 are of"),
        ("timestamp, name, clocks.sm, power.draw\nt0, A100, 600, 45\nt0, A100, 600, 90\n", "so of two cards"),
        ("timestamp, serial, clocks.sm, power.draw\nt0, [N/A], 600, 45\nt0, [N/A], 600, 90\n", "so of two cards"),
    ],
)
def test_a_log_that_would_be_read_wrong_is_refused(tmp_path, text, says):
    with pytest.raises(BadDataError) as caught:
        read_csv(csv_file(tmp_path, text))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("named", "notes"),
    [
        ("uuid", 0),
        ("index", 0),
        ("pci.bus_id", 0),
        ("name", 1),
    ],
)
def test_a_log_that_names_its_card_is_of_one(tmp_path, named, notes):
    text = f"timestamp, {named}, clocks.sm, power.draw\nt0, A, 600, 45\nt1, A, 900, 90\n"
    read = read_csv(csv_file(tmp_path, text))
    assert len(read.rows) == 2
    assert len([note for note in read.notes if "taken as one card" in note]) == notes


def log(*rows, heads="uuid, clocks.sm [MHz], power.draw [W]"):
    return heads + "\n" + "".join(f"A, {row}\n" for row in rows)


def throttles(name):
    return f"uuid, clocks.sm [MHz], power.draw [W], {name}"


@pytest.mark.parametrize("prefix", ["clocks_throttle_reasons", "clocks_event_reasons"])
@pytest.mark.parametrize(
    ("column", "cell"),
    [
        *((name, "Active") for name in ("sw_power_cap", "hw_slowdown", "hw_thermal_slowdown", "sync_boost")),
        *((name, "Active") for name in ("hw_power_brake_slowdown", "sw_thermal_slowdown")),
        *(("active", f"0x{bit:016x}") for bit in (0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x44, 0x200, 0x4 | 0x2)),
    ],
)
def test_rows_in_which_the_card_was_held_are_left_out(tmp_path, prefix, column, cell):
    free = "0x0000000000000002" if column == "active" else "Not Active"
    heads = throttles(f"{prefix}.{column}")
    rows = (f"600 MHz, 45 W, {free}", f"900 MHz, 60 W, {free}", f"900 MHz, 70 W, {cell}", "1200 MHz, 90 W, [N/A]")
    read = read_csv(csv_file(tmp_path, log(*rows, heads=heads)))
    assert [(r.frequency_hz, r.power_w) for r in read.rows] == [(600e6, 45.0), (900e6, 60.0), (1200e6, 90.0)]
    (note,) = read.notes
    assert note.startswith("1 row(s) in which the card was held are left out: ") and note.endswith(" 1")
    with pytest.raises(BadDataError, match="in no row with a reading did the card run as asked"):
        read_csv(csv_file(tmp_path, log(rows[2], heads=heads)))


@pytest.mark.parametrize(
    ("name", "busy", "idle"),
    [
        ("utilization.gpu [%]", "97 %", "0 %"),
        ("clocks_event_reasons.gpu_idle", "Not Active", "Active"),
        ("clocks_throttle_reasons.active", "0x0000000000000000", "0x0000000000000001"),
    ],
)
def test_rows_of_an_idle_card_are_left_out(tmp_path, name, busy, idle):
    rows = (f"600 MHz, 45 W, {busy}", f"600 MHz, 9 W, {idle}", f"900 MHz, 60 W, {busy}")
    read = read_csv(csv_file(tmp_path, log(*rows, heads=throttles(name))))
    assert [r.power_w for r in read.rows] == [45.0, 60.0]
    assert read.notes == ("1 row(s) in which the card was idle are left out",)


def test_a_log_of_an_idle_card_says_so(tmp_path):
    heads = throttles("utilization.gpu [%]")
    read = read_csv(csv_file(tmp_path, log("600 MHz, 9 W, 0 %", "900 MHz, 10 W, 0 %", heads=heads)))
    assert len(read.rows) == 2
    assert read.notes == ("utilization.gpu is 0 % in every row: taken as the power of an idle card",)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("clocks_throttle_reasons.active", "yes"),
        ("clocks_throttle_reasons.sw_power_cap", "maybe"),
        ("utilization.gpu", "much"),
        ("utilization.gpu", "400 %"),
    ],
)
def test_a_state_that_cannot_be_read_is_refused(tmp_path, name, cell):
    with pytest.raises(BadDataError, match=f"row 2: {name}"):
        read_csv(csv_file(tmp_path, log(f"600 MHz, 45 W, {cell}", heads=throttles(name))))


def test_the_first_power_that_has_values_is_taken(tmp_path):
    heads = "uuid, clocks.sm [MHz], clocks.mem [MHz], power.draw.instant [W], power.draw [W]"
    read = read_csv(csv_file(tmp_path, log("600, [N/A], [N/A], 45", "900, [N/A], [N/A], 60", heads=heads)))
    assert [(r.power_w, r.memory_hz) for r in read.rows] == [(45.0, None), (60.0, None)]
    assert read.notes == ("clocks.mem holds no value", "power.draw.instant holds no value")
    with pytest.raises(BadDataError) as caught:
        read_csv(csv_file(tmp_path, log("600, [N/A], [N/A], [N/A]", heads=heads)))
    assert "power.draw.instant, power.draw hold no value in any row" in caught.value.message
    assert "power.draw" not in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("frequency_mhz;power_w\n1.200;30,5\n", "row 2: frequency_mhz 1.200 can be a decimal point or thousands"),
        ("power_w;latency_s;frequency_mhz\n1.200;0,5;900\n", "power_w 1.200 can be a decimal point or thousands"),
        ("frequency_hz;power_w\n1.200.000.000;30,5\n", "1.200.000.000 can be a decimal point or thousands"),
        ("frequency_hz,power_w\n1.200.000.000,30.5\n", "1.200.000.000 can be a decimal point or thousands"),
        # No number of this file says which sign its decimals have.
        ("frequency_mhz;power_mw\n900;45.000\n1100;62.500\n", "power_mw 45.000 can be a decimal point or thousands"),
        ("frequency_mhz\tpower_w\n1.200\t30\n", "frequency_mhz 1.200 means 1.2 MHz, which is no frequency"),
    ],
)
def test_points_that_may_group_thousands_are_refused(tmp_path, text, says):
    with pytest.raises(BadDataError) as caught:
        read_csv(csv_file(tmp_path, text))
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "power_w"),
    [
        # As the remedies of the refusals above say it is to be written.
        ("power_w;latency_s;frequency_mhz\n1.2000;0,5;900\n", 1.2),
        ("power_w;latency_s;frequency_mhz\n1200;0,5;900\n", 1200.0),
        ("frequency_mhz;power_w\n900;45.1000\n", 45.1),
        # A point that can only be decimal says what the others are.
        ("frequency_mhz;power_w;latency_s\n900;45.125;0.5\n", 45.125),
        ("frequency_mhz,power_w\n900,45.125\n", 45.125),
    ],
)
def test_points_that_are_decimal_are_read(tmp_path, text, power_w):
    (row,) = read_csv(csv_file(tmp_path, text)).rows
    assert row.power_w == power_w


def test_a_label_is_what_it_says(tmp_path):
    text = "frequency_mhz;power_w;workload\n900;45,5;1,5\n900;46,5;1.200\n"
    assert [row.workload for row in read_csv(csv_file(tmp_path, text)).rows] == ["1,5", "1.200"]


@pytest.mark.parametrize("cell", ["5_3.24", "\u0663\u0664", "\uff11\uff12", "0x20", "1e", "1e3.5", "4 5"])
def test_only_numbers_are_numbers(tmp_path, cell):
    with pytest.raises(BadDataError, match="row 2: power_w is .*, not a number"):
        read_csv(csv_file(tmp_path, f"frequency_mhz,power_w\n600,{cell}\n"))
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({"cache": {"a": {"core_freq": 600, "nvml_power": cell}}}), encoding="utf-8")
    with pytest.raises(BadDataError, match="row 1: nvml_power is .*, not a number"):
        read_kernel_tuner(path)


@pytest.mark.parametrize("head", ["power_MW", "Power_MW", "power [MW]", "power_mw [MW]", "POWER [MW]"])
def test_mega_is_not_milli(tmp_path, head):
    with pytest.raises(BadDataError, match="row 1: power in MW"):
        read_csv(csv_file(tmp_path, f"frequency_mhz,{head}\n600,45000\n"))
    with pytest.raises(BadDataError, match="row 1: latency in Ms"):
        read_csv(csv_file(tmp_path, "frequency_mhz,latency_Ms\n600,45\n"))


def test_a_head_in_capitals_has_no_small_m(tmp_path):
    read = read_csv(csv_file(tmp_path, "FREQUENCY_MHZ,POWER_MW,LATENCY_MS\n600,45000,40\n"))
    assert [(r.frequency_hz, r.power_w, r.latency_s) for r in read.rows] == [(6e8, 45.0, 0.04)]
    assert read.notes == ("POWER_MW is read as mW (milli)", "LATENCY_MS is read as ms (milli)")


def entry(block, asked, power, time, read=None):
    return {
        "block_size_x": block,
        "nvml_gr_clock": asked,
        "time": time,
        "nvml_power": power,
        "core_freq": read or asked,
    }


@pytest.mark.parametrize("named", [True, False])
def test_a_kernel_tuned_over_blocks_too_is_a_sweep_a_block(tmp_path, named):
    entries = {f"{b},{f}": entry(b, f, b / 10 + f / 10, 1e4 / f) for b in (128, 256) for f in (600, 900)}
    document = {"kernel_name": "gemm", "cache": entries}
    if named:
        document["tune_params_keys"] = ["block_size_x", "nvml_gr_clock"]
    path = tmp_path / "cache.json"
    path.write_text(json.dumps(document))
    read = read_kernel_tuner(path)
    assert [(r.workload, r.frequency_hz, r.power_w) for r in read.rows] == [
        (f"gemm block_size_x={b}", f * 1e6, b / 10 + f / 10) for b in (128, 256) for f in (600, 900)
    ]
    assert read.notes == ("2 settings of the kernel are as many workloads",)


def test_requests_that_read_one_frequency_back_are_averaged(tmp_path):
    entries = {
        "128,600": entry(128, 600, 45.0, 40.0),
        "128,1800": entry(128, 1800, 150.0, 14.0, 1785),
        "128,2100": entry(128, 2100, 154.0, 12.0, 1785),
    }
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({"kernel_name": "gemm", "cache": entries}))
    read = read_kernel_tuner(path)
    assert [(r.frequency_hz, r.power_w) for r in read.rows] == [(600e6, 45.0), (1785e6, 152.0)]
    assert [r.latency_s for r in read.rows] == pytest.approx([0.04, 0.013])
    assert read.notes == ("2 rows at 1 points that were read more than once are averaged",)


def sweep(tmp_path, powers, times=None):
    lines = ["frequency_mhz,power_w" + (",latency_s" if times else "")]
    for i, power in enumerate(powers):
        lines.append(f"{600 + 150 * i},{power}" + (f",{times[i]}" if times else ""))
    return read_file(csv_file(tmp_path, "\n".join(lines) + "\n"), device="d", imported_at="2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("powers", "times", "capped"),
    [
        ([60, 75, 95, 120, 165, 165, 165.3, 164.8], [8, 7, 6, 5, 4, 4, 4, 4], 4),
        ([60, 75, 95, 120, 165, 165], None, 2),
        ([60, 75, 95, 120, 150, 165], None, 0),
        # Time alone stands still where memory is the limit; power goes on rising.
        ([60, 75, 95, 120, 150, 165], [8, 7, 6, 5, 5, 5], 0),
        # A device without a power that changes has no top to be capped.
        ([60, 60, 60, 60, 60], None, 0),
        ([60, 75, 95, 120, 165, 165.2], [8, 7, 6, 5, 4, 3.8], 0),
    ],
)
def test_the_top_of_a_sweep_that_the_power_limit_held_is_marked(tmp_path, powers, times, capped):
    read = sweep(tmp_path, powers, times)
    ((_, visits),) = read.visits
    flags = [operating.throttled for _, operating, _ in visits]
    assert flags == [None] * (len(powers) - capped) + [True] * capped
    assert bool(read.notes) == bool(capped)


TOP = [60, 75, 95, 120, 165, 165, 165.3, 164.8]


def throttled(read):
    """Requested frequencies (MHz) that are marked, by workload, memory frequency (MHz) and rail."""
    found: dict[tuple[object, ...], list[float]] = {}
    for run, visits in read.visits:
        for planned, operating, measured in visits:
            key = (run.workload, planned.memory_hz and planned.memory_hz / 1e6, measured[0].rail)
            found.setdefault(key, []).extend([planned.requested_hz / 1e6] if operating.throttled else [])
    return found


def test_each_memory_frequency_and_workload_has_a_top_of_its_own(tmp_path):
    lines = ["frequency_mhz,memory_frequency_mhz,workload,power_w"]
    for memory, workload, powers in (
        (5001, "gemm", TOP),
        (8751, "gemm", [p + 20 for p in TOP]),
        (8751, "copy", range(50, 130, 10)),
    ):
        lines += [f"{600 + 150 * i},{memory},{workload},{power}" for i, power in enumerate(powers)]
    read = read_file(csv_file(tmp_path, "\n".join(lines)), device="d", imported_at="2026-01-01T00:00:00Z")
    held = [1200.0, 1350.0, 1500.0, 1650.0]
    assert throttled(read) == {
        ("gemm", 5001.0, "board"): held,
        ("gemm", 8751.0, "board"): held,
        ("copy", 8751.0, "board"): [],
    }
    assert [note[:40] for note in read.notes] == [
        "4 points (gemm, memory at 5001 MHz), 120",
        "4 points (gemm, memory at 8751 MHz), 120",
    ]


@pytest.mark.parametrize(
    ("cpu", "held"),
    [
        # A small rail whose meter is coarse says nothing; one that is flat throughout forbids nothing.
        ([1, 2, 1, 2, 1, 2, 1, 2], 4),
        ([40] * 8, 4),
        # One that still rises, be it below another that reached its own load, was not held.
        ([50, 60, 70, 80, 90, 100, 110, 120], 0),
    ],
)
def test_the_rails_of_a_device_are_held_together(tmp_path, cpu, held):
    lines = ["frequency_mhz,rail,power_w"]
    lines += [f"{600 + 150 * i},gpu,{power}" for i, power in enumerate(TOP)]
    lines += [f"{600 + 150 * i},cpu,{power}" for i, power in enumerate(cpu)]
    read = read_file(csv_file(tmp_path, "\n".join(lines)), device="d", imported_at="2026-01-01T00:00:00Z")
    assert [len(marked) for marked in throttled(read).values()] == [held, held]


def test_a_cache_over_both_frequencies_has_a_top_for_each_memory_frequency(tmp_path):
    entries = {}
    for memory in (5001, 8751):
        for i, power in enumerate(TOP):
            asked = 600 + 150 * i
            entries[f"{asked},{memory}"] = {
                **{"nvml_gr_clock": asked, "nvml_mem_clock": memory, "nvml_power": power + memory / 1000},
                **{"time": 12.0 - min(i, 4), "mem_freq": memory + 0.5 * (i % 2)},
            }
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({"kernel_name": "gemm", "cache": entries}))
    read = read_file(path, device="d", imported_at="2026-01-01T00:00:00Z")
    assert sum(map(len, throttled(read).values())) == 8
    assert "the frequency is the one asked for (nvml_gr_clock), not one read back (core_freq)" in read.notes


def test_a_frequency_that_was_read_is_kept_where_the_limit_held(tmp_path):
    rows = [f"{600 + 150 * i} MHz, {power} W" for i, power in enumerate(TOP)]
    read = read_file(csv_file(tmp_path, log(*rows)), device="d", imported_at="2026-01-01T00:00:00Z")
    ((_, visits),) = read.visits
    assert [o.frequency_hz for _, o, _ in visits if o.throttled] == [1.2e9, 1.35e9, 1.5e9, 1.65e9]
    assert "the frequency that was read rose" in read.notes[-1]


def results(tmp_path, *entries):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema_version": "1.0.0", "results": entries}))
    return path


def result(*measurements, mhz=600, **more):
    named = [dict(zip(("name", "value", "unit"), m, strict=False)) for m in measurements]
    return {"configuration": {"nvml_gr_clock": mhz}, "measurements": named, **more}


@pytest.mark.parametrize(
    ("power", "time"),
    [
        ((50.0, "W"), (20.0, "ms")),
        ((50.0, ""), (20.0, None)),
        ((50_000.0, "mW"), (0.02, "s")),
        ((50.0, "watts"), (0.02, "seconds")),
        ((0.05, "kW"), (20_000.0, "\N{MICRO SIGN}s")),
        ((50.0, "Watt"), (2e7, "nanoseconds")),
    ],
)
def test_the_unit_of_a_measurement_is_used(tmp_path, power, time):
    (row,) = read_kernel_tuner(results(tmp_path, result(("nvml_power", *power), ("time", *time)))).rows
    assert (row.power_w, row.latency_s) == pytest.approx((50.0, 0.02))


@pytest.mark.parametrize(
    ("measurement", "says"),
    [
        (("time", 20.0, "cycles"), "row 1: time in 'cycles'; give it in one of: s, ms, us, ns"),
        (("time", 20.0, "Ms"), "row 1: latency in Ms (megaseconds)"),
        (("time", 20.0, 3), "row 1: time in 3"),
        (("nvml_power", 50.0, "J"), "row 1: nvml_power in 'J'"),
        (("core_freq", 600.0, "rpm"), "row 1: core_freq in 'rpm'"),
    ],
)
def test_a_unit_that_is_none_of_it_is_refused(tmp_path, measurement, says):
    with pytest.raises(BadDataError) as caught:
        read_kernel_tuner(results(tmp_path, result(measurement, ("ps_power", 1.0))))
    assert says in str(caught.value)


def test_configurations_that_are_not_right_are_left_out(tmp_path):
    power = ("nvml_power", 50.0)
    path = results(
        tmp_path,
        result(power, mhz=600, invalidity="correct", correctness=1),
        result(power, mhz=700, invalidity=""),
        result(power, mhz=800, invalidity="runtime"),
        result(power, mhz=900, invalidity="runtime"),
        result(power, mhz=1000, invalidity="correct", correctness=0),
        result(("nvml_power", "CompilationFailedConfig"), mhz=1100),
        result(power, ("time", 1e20), mhz=1200),
    )
    read = read_kernel_tuner(path)
    assert [row.frequency_hz for row in read.rows] == [600e6, 700e6]
    assert read.notes[0] == (
        "5 configuration(s) that failed to run are left out: runtime 2, wrong result 1, CompilationFailedConfig 1,"
        " no time 1"
    )


def test_one_instrument_is_read_in_the_whole_file(tmp_path):
    both = [("nvml_power", 50.0), ("ps_power", 60.0)]
    read = read_kernel_tuner(results(tmp_path, result(*both), result(*both, mhz=700)))
    assert [row.power_w for row in read.rows] == [50.0, 50.0]
    assert read.notes[0] == "ps_power is passed over: nvml_power is read"
    with pytest.raises(BadDataError, match="row 2: no power_w, though row 1 has one"):
        read_kernel_tuner(results(tmp_path, result(*both, ("time", 1.0)), result(both[1], ("time", 1.0), mhz=700)))


def test_a_frequency_that_was_only_asked_for_says_so(tmp_path):
    power = ("nvml_power", 50.0)
    read = read_kernel_tuner(results(tmp_path, result(power, ("core_freq", 590.0)), result(power, mhz=700)))
    assert [(row.frequency_hz, row.frequency_read) for row in read.rows] == [(590e6, True), (700e6, False)]
    assert read.notes == (
        "the frequency is the one asked for (nvml_gr_clock) in 1 of 2 configurations, not one read back (core_freq)",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"cache": {"a": 3, "b": {"core_freq": 500, "nvml_power": 1}}}', "row 1: '3' is no configuration"),
        ('{"results": [null]}', "row 1: 'None' is no configuration"),
        ('{"results": [{"measurements": [3]}]}', "row 1: a measurement without a name"),
        (
            '{"results": [{"measurements": [{"name": "time", "value": 1}, {"name": "time", "value": 2}]}]}',
            "row 1: two values of time",
        ),
        ('{"cache": {"a": {"core_freq": 500, "time": 1}, "a": {"core_freq": 500, "time": 2}}}', "names 'a' twice"),
        ('{"cache": {"a": {"core_freq": 500, "time": "much"}}}', "row 1: time is 'much', not a number"),
    ],
)
def test_nothing_of_a_kernel_tuner_file_is_dropped(tmp_path, text, says):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadDataError) as caught:
        read_kernel_tuner(path)
    assert says in str(caught.value)


SWEEP = "frequency_mhz,power_w\n" + "".join(f"{f},{f / 10}\n" for f in (600, 900, 1200))


def bring(store, tmp_path, text, device="card"):
    return import_sweep(store, ImportOptions(file=str(csv_file(tmp_path, text)), device=device))


def test_what_was_imported_before_is_not_stored_again(tmp_path):
    """Twice the same readings are no second measurement: the errors of a fit would shrink."""
    with open_store(tmp_path / "x.db") as store:
        first = bring(store, tmp_path, SWEEP)
        head, *rows = SWEEP.splitlines()
        for text in (
            SWEEP,
            "# renamed and sorted\n" + "\n".join([head, *reversed(rows)]),
            "\n".join([head, *rows[:2]]),
        ):
            again = bring(store, tmp_path, text)
            assert again.runs == ()
            uid = first.runs[0].uid[:12]
            assert again.notes == (f"'imported' of 'card' was imported before as run {uid}: nothing is added",)
        assert len(store.runs.summaries()) == 1
        # Of another device, another workload or with other readings it is another sweep.
        assert bring(store, tmp_path, SWEEP, device="other").notes == ()
        labelled = "\n".join(f"{row},{'workload' if row == head else 'gemm'}" for row in (head, *rows))
        assert bring(store, tmp_path, labelled).notes == ()
        assert bring(store, tmp_path, SWEEP.replace("60.0", "61.0")).notes[0].startswith("2 of the 3 points")
        assert len(store.runs.summaries()) == 4


def test_a_file_that_has_grown_is_refused(tmp_path):
    with open_store(tmp_path / "x.db") as store:
        bring(store, tmp_path, SWEEP)
        with pytest.raises(BadDataError, match="3 of the 4 points of 'imported' were imported before as run"):
            bring(store, tmp_path, SWEEP + "1500,150\n")
        assert len(store.runs.summaries()) == 1
        # As the remedy says.
        assert len(bring(store, tmp_path, "frequency_mhz,power_w\n1500,150\n").runs) == 1

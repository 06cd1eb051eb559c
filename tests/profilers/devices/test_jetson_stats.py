"""jetson-stats' own functions and ours on the same tree: equal where jtop is right, and where it is not, known.

jtop is imported in a child: importing it changes how the whole process starts others.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cardlab.core.errors import DeviceError
from cardlab.profilers.board.gpu import find_gpu
from cardlab.profilers.board.ina3221 import find_rails
from cardlab.profilers.board.rails import double_count_w, total_parts
from cardlab.profilers.devices.jetson.jtop import open_jtop
from cardlab.profilers.devices.jetson.jtop_child import rails_mw
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.tree import build

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jtop") is None, reason="jetson-stats is not installed (the jetson extra)"
)
ASK = """
import json, multiprocessing, sys
before = multiprocessing.get_start_method(allow_none=True)
from jtop.core import gpu, power
root = sys.argv[1]
rails = {}
for name, files in power.find_all_i2c_power_monitor(root + "/sys/bus/i2c/devices").items():
    values = power.read_power_status(files)
    values.setdefault("power", int(values["volt"] * (values["curr"] / 1000)))
    values["avg"] = values["power"]
    rails[name] = values
total, others = power.total_power(dict(rails))
found = gpu.find_igpu(root + "/sys/class/devfreq")
freq = {name: gpu.igpu_read_freq(where["frq_path"]) for name, where in found.items()}
status = {name: gpu.igpu_read_status(where["path"]) for name, where in found.items()}
print(json.dumps({"rails": rails, "total": total, "others": others, "freq": freq, "status": status}))
"""


def jetson_stats(root: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", ASK, str(root)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", ["orin-nx-16", "agx-orin-64", "agx-orin-64-jp5", "xavier-nx", "agx-xavier", "nano"])
def test_the_same_rails_power_and_frequencies(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    build(board, tmp_path)
    theirs = jetson_stats(tmp_path)
    ours = {rail.name: rail.power_w() for rail in find_rails(tmp_path)}
    assert set(ours) == set(theirs["rails"])
    for rail, watts in ours.items():
        # Theirs are whole milliwatts, cut off.
        assert watts == pytest.approx(theirs["rails"][rail]["power"] * 1e-3, abs=1.01e-3)
    gpu = find_gpu(tmp_path)
    assert gpu is not None and list(theirs["freq"]) == [board.node]
    freq = theirs["freq"][board.node]
    limits = gpu.limits_hz()
    assert limits is not None
    low, high = limits
    assert (freq["min"], freq["max"]) == (low // 1000, high // 1000)
    hz = gpu.frequency_hz()
    assert hz is not None and freq["cur"] == int(hz) // 1000
    # Theirs makes a truth value of the mask.
    if board.mask not in (None, 1):
        assert theirs["status"][board.node]["tpc_pg_mask"] is False and gpu.tpc_mask() == board.mask


@pytest.mark.parametrize("name", ["orin-nx-16", "xavier-nx", "agx-xavier", "nano"])
def test_the_same_total_where_theirs_is_right(name: str, tmp_path: Path) -> None:
    build(BOARDS[name], tmp_path)
    ours = {rail.name: rail.power_w() or 0.0 for rail in find_rails(tmp_path)}
    total_w = sum(ours[part] for part in total_parts(list(ours)))
    assert total_w == pytest.approx(jetson_stats(tmp_path)["total"]["power"] * 1e-3, abs=6.1e-3)


def test_their_total_of_an_agx_orin_counts_a_rail_twice(tmp_path: Path) -> None:
    build(BOARDS["agx-orin-64"], tmp_path)
    ours = {rail.name: rail.power_w() or 0.0 for rail in find_rails(tmp_path)}
    total_w = sum(ours[part] for part in total_parts(list(ours)))
    theirs_w = jetson_stats(tmp_path)["total"]["power"] * 1e-3
    twice = double_count_w(ours)
    assert set(twice) == {"VDDQ_VDD2_1V8AO"}
    assert theirs_w - total_w == pytest.approx(sum(twice.values()), abs=5e-3)
    print(f"AGX Orin: total {total_w:.3f} W; jtop's {theirs_w:.3f} W counts {sum(twice.values()):.3f} W twice")


def test_the_child_puts_their_total_back_among_the_rails(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    theirs = jetson_stats(tmp_path)
    rails = rails_mw({"rail": theirs["others"], "tot": theirs["total"]})
    assert set(rails) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert rails["VDD_IN"] == theirs["total"]["power"]


def test_without_its_service_the_real_child_ends_in_one_line() -> None:
    if Path("/run/jtop.sock").exists():
        pytest.skip("a jtop service runs here")
    with pytest.raises(DeviceError, match="jtop.service is not active") as caught:
        open_jtop()
    assert "\n" not in str(caught.value)


def test_nothing_of_ours_imports_jtop() -> None:
    code = (
        "import multiprocessing, sys; from cardlab.profilers.devices.jetson import device as jetson; "
        "print('jtop' in sys.modules, multiprocessing.get_start_method(allow_none=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False None"

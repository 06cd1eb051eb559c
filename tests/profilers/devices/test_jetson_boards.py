"""What each board says of itself: identity, cores, frequencies, rails, the total without a double count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cardlab.core.errors import NotSupportedError
from cardlab.profilers.board.ina3221 import find_rails
from cardlab.profilers.board.modes import parse_modes
from cardlab.profilers.board.modules import BOARDS as KNOWN
from cardlab.profilers.board.modules import T194, T210, T234, active_sm
from cardlab.profilers.board.rails import total_parts
from cardlab.profilers.board.tegra import l4t_release
from cardlab.profilers.devices import open_platform
from cardlab.profilers.devices.jetson.device import JetsonDevice
from cardlab.profilers.devices.jetson.rails import make_rails
from tests.conftest import DATA
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.tree import build, link, put

FACTS = DATA / "jetson" / "boards.json"
TABLES = {
    "agx-orin-64": "agx-orin-64|JP6 (also some JP5.1 captures)",
    "agx-orin-64-jp5": "agx-orin-64|JP5-class",
    "agx-orin-32": "agx-orin-32 (p3701-0004)|JP6",
    "orin-nx-16": "orin-nx-16|JP5.1-JP6",
    "orin-nx-8": "orin-nx-8|JP5.1-JP6",
    "orin-nx-super": "orin-nx super|JP6.2",
    "orin-nano-8": "orin-nano|JP5-JP6 non-super",
    "orin-nano-super": "orin-nano super|JP6.2",
    "xavier-nx": "xavier-nx|L4T32+",
    "agx-xavier": "agx-xavier|L4T32+",
    "nano": "jetson-nano|L4T32",
}
RAILS = {
    "agx-orin-64": "agx-orin",
    "orin-nx-16": "orin-nx/orin-nano",
    "orin-nano-8": "orin-nx/orin-nano",
    "xavier-nx": "xavier-nx",
    "agx-xavier": "agx-xavier",
    "nano": "nano",
}
SILICON = {
    "agx-orin-64": "agx-orin-64",
    "agx-orin-32": "agx-orin-32",
    "orin-nx-16": "orin-nx-16/8",
    "orin-nx-8": "orin-nx-16/8",
    "orin-nano-8": "orin-nano-8",
    "orin-nano-4": "orin-nano-4",
    "agx-xavier": "agx-xavier",
    "xavier-nx": "xavier-nx",
    "nano": "nano",
}
ACTIVE = {
    "agx-orin-64": 2048,
    "agx-orin-64-30w": 1024,
    "agx-orin-64-15w": 768,
    "agx-orin-32": 1792,
    "orin-nx-16": 1024,
    "orin-nx-16-15w": 512,
    "orin-nano-4": 512,
    "xavier-nx": 384,
    "agx-xavier": 512,
    "nano": 128,
}


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_says_who_it_is(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    build(board, tmp_path)
    device = JetsonDevice(tmp_path)
    identity = device.identity
    assert (identity.platform, identity.model, identity.cores) == ("jetson", board.model, board.cores)
    assert identity.key.startswith("jetson:") and "1421023012345" not in identity.key
    assert identity.memory_bytes == board.memory_mib * 2**20
    assert device.memory_available_bytes() == board.memory_mib * 2**19
    assert identity.details["memory_bucket"] == board.bucket
    assert (identity.frequency_min_hz, identity.frequency_max_hz) == (board.table_hz[0], board.table_hz[-1])
    assert device.gpu is not None and device.gpu.table_hz == board.table_hz
    assert device.tegra.super_mode == ("super" in name)
    mode = board.modes[board.mode]
    assert device.state().power_mode == mode[0]
    assert device.frequencies() == tuple(hz for hz in board.table_hz if mode[2] < 0 or hz <= mode[2])


@pytest.mark.parametrize(("name", "cores"), ACTIVE.items())
def test_gated_cores_are_not_counted(name: str, cores: int, tmp_path: Path) -> None:
    build(BOARDS[name], tmp_path)
    assert JetsonDevice(tmp_path).state().cores_active == cores


@pytest.mark.parametrize("name", BOARDS)
def test_rails_keep_their_names_and_add_up_once(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    build(board, tmp_path)
    connected = [rail for channels in board.rails.values() for rail in channels if rail != "NC"]
    rails = find_rails(tmp_path)
    assert [rail.name for rail in rails] == connected
    assert total_parts(connected) == board.total
    made = make_rails(connected)
    assert [rail.name for rail in made if rail.total] == (["+".join(board.total)] if board.total else [])
    assert all(rail.scope != "not documented" for rail in made)
    for rail in rails:
        assert rail.power_w() is not None
        if not board.iio:
            assert rail.samples == board.samples
            assert rail.shunt_ohm == pytest.approx(board.shunt_uohm * 1e-6)
            assert rail.update_s == pytest.approx(board.samples * 6.6e-3, abs=1e-3) and not rail.assumed


def test_the_total_of_an_agx_orin_is_no_double_count_and_says_so(tmp_path: Path) -> None:
    build(BOARDS["agx-orin-64"], tmp_path)
    device = JetsonDevice(tmp_path)
    states = [probe.state for probe in device.capabilities()]
    [said] = [state for state in states if "VDDQ_VDD2_1V8AO (" in state]
    assert "0.30 W now" in said and "not added again, as jtop's total does" in said


@pytest.mark.skipif(not FACTS.exists(), reason="the data folder is not here")
class TestAgainstFacts:
    """Our tables against facts that others recorded."""

    def test_clocks(self) -> None:
        facts = json.loads(FACTS.read_text())["gpu_freq_tables_hz"]
        for name, key in TABLES.items():
            assert list(BOARDS[name].table_hz) == facts[key]["freqs"], name

    def test_rails(self) -> None:
        facts = json.loads(FACTS.read_text())["rails"]
        for name, key in RAILS.items():
            assert list(BOARDS[name].total) == facts[key]["total"], name
            channels = [c for a, c in facts[key].items() if isinstance(c, dict)]
            assert [tuple(c.values()) for c in channels] == list(BOARDS[name].rails.values()), name

    def test_cores_and_capability(self, tmp_path: Path) -> None:
        facts = json.loads(FACTS.read_text())["gpu_silicon"]
        for name, key in SILICON.items():
            build(BOARDS[name], tmp_path / name)
            identity = JetsonDevice(tmp_path / name).identity
            assert (identity.cores, identity.details["sm_count"], identity.details["compute_capability"]) == (
                facts[key]["cuda"],
                facts[key]["sm_max"],
                facts[key]["cc"],
            ), name

    def test_modes(self) -> None:
        """Our trees hold modes that exist, with their caps and masks."""
        facts = json.loads(FACTS.read_text())["nvpmodel"]
        known = {
            (m["name"], m["tpc_pg_mask"], m["gpu_max"])
            for f in facts.values()
            for m in f.get("modes", ())
            if "tpc_pg_mask" in m
        }
        for name in ("agx-orin-64", "orin-nx-16", "orin-nano-8", "orin-nano-super", "orin-nano-4", "agx-orin-32"):
            assert {m[:3] for m in BOARDS[name].modes} <= known, name


def test_every_known_module_is_reached() -> None:
    reached = {part for board in BOARDS.values() for text in board.compatible for part in KNOWN if part in text}
    assert reached >= set(KNOWN) - {"p3701-0008", "p3767-0003", "p3448-0002"}


@pytest.mark.parametrize(
    ("soc", "most", "mask", "expected"),
    [
        (T234, 16, 0, 16),
        (T234, 16, 248, 6),
        (T234, 14, 128, 14),
        (T234, 8, 240, 8),
        (T234, 8, 0, 8),
        (T234, 8, None, 8),
        (T234, None, 240, 8),
        (T234, None, None, None),
        (T194, 6, 1, 6),
        (T194, 8, 5, 4),
        (T210, 1, None, 1),
    ],
)
def test_multiprocessors_left_by_a_mask(soc: object, most: int | None, mask: int | None, expected: int | None) -> None:
    assert active_sm(soc, most, mask) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1", "36.4.3"),
        ("# R32 (release), REVISION: 7.1,", "32.7.1"),
        ("", None),
        (None, None),
        ("nonsense", None),
    ],
)
def test_releases(text: str | None, expected: str | None) -> None:
    assert l4t_release(text) == expected


def test_a_configuration_that_is_half_broken_still_tells_its_modes() -> None:
    modes = parse_modes(
        "<PARAM TYPE=CLOCK NAME=EMC >\n< POWER_MODEL ID=0 NAME=MAXN >\nGPU MAX_FREQ -1\nGPU MAX_FREQ\nGPU MAX_FREQ x\n"
        "<POWER_MODEL ID=3 NAME=7W>\nGPU_KNEXT MAX_FREQ 408000000\n# GPU MAX_FREQ 1\n"
        "TPC_POWER_GATING TPC_PG_MASK 0xFC\n"
        "CPU_ONLINE CORE_0 1\nCPU_ONLINE CORE_1 0\nEMC MAX_FREQ 0\n< POWER_MODEL NAME=NO_ID >\nGPU MAX_FREQ 5\n"
        "< PM_CONFIG DEFAULT=3 >\n"
    )
    assert modes.default == 3 and set(modes.modes) == {0, 3}
    assert modes.modes[0].gpu_max_hz is None
    low = modes.modes[3]
    assert (low.name, low.gpu_max_hz, low.tpc_mask, low.cpus, low.emc_max_hz) == ("7W", 408e6, 252, 1, None)


def test_tegra_is_found_before_anything_else(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    assert open_platform("auto", sysfs_root=tmp_path).identity.platform == "jetson"
    assert open_platform("jetson", sysfs_root=tmp_path, label="mine").identity.name == "mine"


def test_in_a_container_without_the_release_file(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    (tmp_path / "etc/nv_tegra_release").unlink()
    device = open_platform("auto", sysfs_root=tmp_path)
    assert device.identity.cores == 1024 and "l4t" not in device.identity.details


@pytest.mark.parametrize("release", [True, False])
def test_in_a_container_without_the_device_tree_it_is_named_and_refused(tmp_path: Path, release: bool) -> None:
    """Docker hides /sys/firmware: a key made in each container would make another board of each."""
    build(BOARDS["orin-nano-super"], tmp_path)
    shutil.rmtree(tmp_path / "proc/device-tree")
    if not release:
        (tmp_path / "etc/nv_tegra_release").unlink()
    for name in ("jetson", "auto"):
        with pytest.raises(NotSupportedError, match="a Jetson in a container") as refused:
            open_platform(name, sysfs_root=tmp_path)
        assert "-v /proc/device-tree:/proc/device-tree" in (refused.value.remedy or "")
    # As the remedy says.
    put(tmp_path / "etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    device = open_platform("auto", sysfs_root=tmp_path)
    assert isinstance(device, JetsonDevice) and device.identity.cores is None
    assert device.meter is not None and device.frequencies()
    assert device.identity.key == open_platform("auto", sysfs_root=tmp_path).identity.key
    lacking = next(probe for probe in device.capabilities() if probe.name == "device")
    assert lacking.ok is False and "-v /proc/device-tree" in (lacking.remedy or "")


def test_the_gpu_of_another_board_makes_no_jetson(tmp_path: Path) -> None:
    """Rockchip and others call the node of their GPU `gpu` too."""
    folder = tmp_path / "sys/devices/fb000000.gpu/devfreq/fb000000.gpu"
    put(folder / "available_frequencies", "300000000 1000000000\n")
    link(folder / "device", folder.parents[1])
    link(tmp_path / "sys/class/devfreq/fb000000.gpu", folder)
    with pytest.raises(NotSupportedError, match="no Jetson"):
        open_platform("jetson", sysfs_root=tmp_path)


def test_elsewhere_it_says_that_this_is_no_jetson(tmp_path: Path) -> None:
    with pytest.raises(NotSupportedError, match="no Jetson"):
        open_platform("jetson", sysfs_root=tmp_path)


def test_an_unknown_module_is_measured_without_a_core_count(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    put(tmp_path / "proc/device-tree/compatible", "nvidia,p9999-0000\0nvidia,tegra234\0")
    device = JetsonDevice(tmp_path)
    assert device.identity.cores is None and device.state().cores_active == 1024
    assert device.frequencies() and device.meter is not None
    lacking = next(probe for probe in device.capabilities() if probe.name == "device")
    assert lacking.ok is False and "capture" in (lacking.remedy or "")


def test_a_zone_that_is_off_is_not_read_as_cold(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    device = JetsonDevice(tmp_path)
    assert device.state().temperature_c == 45.5
    for zone in tmp_path.glob("sys/class/thermal/thermal_zone*/temp"):
        zone.write_text("-256000\n")
    assert device.state().temperature_c is None

"""Frequencies of a Jetson on both kernels: set, read back, undone by others, put back; nothing else is written."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cardlab.core.errors import CardlabError, DeviceLostError, NotSupportedError, UsageError
from cardlab.profilers.board.gpu import find_gpu
from cardlab.profilers.devices import helper
from cardlab.profilers.devices.jetson.device import JetsonDevice
from cardlab.profilers.devices.jetson.frequency import JetsonFrequency, Rights, find_rights, make_writer
from tests.conftest import as_user_without_rights
from tests.fakes.jetson.boards import BOARDS
from tests.fakes.jetson.kernel import FakeKernel
from tests.fakes.jetson.machine import LiveBoard
from tests.fakes.jetson.tree import build
from tests.profilers.devices.test_cpu import ROOT_ONLY

KERNELS = ("4.9", "5.10")
EMC = "sys/kernel/debug/bpmp/debug/clk/emc"


def settings(root: Path) -> dict[str, str]:
    """Every file that a lock may change."""
    names = (
        "min_freq",
        "max_freq",
        "rate",
        "mrq_rate_locked",
        "clk_update_rate",
        "clk_state",
        "scaling_governor",
        "scaling_min_freq",
        "scaling_max_freq",
        "governor",
        "control",
    )
    return {
        str(path.relative_to(root)): path.read_text().strip()
        for path in (root / "sys").rglob("*")
        if path.name in names and not path.is_symlink()
    }


def platform(name: str, root: Path, semantics: str | None = None) -> tuple[JetsonDevice, FakeKernel]:
    board = BOARDS[name]
    kernel = FakeKernel(root, build(board, root), semantics or board.kernel)
    return JetsonDevice(root, writer=kernel), kernel


@pytest.mark.parametrize("semantics", KERNELS)
@pytest.mark.parametrize("name", BOARDS)
def test_every_frequency_is_set_and_verified(name: str, semantics: str, tmp_path: Path) -> None:
    device, kernel = platform(name, tmp_path, semantics)
    before = settings(tmp_path)
    offered = device.frequencies()
    for hz in (*offered[::2], *reversed(offered[1::2])):
        with device.locked(hz):
            assert (kernel.read("min_freq"), kernel.read("max_freq")) == (hz, hz)
            kernel.run_load(True)
            state = device.state()
            assert state.frequency_hz == hz and state.throttled is not True
            assert device.lock_problems() == ()
        assert settings(tmp_path) == before
    # From one frequency straight to another, up and down, as no restore in between would show.
    assert device.control is not None
    for hz in (*offered, *reversed(offered)):
        device.control.apply(hz, None)
        assert device.control.problems() == ()


def test_memory_and_cpu_are_held_beside_the_gpu(tmp_path: Path) -> None:
    device, _ = platform("orin-nx-16", tmp_path)
    with device.locked(918e6):
        assert (tmp_path / EMC / "rate").read_text() == "3199000000"
        assert (tmp_path / EMC / "mrq_rate_locked").read_text() == "1"
        state = device.state()
        assert state.memory_hz == 3199e6
        for policy in (tmp_path / "sys/devices/system/cpu/cpufreq").iterdir():
            assert (policy / "scaling_min_freq").read_text() == "1984000"
    assert (tmp_path / EMC / "mrq_rate_locked").read_text() == "0"


def test_the_memory_frequency_of_a_nano_has_its_own_way(tmp_path: Path) -> None:
    device, kernel = platform("nano", tmp_path)
    with device.locked(device.frequencies()[0]):
        assert device.state().memory_hz == 1600e6
    assert [w for w in kernel.log if w[0].startswith("clk_")] == [
        ("clk_update_rate", "1600000000"),
        ("clk_state", "1"),
        ("clk_update_rate", "204000000"),
        ("clk_state", "0"),
    ]


def test_the_power_modes_cap_of_the_memory_frequency_is_kept(tmp_path: Path) -> None:
    device, _ = platform("agx-orin-64-15w", tmp_path)
    with device.locked(306e6):
        assert device.state().memory_hz == 2133e6


def test_a_memory_frequency_of_ones_own(tmp_path: Path) -> None:
    device, _ = platform("orin-nx-16", tmp_path)
    with device.locked(306e6, 2133e6):
        assert device.state().memory_hz == 2133e6
    with pytest.raises(NotSupportedError, match="memory frequency"), device.locked(306e6, 9e9):
        pytest.fail("out of range")
    assert (tmp_path / EMC / "rate").read_text() == "204000000"


@pytest.mark.parametrize(("semantics", "detected"), [("4.9", "refuses"), ("5.10", "refuses|allows|undone|cap")])
def test_a_write_in_the_wrong_order_is_detected(semantics: str, detected: str, tmp_path: Path) -> None:
    """A writer that swaps the two last writes, and loses what the kernel would lose."""
    device, kernel = platform("orin-nx-16", tmp_path, semantics)
    assert device.control is not None
    pending: list[tuple[Path, str]] = []

    def swapped(path: Path, value: str) -> None:
        if path.name == "max_freq":
            pending.append((path, value))
            return
        kernel(path, value)
        while pending:
            kernel(*pending.pop())

    wrong = JetsonFrequency(tmp_path, device.gpu, device.rights, swapped)  # type: ignore[arg-type]
    kernel(kernel.folder / "max_freq", "408000000")
    said: list[str] = []
    try:
        wrong.apply(816e6, None)
        said += wrong.problems()
    except CardlabError as error:
        said.append(error.message)
    low, high = kernel.read("min_freq"), kernel.read("max_freq")
    # Either the frequency is the one that was asked for after all, or it was said that it is not.
    if semantics == "4.9":
        assert said and any(word in said[0] for word in detected.split("|"))
    else:
        assert (low, high) == (816_000_000, 816_000_000) or said


@pytest.mark.parametrize("lost", ["max_freq", "min_freq"])
def test_a_limit_that_never_arrives_is_detected(lost: str, tmp_path: Path) -> None:
    """On 5.10 nothing is refused: a limit that is not taken shows in the read-back only."""
    device, kernel = platform("orin-nx-16", tmp_path, "5.10")
    assert device.gpu is not None

    def writer(path: Path, value: str) -> None:
        if path.name != lost:
            kernel(path, value)

    losing = JetsonFrequency(tmp_path, device.gpu, device.rights, writer)
    try:
        losing.apply(510e6, None)
    except NotSupportedError as error:
        assert "after 510 MHz was set" in error.message
    else:
        [problem] = losing.problems()
        assert "306 .. 510 MHz allowed" in problem


def test_a_clamped_frequency_is_flagged(tmp_path: Path) -> None:
    device, kernel = platform("orin-nx-16", tmp_path)
    kernel.clamp_hz = 612_000_000
    with device.locked(918e6):
        state = device.state()
    assert state.throttled and "held at 612 MHz by a cap of the board, not at 918 MHz" in state.reasons


@pytest.mark.parametrize("semantics", KERNELS)
def test_a_service_that_undoes_the_lock_is_flagged(semantics: str, tmp_path: Path) -> None:
    device, kernel = platform("orin-nx-16", tmp_path, semantics)
    with device.locked(510e6):
        assert device.lock_problems() == ()
        kernel.set_back()
        state = device.state()
    assert state.throttled and any("undone by another program" in reason for reason in state.reasons)


def test_a_node_that_vanishes_is_an_error_and_the_rest_is_put_back(tmp_path: Path) -> None:
    device, kernel = platform("orin-nx-16", tmp_path)
    before = settings(tmp_path)
    with pytest.raises(DeviceLostError, match="went away"), device.locked(510e6):
        shutil.rmtree(kernel.folder)
        device.state()
    after = settings(tmp_path)
    assert after == {name: value for name, value in before.items() if name in after}
    assert (tmp_path / EMC / "mrq_rate_locked").read_text() == "0"


def test_a_sleeping_gpu_has_no_frequency(tmp_path: Path) -> None:
    device, kernel = platform("orin-nx-16", tmp_path)
    (kernel.folder / "cur_freq").write_text("0\n")
    (kernel.folder / "device/is_railgated").write_text("1\n")
    assert device.state().frequency_hz is None
    probe = next(p for p in device.capabilities() if p.name == "GPU")
    assert probe.ok is None and "railgated" in probe.state and "power/control" in (probe.remedy or "")


@pytest.mark.parametrize("number", [1, 2])
def test_over_current_flags_the_point(number: int, tmp_path: Path) -> None:
    device, _ = platform("orin-nano-super", tmp_path)
    assert device.state().throttled is False
    (tmp_path / f"sys/class/hwmon/hwmon9/oc{number}_event_cnt").write_text("9\n")
    state = device.state()
    assert state.throttled and f"(OC{number}): 2 events" in state.reasons[0]
    assert device.state().throttled is False


def test_current_peaks_only_warn(tmp_path: Path) -> None:
    device, _ = platform("orin-nano-super", tmp_path)
    (tmp_path / "sys/class/hwmon/hwmon9/oc3_event_cnt").write_text("37\n")
    state = device.state()
    assert state.throttled is False and "current peaks (OC3): 30 events" in state.reasons


def test_thermal_throttling_flags_the_point(tmp_path: Path) -> None:
    device, _ = platform("orin-nx-16", tmp_path)
    (tmp_path / "sys/class/thermal/cooling_device0/cur_state").write_text("3\n")
    assert device.state().throttled is False, "a fan that turns is no throttling"
    (tmp_path / "sys/class/thermal/cooling_device2/cur_state").write_text("2\n")
    state = device.state()
    assert state.throttled and "thermal throttling: thermal-devfreq-0" in state.reasons


# Audit hooks cannot be taken out again: one for the whole process, which notes only while it is asked to.
_opened: list[tuple[str, str | None, int]] | None = None


def _note_opens(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None:
        path, mode, flags = arguments
        if isinstance(path, (str, bytes, os.PathLike)) and isinstance(flags, int):
            _opened.append((os.fspath(path) if not isinstance(path, bytes) else path.decode(), mode, flags))  # type: ignore[arg-type]


sys.addaudithook(_note_opens)


@contextmanager
def written_files() -> Iterator[set[Path]]:
    """Paths that are opened for writing in the block, by anything in this process."""
    global _opened
    found: set[Path] = set()
    _opened = []
    try:
        yield found
    finally:
        opened, _opened = _opened, None
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        found |= {Path(path) for path, _, flags in opened if flags & writing}


@pytest.mark.parametrize("name", ["orin-nx-16", "agx-orin-64-jp5", "nano", "agx-xavier", "xavier-nx"])
def test_nothing_outside_the_list_is_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open, doctor, lock, read, measure, restore; with the product's own writer on plain files."""
    root, state = tmp_path / "board", tmp_path / "state"
    build(BOARDS[name], root)
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    with written_files() as written:
        device = JetsonDevice(root)
        device.capabilities()
        for hz in device.frequencies()[:3]:
            with device.locked(hz):
                device.state()
                if device.meter is not None:
                    with device.meter.recording():
                        time.sleep(0.02)
        device.close()
    below = {p.resolve() for p in written if p.is_absolute() and p.resolve().is_relative_to(root.resolve())}
    assert below, "the recorder must have seen the frequencies being written"
    for path in below:
        inside = str(path.relative_to(root.resolve()))
        assert any(rule.path.fullmatch(inside) for rule in helper.RULES), inside
    assert not any("ina3221" in str(p) or "hwmon" in str(p) for p in below)
    assert all(p.is_relative_to(state) for p in written if p.is_relative_to(tmp_path) and p.resolve() not in below)


def test_the_recorder_sees_a_write(tmp_path: Path) -> None:
    with written_files() as written:
        (tmp_path / "a").write_text("x")
        os.close(os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT))
        (tmp_path / "a").read_text()
    assert {p for p in written if p.is_relative_to(tmp_path)} == {tmp_path / "a", tmp_path / "b"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sys/class/devfreq/17000000.gpu/max_freq", "918000001"),
        ("sys/class/devfreq/17000000.gpu/max_freq", "0"),
        ("sys/class/devfreq/17000000.gpu/governor", "performance"),
        ("sys/class/devfreq/15340000.vic/max_freq", "115200000"),
        ("sys/devices/platform/bus@0/17000000.gpu/tpc_pg_mask", "0"),
        ("sys/devices/platform/bus@0/17000000.gpu/power/control", "on"),
        (f"{EMC}/rate", "1"),
        (f"{EMC}/rate", "9999999999"),
        (f"{EMC}/mrq_rate_locked", "2"),
        (f"{EMC}/max_rate", "3199000000"),
        ("sys/bus/i2c/devices/1-0040/hwmon/hwmon4/curr1_max", "1"),
        ("sys/bus/i2c/devices/1-0040/hwmon/hwmon4/samples", "1"),
        ("etc/nvpmodel.conf", "x"),
    ],
)
def test_the_helper_refuses_the_rest_of_a_board(path: str, value: str, tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    with pytest.raises(UsageError):
        helper.run(["write", path, value], tmp_path)


def test_the_helper_reads_the_memory_frequency_only(tmp_path: Path) -> None:
    build(BOARDS["orin-nx-16"], tmp_path)
    assert helper.run(["read", f"/{EMC}/rate"], tmp_path) == "204000000"
    for path in ("/etc/shadow", "/proc/device-tree/serial-number", f"/{EMC}/../../../../../../../etc/shadow"):
        with pytest.raises(UsageError):
            helper.run(["read", path], tmp_path)


@ROOT_ONLY
def test_what_a_user_may_not_do_goes_through_the_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the path of the calls: a helper that says yes and does nothing, which the read-back finds out."""
    build(BOARDS["orin-nx-16"], tmp_path)
    for path in (tmp_path / "sys").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    (tmp_path / "sys/kernel/debug").chmod(0o700)
    asked: list[str] = []

    def call(*words: str) -> str:
        asked.append(" ".join([words[0], Path(words[1]).name, *words[2:]]))
        return "3199000000" if words[0] == "read" else "written"

    monkeypatch.setattr(helper, "call_helper", call)

    def look() -> str:
        gpu = find_gpu(tmp_path)
        assert gpu is not None
        assert find_rights(tmp_path, gpu).route is None
        rights = Rights("helper", "played")
        frequencies = JetsonFrequency(tmp_path, gpu, rights, make_writer(tmp_path, rights))
        with pytest.raises(NotSupportedError, match="306 .. 918 MHz after 510 MHz was set"):
            frequencies.apply(510e6, None)
        return "\n".join(dict.fromkeys(asked))

    said = as_user_without_rights(tmp_path, look).splitlines()
    (tmp_path / "sys/kernel/debug").chmod(0o755)
    assert [line for line in said if line.startswith("write")] == [
        "write mrq_rate_locked 1",
        "write rate 3199000000",
        "write scaling_min_freq 1984000",
        "write min_freq 306000000",
        "write max_freq 510000000",
        "write min_freq 510000000",
    ]
    assert "read rate" in said


def test_points_of_a_sweep_are_watched_at_both_ends(tmp_path: Path) -> None:
    """A lock that is undone after the last measurement of a point flags it all the same."""
    from cardlab.profilers.board.series import TimingPolicy
    from cardlab.profilers.measure.point import PointMeasurer
    from cardlab.profilers.runtime.workbench import LoadWorkbench

    live = LiveBoard("orin-nx-16", tmp_path)
    device = live.platform()
    measurer = PointMeasurer(
        device, LoadWorkbench(live.work()), TimingPolicy(repeats=3), lambda progress: None, lambda: None
    )
    with device.locked(510e6):
        for _ in measurer.under_lock(510e6, (), False):
            pass
        assert measurer.operating_point(510e6).throttled is False
        live.kernel.set_back()
        point = measurer.operating_point(510e6)
    assert point.throttled and any("undone" in reason for reason in point.reasons)

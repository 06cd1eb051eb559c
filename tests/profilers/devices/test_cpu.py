"""The CPU below a made-up /sys: RAPL counters, cpufreq policies, rights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cardlab.core.errors import PermissionDeniedError, UsageError
from cardlab.profilers.board.timer import VirtualTimer
from cardlab.profilers.devices import helper
from cardlab.profilers.devices.cpu.device import CpuDevice
from cardlab.profilers.devices.cpu.frequency import CpuFrequency
from cardlab.profilers.devices.cpu.power import energy_between
from cardlab.profilers.measure.window import measure
from tests.conftest import as_user_without_rights

RANGE_UJ = 65_000_000
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user without rights")


class Counting(VirtualTimer):
    """A timer that moves RAPL files along and looks at them as it goes."""

    def __init__(self, files: dict[Path, float]) -> None:
        super().__init__()
        self._files = files
        self._looks: list[tuple[float, Callable[[], float]]] = []

    @contextmanager
    def during(self, look: Callable[[], float]) -> Iterator[None]:
        self._looks = [(self.now(), look)]
        yield
        self._looks = []

    def sleep(self, seconds: float) -> None:
        end_s = self.now() + seconds
        while self._looks and self._looks[0][0] <= end_s:
            at_s, look = self._looks.pop()
            super().sleep(at_s - self.now())
            self._count()
            self._looks = [(at_s + look(), look)]
        super().sleep(end_s - self.now())

    def _count(self) -> None:
        for file, watts in self._files.items():
            file.write_text(f"{int(60_000_000 + watts * self.now() * 1e6) % RANGE_UJ}\n")


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    return path


def zone(root: Path, folder: str, name: str) -> Path:
    base = root / "sys/class/powercap" / folder
    put(base / "name", name)
    put(base / "max_energy_range_uj", str(RANGE_UJ))
    return put(base / "energy_uj", "60000000")


def policy(root: Path, number: int = 0, governors: str = "performance userspace powersave") -> Path:
    base = root / f"sys/devices/system/cpu/cpufreq/policy{number}"
    put(base / "scaling_available_governors", governors)
    put(base / "scaling_governor", "powersave")
    put(base / "scaling_setspeed", "<unsupported>")
    for name, khz in (
        ("cpuinfo_min_freq", 800_000),
        ("cpuinfo_max_freq", 3_200_000),
        ("scaling_min_freq", 900_000),
        ("scaling_max_freq", 3_000_000),
        ("scaling_cur_freq", 1_800_000),
    ):
        put(base / name, str(khz))
    return base


def settings(base: Path) -> tuple[str, ...]:
    return tuple((base / n).read_text().strip() for n in ("scaling_governor", "scaling_min_freq", "scaling_max_freq"))


def test_a_machine_with_neither_is_a_normal_case(tmp_path: Path) -> None:
    device = CpuDevice(tmp_path)
    assert device.meter is None and device.guard is None and device.frequencies() == ()
    assert {p.name: p.ok for p in device.capabilities()}["power meter"] is None


def test_packages_are_counted_once_across_a_wrap(tmp_path: Path) -> None:
    files = {
        zone(tmp_path, "intel-rapl:0", "package-0"): 40.0,
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"): 40.0,
        zone(tmp_path, "intel-rapl:1", "package-1"): 25.0,
        zone(tmp_path, "intel-rapl:0:0", "core"): 30.0,
        zone(tmp_path, "intel-rapl:1:0", "core"): 20.0,
        zone(tmp_path, "intel-rapl:0:1", "dram"): 4.0,
    }
    timer = Counting(files)
    device = CpuDevice(tmp_path, timer=timer, sampler=timer)
    reading = measure(device, lambda: timer.sleep(0.05), seconds=4.0)
    assert float(reading.power_w) == pytest.approx(65.0, rel=1e-3)  # type: ignore[arg-type]
    means = {name: sum(t.power_w) / len(t.power_w) for name, t in reading.traces.items()}
    assert means == pytest.approx({"package": 65.0, "core": 50.0, "dram": 4.0}, rel=1e-3)
    assert [r.name for r in device.meter.rails if r.total] == ["package"]


def test_energy_across_a_wrap() -> None:
    assert energy_between(1.0, 3.0, None) == 2.0
    assert energy_between(9.0, 1.0, 10.0) == pytest.approx(2.0)
    assert energy_between(9.0, 1.0, None) is None


def test_the_frequency_is_set_by_the_userspace_governor_and_put_back(tmp_path: Path) -> None:
    bases = [policy(tmp_path, 0), policy(tmp_path, 4)]
    device = CpuDevice(tmp_path)
    assert device.frequencies()[0] == 800e6 and device.frequencies()[-1] == 3200e6
    with device.locked(2_000e6):
        for base in bases:
            assert settings(base) == ("userspace", "2000000", "2000000")
            assert (base / "scaling_setspeed").read_text() == "2000000"
    for base in bases:
        assert settings(base) == ("powersave", "900000", "3000000")


def test_without_that_governor_it_is_a_request(tmp_path: Path) -> None:
    base = policy(tmp_path, governors="performance powersave")
    device = CpuDevice(tmp_path)
    with device.locked(800e6):
        assert settings(base) == ("powersave", "800000", "800000")
        assert measure(device, lambda: None, 0.0).frequency_hz == 1800e6
    assert settings(base) == ("powersave", "900000", "3000000")


def test_limits_never_cross(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = policy(tmp_path)
    write = helper.write_value

    def checked(path: Path, value: str) -> None:
        write(path, value)
        low, high = (int((base / f"scaling_{n}_freq").read_text()) for n in ("min", "max"))
        assert low <= high

    monkeypatch.setattr(helper, "write_value", checked)
    for hz in (800e6, 3200e6, 1500e6):
        with CpuDevice(tmp_path).locked(hz):
            pass


@ROOT_ONLY
def test_without_rights_it_says_what_to_do(tmp_path: Path) -> None:
    (zone(tmp_path, "intel-rapl:0", "package-0")).chmod(0o400)
    for file in policy(tmp_path).iterdir():
        file.chmod(0o644)
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)

    def look() -> str:
        device = CpuDevice(tmp_path)
        lacking = [p for p in device.capabilities() if p.ok is False]
        assert device.meter is None and device.frequencies() == ()
        return " | ".join(f"{p.name}: {p.remedy}" for p in lacking)

    said = as_user_without_rights(tmp_path, look)
    assert "frequency: run as root" in said and helper.NAME in said
    assert "power meter: sudo chmod" in said


@ROOT_ONLY
def test_what_a_user_may_not_write_goes_through_the_helper(tmp_path: Path) -> None:
    """The other side of sudo is played by a process that kept its rights: only the path of the calls is tested."""
    base = policy(tmp_path)
    for file in base.iterdir():
        file.chmod(0o644)
    asked: list[str] = []

    def through(path: Path, value: str) -> None:
        asked.append(f"{path.name}={value}")

    def look() -> str:
        with pytest.raises(PermissionDeniedError, match="cardlab-clock-helper"):
            CpuFrequency(tmp_path).apply(1e9, None)
        CpuFrequency(tmp_path, through).apply(1e9, None)
        return " ".join(asked)

    said = as_user_without_rights(tmp_path, look)
    assert said.split() == [
        "scaling_max_freq=1000000",
        "scaling_min_freq=1000000",
        "scaling_governor=userspace",
        "scaling_setspeed=1000000",
    ]


def test_the_helper_writes_what_is_allowed(tmp_path: Path) -> None:
    base = policy(tmp_path)
    path = "/sys/devices/system/cpu/cpufreq/policy0"
    assert helper.run(["write", f"{path}/scaling_max_freq", "2500000"], tmp_path) == "written"
    assert helper.run(["write", f"{path}/scaling_governor", "userspace"], tmp_path) == "written"
    assert settings(base) == ("userspace", "900000", "2500000")


@pytest.mark.parametrize(
    "words",
    [
        ["write", "/etc/passwd", "x"],
        ["write", "/sys/devices/system/cpu/cpufreq/policy0/../../../../../../etc/passwd", "1"],
        ["write", "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "99999999"],
        ["write", "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "-1"],
        ["write", "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "1000000\n2"],
        ["write", "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "evil"],
        ["write", "/sys/devices/system/cpu/cpufreq/policy0/link", "1000000"],
        ["nvml-lock", "0", "-5"],
        ["nvml-lock", "0"],
        ["nvml-lock", "x", "1"],
        ["nvml-reset", "0", "all"],
        ["sh", "-c", "true"],
        [],
    ],
)
def test_the_helper_refuses_everything_else(tmp_path: Path, words: list[str]) -> None:
    base = policy(tmp_path)
    target = put(tmp_path / "etc/passwd", "root")
    (base / "link").symlink_to(target)
    before = settings(base)
    with pytest.raises(UsageError):
        helper.run(words, tmp_path)
    assert settings(base) == before and target.read_text() == "root\n"


def test_the_helper_fails_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cardlab-clock-helper", "write", "/etc/passwd", "x"])
    assert helper.main() == 1
    assert capsys.readouterr().err.startswith("error: /etc/passwd may not be written; ")


def test_where_there_is_no_sudo_the_remedy_does_not_begin_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an image: `echo ... | sudo tee` would lead nowhere."""
    monkeypatch.setattr("shutil.which", lambda name: None if name == "sudo" else f"/usr/bin/{name}")
    assert helper.remedy().startswith("run as root (in a container: --user 0)") and "| sudo" not in helper.remedy()
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert "| sudo tee /etc/sudoers.d/cardlab" in helper.remedy()

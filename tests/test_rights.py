"""If these fail, the sudoers line or the udev rule that are given away do not let through what cardlab really does."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardlab.profilers.devices.cpu.power import POWERCAP, find_zones
from cardlab.profilers.devices.helper import NAME, call_helper
from tests.conftest import ROOT, need
from tests.fakes.jetson.tree import put

RIGHTS = ROOT / "examples" / "fleet" / "rights"
SUDOERS = RIGHTS / "cardlab.sudoers"
RULE = RIGHTS / "70-cardlab.rules"
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives rights")


def script(path: Path, text: str) -> Path:
    put(path, "#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def test_the_sudoers_line_allows_the_very_program_that_cardlab_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "sudo", f'printf "%s " "$@" > {tmp_path}/called; echo ok\n')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert call_helper("check") == "ok"
    flag, program, word = (tmp_path / "called").read_text(encoding="utf-8").split()
    assert (flag, word) == ("-n", "check")
    lines = [line for line in SUDOERS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines == [f"%cardlab ALL=(root) NOPASSWD: /opt/cardlab/bin/{NAME}"]
    # Arguments are left to the helper's own list; it is the program beside the Python that runs.
    assert Path(program).name == NAME
    assert f'\n{NAME} = "cardlab.profilers.devices.helper:main"\n' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_the_sudoers_file_is_one_for_sudo_and_a_mistake_in_it_is_seen(tmp_path: Path) -> None:
    def judge(file: Path) -> int:
        return subprocess.run(
            [need("visudo"), "-c", "-q", "-f", str(file)], capture_output=True, check=False
        ).returncode

    broken = tmp_path / "broken"
    broken.write_text(SUDOERS.read_text(encoding="utf-8").replace("(root)", "(root"), encoding="utf-8")
    assert judge(SUDOERS) == 0 and judge(broken) != 0


def test_the_udev_rule_opens_every_counter_that_is_read_and_no_other_file(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl-mmio:0"):
        put(tmp_path / POWERCAP / name / "name", f"package-{name}" if name.count(":") == 1 else "core")
        put(tmp_path / POWERCAP / name / "energy_uj", "1")
    put(tmp_path / POWERCAP / "intel-rapl" / "enabled", "1")
    rules = [line for line in RULE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(rules) == 1
    keys = dict(re.findall(r'(\w+)=="([^"]*)"', rules[0]))
    assert keys["ACTION"] == "add" and keys["SUBSYSTEM"] == Path(POWERCAP).name
    files = [zone.file for zone in find_zones(tmp_path)]
    assert len(files) == 4 and all(fnmatch.fnmatch(file.parent.name, keys["KERNEL"]) for file in files)
    assert not fnmatch.fnmatch("intel-rapl", keys["KERNEL"])
    programs = re.findall(r'RUN\+="([^"]*)"', rules[0])
    assert programs == ["/bin/chgrp cardlab /sys%p/energy_uj", "/bin/chmod g+r /sys%p/energy_uj"]
    assert {file.name for file in files} == {"energy_uj"}
    # What stands between the keys is commas: udev skips a rule with anything else, in silence.
    assert re.fullmatch(r'(\w+(==|\+=)"[^"]*"(, |$))+', rules[0])


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that only root can change, all the way up; pytest's lie where everybody may write."""
    folder = Path(tempfile.mkdtemp(dir=Path.home()))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def rights(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script, with an /etc of its own and without touching this machine's groups and devices."""
    for name in ("getent", "udevadm"):
        script(place / "tools" / name, "exit 0\n")
    elsewhere = {"ETC": str(place / "etc"), "SYS": str(place / "sys")}
    environment = {**os.environ, "PATH": f"{place}/tools:{os.environ['PATH']}", **elsewhere}
    command = ["sh", str(RIGHTS / "rights.sh"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@ROOT_ONLY
def test_rights_are_given_by_one_command_and_taken_away_by_another(place: Path) -> None:
    need("visudo")
    lab = place / "lab"
    module = put(lab / "lib/cardlab/__init__.py", "")
    script(lab / "bin" / NAME, "")
    script(lab / "bin/python", f"echo {module}\n")
    given = rights(place, "install", str(lab))
    assert given.returncode == 0, given.stderr
    sudoers, rule = place / "etc/sudoers.d/cardlab", place / "etc/udev/rules.d/70-cardlab.rules"
    assert f"NOPASSWD: {lab}/bin/{NAME}" in sudoers.read_text(encoding="utf-8")
    # sudo passes over a file that others may write.
    assert sudoers.stat().st_mode & 0o777 == 0o440 and rule.read_bytes() == RULE.read_bytes()
    counter = put(place / "sys/class/powercap/intel-rapl:0/energy_uj", "1")
    counter.chmod(0o440)
    assert rights(place, "remove").returncode == 0
    assert not sudoers.exists() and not rule.exists()
    assert counter.stat().st_mode & 0o777 == 0o400


@ROOT_ONLY
@pytest.mark.parametrize("open_one", ["bin", "bin/python", "lib/cardlab/__init__.py"])
def test_a_program_that_others_can_change_is_not_given_the_rights_of_root(place: Path, open_one: str) -> None:
    need("visudo")
    lab = place / "lab"
    module = put(lab / "lib/cardlab/__init__.py", "")
    script(lab / "bin" / NAME, "")
    script(lab / "bin/python", f"echo {module}\n")
    (lab / open_one).chmod(0o777)
    refused = rights(place, "install", str(lab))
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert f"{lab / open_one} can be changed by others than root; install cardlab as root" in refused.stderr
    assert not (place / "etc").exists()


@ROOT_ONLY
def test_what_cannot_be_installed_is_refused_in_one_line(place: Path) -> None:
    for words, said in ((("install", "/nowhere"), "there is no /nowhere/bin"), ((), "what is to be done?")):
        refused = rights(place, *words)
        assert refused.returncode == 1 and refused.stderr.startswith("error: ") and said in refused.stderr
        assert len(refused.stderr.splitlines()) == 1

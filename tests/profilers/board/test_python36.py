"""If these fail, an old board cannot run what the agent packs, or the agent leaves something of it behind."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cardlab.profilers import board
from cardlab.profilers.agent.pack import pack_agent
from tests.conftest import missing, need
from tests.profilers.board.pythons import old_python

BOARD = Path(board.__file__).parent
MODULES = sorted(file.stem for file in BOARD.glob("*.py"))

# One use of everything that is written otherwise for an old Python: records, protocols, timers, the loop.
USES = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib, time
for name in sys.argv[2].split(","):
    importlib.import_module("board." + name)
files = [getattr(module, "__file__", "") or "" for module in sys.modules.values()]
assert not [file for file in files if "site-packages" in file]
from board.cpu_timer import CpuLapTimer
from board.errors import BoardError
from board.power import mean_power
from board.series import TimingPolicy, take_series
from board.summary import summarise
from board.timer import ElapsedTimer, LapSample, VirtualTimer, WallTimer
from board.window import WindowReading, iterate, settle, waiting
from board.work import Lap, Work, as_work, command_work
work = Work(segment="layer", laps=(Lap(phase="forward", run=lambda: sum(range(20000))),))
series = take_series(work, CpuLapTimer(pin=False), WallTimer(), TimingPolicy(repeats=4))
assert len(series.laps[0]) == 4 and summarise(series.laps[0], True).value_s > 0
assert LapSample(wall_s=1.0) == LapSample(wall_s=1.0) and repr(LapSample(wall_s=1.0)).startswith("LapSample(wall_s=1.0")
try:
    work.segment = "other"
    raise SystemExit("a record is frozen")
except AttributeError:
    pass
timer = VirtualTimer()
assert sum(iterate(waiting(timer), ElapsedTimer(timer), timer, 5.0)) >= 5.0
def read(seconds):
    timer.sleep(seconds)
    return WindowReading(1e9, 5.0)
settle(read, timer, 0.1, 1e9)
assert mean_power([5.0, 5.1, 4.9], 0.1).n == 3
try:
    Work(segment="layer", laps=(Lap(phase="forward", run=None),)).run_once()
    raise SystemExit("work without code ran")
except BoardError as error:
    assert error.remedy
command_work("true").run_once()
print("ok", sys.version_info[:2])
"""


def run_uses(python: str) -> str:
    # The folder alone, in no package and with no site: it has to stand for itself.
    command = [python, "-I", "-S", "-B", "-c", USES, str(BOARD.parent), ",".join(m for m in MODULES if m != "__init__")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_and_used_on_its_own() -> None:
    assert run_uses(sys.executable).startswith("ok")


def test_every_module_is_imported_and_used_by_python_3_6() -> None:
    python = old_python()
    if python is None:
        missing("no Python 3.6 (pyenv install 3.6)")
    assert run_uses(str(python)) == "ok (3, 6)\n"


@pytest.mark.parametrize("name", MODULES)
def test_the_folder_imports_itself_and_the_standard_library_only(name: str) -> None:
    for node in ast.walk(ast.parse((BOARD / f"{name}.py").read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert str(node.module).split(".")[0] in sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, f"{name} reaches out of its folder"


def test_whole_folder_is_packed_as_it_stands_here(tmp_path: Path) -> None:
    pack_agent(tmp_path / "agent.pyz", None)
    with zipfile.ZipFile(tmp_path / "agent.pyz") as archive:
        for folder, left in (("board", set()), ("agent", {"pack"})):
            files = {file.stem: file for file in (BOARD.parent / folder).glob("*.py") if file.stem not in left}
            packed = [Path(name) for name in archive.namelist() if name.startswith(f"card_agent/{folder}/")]
            assert {name.stem for name in packed} == set(files)
            for name in packed:
                assert archive.read(str(name)) == files[name.stem].read_bytes()


@pytest.mark.once
def test_nothing_that_is_packed_needs_a_later_python(tmp_path: Path) -> None:
    vermin = need("vermin")
    pack_agent(tmp_path / "agent.pyz", None)
    with zipfile.ZipFile(tmp_path / "agent.pyz") as archive:
        archive.extractall(tmp_path / "packed")
    files = sorted(str(file) for file in (tmp_path / "packed").rglob("*.py"))
    assert len(files) > len(MODULES)
    command = [vermin, "-t=3.6-", "--eval-annotations", "--no-tips", *files]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout

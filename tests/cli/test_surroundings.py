"""If these fail, what a machine lacks ends in a traceback or a hang instead of one line with its remedy.

Each lack is made for real where a process can have it by itself: a torch that is old or does not load lies on the
import path, a home is a place where nobody can write, /sys is hidden in a mount namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cli.run import Result, command
from tests.conftest import as_user_without_rights, missing, need

TINY = ("--model", "tiny-llama", "--seq", "32", "--no-whole-step", "--repeats", "1")
SIMULATED = ("--platform", "simulated:rtx-4060-ti", "--frequencies", "1")
BROKEN = 'raise OSError("libcudnn.so.9: cannot open shared object file: No such file or directory")'


def process(
    name: str, *words: str, before: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> Result:
    """A command in a process of its own, as a person starts it; `before` is what it is started by."""
    function = name.replace("-", "_")
    code = f"import sys; sys.argv[0] = {name!r}; from cardlab.cli.main import {function}; {function}()"
    done = subprocess.run(
        [*before, sys.executable, "-c", code, *words],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def a_torch(folder: Path, source: str, version: str = "2.13.0") -> str:
    """An import path whose torch is this source, with metadata as an installed one has."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(source, encoding="utf-8")
    about = folder / f"torch-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n", encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121", "2.5.0a0+872d972e41.nv24.08"])
def test_a_torch_below_the_floor_names_the_floor_and_the_agent(version: str, tmp_path: Path, database: Path) -> None:
    path = a_torch(tmp_path, f"__version__ = {version!r}", version)
    process("profile-device", *TINY, "--db", str(database), environment={"PYTHONPATH": path}).failed_in_one_line(
        1, f"torch {version}", "torch>=2.6", "agent"
    )
    assert not database.exists()
    doctor = process("profile-device", "doctor", "--db", str(database), "--json", environment={"PYTHONPATH": path})
    probe = next(p for p in doctor.document["probes"] if p["name"] == "torch")
    assert doctor.code == 1 and probe["ok"] is False and "torch>=2.6" in probe["remedy"]


def test_a_torch_older_than_transformers_takes_is_not_called_missing(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would only say that there is no torch at all."""
    path = a_torch(tmp_path, "__version__ = '2.7.0'", "2.7.0")
    about = tmp_path / "transformers-9.9.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: transformers\nVersion: 9.9\nRequires-Dist: torch>=2.8; extra == 'torch'\n",
        encoding="utf-8",
    )
    result = process("profile-device", *TINY, "--db", str(database), environment={"PYTHONPATH": path})
    result.failed_in_one_line(1, "torch 2.7.0", "transformers 9.9", "torch>=2.8")


def test_a_torch_that_does_not_load_is_one_line_everywhere(tmp_path: Path, database: Path) -> None:
    path = a_torch(tmp_path, BROKEN)
    profile = process("profile-device", *TINY, "--db", str(database), environment={"PYTHONPATH": path})
    profile.failed_in_one_line(1, "does not load", "libcudnn.so.9", "built for this machine")
    doctor = process(
        "profile-device",
        "doctor",
        "--platform",
        "cpu",
        "--db",
        str(database),
        "--json",
        environment={"PYTHONPATH": path},
    )
    assert doctor.code in (0, 1) and "Traceback" not in doctor.err and doctor.document["probes"]


@pytest.mark.torch
def test_bfloat16_is_refused_and_auto_is_float32_on_a_cpu_without_it(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated it would be many times slower: a demo that hangs."""
    from cardlab.profilers.runtime import execution

    monkeypatch.setattr(execution, "read_text", lambda _path: "flags\t: fpu sse sse2 avx2 avx512f\n")
    command("profile-device", *TINY, "--dtype", "bfloat16", "--db", str(database)).failed_in_one_line(
        1, "bfloat16 natively", "--dtype auto", "float32"
    )
    assert not database.exists()
    run = ("run", "--local", "--model", "tiny-llama", "--seq", "32", "--cut", "2", "--rounds", "1")
    command("card", *run, "--dtype", "bfloat16", "--db", str(database)).failed_in_one_line(1, "float32")
    profile = command("profile-device", *TINY, "--db", str(database), "--json")
    assert profile.code == 0 and profile.document["execution"]["dtype"] == "float32"


@pytest.mark.torch
def test_a_home_that_cannot_be_written_names_the_folder_to_set(database: Path) -> None:
    """Root too cannot write in /proc, as on a read-only file system."""
    place = {"HOME": "/proc/nowhere", "XDG_STATE_HOME": ""}
    words = (*TINY, *SIMULATED, "--db", str(database))
    process("profile-device", *words, environment=place).failed_in_one_line(1, "/proc/nowhere", "XDG_STATE_HOME")
    doctor = process("profile-device", "doctor", "--db", str(database), "--json", environment=place)
    probe = next(p for p in doctor.document["probes"] if p["name"] == "state")
    assert probe["ok"] is False and "XDG_STATE_HOME" in probe["remedy"]


def test_plans_need_neither_a_compiler_nor_a_home(tmp_path: Path) -> None:
    """Kernels are compiled by numba itself, and anew in each process where nothing can be kept."""
    place = {"HOME": "/proc/nowhere", "PATH": "/nowhere", "NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": "/proc/nowhere"}
    result = process("card", "plan", "--scenario", "card-letter", environment=place)
    assert result.code == 0, result.err


def test_doctor_works_without_sys() -> None:
    """As in a container that hides it: a capability is lacking, not the command."""
    unshare, mount = need("unshare"), need("mount")
    if os.geteuid() != 0:
        missing("a mount namespace is made by root")
    tried = subprocess.run([unshare, "-m", mount, "-t", "tmpfs", "none", "/sys"], capture_output=True, check=False)
    if tried.returncode != 0:
        missing("nothing can be mounted here")
    hide = f'{mount} -t tmpfs none /sys && exec "$@"'
    result = process("profile-device", "doctor", "--json", before=(unshare, "-m", "sh", "-c", hide, "sh"))
    assert "Traceback" not in result.err
    probes = {p["name"]: p for p in result.document["probes"]}
    assert probes["platform"]["ok"] is True and probes["frequency"]["ok"] is not True


def test_a_user_without_rights_is_told_how_to_get_them(tmp_path: Path, database: Path) -> None:
    if os.geteuid() != 0:
        missing("only root can become another user")

    def look() -> str:
        return command("profile-device", "doctor", "--json", "--db", str(database)).out

    text = as_user_without_rights(tmp_path, look)
    rights = next(p for p in Result(0, text, "").document["probes"] if p["name"] == "rights")
    # Where there is no sudo, that comes first.
    assert rights["ok"] is False
    assert ("sudoers" if shutil.which("sudo") else "install sudo") in rights["remedy"]

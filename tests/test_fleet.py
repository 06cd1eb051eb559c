"""If this fails, the fleet playbook does not bring the measurements of real boards home.

Two boards are two servers of ssh on this machine, each with a home, a state and a port of its own; cardlab gets there
as a wheel that is built from this tree. What the boards have of their own (torch and what else a JetPack would bring)
is lent to them from the environment of the tests, all but cardlab.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cardlab.db import open_store
from tests.conftest import ROOT, missing, need
from tests.test_distribution import copied, run

pytestmark = [pytest.mark.torch, pytest.mark.once]


@dataclass(frozen=True)
class Board:
    name: str
    home: Path
    port: int


def lent(folder: Path) -> Path:
    """The packages of this environment without cardlab, as links."""
    folder.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if "cardlab" not in found.name and found.suffix != ".pth":
            (folder / found.name).symlink_to(found)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[list[Board]]:
    sshd, keygen = need("sshd"), need("ssh-keygen")
    need("ssh")
    if os.geteuid() != 0:
        missing("sshd is started by root here")
    Path("/run/sshd").mkdir(exist_ok=True)
    # ssh trusts no key below a folder that others may write.
    tmp_path.chmod(0o700)
    for name in ("own", "host"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    packages = lent(tmp_path / "packages")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    made, servers = [], []
    for name in ("modern-1", "old-1"):
        board = Board(name, tmp_path / name, free_port())
        (board.home / "state").mkdir(parents=True)
        settings = {
            "HOME": board.home,
            "XDG_STATE_HOME": board.home / "state",
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "PYTHONPATH": packages,
        }
        lines = [
            f"Port {board.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {tmp_path / 'host'}",
            f"AuthorizedKeysFile {tmp_path / 'own.pub'}",
            "PermitRootLogin yes",
            "StrictModes no",
            "UsePAM no",
            "LogLevel ERROR",
            f"PidFile {tmp_path / name}.pid",
            "Subsystem sftp internal-sftp",
            "SetEnv " + " ".join(f"{key}={value}" for key, value in settings.items()),
        ]
        (tmp_path / f"{name}.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        servers.append(subprocess.Popen([sshd, "-D", "-e", "-f", str(tmp_path / f"{name}.conf")]))
        made.append(board)
    try:
        for board in made:
            wait_for(board.port)
        yield made
    finally:
        for server in servers:
            server.terminate()
            server.wait(timeout=10)


def wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"no sshd on port {port}")


def inventory(boards: list[Board], key: Path, wheel: Path, fleet: Path) -> str:
    """As examples/fleet/inventory.yml, with these boards in it."""
    modern, old = boards
    return f"""
all:
  vars:
    ansible_user: root
    ansible_host: 127.0.0.1
    ansible_become: false
    ansible_ssh_private_key_file: {key}
    ansible_ssh_common_args: -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes
    cardlab_model: tiny-llama
    cardlab_sequence: 32
    cardlab_poll: 1
    cardlab_fleet_db: {fleet}
  children:
    boards:
      hosts:
        {modern.name}:
          ansible_port: {modern.port}
          ansible_python_interpreter: /usr/bin/python3
          cardlab_package: {wheel}[models]
          ansible_async_dir: {modern.home}/jobs
          ansible_remote_tmp: {modern.home}/tmp
          cardlab_home: {modern.home}/cardlab
          cardlab_options: --platform simulated:rtx-4060-ti --frequencies 3 --batch 1
    old_boards:
      hosts:
        {old.name}:
          ansible_port: {old.port}
          ansible_python_interpreter: /usr/bin/python3
          ansible_async_dir: {old.home}/jobs
          ansible_remote_tmp: {old.home}/tmp
          cardlab_agent_folder: {old.home}
          cardlab_options: --device cpu --repeats 3
"""


def commands_of_this_tree(folder: Path) -> Path:
    """cardlab's commands as the control machine has them, of this very tree."""
    folder.mkdir()
    for name in ("profile-device", "calibrate", "cardlab"):
        code = f"import sys; sys.argv[0] = {name!r}; from cardlab.cli.main import {name.replace('-', '_')} as c; c()"
        (folder / name).write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def test_the_playbook_brings_two_boards_home(boards: list[Board], tmp_path: Path) -> None:
    pytest.importorskip("ansible")
    run("build", "--no-isolation", "--wheel", "--outdir", str(tmp_path / "dist"), where=copied(tmp_path / "tree"))
    (wheel,) = (tmp_path / "dist").iterdir()
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "profile.yml").write_bytes((ROOT / "examples" / "fleet" / "profile.yml").read_bytes())
    lines = inventory(boards, tmp_path / "own", wheel, fleet / "fleet.db")
    (fleet / "inventory.yml").write_text(lines, encoding="utf-8")
    own = commands_of_this_tree(tmp_path / "control")
    environment = {
        **os.environ,
        "PATH": f"{own}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        # No connection that long outlives the test.
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=5s",
        "LC_ALL": "C.UTF-8",
    }
    words = [sys.executable, "-m", "ansible", "playbook", "-i", "inventory.yml", "profile.yml"]
    done = subprocess.run(
        words, cwd=fleet, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    with open_store(fleet / "fleet.db", create=False) as store:
        runs = {run.device_name: run for run in store.runs.summaries()}
    assert set(runs) == {"modern-1", "old-1"}
    assert all(run.points_done == run.points_planned > 0 for run in runs.values())

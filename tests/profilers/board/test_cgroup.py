"""Memory and processors in a container: what /proc/meminfo says there is the host's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardlab.profilers.board.cgroup import cpu_limit
from cardlab.profilers.board.host import host_memory, memory_bytes, usable_cpus
from cardlab.profilers.devices import open_platform
from cardlab.profilers.runtime.budget import available_memory_bytes

GIB = 2**30
V1_UNLIMITED = 9223372036854771712
V2_MOUNT = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNT = "35 30 0:31 {top} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"


def host(root: Path, cgroup: str, mounts: str) -> Path:
    put(root, "proc/meminfo", "MemTotal:       16777216 kB\nMemAvailable:   12582912 kB\n")
    put(root, "proc/self/cgroup", cgroup)
    put(root, "proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    return root


def put(root: Path, name: str, text: object) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def v2(root: Path, group: str, limit: object = "max", high: object = "max", current: int = 0, dropped: int = 0) -> None:
    folder = f"sys/fs/cgroup{group}"
    put(root, f"{folder}/memory.max", limit)
    put(root, f"{folder}/memory.high", high)
    put(root, f"{folder}/memory.current", current)
    put(root, f"{folder}/memory.stat", f"anon 1\ninactive_file {dropped}")


def test_without_a_limit_the_host_counts(tmp_path: Path) -> None:
    root = host(tmp_path, "0::/user.slice/a.scope", V2_MOUNT.format(top="/"))
    v2(root, "/user.slice/a.scope")
    assert memory_bytes(root) == (16 * GIB, 12 * GIB)
    assert host_memory(root).words() == "16.0 GiB, 12.0 GiB free"


def test_the_narrowest_group_above_is_the_limit(tmp_path: Path) -> None:
    """A pod's limit stands on the group above that of its container."""
    root = host(tmp_path, "0::/pod/container", V2_MOUNT.format(top="/"))
    v2(root, "/pod/container", limit=8 * GIB, current=3 * GIB, dropped=GIB)
    v2(root, "/pod", limit=4 * GIB, current=3 * GIB, dropped=GIB)
    found = host_memory(root)
    assert (found.total_bytes, found.free_bytes) == (4 * GIB, 2 * GIB)
    assert "limit of the control group, /sys/fs/cgroup/pod/memory.max; the host has 16.0 GiB" in found.words()
    # What a parent has left is less than what its child may take.
    v2(root, "/pod/container", limit=2 * GIB, current=GIB)
    v2(root, "/pod", limit=4 * GIB, current=4 * GIB - 1000)
    assert memory_bytes(root) == (2 * GIB, 1000)


def test_a_high_mark_is_a_limit_too(tmp_path: Path) -> None:
    """Above memory.high the kernel holds a process back until it hardly moves."""
    root = host(tmp_path, "0::/svc", V2_MOUNT.format(top="/"))
    v2(root, "/svc", limit=8 * GIB, high=3 * GIB, current=GIB)
    assert memory_bytes(root) == (3 * GIB, 2 * GIB)


@pytest.mark.parametrize(
    ("cgroup", "top"),
    [
        ("0::/", "/"),  # a container with a namespace of its own
        ("0::/docker/0123abc", "/docker/0123abc"),  # one without: the mount shows its own group
        ("0::/docker/0123abc", "/"),  # the path is the host's and does not lie below the mount
        ("0::/../../elsewhere", "/"),  # moved out of its namespace
    ],
)
def test_in_a_container_the_path_may_be_the_hosts(tmp_path: Path, cgroup: str, top: str) -> None:
    root = host(tmp_path, cgroup, V2_MOUNT.format(top=top))
    v2(root, "", limit=2 * GIB, current=GIB)
    assert memory_bytes(root) == (2 * GIB, GIB)


def test_version_1_with_its_number_for_no_limit(tmp_path: Path) -> None:
    root = host(tmp_path, "4:cpu,cpuacct:/x\n9:hugetlb,memory:/x/y", V1_MOUNT.format(top="/"))
    base = "sys/fs/cgroup/memory/x/y"
    put(root, f"{base}/memory.limit_in_bytes", V1_UNLIMITED)
    put(root, f"{base}/memory.usage_in_bytes", 5 * GIB)
    put(root, f"{base}/memory.stat", f"hierarchical_memory_limit {V1_UNLIMITED}")
    assert memory_bytes(root) == (16 * GIB, 12 * GIB)
    put(root, f"{base}/memory.limit_in_bytes", 6 * GIB)
    assert memory_bytes(root) == (6 * GIB, GIB)
    # A limit above, of a group that this container does not see.
    put(root, f"{base}/memory.stat", f"hierarchical_memory_limit {5 * GIB + GIB // 2}\ntotal_inactive_file {GIB}")
    assert memory_bytes(root) == (5 * GIB + GIB // 2, 3 * GIB // 2)


def test_a_host_without_a_word_of_memory_is_unknown_and_not_0(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal: 0 kB")
    assert memory_bytes(tmp_path) == (None, None)
    assert memory_bytes(tmp_path / "nothing") == (None, None)


def test_a_quota_of_processors_bounds_the_threads(tmp_path: Path) -> None:
    root = host(tmp_path, "0::/pod/c", V2_MOUNT.format(top="/"))
    assert cpu_limit(root) is None and usable_cpus(root) == len(os.sched_getaffinity(0))
    put(root, "sys/fs/cgroup/pod/c/cpu.max", "max 100000")
    put(root, "sys/fs/cgroup/pod/cpu.max", "150000 100000")
    assert cpu_limit(root) == 1.5 and usable_cpus(root) == 1


@pytest.fixture
def small_group() -> Iterator[tuple[Path, int]]:
    """A real group of this machine with a limit of 1.17 GiB, and that limit."""
    if os.geteuid() != 0:
        pytest.skip("control groups cannot be set here: that needs root")
    limit = 1258291200
    for base, name in (
        (Path("/sys/fs/cgroup"), "memory.max"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    ):
        folder = base / f"cardlab-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / name).exists():
                (folder / name).write_text(str(limit))
                yield folder, limit
                return
        finally:
            folder.rmdir()
    pytest.skip("control groups of memory cannot be set here")


WITHIN = """
import sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
from cardlab.profilers.devices import open_platform
from cardlab.profilers.runtime.budget import available_memory_bytes
device = open_platform("cpu")
print(device.identity.memory_bytes, device.memory_available_bytes(), available_memory_bytes())
print(next(p.state for p in device.capabilities() if p.name == "memory"))
"""


def test_a_process_in_a_real_group_has_that_much(small_group: tuple[Path, int]) -> None:
    folder, limit = small_group
    done = subprocess.run([sys.executable, "-c", WITHIN, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers, words = done.stdout.splitlines()
    total, free, left = map(int, numbers.split())
    assert total == limit and 0 < free <= limit and 0 < left <= limit
    assert words.startswith("1.2 GiB, ") and str(folder) in words


def test_the_device_below_a_root_is_bounded(tmp_path: Path) -> None:
    root = host(tmp_path, "0::/svc", V2_MOUNT.format(top="/"))
    put(root, "etc/machine-id", "0123456789abcdef0123456789abcdef")
    v2(root, "/svc", limit=2 * GIB, current=GIB)
    device = open_platform("cpu", sysfs_root=root)
    assert (device.identity.memory_bytes, device.memory_available_bytes()) == (2 * GIB, GIB)
    assert available_memory_bytes(root) == GIB

"""Two ends of a real, slow link: a network namespace, a veth pair and the kernel's token bucket on both sides.

    here 10.77.N.1 ── veth ── namespace 10.77.N.2       tc tbf rate R on both ends

Only where the kernel and this user can; the reason is said otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import missing


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


@contextmanager
def slow_link(rate: str, burst: str = "16kb") -> Iterator[tuple[str, str, str]]:
    """(namespace, address here, address there) of a link with that rate, e.g. "20mbit". Skips where impossible."""
    if shutil.which("tc") is None or shutil.which("ip") is None:
        missing("iproute2 (ip, tc) is not installed")
    if os.geteuid() != 0:
        missing("network namespaces need root here")
    name, net = f"cl{os.getpid()}", f"10.77.{os.getpid() % 250}"
    here, there = f"{name}a", f"{name}b"
    steps = [
        ("ip", "netns", "add", name),
        ("ip", "link", "add", here, "type", "veth", "peer", "name", there),
        ("ip", "link", "set", there, "netns", name),
        ("ip", "addr", "add", f"{net}.1/24", "dev", here),
        ("ip", "link", "set", here, "up"),
        ("ip", "netns", "exec", name, "ip", "addr", "add", f"{net}.2/24", "dev", there),
        ("ip", "netns", "exec", name, "ip", "link", "set", there, "up"),
        ("tc", "qdisc", "add", "dev", here, "root", "tbf", "rate", rate, "burst", burst, "latency", "400ms"),
        (
            "ip",
            "netns",
            "exec",
            name,
            "tc",
            "qdisc",
            "add",
            "dev",
            there,
            "root",
            "tbf",
            "rate",
            rate,
            "burst",
            burst,
            "latency",
            "400ms",
        ),
    ]
    try:
        for step in steps:
            done = _run(*step)
            if done.returncode != 0:
                missing(f"{' '.join(step[:4])} does not work here: {done.stderr.strip()}")
        yield name, f"{net}.1", f"{net}.2"
    finally:
        _run("ip", "link", "del", here)
        _run("ip", "netns", "del", name)

# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""If this fails, the joules of a plan are not those that a server's and two boards' meters count in its run.

From profiles to `card validate`, on made-up boards: the kernel's files for cpufreq and RAPL below a folder each, whose
energy a thread counts. The numerics are real and the link is shaped, so that delays are known within a per cent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

import cardlab.workflows.profile as profiling
import cardlab.workflows.run_device as running
from cardlab import fit, open_store, plan, profile, validate
from cardlab.core.quantity import MEASURED
from cardlab.core.records.link import Link
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.workflows import DeviceOptions, PlanOptions, ProfileOptions, ServerOptions
from cardlab.workflows.run import run_server
from tests.profilers.devices.test_cpu import policy, put, settings, zone

TASK: dict[str, Any] = {"model": "tiny-llama", "batch": 4, "sequence": 64}
RATE_BPS = 1e6


def watts(khz: float) -> float:
    return 4.0 + 2.0 * (khz / 1e6) ** 3


class Machines:
    """Three made-up machines: their files, and the energy that they count."""

    def __init__(self, folder: Path) -> None:
        self.roots = {name: folder / name for name in ("hub", "board-a", "board-b")}
        self.files = {name: policy(root) for name, root in self.roots.items()}
        for number, root in enumerate(self.roots.values()):
            zone(root, "intel-rapl:0", "package-0")
            put(root / "etc/machine-id", f"{number + 1:032x}")
        threading.Thread(target=self._count, daemon=True).start()

    def open(self, _name: str = "auto", *, label: str | None = None) -> HardwareDevice:
        return open_platform("cpu", sysfs_root=self.roots[str(label)], label=label)

    def _count(self) -> None:
        energies, then = dict.fromkeys(self.roots, 60e6), time.monotonic()
        while True:
            time.sleep(0.02)
            now = time.monotonic()
            for name, root in self.roots.items():
                speed = (self.files[name] / "scaling_setspeed").read_text().strip()
                khz = float(speed) if speed.isdigit() else 1_800_000.0
                energies[name] += watts(khz) * (now - then) * 1e6
                counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
                for file, value in ((counter, energies[name]), (self.files[name] / "scaling_cur_freq", khz)):
                    # The reader must never find a file empty, as it never finds the kernel's.
                    draft = file.with_suffix(".new")
                    draft.write_text(f"{int(value)}\n")
                    draft.replace(file)
            then = now


def forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


@pytest.mark.accept
@pytest.mark.alone
def test_joules_of_every_party_are_those_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    machines = Machines(tmp_path)
    found = {name: settings(base) for name, base in machines.files.items()}
    for module in (profiling, running):
        monkeypatch.setattr(module, "open_platform", machines.open)
    frequencies = {"hub": "3000MHz", "board-a": "1500MHz,3000MHz", "board-b": "1500MHz,3000MHz"}
    with open_store(str(tmp_path / "x.db")) as store:
        for name, wanted in frequencies.items():
            profile(
                store,
                ProfileOptions(
                    **TASK, platform="cpu", name=name, frequencies=wanted, whole_step=False, repeats=5, dtype="float32"
                ),
            )
        fit(store)
        store.links.add(
            Link(
                uid="c" * 32,
                name="lab",
                uplink_bps=RATE_BPS,
                downlink_bps=RATE_BPS,
                provenance=MEASURED,
                measured_at="2026-11-28T00:00:00.000000Z",
                # These boards have no radio.
                transmit_power_w=0.0,
                receive_power_w=0.0,
            )
        )
        made = plan(
            store,
            PlanOptions(
                from_db=True,
                server="hub",
                devices=("board-a", "board-b"),
                link="lab",
                energy="round",
                device_energy="round",
                device_frequencies="all",
                device_weight=1.0,
                local_epochs=4,
                wire_dtype="float32",
            ),
        )
        assert {d.device_frequency_hz for d in made.rounds[0].devices} == {1.5e9}
        port = 5700 + os.getpid() % 200
        address = f"127.0.0.1:{port}"

        def device(name: str) -> int:
            os.environ["XDG_STATE_HOME"] = str(tmp_path / name / "state")
            link = f"{RATE_BPS / 1e6:g}mbit"
            return forked(lambda: running.run_device(DeviceOptions(server=address, name=name, link=link, wait_s=60.0)))

        children = [device(name) for name in ("board-a", "board-b")]
        run_server(store, ServerOptions(plan=made.uid, bind=address, name="hub", rounds=3, dtype="float32", devices=2))
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
        checked = validate(store)
    for check in checked.energies:
        print(
            f"{check.party} in a round of {check.device}: predicted {check.predicted_j:.2f} J, observed"
            f" {check.observed_j:.2f} J, {check.error:+.1%}; read {check.frequency_hz:.4g} Hz"
        )
    assert len(checked.energies) == 4
    for check in checked.energies:
        assert check.error is not None and abs(check.error) <= 0.03
        assert check.frequency_hz == check.planned_hz
    assert not [note for note in checked.notes if "Hz" in note], checked.notes
    assert {name: settings(base) for name, base in machines.files.items()} == found

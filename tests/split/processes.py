"""Server and devices of a run as processes of their own, forked from the test so that they start at once.

The test itself opens no socket and starts no thread before it forks. Each process writes what it found to a file.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cardlab.core.errors import CardlabError
from cardlab.core.records.device import Device
from cardlab.core.records.task import Task
from cardlab.profilers.devices import open_platform
from cardlab.profilers.runtime.build import build_meta
from cardlab.split.batches import MiniBatch
from cardlab.split.device import DevicePatience, Equipment, SplitDevice
from cardlab.split.device_transport import DeviceTransport
from cardlab.split.frequency import OwnReadings
from cardlab.split.halves import Half
from cardlab.split.journal import Journal
from cardlab.split.recipe import recipe_of
from cardlab.split.schedule import Assignment, Schedule
from cardlab.split.settings import Inputs, RunSettings
from cardlab.split.shaping import parse_link
from cardlab.split.weights import open_weights
from tests.split.models import EXECUTION, RATE, batches


class Cuts(Schedule):
    """A cut for each round and device, as a plan would give, the rates of its link and the frequency it is to hold
    where there are any."""

    def __init__(
        self,
        cuts: dict[str, list[int]],
        rates: dict[str, list[tuple[float, float]]],
        holds: dict[str, list[float]] | None = None,
    ) -> None:
        super().__init__(None, 1)
        self.cuts, self.rates, self.holds = cuts, rates, holds or {}

    def at(self, number: int, device: str, key: str | None = None) -> Assignment:
        rates = self.rates.get(device, [(None, None)])
        up_bps, down_bps = rates[(number - 1) % len(rates)]
        cut = self.cuts[device][(number - 1) % len(self.cuts[device])]
        holds = self.holds.get(device)
        hold_hz = None if holds is None else holds[(number - 1) % len(holds)]
        return Assignment(cut=cut, uplink_bps=up_bps, downlink_bps=down_bps, device_frequency_hz=hold_hz)


@dataclass
class Trial:
    """One run in one folder.

    `cuts` and `rates` (bit/s up and down) by device; `data` shards follow the order of the names. `silence_s` counts as
    death: short where somebody dies, long where a busy machine must not look like it.
    """

    folder: Path
    task: Task
    cuts: dict[str, list[int]]
    rounds: int = 3
    epochs: int = 2
    parallel: bool = False
    sharing: str = "serial"
    codec: str = "none"
    error_feedback: bool = False
    accumulate: int = 1
    max_grad_norm: float | None = None
    deadline_s: float | None = None
    rows: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    rates: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    holds: dict[str, list[float]] = field(default_factory=dict)
    silence_s: float = 4.0
    port: int = 0
    children: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # What building a model imports takes seconds of CPU: once here, not in each child, where it would look like
        # silence on a machine that others use.
        build_meta(self.task, EXECUTION)

    @property
    def names(self) -> list[str]:
        return sorted(self.cuts)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def data(self) -> dict[str, Any]:
        return {
            n: batches(replace(self.task, batch=self.sizes.get(n, self.task.batch)), (i, len(self.cuts)))
            for i, n in enumerate(self.names)
        }

    def fork(self, name: str, work: Callable[[], Any]) -> int:
        """Run `work` in a process of its own; what it returns goes to NAME.json, an error to NAME.err."""
        child = os.fork()
        if child:
            self.children.append(child)
            return child
        code = 1
        try:
            log = (self.folder / f"{name}.log").open("a", buffering=1)
            sys.stdout = sys.stderr = log
            # Where a child hangs is said in its log before it is killed.
            faulthandler.register(signal.SIGUSR1, file=log, all_threads=True)
            result = work()
            (self.folder / f"{name}.json").write_text(json.dumps(result))
            code = 0
        except CardlabError as error:
            (self.folder / f"{name}.err").write_text(str(error))
        except BaseException:  # noqa: BLE001 - the log says what it was, the exit code that it was
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def server(
        self,
        *,
        resume: bool = False,
        doom: Callable[[Half], None] | None = None,
        join_s: float = 90.0,
        devices: int | None = None,
        schedule: Schedule | None = None,
    ) -> int:
        """Start the server; `doom` may spoil its half before it runs."""

        def work() -> Any:
            from cardlab.split.frequency import HeldFrequency
            from cardlab.split.server import Patience, RunCallbacks, Server, ServerParts
            from cardlab.split.server_transport import ServerTransport

            weights = open_weights(self.task, 0)
            settings = RunSettings(
                run="0" * 32,
                task=self.task,
                rounds=self.rounds,
                epochs=self.epochs,
                learning_rate=RATE,
                wire_dtype="float32",
                codec=self.codec,
                error_feedback=self.error_feedback,
                accumulate=self.accumulate,
                max_grad_norm=self.max_grad_norm,
                deadline_s=self.deadline_s,
                parallel=self.parallel,
                server_sharing=self.sharing,
                cut=1,
                weights=weights.fingerprint,
            )
            journal = Journal.resume(self.out) if resume else Journal.begin(self.out, settings, "2026-11-21T10:00:00Z")
            transport = ServerTransport("127.0.0.1", self.port)
            half = Half(self.task, EXECUTION, weights, "server", recipe_of(settings))
            half.keeps_loaded = self.parallel
            if doom is not None:
                doom(half)
            server = Server(
                ServerParts(
                    transport=transport,
                    half=half,
                    schedule=schedule or Cuts(self.cuts, self.rates, self.holds),
                    journal=journal,
                    frequency=HeldFrequency(open_platform("cpu")),
                ),
                devices=devices or len(self.cuts),
                callbacks=RunCallbacks(note=say),
                patience=Patience(join_s=join_s, silence_s=self.silence_s, stage_s=90.0),
            )
            try:
                server.run()
            finally:
                transport.close()
            return {"turns": len(journal.progress.turns)}

        return self.fork("server", work)

    def device(
        self,
        name: str,
        *,
        doom: Callable[[DeviceTransport, Half], None] | None = None,
        port: int | None = None,
        link: str | None = None,
        server_s: float = 90.0,
        before: Callable[[DeviceTransport], None] | None = None,
        held_out: Callable[[], Iterator[MiniBatch]] | None = None,
        held_out_rows: int = 0,
        board: Path | None = None,
    ) -> int:
        """Start a device; `doom` may spoil it when its model is built, `before` earlier; `board`: root of its /sys."""

        def work() -> Any:
            transport = DeviceTransport("127.0.0.1", port or self.port, shape=parse_link(link, planned=True))
            if before is not None:
                before(transport)
            equipped: list[Equipment] = []

            def equip(settings: RunSettings) -> Equipment:
                half = Half(self.task, EXECUTION, open_weights(self.task, 0), "device", recipe_of(settings))
                if doom is not None:
                    doom(transport, half)
                inputs = Inputs(rows=self.rows.get(name, 1), batch=self.sizes.get(name), held_out_rows=held_out_rows)
                equipped.append(Equipment(half, self.data()[name].mini_batch, inputs, held_out or (lambda: iter(()))))
                return equipped[0]

            description = Device(key=f"cpu:{name}", name=name, platform="cpu")
            patience = DevicePatience(connect_s=30.0, handshake_s=30.0, silence_s=self.silence_s, server_s=server_s)
            readings = None if board is None else OwnReadings(open_platform("cpu", sysfs_root=board), say)
            device = SplitDevice(transport, description, equip, readings=readings, patience=patience, note=say)
            try:
                done = device.run()
            finally:
                if readings is not None:
                    readings.rest()
                transport.close()
            return {"rounds": done.rounds, "losses": done.losses}

        return self.fork(name, work)

    def wait(self, child: int, timeout_s: float = 180.0) -> int:
        """Exit code of a child (minus the signal that killed it); it is killed, and -1000 returned, when it hangs."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                self.children.remove(child)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(child, signal.SIGUSR1)
        time.sleep(0.5)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.children.remove(child)
        for log in sorted(self.folder.glob("*.log")):
            print(f"{log.name} of a run in which {child} hung:\n{log.read_text()}")
        return -1000

    def until(self, condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
        """Wait for something; AssertionError with the server's log when it does not come."""
        until = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until, self.log("server")
            time.sleep(0.02)

    def end(self) -> None:
        """Kill what is left."""
        for child in list(self.children):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.children.clear()

    def journal(self) -> Journal:
        return Journal.resume(self.out)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""


def say(text: str) -> None:
    print(f"{time.monotonic():.3f} {text}", file=sys.stderr, flush=True)


def die() -> None:
    """As a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)

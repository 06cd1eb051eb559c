"""One run of the agent: plan the points, measure each, write the bundle after every one."""

import argparse
import json
import os
import platform
import random
import sys
import uuid
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Tuple

from ..board.cpu_timer import CpuLapTimer
from ..board.cuda_timer import CudaLapTimer
from ..board.errors import BoardError
from ..board.frequencies import Visit, spread, with_anchor
from ..board.host import host_boot
from ..board.identity import host_key
from ..board.power import mean_known
from ..board.rules import on_request
from ..board.sampler import ThreadSampler
from ..board.segments import EQUIVALENT_STEP
from ..board.series import TimingPolicy, take_series
from ..board.summary import CONTENDED
from ..board.timer import ElapsedTimer, LapTimer, WallTimer
from ..board.window import iterate, waiting
from ..board.work import Work, command_work
from . import AGENT_VERSION
from .board import Board
from .bundle import Bundle, Row, content_hash, new_uid, utc_now
from .latency import latency_row
from .power import Tools, idle_s, measure_power, reading_s, settle_power

if TYPE_CHECKING:
    from .works import Bench

Say = Callable[[str], None]
# Runs of one sitting share its warm caches, heat and luck.
SITTING = uuid.uuid4().hex
USUAL_FREQUENCIES = "8"


class Agent:
    """Measures a job, or a load that somebody named, on this board.

    Args:
        options: the parsed command line.
        job: dimensions and static cost of the task; None with a load command.
        say: told what happens, a line each.
    """

    def __init__(self, options: argparse.Namespace, job: Optional[Row], say: Say) -> None:
        self.options, self.job, self.say = options, job, say
        self.board = Board(options.root, options.state)
        self.bundle = Bundle(options.out)
        self.bench: Optional["Bench"] = None
        self.load: Optional[Work] = None
        self.overhead_bytes = None  # type: Optional[int]
        # Before torch is there: what it takes is part of every cut's memory.
        self.free_bytes = self.board.available_bytes()
        cuda = None
        timer = WallTimer()
        # A named load is not this process's own: all that is known of it is how long it took.
        lap_timer: LapTimer = ElapsedTimer(timer)
        if job is None:
            self.load = command_work(options.load_command)
            self.device, self.execution = "cpu", {"dtype": "external", "attention": "none", "threads": 1}
            self.execution.update(torch=None, accelerator=None)
        else:
            # Needs torch, which a board that measures named loads may not have.
            from .works import Bench, cuda_facts, framework_bytes, resolve

            self.device = _torch_device(options.device)
            self.execution = resolve(job, options.dtype, self.device, options.threads)
            if self.device == "cuda":
                cuda = cuda_facts()
            self.overhead_bytes = framework_bytes(self.device, self.free_bytes, self.board.available_bytes)
            self.bench = Bench(job, self.execution, self.device)
            lap_timer = _lap_timer(self.device, options.threads)
        self.tools = Tools(lap_timer, timer, ThreadSampler())
        self.idle_known = False
        # A named load may use the GPU, so it is the board's; a model on the CPU of a Jetson is measured as a
        # CPU.
        kind = "jetson" if self.board.tegra and (cuda is not None or job is None) else "cpu"
        self.record = self.board.device(kind, options.name, cuda)
        key = host_key(kind, self.board.root, self.board.state)
        if key.problem is not None:
            say("warning: the key is a %s; %s; %s" % (key.source, key.problem, key.remedy))
        self.offered_hz = self.board.frequencies() if kind == "jetson" else ()

    def run(self) -> None:
        """Measure every point that is not done yet."""
        run_uid, planned, done = self._begin()
        pending = [point for point in planned if point["index"] not in done]
        for number, point in enumerate(pending, start=1):
            hz = point["requested_hz"]
            where = "at the frequency as found" if hz is None else "%.0f MHz" % (hz / 1e6)
            self.say("point %d of %d: %s" % (number, len(pending), where))
            self._visit(run_uid, point)
        out = self.options.out
        self.say("%s holds %d point(s); merge it with: calibrate merge %s" % (out, len(planned), out))

    # the run's own rows -----------------------------------------------------------------------------------

    def _begin(self) -> Tuple[str, List[Row], List[int]]:
        task = None if self.job is None else content_hash(_identity(self.job["task"]))
        execution = content_hash(self.execution)
        if self.options.resume and os.path.exists(self.options.out):
            self.bundle.read()
            found = self.bundle.unfinished(self.record["key"], task, execution)
            if found is not None:
                self.say("going on with run %s" % found[0]["uid"][:8])
                return found[0]["uid"], found[0]["planned"], found[1]
        environment = {"versions": self._versions()}
        # What the agent does not know is no part of the description's identity.
        self.bundle.add("device", dict(self.record, uid=content_hash(self.record), power_limit_w=None, driver=None))
        self.bundle.add("environment", dict(environment, uid=content_hash(environment)))
        self.bundle.add("execution", dict(self.execution, uid=execution, quantization=None))
        if self.job is not None:
            document = {name: value for name, value in self.job["task"].items() if name != "model"}
            self.bundle.add("task", {"uid": task, "document": document})
        run = {
            "uid": new_uid(),
            "kind": "profile",
            "device_id": content_hash(self.record),
            "task_id": task,
            "execution_id": execution,
            "environment_id": content_hash(environment),
            "task_label": None if self.job is None else self.job["task"]["model"],
            "workload": self.options.load_command,
            "analysis": None if self.job is None else self._analysis(),
            "planned": self._plan(),
            "offered_hz": list(self.offered_hz),
            "expected_notes": None,
            "for_plan": None,
            "memory_budget_bytes": self.free_bytes,
            "sitting": SITTING,
            "options": {"agent": AGENT_VERSION, "repeats": self.options.repeats, "readonly": self.options.readonly},
            "provenance": {"origins": ["measured"], "how": "direct"},
            "started_at": utc_now(),
        }
        self.bundle.add("run", run)
        return run["uid"], run["planned"], []

    def _analysis(self) -> Row:
        assert self.job is not None
        key = "%s/%s" % (self.execution["dtype"], self.execution["attention"])
        if key not in self.job["analyses"]:
            raise BoardError("the job has no analysis for %s" % key, remedy="pack it again with --dtype")
        analysis: Row = self.job["analyses"][key]
        # The job was packed without the framework's memory, which only this board can tell.
        for cut in analysis["cuts"]:
            for side in ("device_memory_bytes", "server_memory_bytes"):
                known = self.overhead_bytes is not None and cut[side] is not None
                cut[side] = cut[side] + self.overhead_bytes if known else None
        return analysis

    def _versions(self) -> Dict[str, str]:
        versions = {"agent": str(AGENT_VERSION), "python": platform.python_version(), "system": platform.platform()}
        if self.job is not None:
            import torch

            versions["torch"] = torch.__version__
        release = self.board.l4t()
        if release is not None:
            versions["l4t"] = release
        return versions

    def _plan(self) -> List[Row]:
        if not self.offered_hz or self.options.readonly:
            return [{"index": 0, "requested_hz": None, "memory_hz": None, "anchor": False}]
        order_hz = _choose(self.offered_hz, self.options.frequencies)
        # In random order, so that heating does not look like a slope; in the same one each time.
        random.Random(0).shuffle(order_hz)
        visits: Tuple[Visit, ...] = with_anchor(order_hz)
        return [
            {"index": i, "requested_hz": visit.frequency_hz, "memory_hz": None, "anchor": visit.anchor}
            for i, visit in enumerate(visits)
        ]

    # one point --------------------------------------------------------------------------------------------

    def _visit(self, run_uid: str, planned: Row) -> None:
        point, started_at = new_uid(), utc_now()
        requested_hz = planned["requested_hz"]
        row = {"uid": point, "run_id": run_uid, "position": planned["index"], "anchor": planned["anchor"]}
        self.bundle.add("point", dict(row, requested_hz=requested_hz, memory_requested_hz=None))
        if self.board.rails and not self.idle_known:
            self._powers(point, "idle_power", waiting(self.tools.timer), idle_s(self.board))
            self.idle_known = True
        # What happened until now belongs to no point.
        self.board.watch.look()
        # The lock too: a signal between its writes must find the way back.
        try:
            if requested_hz is not None:
                self.board.lock(requested_hz)
            self._settle(requested_hz)
            contended = self._times(point)
            state = self._powered(point)
            # Looked at before the lock is given back: nvpmodel, started by another service, undoes one in
            # silence.
            undone = requested_hz is not None and not self.board.holds(requested_hz)
        finally:
            self._release()
        limits = self.board.watch.look()
        reasons = list(limits.reasons + limits.warnings)
        # Where nothing counts events, not throttled cannot be said either.
        throttled = bool(limits.reasons) if limits.known else None  # type: Optional[bool]
        if requested_hz is not None:
            found_hz = state["frequency_hz"]
            missed = undone or not on_request(found_hz, requested_hz)
            throttled = missed or bool(limits.reasons)
            if missed:
                reasons.append("ran at %s, not at %.0f MHz" % (_mhz(found_hz), requested_hz / 1e6))
        if contended:
            reasons.append("contended: " + ", ".join(contended))
        flags: Row = {"throttled": throttled, "contended": bool(contended), "reasons": reasons}
        cores = self.board.cores_active() if self.record["platform"] == "jetson" else self.record["cores"]
        flags.update(boot=host_boot(self.board.root), started_at=started_at, finished_at=utc_now())
        self.bundle.add("operating_point", dict(state, uid=new_uid(), point_id=point, cores_active=cores, **flags))
        # Only with the row that closes the point: what was cut short is measured again and not merged.
        self.bundle.write()

    def _release(self) -> None:
        """Put the limits back, also where a signal comes between the writes of doing so."""
        try:
            self.board.restore()
        except KeyboardInterrupt:
            self.board.restore()
            raise

    def _settle(self, requested_hz: Optional[float]) -> None:
        # By power; without a meter the warm-up of each timing has to do.
        if self.board.rails and self.options.window is None:
            settle_power(self.board, self.tools, self._step(), lambda: self._state()["frequency_hz"], requested_hz)

    def _times(self, point: str) -> List[str]:
        """Latency rows of every segment; the names of those that were contended."""
        contended = []
        works = [self._step()] if self.bench is None else self.bench.segments()
        reference = None if self.bench is None else self.bench.reference()
        policy = TimingPolicy(repeats=self.options.repeats)
        for work in works:
            self.say("  %s" % work.segment)
            series = take_series(work, self.tools.lap_timer, self.tools.timer, policy, reference)
            for lap, samples, queued_s in zip(work.laps, series.laps, series.queued):
                row = latency_row(samples, work.repeats, policy.repeats is not None, queued_s)
                if series.reference_s:
                    row["samples"]["reference_s"] = series.reference_s
                if CONTENDED in row["flags"]:
                    contended.append(work.segment)
                self.bundle.add_measurement(point, "latency", "s", segment=work.segment, phase=lap.phase, **row)
        return sorted(set(contended))

    def _powered(self, point: str) -> Row:
        """Power under the equivalent step and waiting, and the state read while it ran."""
        seen: List[Row] = []
        step = self._step()

        # Read between two steps: a moment of rest later the GPU may have been switched off.
        def look() -> None:
            seen.append(self._state())

        if self.board.rails:
            self._powers(point, "power", step, look=look)
            self._powers(point, "wait_power", waiting(self.tools.timer))
        else:
            iterate(step, self.tools.lap_timer, self.tools.timer, self.tools.timer.now(), look)
        state: Row = {name: mean_known([one[name] for one in seen]) for name in seen[0]}
        state["power_mode"] = self.board.power_mode()
        return state

    def _state(self) -> Dict[str, Optional[float]]:
        board = self.board
        on_gpu = self.record["platform"] == "jetson"
        return {
            "frequency_hz": board.gpu_hz() if on_gpu else board.cpu.asked_hz(),
            "memory_hz": board.memory_hz(),
            "cpu_hz": board.cpu.real_hz() if on_gpu else board.cpu.asked_hz(),
            "temperature_c": board.temperature_c(),
        }

    def _powers(
        self,
        point: str,
        quantity: str,
        work: Work,
        seconds: Optional[float] = None,
        look: Optional[Callable[[], None]] = None,
    ) -> None:
        length_s = self.options.window or seconds or reading_s(self.board)
        segment = None if quantity != "power" else EQUIVALENT_STEP if self.bench is not None else work.segment
        for row in measure_power(self.board, self.tools, work, length_s, look):
            self.bundle.add_measurement(point, quantity, "W", segment=segment, **row)

    def _step(self) -> Work:
        """What power is measured on: the equivalent step, or the load that somebody named."""
        if self.bench is not None:
            return self.bench.equivalent_step()
        assert self.load is not None
        return self.load


def _lap_timer(device: str, threads: int) -> LapTimer:
    if device != "cuda":
        return CpuLapTimer(threads)
    import torch

    return CudaLapTimer(torch, device)


def _torch_device(wanted: str) -> str:
    try:
        import torch
    except ImportError:
        raise BoardError("this Python has no torch", remedy="install the board's own, or measure a --load-command")
    has_cuda = bool(torch.cuda.is_available())
    if wanted == "cuda" and not has_cuda:
        raise BoardError("torch finds no CUDA device", remedy="use --device cpu, or install the board's own torch")
    return "cuda" if has_cuda and wanted != "cpu" else "cpu"


def _identity(task: Row) -> Row:
    return {name: value for name, value in task.items() if name != "model"}


def _choose(offered: Tuple[float, ...], wanted: str) -> List[float]:
    """all, max, or a number of frequencies."""
    if wanted == "all":
        return list(offered)
    if wanted == "max":
        return [offered[-1]]
    if not wanted.isdigit() or int(wanted) < 1:
        raise BoardError("--frequencies %s" % wanted, remedy="write all, max or a number of frequencies")
    if int(wanted) > len(offered) and wanted != USUAL_FREQUENCIES:
        counts = (wanted, len(offered))
        raise BoardError("--frequencies %s: this board offers %d" % counts, remedy="write --frequencies all")
    return list(spread(offered, int(wanted)))


def _mhz(value_hz: Optional[float]) -> str:
    return "an unreadable frequency" if value_hz is None else "%.0f MHz" % (value_hz / 1e6)


def doctor(board: Board) -> List[str]:
    """Lines that say what was found."""
    name, members = board.total()
    lines = [
        "board    %s" % (board.model() or "N/A"),
        "L4T      %s" % (board.l4t() or "N/A"),
        "GPU      %s, %d frequencies" % (board.gpu.folder if board.gpu else "no devfreq node", len(board.table_hz())),
        "setting  %s" % ("allowed" if board.frequency_writable() else "not by this user: run as root"),
        "rails    %s" % (", ".join(rail.name for rail in board.rails) or "no power monitor found"),
        "total    %s" % (name or "N/A"),
    ]
    if members:
        lines.append("window   %.1f s a power reading" % reading_s(board))
    try:
        import torch

        lines.append("torch    %s, CUDA %s" % (torch.__version__, torch.cuda.is_available()))
    except ImportError:
        lines.append("torch    N/A: only --load-command can be measured")
    return lines


def load_job(text: Optional[bytes]) -> Optional[Row]:
    """The job packed beside this code; None in a file packed without one."""
    if text is None:
        return None
    job = json.loads(text.decode("utf-8"))
    if job.get("agent") != AGENT_VERSION:
        versions = (job.get("agent"), AGENT_VERSION)
        raise BoardError("the job is of agent version %s, this is %d" % versions, remedy="pack it again")
    return dict(job)


def say(line: str) -> None:
    """Progress goes to standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

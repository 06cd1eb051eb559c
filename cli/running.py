"""What `card run --local` and `card run server` do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cardlab.cli.console import note
from cardlab.cli.expecting import expected_by_device
from cardlab.cli.local import LocalDevices, local_link
from cardlab.cli.run_table import print_run, progress_line
from cardlab.cli.running_device import PORT, open_real, require_zmq, server_keys
from cardlab.cli.settings import database
from cardlab.core.errors import UsageError
from cardlab.core.identity import new_uid
from cardlab.core.records.plan import Plan
from cardlab.core.records.task import Execution, Task
from cardlab.db import open_store
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.devices import HardwareDevice
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.execution import DTYPES, import_torch
from cardlab.split.batched import sharing_of
from cardlab.split.codec import codec_named
from cardlab.split.journal import FinishedTurn, Journal
from cardlab.split.keys import split_address
from cardlab.split.recording import begin_run, round_record
from cardlab.split.schedule import Schedule, check_plan
from cardlab.split.server import Patience, Server
from cardlab.split.server_transport import ServerTransport
from cardlab.split.settings import PRIVACY, RunSettings, check_cut
from cardlab.split.shaping import PLANNED, parse_link
from cardlab.split.weights import open_weights

DEFAULT_MODEL = "tiny-llama"
DEFAULT_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of `card run`; None was not given."""

    plan: str | None
    cut: int | None
    model: str | None
    rounds: int | None
    optimizer: str | None
    threads: int
    out: str
    batch: int | None
    sequence: int | None
    dtype: str
    lora_rank: int | None
    lora_alpha: float | None
    lora_targets: str | None
    local_epochs: int | None
    learning_rate: float
    wire_dtype: str | None
    seed: int
    parallel: bool
    resume: bool
    silence_s: float
    db: str | None
    as_json: bool
    devices: int | None
    codec: str | None = None
    error_feedback: bool = False
    server_sharing: str | None = None
    wait_s: float = 300.0
    data: str | None = None
    tokenizer: str | None = None
    link: str | None = None
    platform: str = "auto"
    name: str | None = None
    bind: str = f"127.0.0.1:{PORT}"
    key: str | None = None
    allow: tuple[str, ...] = ()


def run_server(options: RunOptions) -> None:
    """Listen, wait for the devices, make the rounds, keep everything."""
    _check(options)
    host, port = split_address(options.bind, PORT)
    pair, allowed = server_keys(host, options.key, options.allow)
    with _prepared(options) as prepared:
        transport = ServerTransport(host, port, pair, allowed)
        try:
            note(f"listening on {host}:{transport.port}; run {prepared.journal.progress.settings.run[:12]}")
            note(PRIVACY)
            if prepared.schedule.shares_band:
                note(f"planned shares of the band are not imposed (a device with --link {PLANNED} keeps to its own)")
            _serve(prepared, transport, options, options.devices or len(prepared.schedule.devices) or 1)
        finally:
            transport.close()


def run_local(options: RunOptions) -> None:
    """All roles on this machine: the server in this process, each device in one of its own."""
    _check(options)
    require_zmq()
    parse_link(options.link, planned=options.resume or options.plan is not None)
    with _prepared(options) as prepared:
        named = prepared.schedule.devices
        if named and options.devices not in (None, len(named)):
            raise UsageError(f"the plan names {len(named)} device(s)", remedy="leave --devices out")
        names = named or tuple(f"device-{n}" for n in range(1, (options.devices or 1) + 1))
        if not named:
            prepared.schedule.expect_same(names, prepared.platform.identity.name)
        link, said = local_link(prepared.schedule, options.link)
        options = replace(options, link=link)
        transport = ServerTransport("127.0.0.1", 0)
        words = _device_words(options, prepared.execution.dtype)
        for line in (PRIVACY, said) if said else (PRIVACY,):
            note(line)
        with LocalDevices(names, transport.port, words, Path(options.out), options.threads) as devices:
            try:
                _serve(prepared, transport, options, len(names), devices.check)
                devices.wait()
            finally:
                transport.close()


def _device_words(options: RunOptions, dtype: str) -> list[str]:
    given = {
        "--model": options.model,
        "--data": options.data,
        "--tokenizer": options.tokenizer,
        "--link": options.link,
        "--dtype": dtype,
        "--silence": str(options.silence_s),
        "--platform": options.platform,
    }
    return [word for key, value in given.items() if value is not None for word in (key, value)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Everything that is decided before the first device comes."""

    store: Store
    platform: HardwareDevice
    execution: Execution
    schedule: Schedule
    journal: Journal


@contextmanager
def _prepared(options: RunOptions) -> Iterator[_Prepared]:
    platform = open_real(options.platform, options.name)
    try:
        with open_store(database(options.db)) as store:
            if options.resume:
                journal = Journal.resume(Path(options.out))
                settings = journal.progress.settings
                plan = None if settings.plan is None else store.plans.get(settings.plan)
                execution = open_runtime(platform).resolve_execution(options.dtype, "sdpa", options.threads)
            else:
                plan = None if options.plan is None else store.plans.get(options.plan)
                task = _task(options, plan, store)
                _check_against(options, plan, task)
                import_torch().set_num_threads(options.threads)
                dtype = _dtype(options, plan, store, platform.identity.key)
                execution = open_runtime(platform).resolve_execution(dtype, "sdpa", options.threads)
                settings = _settings(options, plan, task, execution)
                journal = Journal.begin(Path(options.out), settings, utc_now())
            import_torch().set_num_threads(options.threads)
            expected = {} if plan is not None else expected_by_device(store, settings, platform.identity, options.link)
            schedule = Schedule(plan, settings.cut, expected)
            yield _Prepared(store=store, platform=platform, execution=execution, schedule=schedule, journal=journal)
    finally:
        platform.close()


def _dtype(options: RunOptions, plan: Plan | None, store: Store, key: str) -> str:
    """The compute dtype asked for; by default that of the profile of this machine which the plan rests on."""
    if options.dtype != "auto" or plan is None:
        return options.dtype
    profiles = [store.runs.get(uid).run for uid in plan.runs]
    return next((run.execution.dtype for run in profiles if run.device.key == key), "auto")


def _check(options: RunOptions) -> None:
    if options.resume:
        return
    if (options.plan is None) == (options.cut is None):
        raise UsageError("a run needs a cut", remedy="give --plan ID or --cut C, one of them")
    if options.wire_dtype is not None and options.wire_dtype not in DTYPES:
        raise UsageError(f"{options.wire_dtype!r} is no wire dtype", remedy=f"use one of: {', '.join(DTYPES)}")
    if options.codec is not None:
        codec_named(options.codec)
    if not 0.0 < options.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate is {options.learning_rate:g}", remedy="give a number above 0")


def _task(options: RunOptions, plan: Plan | None, store: Store) -> Task:
    """The task as asked, what was not said taken from the plan's."""
    base: Task | None = None
    if plan is not None and plan.runs:
        base = store.runs.get(plan.runs[0]).run.task
    targets = options.lora_targets
    asked = None if targets is None else tuple(t.strip() for t in targets.split(",") if t.strip())
    return resolve_task(
        options.model or (base.model if base else DEFAULT_MODEL),
        batch=options.batch or (base.batch if base else 1),
        sequence=options.sequence or (base.sequence if base else 512),
        lora_rank=options.lora_rank or (base.lora.rank if base else 8),
        lora_alpha=options.lora_alpha or (base.lora.alpha if base else 16.0),
        lora_targets=asked or (base.lora.targets if base and options.model is None else None),
        adapter_dtype=base.lora.dtype if base else "float32",
        gradient_checkpointing=base.gradient_checkpointing if base else False,
        optimizer=options.optimizer or (base.optimizer if base else "sgd"),
    )


def _check_against(options: RunOptions, plan: Plan | None, task: Task) -> None:
    if plan is not None:
        check_plan(plan, task, options.codec)
        if options.codec is not None and plan.rounds[0].devices[0].codec is not None:
            raise UsageError("the plan names the codecs itself", remedy="leave --codec out")
        if options.local_epochs is not None and plan.local_epochs not in (None, options.local_epochs):
            raise UsageError(
                f"the plan is for {plan.local_epochs} local epoch(s)", remedy="leave --local-epochs out, or plan again"
            )
    elif options.cut is not None:
        check_cut(task, options.cut)


def _settings(options: RunOptions, plan: Plan | None, task: Task, execution: Execution) -> RunSettings:
    named = [] if plan is None else [d.codec for d in plan.rounds[0].devices if d.codec not in (None, "none")]
    parallel = options.parallel or (plan is not None and plan.scheme == "sft")
    return RunSettings(
        run=new_uid(),
        task=task,
        rounds=options.rounds or (len(plan.rounds) if plan is not None and len(plan.rounds) > 1 else DEFAULT_ROUNDS),
        epochs=options.local_epochs or (plan.local_epochs if plan is not None and plan.local_epochs else 1),
        learning_rate=options.learning_rate,
        wire_dtype=options.wire_dtype or (plan.wire_dtype if plan is not None else None) or execution.dtype,
        codec=options.codec or (named[0] if named and named[0] else "none"),
        error_feedback=options.error_feedback,
        seed=options.seed,
        parallel=parallel,
        server_sharing=sharing_of(options.server_sharing, plan, parallel),
        plan=None if plan is None else plan.uid,
        cut=options.cut,
        weights=open_weights(task, options.seed).fingerprint,
    )


def _serve(
    prepared: _Prepared,
    transport: ServerTransport,
    options: RunOptions,
    devices: int,
    watch: Callable[[], None] = lambda: None,
) -> None:
    from cardlab.split.adapters import save_peft
    from cardlab.split.clocks import ServerClock
    from cardlab.split.halves import Half

    journal, platform, store = prepared.journal, prepared.platform, prepared.store
    settings = journal.progress.settings
    weights = open_weights(settings.task, settings.seed)
    half = Half(
        settings.task,
        prepared.execution,
        weights,
        "server",
        learning_rate=settings.learning_rate,
        torch_device=open_runtime(platform).torch_device or "cpu",
    )
    half.keeps_loaded = settings.parallel
    note(f"frozen weights: {weights.origin}")
    environment = gather_environment(platform)
    begin_run(store, journal, platform.identity, prepared.execution, environment, link=options.link)
    clock = ServerClock(platform)

    def finished(turn: FinishedTurn) -> None:
        store.rounds.add(round_record(settings, turn))
        note(progress_line(settings, journal, turn, devices))

    patience = Patience(join_s=options.wait_s, silence_s=options.silence_s)
    server = Server(
        transport,
        half,
        prepared.schedule,
        journal,
        clock,
        devices=devices,
        patience=patience,
        finished=finished,
        note=note,
        watch=watch,
    )
    adapters = server.run()
    folder = save_peft(adapters, settings.task, Path(options.out) / "adapters")
    if clock.refusal is not None:
        note(f"the server's clock was not locked: {clock.refusal}")
    print_run(settings, journal.progress.turns, folder, as_json=options.as_json)

"""What `profile-device` does: resolve the options, open the platform, run the session, show it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cardlab.cli.console import note, print_json, print_line, print_table
from cardlab.cli.live import make_observer
from cardlab.cli.settings import database, load_settings
from cardlab.cli.showing import print_profile
from cardlab.core.errors import NotSupportedError, UsageError
from cardlab.core.plain import to_plain
from cardlab.core.records.measurement import PlannedPoint
from cardlab.core.records.task import Execution
from cardlab.core.text import duration, si
from cardlab.db import open_store
from cardlab.profilers import runtime as engine
from cardlab.profilers.board.work import command_work
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.profilers.devices.guard import journals
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.estimate import estimate_seconds
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.session import Request, restore, run_session
from cardlab.profilers.measure.sweep import choose_frequencies, plan_points
from cardlab.profilers.measure.timing import TimingPolicy
from cardlab.profilers.runtime.workbench import Workload

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|min|h)?$")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
SWEEP_SEED = 20241130
# What an external command computes with is not known.
EXTERNAL = Execution(dtype="unknown", attention="unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileOptions:
    """The options of `profile-device` as they were typed."""

    model: str | None
    load_command: str | None
    batch: int
    sequence: int
    dtype: str
    attention: str
    threads: int
    lora_rank: int
    lora_alpha: float
    lora_targets: str | None
    adapter_dtype: str
    gradient_checkpointing: bool
    optimizer: str
    platform: str
    frequencies: str
    repeats: int | None
    budget: str | None
    name: str | None
    resume: bool
    dry_run: bool
    readonly: bool
    whole_step: bool
    compression: bool
    memory_budget_gib: float | None
    db: str | None
    as_json: bool


def run_profile(options: ProfileOptions) -> None:
    """Measure and show a profile."""
    budget_s = parse_duration(options.budget)
    _check_repeats(options.repeats)
    platform = open_platform(options.platform, label=options.name or load_settings().name)
    try:
        workload = _workload(options, platform)
        planned = _planned(options, platform)
        if options.dry_run:
            _show_dry_run(options, platform, planned, budget_s)
            return
        _warn_of_leftovers()
        with open_store(database(options.db)) as store:
            request = Request(
                workload=workload,
                planned=planned,
                policy=TimingPolicy(repeats=options.repeats, budget_s=budget_s),
                environment=gather_environment(platform),
                whole_step=options.whole_step,
                resume=options.resume,
                memory_budget_bytes=_memory_budget(options, platform),
                options={
                    "repeats": options.repeats,
                    "budget_s": budget_s,
                    "readonly": options.readonly,
                    "whole_step": options.whole_step,
                },
            )
            with make_observer(quiet=options.as_json) as observer:
                profile = run_session(store, platform, request, observer)
        if options.compression:
            _compression(workload, platform, options.db)
        print_profile(profile, options.as_json)
    finally:
        platform.close()


def _compression(workload: Workload, platform: HardwareDevice, db: str | None) -> None:
    from cardlab.cli.compressing import profile_compression

    if workload.task is None or workload.execution.dtype != "float32" or not platform.torch_device:
        raise UsageError(
            "codecs are measured on a model in float32 on a real device",
            remedy="name a --model and --dtype float32, or leave --compression out; the profile is stored",
        )
    uid = profile_compression(workload.task, workload.execution, platform, database(db))
    note(f"codecs: run {uid[:12]}")


def parse_duration(text: str | None) -> float | None:
    """Seconds of a text like 90s, 30m or 1.5h; None stays None. Raises UsageError."""
    if text is None:
        return None
    match = _DURATION.match(text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is not a length of time", remedy="write it like 90s, 30m or 2h")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def _memory_budget(options: ProfileOptions, platform: HardwareDevice) -> int | None:
    """What the device side of a cut may take: as asked, else what is really free."""
    if options.memory_budget_gib is None:
        return platform.memory_available_bytes()
    if not options.memory_budget_gib > 0:
        raise UsageError(f"--memory-budget-gib is {options.memory_budget_gib:g}", remedy="give a number above 0")
    return int(options.memory_budget_gib * 2**30)


def _check_repeats(repeats: int | None) -> None:
    if repeats is not None and repeats < 1:
        raise UsageError(f"--repeats is {repeats}", remedy="give 1 or more")


def _workload(options: ProfileOptions, platform: HardwareDevice) -> Workload:
    if options.load_command is not None:
        load = command_work(options.load_command)
        return Workload(execution=EXTERNAL, label=options.load_command, load=load)
    task = engine.resolve_task(
        str(options.model),
        batch=options.batch,
        sequence=options.sequence,
        lora_rank=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_targets=split_targets(options.lora_targets),
        adapter_dtype=options.adapter_dtype,
        gradient_checkpointing=options.gradient_checkpointing,
        optimizer=options.optimizer,
    )
    runtime = open_runtime(platform)
    execution = runtime.resolve_execution(options.dtype, options.attention, options.threads)
    overhead = None if options.dry_run else runtime.overhead_bytes(execution)
    given = {} if overhead is None else {"overhead_bytes": overhead}
    return Workload(execution=execution, task=task, analysis=engine.analyse(task, execution, **given))


def split_targets(text: str | None) -> tuple[str, ...] | None:
    """Module names of "q_proj,v_proj"; None keeps the family's own."""
    return None if text is None else tuple(t.strip() for t in text.split(",") if t.strip())


def _planned(options: ProfileOptions, platform: HardwareDevice) -> tuple[PlannedPoint, ...]:
    if options.readonly:
        return plan_points((), SWEEP_SEED)
    return plan_points(choose_frequencies(platform.frequencies(), options.frequencies), SWEEP_SEED)


def _warn_of_leftovers() -> None:
    for journal in journals():
        if journal.abandoned:
            note(f"warning: {journal.device_key} was left with a locked clock; run: profile-device restore")


def _show_dry_run(
    options: ProfileOptions, platform: HardwareDevice, planned: tuple[PlannedPoint, ...], budget_s: float | None
) -> None:
    seconds = estimate_seconds(platform, planned, budget_s)
    points = [{"requested_hz": p.requested_hz, "anchor": p.anchor} for p in planned]
    if options.as_json:
        print_json({"device": platform.identity.name, "points": points, "estimated_s": seconds})
        return
    print_line(f"{platform.identity.name}: {len(planned)} operating point(s), about {duration(seconds)}")
    for p in planned:
        print_line(
            f"  {'clock as found' if p.requested_hz is None else si(p.requested_hz, 'Hz')}"
            f"{' (anchor)' if p.anchor else ''}"
        )


def show_models(as_json: bool) -> None:
    """The bundled models with their dimensions."""
    found = {name: engine.load_architecture(name) for name in engine.bundled_models()}
    if as_json:
        print_json({"models": [{"model": n, "architecture": to_plain(a)} for n, a in found.items()]})
        return
    rows = [
        (
            name,
            a.family,
            str(a.layers),
            str(a.hidden_size),
            f"{a.heads}/{a.kv_heads}",
            str(a.intermediate_size),
            str(a.vocab_size),
            str(a.max_positions),
        )
        for name, a in found.items()
    ]
    columns = ("model", "family", "layers", "hidden", "heads/kv", "mlp", "vocabulary", "positions")
    print_table(None, columns, rows, left=2)


def restore_clocks(as_json: bool) -> None:
    """Release every clock that a dead process left locked."""
    released = []
    for journal in journals():
        if not journal.abandoned:
            continue
        platform = open_platform(journal.platform)
        if platform.identity.key != journal.device_key:
            raise NotSupportedError(
                f"the clock of {journal.device_key} was left locked, and {platform.identity.key} is here",
                remedy="run restore where that device is",
            )
        if restore(platform):
            released.append(journal.device_key)
        platform.close()
    if as_json:
        print_json({"restored": released})
    elif released:
        print_line(f"restored: {', '.join(released)}")
    else:
        print_line("no clock was left locked")

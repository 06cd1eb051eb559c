"""Measure a device: resolve the options, open it, run the session, store everything."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from cardlab.calibrate.best_frequency import begin_search, check_searchable, following
from cardlab.core import plausible
from cardlab.core.errors import DeviceBusyError, DeviceError, NotSupportedError, ProfileError, UsageError
from cardlab.core.records.measurement import PlannedPoint, Profile
from cardlab.core.records.presence import two_hosts
from cardlab.core.records.task import Execution
from cardlab.db.store import Store
from cardlab.db.store.meters import behind_sensors
from cardlab.db.times import utc_now
from cardlab.profilers import runtime as engine
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.board.work import command_work
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.profilers.devices.errors import said_as
from cardlab.profilers.devices.guard import journals
from cardlab.profilers.measure.deadline import BudgetSpent, Deadline
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.estimate import (
    LEAST_TIMING_S,
    estimate_seconds,
    idle_s,
    least_point_s,
    powers_s,
    rehearsal_seconds,
    timing_seconds,
    whole_step_seconds,
)
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.measure.session import Observer, Request, new_run, restore, run_session
from cardlab.profilers.measure.sweep import (
    choose_frequencies,
    choose_memory_frequencies,
    plan_memory_points,
    plan_points,
)
from cardlab.profilers.runtime.quantization import choose_quantization
from cardlab.profilers.runtime.workbench import Workload
from cardlab.workflows.best_for_plan import plan_words
from cardlab.workflows.connect import Say, silent
from cardlab.workflows.for_plan import PlanAsked, part_of, plan_search, read_plan
from cardlab.workflows.labels import keep_label
from cardlab.workflows.observers import SilentObserver
from cardlab.workflows.opening import Opening, opened
from cardlab.workflows.options.profile import ProfileOptions
from cardlab.workflows.rehearsal import rehearse
from cardlab.workflows.search import left_out, search_words, searched, searches
from cardlab.workflows.settings import load_settings
from cardlab.workflows.sittings import check_sittings, further_sittings
from cardlab.workflows.targets import split_pattern, split_targets

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(s|m|min|h)?$")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
# Any fixed number: devices with equal tables are visited in the same order, so that their sweeps can be
# compared.
SWEEP_SEED = 20241130
_LEFT_TO_THE_GOVERNOR = (
    "measured with the frequency left to the governor: plans show it beside theirs, and where frequencies were held too"
    " neither fits nor plans are made from it"
)
# What an external command computes with is not known.
EXTERNAL = Execution(dtype="unknown", attention="unknown")


def profile(
    store: Store | Opening, options: ProfileOptions, progress: Observer | None = None, say: Say = silent
) -> Profile:
    """Measure what the options name and return it as stored; each finished point is on disk whatever happens next.

    Powers are those behind a sensor that was calibrated (`calibrate meter`); they are stored as they were read.

    Args:
        store: where it is kept, or what opens it once the options are known to make sense.
        progress: is told of points, samples and measurements.
        say: is told in words what else must be known.

    Raises:
        UsageError: options that name nothing, contradict each other, or have no effect.
        DeviceError, ProfileError: the device or the model cannot be measured.
    """
    check_options(options)
    if options.dry_run:
        raise UsageError("dry_run measures nothing", remedy="call cardlab.dry_run(options), or leave it out")
    budget_s = parse_duration(options.budget)
    with _opened(options) as platform:
        # From here on everything counts: loading, measuring, waiting, codecs.
        deadline = Deadline.after(platform.timer, budget_s)
        asked = None if options.for_plan is None else read_plan(options.for_plan)
        # What others must have measured is there before anything is measured here.
        kept = None if asked is None else opened(store)
        if kept is not None:
            keep_label(kept, platform, options.name)
        # Before the workload, which takes seconds to load and to measure.
        planned = _planned(options, platform, asked)
        _check_budget(platform, options.budget, budget_s)
        workload = _workload(options, platform)
        if options.compression:
            _check_codecs(workload, platform)
        if options.resume and _taken_over(platform):
            say("the frequency that the process which died had left locked was put back")
        _check_unheld(platform, planned)
        for line in abandoned_locks():
            say(f"warning: {line}")
        if platform.identity_problem is not None:
            say(f"warning: {platform.identity_problem}")
        # Only now, so that options or a device that cannot be used leave no empty database behind.
        if kept is None:
            kept = opened(store)
            keep_label(kept, platform, options.name)
        request = Request(
            workload=workload,
            planned=planned,
            policy=TimingPolicy(repeats=options.repeats),
            environment=gather_environment(platform),
            whole_step=options.whole_step,
            resume=options.resume,
            deadline=deadline,
            following=following if searches(options) else None,
            for_plan=None if asked is None else asked.identity,
            power_per_segment=options.power_per_segment,
            memory_budget_bytes=_memory_budget(options, platform),
            options={
                "repeats": options.repeats,
                "budget_s": budget_s,
                "readonly": options.readonly,
                "whole_step": options.whole_step,
            },
        )
        search = None
        if asked is not None:
            search = plan_search(kept, asked, new_run(platform, request), metered=platform.meter is not None)
            request = replace(
                request, following=partial(following, judge=search.judge, allowed_hz=search.part.allowed_hz)
            )
        began_at = utc_now()
        measured = run_session(kept, platform, request, progress or SilentObserver())
        if options.resume and measured.run.started_at >= began_at:
            say("nothing unfinished of this kind to go on with: --resume measured anew")
        for found in two_hosts(kept.runs.presences()):
            if found.device_key == platform.identity.key:
                say(f"warning: {found}")
        if not measured.complete:
            say(_unreached(measured, options.budget))
        if options.readonly and platform.frequencies():
            say(_LEFT_TO_THE_GOVERNOR)
        if search is not None:
            left_s = _left_out_s(options, platform, workload, measured, search.part.allowed_hz)
            for line in plan_words(search, behind_sensors(kept.runs, measured), left_s):
                say(line)
        elif searches(options):
            best = searched(behind_sensors(kept.runs, measured))
            say(search_words(best, _left_out_s(options, platform, workload, measured)))
        if options.rehearsal and measured.complete:
            uid = rehearse(kept, measured, platform, say, deadline)
            if uid is not None:
                say(f"rehearsal: run {uid[:12]}")
        if options.compression:
            uid = _codecs(kept, workload, platform, say, deadline)
            say(f"codecs: run {uid[:12]}" if uid else f"codecs: not reached within the budget of {options.budget}")
    further_sittings(kept, options, say)
    return behind_sensors(kept.runs, measured)


def _check_unheld(platform: HardwareDevice, planned: Iterable[PlannedPoint]) -> None:
    """Raise DeviceError where the frequency as found would be one that a process of ours holds, or left held.

    It is kept as what the governor does, which such a frequency is not.
    """
    if all(point.requested_hz is not None for point in planned):
        return
    for journal in journals():
        if journal.device_key != platform.identity.key:
            continue
        if not journal.abandoned:
            raise DeviceBusyError("another process holds this device's frequencies", remedy="wait for it to finish")
        raise DeviceError(
            "a process that died left this device's frequency locked", remedy="release it with: profile-device restore"
        )


def _taken_over(platform: HardwareDevice) -> bool:
    """Whether this device's own journal was left by a process that died, and what it locked is put back now.

    Whoever resumes goes on for that process: asking for `restore` first would only cost another command.
    """
    left = any(journal.abandoned and journal.device_key == platform.identity.key for journal in journals())
    return left and platform.guard is not None and restore(platform)


def _unreached(measured: Profile, budget: str | None) -> str:
    done = {point.index for point in measured.points if point.done}
    count = len(measured.run.planned)
    return (
        f"warning: the budget of {budget} ended with {len(done)} of {count} operating point(s) done:"
        " the run is not complete; go on with: profile-device --resume"
    )


def _check_budget(platform: HardwareDevice, given: str | None, budget_s: float | None) -> None:
    """Raise UsageError for a budget that holds no point at all."""
    least_s = idle_s(platform) + least_point_s(platform)
    if budget_s is not None and budget_s < least_s:
        raise UsageError(
            f"--budget {given} bounds the whole command, and one operating point of {platform.identity.name} takes"
            f" {math.ceil(least_s)} s at least",
            remedy=f"give --budget {math.ceil(least_s)}s or more, or leave it out",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a profile would visit, and about how long it would take in the device's time, s.

    `reached` is how many of the points the budget is expected to hold; `searches`: more points follow, which ones only
    measuring tells.
    """

    device: str
    planned: tuple[PlannedPoint, ...]
    estimated_s: float
    reached: int
    virtual: bool = False
    searches: bool = False


def dry_run(options: ProfileOptions) -> DryRun:
    """What `profile` would do with these options; nothing is measured."""
    check_options(options)
    budget_s = parse_duration(options.budget)
    with _opened(options) as platform:
        # The workload is resolved too: a wrong one is named before anybody waits for it.
        workload = _workload(options, platform)
        planned = _planned(options, platform, None if options.for_plan is None else read_plan(options.for_plan))
        _check_budget(platform, options.budget, budget_s)
        timing_s, step_s = timing_seconds(platform, workload, TimingPolicy(repeats=options.repeats))
        seconds, reached = estimate_seconds(platform, planned, timing_s, step_s), len(planned)
        if options.power_per_segment and workload.analysis is not None:
            seconds += len(planned) * len(workload.analysis.segments) * powers_s(platform)
        if options.whole_step and workload.task is not None and platform.torch_device is not None:
            seconds += whole_step_seconds(step_s)
        if options.rehearsal and workload.task is not None and platform.torch_device is not None:
            seconds += rehearsal_seconds(step_s)
        seconds *= options.sittings
        if budget_s is not None and seconds > budget_s:
            # Timings give way down to a handful of samples, settling and windows of power do not.
            least_s = estimate_seconds(platform, planned[:1], LEAST_TIMING_S, step_s) - idle_s(platform)
            reached = min(len(planned), int((budget_s - idle_s(platform)) // least_s))
            seconds = budget_s
        return DryRun(
            device=platform.identity.name,
            planned=planned,
            estimated_s=seconds,
            reached=reached,
            virtual=platform.identity.platform == "simulated",
            searches=searches(options),
        )


@contextmanager
def _opened(options: ProfileOptions) -> Iterator[HardwareDevice]:
    platform = open_platform(options.platform, label=options.name or load_settings().name)
    try:
        yield platform
    finally:
        platform.close()


def check_options(options: ProfileOptions) -> None:
    """Raise UsageError for options that contradict each other or have no effect on what is measured."""
    if (options.model is None) == (options.load_command is None):
        problem = "nothing to measure" if options.model is None else "a model and a load at once"
        raise UsageError(problem, remedy="name one: --model llama-3.2-1b, or --load-command CMD")
    _check_repeats(options.repeats)
    check_sittings(options)
    if options.repeats is not None and options.budget is not None:
        raise UsageError(
            "--repeats takes so many samples however long that is, and --budget bounds the time",
            remedy="leave one of them out",
        )
    if options.load_command is not None:
        of_task = [name for name in _OF_TASK if getattr(options, name) != getattr(ProfileOptions(), name)]
        if of_task:
            flag = _OF_TASK[of_task[0]]
            raise UsageError(f"{flag} has no effect on a load", remedy=f"leave {flag} out, or name a --model")
    simulated = options.platform is not None and options.platform.partition(":")[0] == "simulated"
    if simulated and options.threads != ProfileOptions().threads:
        raise UsageError("--threads has no effect on a simulated device", remedy="leave --threads out")
    if simulated and not options.rehearsal:
        raise UsageError("--no-rehearsal has no effect on a simulated device", remedy="leave --no-rehearsal out")
    if options.dry_run and options.resume:
        raise UsageError("--dry-run says what a new run would measure", remedy="leave --resume out, or --dry-run")
    if options.readonly and options.memory_frequencies is not None:
        raise UsageError(
            "--readonly measures at the frequencies as found, and --memory-frequencies names others",
            remedy="leave one of them out",
        )
    if searches(options) and options.memory_frequencies is not None:
        raise UsageError(
            "--frequencies best looks for one frequency, and --memory-frequencies sweeps another one too",
            remedy="leave --memory-frequencies out, or name --frequencies",
        )
    if options.for_plan is not None:
        _check_for_plan(options)
    # Only a value that differs from the default was certainly asked for.
    if options.readonly and options.frequencies != ProfileOptions().frequencies:
        raise UsageError(
            "--readonly measures at the frequency as found, and --frequencies names others",
            remedy="leave one of them out",
        )


def _check_for_plan(options: ProfileOptions) -> None:
    if not searches(options):
        raise UsageError(
            "--for-plan says what --frequencies best looks for",
            remedy="add --frequencies best, or leave --for-plan out",
        )
    if options.load_command is not None:
        raise UsageError("--for-plan measures for a plan of a model", remedy="name a --model, or leave --for-plan out")


# A load has no task, so these would be dropped in silence; the flag is named in the refusal.
_OF_TASK = {
    "batch": "--batch",
    "sequence": "--seq",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "attention": "--attention",
    "threads": "--threads",
    "lora_rank": "--lora-rank",
    "lora_alpha": "--lora-alpha",
    "lora_targets": "--lora-targets",
    "adapter_dtype": "--adapter-dtype",
    "lora_rank_pattern": "--lora-rank-pattern",
    "lora_dropout": "--lora-dropout",
    "rslora": "--rslora",
    "dora": "--dora",
    "gradient_checkpointing": "--checkpointing",
    "optimizer": "--optimizer",
    "compression": "--compression",
    "power_per_segment": "--power-per-segment",
    "whole_step": "--no-whole-step",
    "rehearsal": "--no-rehearsal",
    "memory_budget_gib": "--memory-budget-gib",
}


def _check_codecs(workload: Workload, platform: HardwareDevice) -> None:
    """Raise UsageError where codecs cannot be measured, before anybody waits for the profile."""
    # Rates are stated against float32, and a simulated device has no tensors to encode.
    if workload.task is None or workload.execution.dtype != "float32" or not platform.torch_device:
        raise UsageError(
            "codecs are measured on a model in float32 on a real device",
            remedy="name a --model and --dtype float32, or leave --compression out",
        )


def _codecs(store: Store, workload: Workload, platform: HardwareDevice, say: Say, deadline: Deadline) -> str | None:
    """Id of the run of codecs; None where the budget was spent before it."""
    from cardlab.workflows.codecs import profile_codecs

    assert workload.task is not None
    try:
        deadline.hold(0.0)
        return profile_codecs(store, workload.task, workload.execution, platform, say, deadline)
    except BudgetSpent:
        return None


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
    size = options.memory_budget_gib * 2.0**30
    if size > plausible.MEMORY.most:
        given = options.memory_budget_gib
        said = f": {given:g} bytes are {given / 2**30:g}" if plausible.MEMORY.holds(given) else ""
        raise UsageError(f"--memory-budget-gib {given:g} is more than any device has", remedy=f"give it in GiB{said}")
    return int(size)


def _check_repeats(repeats: int | None) -> None:
    if repeats is not None and repeats < 1:
        raise UsageError(f"--repeats is {repeats}", remedy="give 1 or more")


def _workload(options: ProfileOptions, platform: HardwareDevice) -> Workload:
    if options.load_command is not None:
        with said_as(ProfileError):
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
        lora_rank_pattern=split_pattern(options.lora_rank_pattern),
        lora_dropout=options.lora_dropout,
        rslora=options.rslora,
        dora=options.dora,
        gradient_checkpointing=options.gradient_checkpointing,
        optimizer=options.optimizer,
        quantised=True,
    )
    quantization = choose_quantization(task, options.quantization)
    runtime = open_runtime(platform)
    execution = runtime.resolve_execution(options.dtype, options.attention, options.threads, quantization)
    # Measuring it starts a process that loads torch: a dry run takes the usual value.
    overhead = None if options.dry_run else runtime.overhead_bytes(execution)
    given = {} if overhead is None else {"overhead_bytes": overhead}
    return Workload(execution=execution, task=task, analysis=engine.analyse(task, execution, **given))


def _left_out_s(
    options: ProfileOptions,
    platform: HardwareDevice,
    workload: Workload,
    measured: Profile,
    allowed_hz: tuple[float, ...] | None = None,
) -> float | None:
    """Time in the device's that the frequencies left out would have taken; None for a load, whose length varies."""
    timing_s, step_s = timing_seconds(platform, workload, TimingPolicy(repeats=options.repeats))
    if timing_s is None:
        return None
    return estimate_seconds(platform, left_out(measured, allowed_hz), timing_s, step_s) - idle_s(platform)


def _planned(options: ProfileOptions, platform: HardwareDevice, asked: PlanAsked | None) -> tuple[PlannedPoint, ...]:
    if options.power_per_segment and platform.meter is None:
        raise UsageError(
            f"--power-per-segment has no effect: {platform.identity.name} has no power meter",
            remedy="leave it out, or see what is lacking: profile-device doctor",
        )
    if options.readonly:
        return plan_points((), SWEEP_SEED)
    if asked is not None:
        part = part_of(asked, platform.identity, platform.frequencies(), metered=platform.meter is not None)
        return begin_search(part.allowed_hz)
    if searches(options):
        check_searchable(platform.frequencies(), platform.meter is not None, platform.identity.name)
        return begin_search(platform.frequencies())
    memory = choose_memory_frequencies(platform.memory_frequencies(), options.memory_frequencies)
    if not memory:
        return plan_points(choose_frequencies(platform.frequencies(), options.frequencies), SWEEP_SEED)
    offered = {hz: platform.frequencies_at(hz) for hz in memory}
    if not all(offered.values()):
        raise UsageError(
            "a memory frequency is held together with a compute frequency, and none can be held here",
            remedy="leave --memory-frequencies out",
        )
    return plan_memory_points(
        {hz: choose_frequencies(found, options.frequencies) for hz, found in offered.items()}, SWEEP_SEED
    )


def abandoned_locks() -> tuple[str, ...]:
    """Frequencies that dead processes left locked, in words with the remedy."""
    return tuple(
        f"{journal.device_key} was left with a locked frequency; run: profile-device restore"
        for journal in journals()
        if journal.abandoned
    )


def restore_frequencies() -> tuple[str, ...]:
    """Release every frequency that a dead process left locked; keys of the devices that were released."""
    released = []
    for journal in journals():
        if not journal.abandoned:
            continue
        platform = open_platform(journal.platform)
        try:
            # The state folder may be shared, as a home on the network is: that other device's old values are
            # not for this one.
            if platform.identity.key != journal.device_key:
                raise NotSupportedError(
                    f"the frequency of {journal.device_key} was left locked, and {platform.identity.key} is here",
                    remedy="run restore where that device is",
                )
            if restore(platform):
                released.append(journal.device_key)
        finally:
            platform.close()
    return tuple(released)

"""A split run: the server's role, or every role on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cardlab.core.errors import RunError, UsageError
from cardlab.core.identity import new_uid
from cardlab.core.options import given
from cardlab.core.records.plan import Plan
from cardlab.core.records.task import Execution, Task
from cardlab.core.tables import Cell, Tabular
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.devices import HardwareDevice
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.configs import dropout_note, load_architecture, load_computing
from cardlab.profilers.runtime.execution import DTYPES, import_torch
from cardlab.profilers.runtime.families import attention_of
from cardlab.profilers.runtime.quantization import AUTO, NONE, choose_quantization
from cardlab.split.batched import sharing_of
from cardlab.split.codecs.registry import codec_named
from cardlab.split.journal import FinishedTurn, Journal, locked
from cardlab.split.keys import split_address
from cardlab.split.peft_files import described_peft, load_peft, read_lora
from cardlab.split.rates import SCHEDULES, rate_of, rate_words
from cardlab.split.recording import begin_run, round_record
from cardlab.split.schedule import Schedule, check_plan
from cardlab.split.server import Patience, RunCallbacks, Server, ServerParts
from cardlab.split.server_transport import ServerTransport
from cardlab.split.settings import PRIVACY, RunSettings, check_computing, check_cut
from cardlab.split.shaping import PLANNED, parse_link
from cardlab.split.tokenizer import TextTokenizer, open_tokenizer
from cardlab.split.weights import open_weights
from cardlab.workflows.connect import PORT, Say, require_zmq, server_keys, silent
from cardlab.workflows.expectation import Expected, Serving, expected_by_device
from cardlab.workflows.labels import keep_label
from cardlab.workflows.local_devices import LocalDevices, local_link
from cardlab.workflows.options.run import RunOptions, ServerOptions, TrainingOptions
from cardlab.workflows.run_device import open_real
from cardlab.workflows.targets import lora_of, split_pattern, split_targets
from cardlab.workflows.training_data import choice_of, data_words, read_data

DEFAULT_MODEL = "tiny-llama"
# The first round pays for caches and first allocations; a median needs some beside it.
DEFAULT_ROUNDS = 3
DEFAULT_RATE = TrainingOptions().learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun(Tabular):
    """A split run that came to its end.

    Attributes:
        settings: as all parties agreed on them.
        turns: finished rounds of devices, in order.
        adapters: folder of the trained adapters for PEFT.
    """

    settings: RunSettings
    turns: tuple[FinishedTurn, ...]
    adapters: Path

    @property
    def run_id(self) -> str:
        """Identity of the run in the store."""
        return self.settings.run

    def rows(self) -> list[dict[str, Cell]]:
        """A row a round and device: loss, delay and its terms (s), frequency (Hz) and energy (J) of the server."""
        return [
            {
                "round": turn.round,
                "device": turn.device,
                "cut": turn.cut,
                "loss": turn.loss,
                "delay_s": turn.delay_s,
                **{f"{term}_s": seconds for term, seconds in turn.terms.items()},
                "waiting_s": turn.waiting_s,
                "frequency_hz": turn.frequency_hz,
                "server_energy_j": turn.energy_j,
            }
            for turn in self.turns
        ]


# Told of each finished turn, beside the settings, the journal and the number of devices.
Finished = Callable[[RunSettings, Journal, FinishedTurn, int], None]


def _unheard(_settings: RunSettings, _journal: Journal, _turn: FinishedTurn, _devices: int) -> None:
    return None


def run_server(
    store: Store, options: ServerOptions, progress: Say = silent, finished: Finished = _unheard
) -> FinishedRun:
    """Listen, wait for the devices, make the rounds, keep everything.

    Raises UsageError for options that contradict each other, RunError where the run cannot go on; finished rounds are
    kept for `resume`.
    """
    _check(options)
    host, port = split_address(options.bind, PORT)
    pair, allowed = server_keys(host, options.key, options.allow)
    with _prepared(store, options, options.platform, options.name, None) as prepared:
        transport = ServerTransport(host, port, pair, allowed)
        try:
            progress(f"listening on {host}:{transport.port}; run {prepared.journal.progress.settings.run[:12]}")
            progress(PRIVACY)
            for line in prepared.notes:
                progress(line)
            if prepared.schedule.shares_band:
                progress(
                    f"planned shares of the band are not imposed (a device with --link {PLANNED} keeps to its own)"
                )
            devices = options.devices or len(prepared.schedule.devices) or 1
            serving = _Serving(options=options, devices=devices, wait_s=options.wait_s, link=None)
            return _serve(prepared, transport, serving, progress, finished)
        finally:
            transport.close()


def run(store: Store, options: RunOptions, progress: Say = silent, finished: Finished = _unheard) -> FinishedRun:
    """All roles on this machine: the server in this process, each device in one of its own.

    Raises UsageError for options that contradict each other, RunError where the run cannot go on; finished rounds are
    kept for `resume`.
    """
    if not options.local:
        raise UsageError(
            "a run needs a role", remedy="use --local, or: card run server, card run device --server HOST:PORT"
        )
    _check(options)
    require_zmq()
    # Asked only for its refusal: a link that is none is named before anything is prepared.
    parse_link(options.link, planned=options.resume or options.plan is not None)
    with _prepared(store, options, "auto", None, options.link) as prepared:
        named = prepared.schedule.devices
        # Each device of a plan has its own cut and shard: with another number the plan is another one.
        if named and options.devices not in (None, len(named)):
            raise UsageError(f"the plan names {len(named)} device(s)", remedy="leave --devices out")
        names = _names(options, named)
        files = _files(options)
        link, said = local_link(prepared.schedule, options.link)
        options = replace(options, link=link)
        # Port 0 lets the system choose a free one, so that two local runs do not meet.
        transport = ServerTransport("127.0.0.1", 0)
        words = _device_words(options, prepared.execution)
        own = [["--data", files[n]] if len(files) > 1 else _sharded(files, n, len(names)) for n in range(len(names))]
        # Devices of this machine write to logs: what they train on is said here.
        for line in (PRIVACY, *((said,) if said else ()), *prepared.data_notes, *prepared.notes):
            progress(line)
        with LocalDevices(names, transport.port, words, own, Path(options.out), options.threads) as devices:
            try:
                # Devices load torch and the model side by side on the same cores, which may take minutes.
                serving = _Serving(
                    options=options, devices=len(names), wait_s=300.0, link=options.link, watch=devices.check
                )
                done = _serve(prepared, transport, serving, progress, finished)
                # Leaving the block ends them by a signal; they are let come to their own end first.
                devices.wait()
                return done
            finally:
                transport.close()


def _files(options: RunOptions) -> tuple[str, ...]:
    """The files that were named; () for the bundled text."""
    data = options.data
    return () if data is None else (data,) if isinstance(data, str) else data


def _devices(options: TrainingOptions) -> int:
    """How many devices a run without a plan has: as asked, else one for each file."""
    files = _files(options) if isinstance(options, RunOptions) else ()
    return options.devices or max(1, len(files))


def _names(options: RunOptions, planned: tuple[str, ...]) -> tuple[str, ...]:
    """Labels of the devices of a local run. Raises UsageError for files that are not one for each of a plan's."""
    count = len(_files(options))
    if planned and count > 1 and count != len(planned):
        raise UsageError(
            f"the plan names {len(planned)} device(s) and --data {count} files",
            remedy="give one file for all, or one for each device",
        )
    return planned or tuple(f"device-{n}" for n in range(1, _devices(options) + 1))


def _sharded(files: tuple[str, ...], place: int, count: int) -> list[str]:
    """Options of a device that takes its share of the one file."""
    return [*(("--data", files[0]) if files else ()), "--shard", f"{place + 1}/{count}"]


def _data_notes(options: RunOptions, settings: RunSettings, names: tuple[str, ...]) -> tuple[str, ...]:
    """What the devices train on, before any of them is started; errors as `read_data` and `prepare_data`."""
    files, choice = _files(options), choice_of(options)
    tokenizer = open_tokenizer(settings.task.model, options.tokenizer)
    if len(files) < 2:
        samples = read_data(files[0] if files else None, choice, tokenizer)
        shards = {name: (place, len(names)) for place, name in enumerate(names)}
        return data_words(samples, choice, tokenizer, settings, shards)
    return tuple(
        f"{name}: {line.removeprefix(f'{name}: ')}"
        for name, path in zip(names, files, strict=True)
        for line in data_words(read_data(path, choice, tokenizer), choice, tokenizer, settings, {name: (0, 1)})
    )


def _device_words(options: RunOptions, execution: Execution) -> list[str]:
    given = {
        "--model": options.model,
        "--tokenizer": options.tokenizer,
        "--chat-template": options.chat_template,
        "--train-on": options.train_on,
        "--link": options.link,
        "--dtype": execution.dtype,
        "--quantization": execution.quantization or NONE,
        "--silence": str(options.silence_s),
        "--platform": "auto",
    }
    words = [word for key, value in given.items() if value is not None for word in (key, value)]
    return [*words, "--packing"] if options.packing else words


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Everything that is decided before the first device comes."""

    store: Store
    platform: HardwareDevice
    execution: Execution
    schedule: Schedule
    journal: Journal
    notes: tuple[str, ...]
    expected_notes: tuple[str, ...]
    data_notes: tuple[str, ...]


@contextmanager
def _prepared(
    store: Store, options: TrainingOptions, where: str, label: str | None, link: str | None
) -> Iterator[_Prepared]:
    platform = open_real(where, label)
    held = ExitStack()
    try:
        keep_label(store, platform, label)
        if options.resume:
            journal = Journal.resume(Path(options.out))
            held.enter_context(locked(Path(options.out)))
            settings = journal.progress.settings
            _check_unchanged(options, settings)
            plan = None if settings.plan is None else store.plans.get(settings.plan)
            data_notes = _check_data(options, settings, plan)
            dtype = settings.dtype if options.dtype == "auto" and settings.dtype else options.dtype
            asked = (settings.quantization or NONE) if options.quantization == AUTO else options.quantization
            execution = open_runtime(platform).resolve_execution(
                dtype,
                attention_of(settings.task.architecture),
                options.threads,
                choose_quantization(settings.task, asked),
            )
        else:
            plan = None if options.plan is None else store.plans.get(options.plan)
            task = _task(options, plan, store)
            _check_against(options, plan, task)
            import_torch().set_num_threads(options.threads)
            profiled = _profiled(plan, store, platform.identity.key)
            dtype = profiled.dtype if options.dtype == "auto" and profiled is not None else options.dtype
            otherwise = None if profiled is None else profiled.quantization
            execution = open_runtime(platform).resolve_execution(
                dtype,
                attention_of(task.architecture),
                options.threads,
                choose_quantization(task, options.quantization, otherwise),
            )
            begun = None if options.adapters is None else load_peft(Path(options.adapters), task)
            settings = _settings(options, plan, task, execution)
            _check_warmup(settings)
            if options.adapters is not None:
                settings = replace(settings, adapters=described_peft(Path(options.adapters)))
            data_notes = _check_data(options, settings, plan)
            Journal.check_vacant(Path(options.out))
            # Only now: what cannot be run leaves no folder behind.
            held.enter_context(locked(Path(options.out)))
            journal = Journal.begin(Path(options.out), settings, utc_now())
            if begun is not None:
                # Kept at once: a run that is resumed before its first round goes on from them too.
                journal.commit(begun)
        import_torch().set_num_threads(options.threads)
        # A plan brings its own predictions.
        expected = Expected(predictions={}, notes=())
        if plan is None:
            party = Serving(platform.identity, execution)
            expected = expected_by_device(store, settings, party, link)
        yield _Prepared(
            store=store,
            platform=platform,
            execution=execution,
            schedule=Schedule(plan, settings.cut, expected.predictions, settings.codec),
            journal=journal,
            notes=(*expected.notes, *_training_notes(settings)),
            expected_notes=expected.notes,
            data_notes=data_notes,
        )
    finally:
        held.close()
        platform.close()


def _tokenizer(options: TrainingOptions, model: str) -> TextTokenizer | None:
    """The tokenizer of the run; None where the server has none of its own and takes that of the first device."""
    given = options.tokenizer if isinstance(options, (RunOptions, ServerOptions)) else None
    found = open_tokenizer(model, given)
    # A server without text knows nothing of its devices' tokens.
    return found if given is not None or found.tool is not None or isinstance(options, RunOptions) else None


def _check_data(options: TrainingOptions, settings: RunSettings, plan: Plan | None) -> tuple[str, ...]:
    """What the devices of a local run train on; what is wrong with data and tokenizer, before anything is started.

    Errors as `read_data` and `prepare_data`.
    """
    task = settings.task
    tokenizer = _tokenizer(options, task.model)
    if tokenizer is not None:
        tokenizer.check_fits(task.model, task.architecture.vocab_size)
    if not isinstance(options, RunOptions):
        return ()
    return _data_notes(options, settings, _names(options, Schedule(plan, settings.cut).devices))


def _check_unchanged(options: TrainingOptions, settings: RunSettings) -> None:
    """Raise RunError or UsageError if what an unfinished run trains with is not what it began with."""
    model = settings.task.model
    if options.dtype != "auto" and settings.dtype not in (None, options.dtype):
        raise UsageError(
            f"the run in {options.out} began in {settings.dtype}, not in {options.dtype}",
            remedy="leave --dtype out, or begin another run in another --out",
        )
    if options.quantization not in (AUTO, settings.quantization or NONE):
        raise UsageError(
            f"the run in {options.out} began with --quantization {settings.quantization or NONE}",
            remedy="leave --quantization out, or begin another run in another --out",
        )
    if load_architecture(model) != settings.task.architecture:
        raise RunError(
            f"{model} has other dimensions than when the run in {options.out} began",
            remedy="put its config.json back, or begin another run in another --out",
        )
    check_computing(settings.computing, model, load_computing(model))
    if settings.weights and open_weights(settings.task, settings.seed).fingerprint != settings.weights:
        raise RunError(
            f"the frozen weights of {model} are not those that the run in {options.out} began with",
            remedy="put them back, or begin another run in another --out",
        )
    tokenizer = _tokenizer(options, model)
    if tokenizer is not None and settings.tokenizer not in (None, tokenizer.digest):
        raise RunError(
            f"the run in {options.out} began with another tokenizer than {tokenizer.origin}",
            remedy="name that one with --tokenizer, or begin another run in another --out",
        )


def _check_warmup(settings: RunSettings) -> None:
    """Raise UsageError for a warm-up that the run never leaves: its learning rate would not be what was asked for."""
    steps = settings.rounds * settings.epochs
    if settings.warmup_steps >= steps:
        raise UsageError(
            f"--warmup-steps is {settings.warmup_steps}, and a device takes {steps} mini-batch(es) in the whole run",
            remedy="give fewer, or more --rounds or --local-epochs",
        )


def _training_notes(settings: RunSettings) -> tuple[str, ...]:
    """What a person must know of how it is trained, because nothing on the command line says it."""
    notes = [] if settings.adapters is None else [f"begins with the adapters of {settings.adapters}"]
    notes += [] if settings.quantization is None else [f"frozen weights are kept in {settings.quantization} here"]
    # What a plan or adapters brought may be no rank that anybody typed.
    notes += [settings.task.lora.words] if settings.task.lora.rank_pattern else []
    rate = settings.learning_rate
    words = rate_words(settings)
    notes += [] if words is None else [words]
    notes += [f"weight decay {settings.weight_decay:g}"] if settings.weight_decay else []
    if settings.task.optimizer == "sgd" and rate <= DEFAULT_RATE:
        notes.append(
            f"sgd at --learning-rate {rate:g} hardly moves LoRA adapters: good for timing; to train: --optimizer adamw"
        )
    if settings.task.optimizer == "adamw" and not settings.weight_decay:
        notes.append("adamw without weight decay")
    dropout = dropout_note(settings.task.model)
    return (*notes, *((dropout,) if dropout else ()))


# What a journal says already; anything else that a resumed run was given would be dropped.
_RESUMABLE = frozenset(
    (
        "--local",
        "--resume",
        "--out",
        "--threads",
        "--dtype",
        "--quantization",
        "--data",
        "--tokenizer",
        "--chat-template",
        "--train-on",
        "--packing",
        "--link",
        "--silence",
        "--model",
    )
    + ("--devices", "--bind", "--key", "--allow", "--platform", "--name", "--wait")
)


_OF_DEVICES = frozenset(("--data", "--tokenizer", "--chat-template", "--train-on", "--packing", "--link", "--model"))


def _check_resumed(options: TrainingOptions, allowed: frozenset[str]) -> None:
    """Raise UsageError for an option that the unfinished run has settled."""
    settled = [flag for flag in given(options) if flag not in allowed]
    if settled:
        raise UsageError(
            f"{settled[0]} has no effect on an unfinished run, which goes on as it began",
            remedy=f"leave {settled[0]} out, or begin another run in another --out",
        )


def _profiled(plan: Plan | None, store: Store, key: str) -> Execution | None:
    """How this machine computed in the profile that the plan rests on; None without one."""
    profiles = [] if plan is None else [store.runs.get(uid).run for uid in plan.runs]
    return next((run.execution for run in profiles if run.device.key == key), None)


def _check_files(options: RunOptions) -> None:
    """Raise UsageError for several files that are not one for each device."""
    count, files = options.devices, len(_files(options))
    if files > 1 and count not in (None, files):
        raise UsageError(
            f"--data names {files} files and --devices {count}", remedy="give one file for all, or one for each device"
        )


def _check(options: TrainingOptions) -> None:
    if isinstance(options, RunOptions):
        _check_files(options)
    if options.resume:
        # The server's own half was settled when the run began; in a local run these go to the devices.
        _check_resumed(options, _RESUMABLE if isinstance(options, RunOptions) else _RESUMABLE - _OF_DEVICES)
        return
    if options.server_sharing is not None and not options.parallel and options.plan is None:
        raise UsageError(
            "--server-sharing has no effect on devices one after another", remedy="add --parallel, or leave it out"
        )
    # A server of its own may be joined by more than it waits for.
    alone = isinstance(options, RunOptions) and _devices(options) == 1
    if options.parallel and options.plan is None and alone:
        raise UsageError("--parallel has no effect on one device", remedy="give --devices 2, or leave --parallel out")
    if options.error_feedback and options.plan is None and options.codec in (None, "none"):
        raise UsageError("--error-feedback has no effect without a codec", remedy="name a --codec, or leave it out")
    if (options.plan is None) == (options.cut is None):
        raise UsageError("a run needs a cut", remedy="give --plan ID or --cut C, one of them")
    if options.wire_dtype is not None and options.wire_dtype not in DTYPES:
        raise UsageError(f"{options.wire_dtype!r} is no wire dtype", remedy=f"use one of: {', '.join(DTYPES)}")
    if options.codec is not None:
        codec_named(options.codec)
    if not 0.0 < options.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate is {options.learning_rate:g}", remedy="give a number above 0")
    if options.schedule not in SCHEDULES:
        raise UsageError(f"{options.schedule!r} is no schedule", remedy=f"use one of: {', '.join(SCHEDULES)}")
    if not 0.0 <= options.weight_decay < float("inf"):
        raise UsageError(f"--weight-decay is {options.weight_decay:g}", remedy="give 0 or a number above it")


def _task(options: TrainingOptions, plan: Plan | None, store: Store) -> Task:
    """The task as asked, what was not said taken from the plan's."""
    base: Task | None = None
    if plan is not None and plan.runs:
        base = store.runs.get(plan.runs[0]).run.task
    # Asked for, else the plan's; what neither says is the default of a task.
    asked: dict[str, Any] = {
        "batch": options.batch,
        "sequence": options.sequence,
        "lora_rank": options.lora_rank,
        "lora_alpha": options.lora_alpha,
        "lora_targets": split_targets(options.lora_targets),
        "lora_rank_pattern": split_pattern(options.lora_rank_pattern),
        "lora_dropout": options.lora_dropout,
        # A switch says only that it is on.
        "rslora": options.rslora or None,
        "dora": options.dora or None,
        "optimizer": options.optimizer,
    }
    planned: dict[str, Any] = {}
    if base is not None:
        planned = {
            "batch": base.batch,
            "sequence": base.sequence,
            **lora_of(base.lora),
            # Names of its own model's modules: another model may not have them.
            "lora_targets": base.lora.targets if options.model is None else None,
            "lora_rank_pattern": base.lora.rank_pattern if options.model is None else None,
            "gradient_checkpointing": base.gradient_checkpointing,
            "optimizer": base.optimizer,
        }
    if options.adapters is not None:
        found = read_lora(Path(options.adapters))
        own = lora_of(found) | {"lora_targets": found.targets}
        planned |= {name: value for name, value in own.items() if name != "adapter_dtype"}
    known = planned | {name: value for name, value in asked.items() if value is not None}
    model = options.model if options.model is not None else base.model if base else DEFAULT_MODEL
    return resolve_task(model, **known, quantised=True)


def _check_against(options: TrainingOptions, plan: Plan | None, task: Task) -> None:
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


def _settings(options: TrainingOptions, plan: Plan | None, task: Task, execution: Execution) -> RunSettings:
    named = [] if plan is None else [d.codec for d in plan.rounds[0].devices if d.codec not in (None, "none")]
    parallel = options.parallel or (plan is not None and plan.scheme == "sft")
    return RunSettings(
        run=new_uid(),
        task=task,
        # A plan of one round stands for any number of equal ones.
        rounds=options.rounds or (len(plan.rounds) if plan is not None and len(plan.rounds) > 1 else DEFAULT_ROUNDS),
        epochs=options.local_epochs or (plan.local_epochs if plan is not None and plan.local_epochs else 1),
        learning_rate=options.learning_rate,
        schedule=options.schedule,
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        wire_dtype=options.wire_dtype or (plan.wire_dtype if plan is not None else None) or execution.dtype,
        codec=options.codec or (named[0] if named and named[0] else "none"),
        error_feedback=options.error_feedback,
        seed=options.seed,
        parallel=parallel,
        server_sharing=sharing_of(options.server_sharing, plan, parallel),
        plan=None if plan is None else plan.uid,
        cut=options.cut,
        # Devices compare it with their own: halves of different models would train without an error, and wrong.
        weights=open_weights(task, options.seed).fingerprint,
        computing=load_computing(task.model),
        tokenizer=None if (tokenizer := _tokenizer(options, task.model)) is None else tokenizer.digest,
        dtype=execution.dtype,
        quantization=execution.quantization,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Serving:
    """How the server's part goes: who comes, how long they are waited for, who watches over them."""

    options: TrainingOptions
    devices: int
    wait_s: float
    link: str | None
    watch: Callable[[], None] = lambda: None


def _serve(
    prepared: _Prepared, transport: ServerTransport, serving: _Serving, progress: Say, finished: Finished
) -> FinishedRun:
    from cardlab.split.frequency import ServerFrequency
    from cardlab.split.halves import Half
    from cardlab.split.model_card import model_card
    from cardlab.split.peft_files import save_peft

    options = serving.options
    journal, platform, store = prepared.journal, prepared.platform, prepared.store
    settings = journal.progress.settings
    weights = open_weights(settings.task, settings.seed)
    half = Half(
        settings.task,
        prepared.execution,
        weights,
        "server",
        learning_rate=settings.learning_rate,
        rate=rate_of(settings),
        weight_decay=settings.weight_decay,
        torch_device=open_runtime(platform).torch_device or "cpu",
        seed=settings.seed,
    )
    # Devices at once may have different cuts: layers would be loaded and dropped at each turn.
    half.keeps_loaded = settings.parallel
    half.note = progress
    progress(f"frozen weights: {weights.origin}")
    environment = gather_environment(platform)
    begin_run(
        store,
        journal,
        platform.identity,
        prepared.execution,
        environment,
        notes=prepared.expected_notes,
        link=serving.link,
    )
    frequency = ServerFrequency(platform)

    def keep(turn: FinishedTurn) -> None:
        store.rounds.add(round_record(settings, turn))
        finished(settings, journal, turn, serving.devices)

    patience = Patience(join_s=serving.wait_s, silence_s=options.silence_s)
    server = Server(
        ServerParts(transport=transport, half=half, schedule=prepared.schedule, journal=journal, frequency=frequency),
        devices=serving.devices,
        patience=patience,
        callbacks=RunCallbacks(finished=keep, note=progress, watch=serving.watch),
    )
    adapters = server.run()
    folder = save_peft(adapters, settings.task, Path(options.out) / "adapters")
    (folder / "README.md").write_text(model_card(journal.progress, weights.origin), encoding="utf-8")
    return FinishedRun(settings=settings, turns=tuple(journal.progress.turns), adapters=folder)

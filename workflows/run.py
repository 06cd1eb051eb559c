"""A split run: the server's role, or every role on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cardlab.core.errors import Interrupted, UsageError
from cardlab.core.records.plan import Plan
from cardlab.core.records.task import Execution
from cardlab.core.records.training import Quality, TrainQuality, comparable, qualities
from cardlab.core.tables import Cell, Tabular
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.profilers.devices import HardwareDevice
from cardlab.profilers.measure.environment import gather_environment
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.runtime.execution import import_torch
from cardlab.profilers.runtime.families import attention_of
from cardlab.profilers.runtime.quantization import AUTO, NONE, choose_quantization
from cardlab.split.adapters import state_bytes
from cardlab.split.checkpoints import best_kept
from cardlab.split.journal import Conditions, FinishedTurn, Journal, check_room, locked
from cardlab.split.keys import split_address
from cardlab.split.peft_files import described_peft, load_peft
from cardlab.split.recipe import recipe_of
from cardlab.split.recording import begin_run, round_record
from cardlab.split.schedule import Schedule, check_length
from cardlab.split.server import Patience, RunCallbacks, Server, ServerParts
from cardlab.split.server_transport import ServerTransport
from cardlab.split.settings import PRIVACY, Inputs, RunSettings
from cardlab.split.shaping import PLANNED, parse_link
from cardlab.split.weights import open_weights
from cardlab.workflows.adapting import Adaptation
from cardlab.workflows.connect import PORT, Say, require_zmq, server_keys, silent
from cardlab.workflows.expectation import Expected, Serving, expected_by_device
from cardlab.workflows.labels import keep_label
from cardlab.workflows.local_devices import LocalDevices, local_link
from cardlab.workflows.options.run import RunOptions, ServerOptions, TrainingOptions
from cardlab.workflows.reporting import open_reports
from cardlab.workflows.run_adapters import CHECKPOINTS, checkpoint, mend_adapters, write_adapters
from cardlab.workflows.run_adapting import RunAdapting, adaptation_of
from cardlab.workflows.run_checks import check_against, check_options, check_steps, check_unchanged
from cardlab.workflows.run_data import check_data, files_of, names_of
from cardlab.workflows.run_device import open_real
from cardlab.workflows.run_resume import finished_already, going_on
from cardlab.workflows.run_settings import (
    length_note,
    passes_made,
    profiled_execution,
    settings_of,
    task_of,
    training_notes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun(Tabular):
    """A split run that came to its end.

    Attributes:
        settings: as all parties agreed on them.
        turns: finished rounds of devices, in order.
        adapters: folder of the trained adapters for PEFT.
        judged: what held-out rows say, by round; 0 is before the first.
        best_adapters: folder of the adapters of lowest held-out loss; None where no round after the first was judged.
    """

    settings: RunSettings
    turns: tuple[FinishedTurn, ...]
    adapters: Path
    judged: Mapping[int, Quality] = field(default_factory=dict)
    best_adapters: Path | None = None

    @property
    def run_id(self) -> str:
        """Identity of the run in the store."""
        return self.settings.run

    def rows(self) -> list[dict[str, Cell]]:
        """A row a round and device: loss, delay and its terms (s), frequency (Hz) and energy (J) of both sides."""
        return [
            {
                "round": turn.round,
                "device": turn.device,
                "cut": turn.cut,
                "loss": turn.loss,
                "eval_loss": None if turn.round not in self.judged else self.judged[turn.round].loss,
                "delay_s": turn.delay_s,
                **{f"{term}_s": seconds for term, seconds in turn.terms.items()},
                "waiting_s": turn.waiting_s,
                "frequency_hz": turn.frequency_hz,
                "server_energy_j": turn.energy_j,
                "device_frequency_hz": turn.device_frequency_hz,
                "device_energy_j": turn.device_energy_j,
            }
            for turn in self.turns
        ]


def quality_line(quality: Quality) -> str:
    """What held-out rows say of a round, for people."""
    when = f"after round {quality.number}" if quality.number else "before the first round"
    return (
        f"held out {when}: loss {quality.loss:.4f}, perplexity {quality.perplexity:.2f}, accuracy"
        f" {quality.accuracy:.1%} of {quality.tokens} tokens; {quality.elapsed_s:.2f} s"
    )


# Told of each finished turn, beside the settings and the journal.
Finished = Callable[[RunSettings, Journal, FinishedTurn], None]


def _unheard(_settings: RunSettings, _journal: Journal, _turn: FinishedTurn) -> None:
    return None


def run_server(
    store: Store, options: ServerOptions, progress: Say = silent, finished: Finished = _unheard
) -> FinishedRun:
    """Listen, wait for the devices, make the rounds, keep everything.

    Raises UsageError for options that contradict each other, RunError where the run cannot go on; finished rounds are
    kept for `resume`.
    """
    check_options(options)
    host, port = split_address(options.bind, PORT)
    pair, allowed = server_keys(host, options.key, options.allow)
    over = finished_already(options)
    if over is not None:
        return _over(over, progress)
    place = _Place(
        bind=lambda: ServerTransport(host, port, pair, allowed), platform=options.platform, label=options.name
    )
    with _prepared(store, options, place) as prepared:
        progress(f"listening on {host}:{prepared.transport.port}; run {prepared.journal.settings.run[:12]}")
        progress(PRIVACY)
        for line in prepared.notes:
            progress(line)
        if prepared.schedule.shares_band:
            progress(f"planned shares of the band are not imposed (a device with --link {PLANNED} keeps to its own)")
        devices = options.devices or len(prepared.schedule.devices) or 1
        serving = _Serving(options=options, devices=devices, wait_s=options.wait_s, link=None)
        return _serve(prepared, serving, progress, finished)


def run(store: Store, options: RunOptions, progress: Say = silent, finished: Finished = _unheard) -> FinishedRun:
    """All roles on this machine: the server in this process, each device in one of its own.

    Raises UsageError for options that contradict each other, RunError where the run cannot go on; finished rounds are
    kept for `resume`.
    """
    if not options.local:
        raise UsageError(
            "a run needs a role", remedy="use --local, or: card run server, card run device --server HOST:PORT"
        )
    check_options(options)
    require_zmq()
    # Asked only for its refusal: a link that is none is named before anything is prepared.
    parse_link(options.link, planned=options.resume or options.plan is not None)
    over = finished_already(options)
    if over is not None:
        return _over(over, progress)
    # Port 0 lets the system choose a free one, so that two local runs do not meet.
    place = _Place(bind=lambda: ServerTransport("127.0.0.1", 0), link=options.link)
    with _prepared(store, options, place) as prepared:
        named = prepared.schedule.devices
        # Each device of a plan has its own cut and shard: with another number the plan is another one.
        if named and options.devices not in (None, len(named)):
            raise UsageError(f"the plan names {len(named)} device(s)", remedy="leave --devices out")
        names = names_of(options, named)
        files = files_of(options)
        link, said = local_link(prepared.schedule, options.link)
        options = replace(options, link=link)
        words = _device_words(options, prepared.execution)
        own = [["--data", files[n]] if len(files) > 1 else _sharded(files, n, len(names)) for n in range(len(names))]
        # Devices of this machine write to logs: what they train on is said here.
        for line in (PRIVACY, *((said,) if said else ()), *prepared.data_notes, *prepared.notes):
            progress(line)
        port = prepared.transport.port
        with LocalDevices(names, port, words, own, Path(options.out), options.threads) as devices:
            # Devices load torch and the model side by side on the same cores, which may take minutes.
            serving = _Serving(
                options=options,
                devices=len(names),
                wait_s=300.0,
                link=options.link,
                watch=lambda: devices.check(progress),
            )
            done = _serve(prepared, serving, progress, finished)
            # Leaving the block ends them by a signal; they are let come to their own end first.
            devices.wait()
            return done


def _sharded(files: tuple[str, ...], place: int, count: int) -> list[str]:
    """Options of a device that takes its share of the one file."""
    return [*(("--data", files[0]) if files else ()), "--shard", f"{place + 1}/{count}"]


def _device_words(options: RunOptions, execution: Execution) -> list[str]:
    given = {
        "--model": options.model,
        "--tokenizer": options.tokenizer,
        "--chat-template": options.chat_template,
        "--train-on": options.train_on,
        "--eval-data": options.eval_data,
        "--eval-share": None if options.eval_share is None else str(options.eval_share),
        "--link": options.link,
        "--dtype": execution.dtype,
        "--quantization": execution.quantization or NONE,
        "--silence": str(options.silence_s),
        "--platform": "auto",
    }
    words = [word for key, value in given.items() if value is not None for word in (key, value)]
    return [*words, "--packing"] if options.packing else words


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a server is: how it comes to listen, on which platform, under which label, behind which links."""

    bind: Callable[[], ServerTransport]
    platform: str = "auto"
    label: str | None = None
    link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Everything that is decided before the first device comes."""

    store: Store
    platform: HardwareDevice
    execution: Execution
    schedule: Schedule
    adaptation: Adaptation | None
    transport: ServerTransport
    journal: Journal
    notes: tuple[str, ...]
    expected_notes: tuple[str, ...]
    data_notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """What is run, and how it is written down once the port is there: nothing is begun before."""

    settings: RunSettings
    plan: Plan | None
    execution: Execution
    data_notes: tuple[str, ...]
    notes: tuple[str, ...]
    keep: Callable[[], Journal]


@contextmanager
def _prepared(store: Store, options: TrainingOptions, place: _Place) -> Iterator[_Prepared]:
    platform = open_real(place.platform, place.label)
    with ExitStack() as held:
        held.callback(platform.close)
        keep_label(store, platform, place.label)
        decide = _resumed if options.resume else _begun
        decided = decide(store, options, platform, place.link, held)
        settings, plan = decided.settings, decided.plan
        import_torch().set_num_threads(options.threads)
        # A plan brings its own predictions.
        expected = Expected(predictions={}, notes=())
        if plan is None and settings.autocast is None:
            party = Serving(platform.identity, decided.execution)
            expected = expected_by_device(store, settings, party, place.link)
        adaptation = adaptation_of(store, plan) if plan is not None and settings.adapt else None
        transport = place.bind()
        held.callback(transport.close)
        journal = decided.keep()
        held.enter_context(_kept(journal))
        yield _Prepared(
            store=store,
            platform=platform,
            execution=decided.execution,
            schedule=Schedule(
                plan,
                settings.cut,
                expected.predictions,
                settings.codec,
                predicts=settings.autocast is None,
                cuts=settings.cuts,
                # Devices of a local run stand for the plan's by their labels: they are all this machine.
                keys={} if isinstance(options, RunOptions) else _keys(plan, store),
                first=journal.closed + 1,
            ),
            adaptation=adaptation,
            transport=transport,
            journal=journal,
            notes=(*decided.notes, *expected.notes, *training_notes(settings)),
            expected_notes=expected.notes,
            data_notes=decided.data_notes,
        )


@contextmanager
def _kept(journal: Journal) -> Iterator[None]:
    """Say what an interrupted run has on disk, and how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        made, out, rounds = len(journal.turns), journal.folder, journal.settings.rounds
        raise Interrupted(
            f"interrupted; {journal.closed} of {rounds} round(s) are over, and {made} turn(s) of devices are kept in"
            f" {out}",
            remedy=f"go on with --resume --out {out}" if made else "give the same command again",
        ) from None


def _resumed(
    store: Store, options: TrainingOptions, platform: HardwareDevice, link: str | None, held: ExitStack
) -> _Decided:
    out = Path(options.out)
    # Refused before the lock makes a folder where there is no run.
    Journal.resume(out)
    held.enter_context(locked(out))
    journal = Journal.resume(out)
    going = going_on(options, journal, link, utc_now())
    settings = going.settings
    if going.change is not None:
        check_steps(settings)
    check_unchanged(options, settings)
    plan = None if settings.plan is None else store.plans.get(settings.plan)
    check_length(plan, settings.rounds)
    known = check_data(options, settings, plan)
    # Before a process is started that would find the same.
    for name, (digest, words) in known.inputs.items():
        journal.check_inputs(name, replace(journal.inputs.get(name, Inputs()), data=digest, names=words))
    dtype = settings.dtype if options.dtype == "auto" and settings.dtype else options.dtype
    asked = (settings.quantization or NONE) if options.quantization == AUTO else options.quantization
    execution = open_runtime(platform).resolve_execution(
        dtype,
        attention_of(settings.task.architecture),
        options.threads,
        choose_quantization(settings.task, asked),
    )

    def keep() -> Journal:
        if going.change is not None:
            journal.change(going.change)
        return journal

    return _Decided(
        settings=settings, plan=plan, execution=execution, data_notes=known.notes, notes=going.notes, keep=keep
    )


def _begun(
    store: Store, options: TrainingOptions, platform: HardwareDevice, link: str | None, held: ExitStack
) -> _Decided:
    out = Path(options.out)
    plan = None if options.plan is None else store.plans.get(options.plan)
    task = task_of(options, plan, store)
    check_against(options, plan, task)
    import_torch().set_num_threads(options.threads)
    profiled = profiled_execution(plan, store, platform.identity.key)
    dtype = profiled.dtype if options.dtype == "auto" and profiled is not None else options.dtype
    otherwise = None if profiled is None else profiled.quantization
    execution = open_runtime(platform).resolve_execution(
        dtype,
        attention_of(task.architecture),
        options.threads,
        choose_quantization(task, options.quantization, otherwise),
    )
    begun = None if options.adapters is None else load_peft(Path(options.adapters), task)
    settings = settings_of(options, plan, task, execution)
    if options.adapters is not None:
        settings = replace(settings, adapters=described_peft(Path(options.adapters)))
    data = check_data(options, settings, plan)
    settings, notes = passes_made(options, settings, data.rows)
    check_steps(settings)
    check_length(plan, settings.rounds)
    Journal.check_vacant(out)

    def keep() -> Journal:
        check_room(out, state_bytes(task))
        # Only now: what cannot be run leaves no folder behind.
        held.enter_context(locked(out))
        Journal.check_vacant(out)
        journal = Journal.begin(out, settings, utc_now(), Conditions(threads=options.threads, link=link))
        if begun is not None:
            # Kept at once: a run that is resumed before its first round goes on from them too.
            journal.commit(begun)
        return journal

    notes = (*length_note(options, plan, task), *notes)
    return _Decided(settings=settings, plan=plan, execution=execution, data_notes=data.notes, notes=notes, keep=keep)


def _over(journal: Journal, progress: Say) -> FinishedRun:
    """A run that has made its rounds; its adapters are written where they are not there yet."""
    progress(
        f"the run in {journal.folder} has made its {journal.closed} round(s): nothing is left to do; to go"
        " on, give more --rounds"
    )
    folder = journal.folder / "adapters"
    with locked(journal.folder):
        mend_adapters(folder, journal)
    return FinishedRun(
        settings=journal.settings,
        turns=journal.progress.turns,
        adapters=folder,
        judged=qualities(journal.progress.judged),
        best_adapters=best_kept(journal.folder / CHECKPOINTS),
    )


def _keys(plan: Plan | None, store: Store) -> dict[str, str]:
    """Labels of a plan's devices by the key of the hardware that was profiled; none for hardware of several labels."""
    if plan is None:
        return {}
    devices = [store.runs.get(uid).run.device for uid in plan.runs]
    labels = {d.device for d in plan.rounds[0].devices}
    known = {(device.key, device.name) for device in devices if device.name in labels}
    return {key: name for key, name in known if sum(1 for other, _ in known if other == key) == 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Serving:
    """How the server's part goes: who comes, how long they are waited for, who watches over them."""

    options: TrainingOptions
    devices: int
    wait_s: float
    link: str | None
    watch: Callable[[], None] = lambda: None


def _serve(prepared: _Prepared, serving: _Serving, progress: Say, finished: Finished) -> FinishedRun:
    from cardlab.split.frequency import HeldFrequency
    from cardlab.split.halves import Half

    options = serving.options
    journal, platform, store = prepared.journal, prepared.platform, prepared.store
    settings = journal.settings
    weights = open_weights(settings.task, settings.seed)
    half = Half(
        settings.task,
        prepared.execution,
        weights,
        "server",
        recipe_of(settings),
        torch_device=open_runtime(platform).torch_device or "cpu",
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
    frequency = HeldFrequency(platform)
    reports = open_reports(options.report_to, Path(options.out), journal.progress, progress)

    losses: dict[int, float] = {}
    judged_so_far = qualities(journal.progress.judged)
    losses |= {one.number: one.loss for one in comparable(judged_so_far.values())}
    keep_round = checkpoint(journal, options, losses)
    adapting = None
    if prepared.adaptation is not None:
        adapting = RunAdapting(prepared.adaptation, journal, prepared.schedule, progress)

    def closed(number: int) -> None:
        keep_round(number)
        if adapting is not None:
            adapting.closed(number)

    def keep(turn: FinishedTurn) -> None:
        store.rounds.add(round_record(settings, turn))
        reports.add(turn)
        finished(settings, journal, turn)

    def judged(found: Sequence[TrainQuality]) -> None:
        for one in found:
            store.rounds.judge(one)
        (quality,) = qualities(found).values()
        judged_so_far[quality.number] = quality
        # The best is looked for among rounds that the same rows judged.
        losses.clear()
        losses.update({one.number: one.loss for one in comparable(judged_so_far.values())})
        reports.judge(quality)
        progress(quality_line(quality))

    patience = Patience(join_s=serving.wait_s, silence_s=options.silence_s)
    server = Server(
        ServerParts(
            transport=prepared.transport, half=half, schedule=prepared.schedule, journal=journal, frequency=frequency
        ),
        devices=serving.devices,
        patience=patience,
        callbacks=RunCallbacks(finished=keep, judged=judged, closed=closed, note=progress, watch=serving.watch),
    )
    with closing(reports):
        server.run()
    folder = write_adapters(Path(options.out) / "adapters", journal)
    return FinishedRun(
        settings=settings,
        turns=tuple(journal.progress.turns),
        adapters=folder,
        judged=qualities(journal.progress.judged),
        best_adapters=best_kept(journal.folder / CHECKPOINTS),
    )

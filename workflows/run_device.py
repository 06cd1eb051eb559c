"""The device's role in a split run, and keys for one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cardlab.core.errors import Interrupted, RunError, UsageError
from cardlab.core.records.task import Task
from cardlab.profilers.devices import HardwareDevice, open_platform
from cardlab.profilers.measure.runtimes import open_runtime
from cardlab.profilers.runtime import resolve_task
from cardlab.profilers.runtime.configs import load_computing
from cardlab.profilers.runtime.execution import import_torch
from cardlab.profilers.runtime.families import attention_of
from cardlab.profilers.runtime.quantization import NONE, choose_quantization
from cardlab.split.device import DevicePatience, Equipment, SplitDevice
from cardlab.split.frequency import OwnReadings
from cardlab.split.keys import make_keys
from cardlab.split.recipe import recipe_of
from cardlab.split.settings import PRIVACY, Inputs, RunSettings, check_computing, check_task, check_tokenizer
from cardlab.split.shaping import parse_link
from cardlab.split.tokenizer import TextTokenizer, open_tokenizer
from cardlab.split.training_file import TrainingFile
from cardlab.split.weights import open_weights
from cardlab.workflows.connect import Say, connect, require_zmq, silent
from cardlab.workflows.options.run import DeviceOptions, KeysOptions
from cardlab.workflows.settings import load_settings
from cardlab.workflows.targets import split_targets
from cardlab.workflows.training_data import choice_of, data_name, prepare_data, read_data, tokens_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDone:
    """What a device did in a run: its label, finished rounds, and the loss of each."""

    device: str
    rounds: int
    losses: tuple[float, ...]


def given_of_task(options: DeviceOptions) -> dict[str, object]:
    """Options that the run must agree with, by attribute of the task."""
    targets = options.lora_targets
    named = {
        "lora.rank": options.lora_rank,
        "lora.alpha": options.lora_alpha,
        # Sorted as a resolved task has them: their order means nothing.
        "lora.targets": None if targets is None else tuple(sorted(split_targets(targets) or ())),
        "optimizer": options.optimizer,
    }
    return {key: value for key, value in named.items() if value is not None}


def run_device(options: DeviceOptions, progress: Say = silent) -> DeviceDone:
    """Join the server's run and work until its end.

    Raises UsageError, RunError where the run cannot be joined or its server is lost for good.
    """
    shape = parse_link(options.link, planned=True)
    shard = _shard(options.shard)
    # Before the server knows of this device: a missing file would keep the others waiting.
    text = read_text(options, progress)
    transport = connect(options.server, options.key, options.server_key, shape)
    platform = open_real(options.platform, options.name)
    try:
        torch = import_torch()
        torch.set_num_threads(options.threads)

        def equip(settings: RunSettings) -> Equipment:
            return _equipment(settings, options, text, shard, platform, progress)

        progress(PRIVACY)
        patience = DevicePatience(connect_s=options.wait_s, silence_s=options.silence_s, server_s=options.wait_s)
        readings = OwnReadings(platform, progress)
        device = SplitDevice(transport, platform.identity, equip, readings=readings, patience=patience, note=progress)
        try:
            done = device.run()
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {device.done.rounds} round(s) of {platform.identity.name} are stored at the server",
                remedy="give the same command again to take part in the rounds that are left",
            ) from None
        finally:
            readings.rest()
    finally:
        transport.close()
        platform.close()
    return DeviceDone(device=platform.identity.name, rounds=done.rounds, losses=tuple(done.losses))


def open_real(name: str, label: str | None) -> HardwareDevice:
    """The platform of that name; one that only simulates cannot run anything."""
    platform = open_platform(name, label=label or load_settings().name)
    if platform.torch_device is None:
        platform.close()
        raise UsageError(f"{name} is simulated and runs nothing", remedy="use --platform auto, nvidia or cpu")
    return platform


def write_keys(options: KeysOptions) -> tuple[Path, Path]:
    """Make a key pair; the secret and the public file."""
    require_zmq()
    return make_keys(options.name, Path(options.out))


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What a device trains on: a file, and the tokenizer as far as it is known before the run is."""

    file: TrainingFile
    tokenizer: TextTokenizer | None


def read_text(options: DeviceOptions, progress: Say = silent) -> Text:
    """The data, and the tokenizer that was named or lies in the model folder that was; errors as `read_data`."""
    model, tokenizer = options.model, options.tokenizer
    known = None if model is None and tokenizer is None else open_tokenizer(model or "", tokenizer)
    choice = choice_of(options)
    file = read_data(options.data, choice, known)
    if choice.eval_data is not None:
        read_data(choice.eval_data, choice, known)
    if known is not None:
        tokens_of(file, choice, known, progress)
    return Text(file=file, tokenizer=known)


def _equipment(
    settings: RunSettings,
    options: DeviceOptions,
    text: Text,
    shard: tuple[int, int],
    platform: HardwareDevice,
    say: Say,
) -> Equipment:
    from cardlab.split.halves import Half

    announced = settings.task
    here = _own_task(announced, options.model)
    check_task(announced, options.model or here.model, here, given_of_task(options))
    check_computing(settings.computing, here.model, load_computing(here.model))
    tokenizer = text.tokenizer or open_tokenizer(here.model)
    check_tokenizer(settings, tokenizer.digest, tokenizer.origin)
    tokenizer.check_fits(here.model, announced.architecture.vocab_size)
    weights = open_weights(here, settings.seed)
    if weights.fingerprint != settings.weights:
        raise RunError(
            f"the frozen weights of {here.model} are not the server's ({weights.origin})",
            remedy="copy the server's model folder here and name it with --model",
        )
    prepared = prepare_data(text.file, choice_of(options), tokenizer, settings, shard)
    for line in prepared.notes:
        say(line)
    runtime = open_runtime(platform)
    execution = runtime.resolve_execution(
        options.dtype,
        attention_of(here.architecture),
        options.threads,
        choose_quantization(here, options.quantization),
    )
    where = runtime.torch_device or "cpu"
    half = Half(
        here,
        execution,
        weights,
        "device",
        recipe_of(settings),
        torch_device=where,
    )
    half.note = say
    inputs = Inputs(
        tokenizer=tokenizer.digest,
        data=prepared.digest,
        dtype=execution.dtype,
        quantization=execution.quantization or NONE,
        names=data_name(text.file, choice_of(options), tokenizer),
        rows=prepared.batches.rows,
        held_out_rows=0 if prepared.held_out is None else prepared.held_out.rows,
        batch=None if options.batch == settings.task.batch else options.batch,
    )
    if options.batch not in (None, settings.task.batch):
        say(f"mini-batches of {options.batch} row(s), not of the run's {settings.task.batch}: nothing is predicted")
    held_out = (lambda: iter(())) if prepared.held_out is None else prepared.held_out.each
    return Equipment(half, prepared.batches.mini_batch, inputs, held_out)


def _own_task(announced: Task, model: str | None) -> Task:
    """The announced task on this side's own model."""
    name = model or announced.model
    # Only name and architecture are taken, and every model has two positions.
    own = resolve_task(name, sequence=2, quantised=True)
    return replace(announced, model=own.model, architecture=own.architecture)


def _shard(text: str) -> tuple[int, int]:
    part, slash, count = text.partition("/")
    if not (slash and part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise UsageError(f"{text!r} is no shard", remedy="write it like 1/4")
    return int(part) - 1, int(count)

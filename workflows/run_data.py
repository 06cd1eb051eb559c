"""What the devices of a run train on, as far as the server's side knows it: files, labels, tokenizer."""

from __future__ import annotations

from cardlab.core.errors import UsageError
from cardlab.core.records.plan import Plan
from cardlab.split.schedule import Schedule
from cardlab.split.settings import RunSettings
from cardlab.split.tokenizer import TextTokenizer, open_tokenizer, own_tokenizer
from cardlab.workflows.options.run import RunOptions, ServerOptions, TrainingOptions
from cardlab.workflows.training_data import Known, choice_of, known_data, read_data


def files_of(options: RunOptions) -> tuple[str, ...]:
    """The files that were named; () for the bundled text."""
    data = options.data
    return () if data is None else (data,) if isinstance(data, str) else data


def devices_of(options: TrainingOptions) -> int:
    """How many devices a run without a plan has: as asked, else one for each file."""
    files = files_of(options) if isinstance(options, RunOptions) else ()
    return options.devices or max(1, len(files))


def names_of(options: RunOptions, planned: tuple[str, ...]) -> tuple[str, ...]:
    """Labels of the devices of a local run. Raises UsageError for files that are not one for each of a plan's."""
    count = len(files_of(options))
    if planned and count > 1 and count != len(planned):
        raise UsageError(
            f"the plan names {len(planned)} device(s) and --data {count} files",
            remedy="give one file for all, or one for each device",
        )
    return planned or tuple(f"device-{n}" for n in range(1, devices_of(options) + 1))


def known_of(options: RunOptions, settings: RunSettings, names: tuple[str, ...]) -> Known:
    """What the devices train on, before any of them is started; errors as `read_data` and `prepare_data`."""
    files, choice = files_of(options), choice_of(options)
    tokenizer = open_tokenizer(settings.task.model, options.tokenizer)
    if len(files) < 2:
        samples = read_data(files[0] if files else None, choice, tokenizer)
        shards = {name: (place, len(names)) for place, name in enumerate(names)}
        return known_data(samples, choice, tokenizer, settings, shards)
    each = {
        name: known_data(read_data(path, choice, tokenizer), choice, tokenizer, settings, {name: (0, 1)})
        for name, path in zip(names, files, strict=True)
    }
    return Known(
        notes=tuple(
            f"{name}: {line.removeprefix(f'{name}: ')}" for name, known in each.items() for line in known.notes
        ),
        rows=max(known.rows or 0 for known in each.values()),
        inputs={name: one for known in each.values() for name, one in known.inputs.items()},
    )


def tokenizer_of(options: TrainingOptions, model: str) -> TextTokenizer | None:
    """The tokenizer of the run; None where the server has none of its own and takes that of the first device."""
    given = options.tokenizer if isinstance(options, (RunOptions, ServerOptions)) else None
    if given is None and not isinstance(options, RunOptions):
        # A server without text knows nothing of its devices' tokens.
        return own_tokenizer(model)
    return open_tokenizer(model, given)


def check_data(options: TrainingOptions, settings: RunSettings, plan: Plan | None) -> Known:
    """What the devices of a local run train on; what is wrong with data and tokenizer, before anything is started.

    Errors as `read_data` and `prepare_data`.
    """
    task = settings.task
    tokenizer = tokenizer_of(options, task.model)
    if tokenizer is not None:
        tokenizer.check_fits(task.model, task.architecture.vocab_size)
    if not isinstance(options, RunOptions):
        return Known()
    names = names_of(options, Schedule(plan, settings.cut).devices)
    if settings.participants is not None and settings.participants >= len(names):
        raise UsageError(
            f"--participants is {settings.participants}, and there are {len(names)} device(s)",
            remedy="give fewer, or leave it out: all take part",
        )
    return known_of(options, settings, names)

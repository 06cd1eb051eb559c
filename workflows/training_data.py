"""What a device of a run trains on, from its options: samples read, checked, made tokens and put into mini-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cardlab.core.errors import UsageError
from cardlab.core.identity import content_hash
from cardlab.split.batches import PACKED, PADDED, SampleBatches, TrainingData
from cardlab.split.data import Batches
from cardlab.split.encoding import open_template, train_on_of
from cardlab.split.held_out import NoRowsError, Part, Shard
from cardlab.split.samples import TEXT
from cardlab.split.settings import RunSettings
from cardlab.split.tokenizer import TextTokenizer
from cardlab.split.training_file import Encoding, TrainingFile, TrainingTokens, check_rows, make_tokens, open_training
from cardlab.workflows.connect import Say, silent
from cardlab.workflows.options.run import DeviceOptions, RunOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChoice:
    """How samples become mini-batches, as the user asked.

    Attributes:
        chat_template: file, None for the tokenizer's own.
        train_on: "all" or "completion", None for what the data have.
        packing: several samples in a row.
        eval_share: share of the rows that is held out of training, None for none.
        eval_data: file of held-out rows, None for none.
        batch: rows of a mini-batch, None for those of the run.

    Raises UsageError for both ways at once, and a share that is none.
    """

    chat_template: str | None = None
    train_on: str | None = None
    packing: bool = False
    eval_share: float | None = None
    eval_data: str | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.eval_share is not None and self.eval_data is not None:
            raise UsageError("--eval-share and --eval-data are two ways to the same", remedy="give one of them")
        if self.eval_share is not None:
            Part(self.eval_share, held_out=True)

    @property
    def judges(self) -> bool:
        """Whether rows are to be held out."""
        return self.eval_share is not None or self.eval_data is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Mini-batches of one device.

    Attributes:
        batches: by number.
        held_out: rows that adapters are judged by, None without.
        digest: equal exactly where two train on the same.
        notes: data, tokens and what was assumed, for the person before the screen.
    """

    batches: TrainingData
    held_out: TrainingData | None
    digest: str
    notes: tuple[str, ...]


def choice_of(options: RunOptions | DeviceOptions) -> DataChoice:
    """The choice that these options make."""
    return DataChoice(
        chat_template=options.chat_template,
        train_on=options.train_on,
        packing=options.packing,
        eval_share=options.eval_share,
        eval_data=options.eval_data,
        batch=options.batch if isinstance(options, DeviceOptions) else None,
    )


def read_data(path: str | None, choice: DataChoice, tokenizer: TextTokenizer | None) -> TrainingFile:
    """A file, or the bundled text for None, and whether the choice fits it.

    Args:
        tokenizer: None where it is known only once the run is: then all of the file is read for what is wrong with it,
            which is found out while its tokens are made otherwise.

    Raises UsageError, MissingDependencyError: as `SampleReader`; for a choice that has no effect on these data, and for
    conversations without a chat template.
    """
    file = open_training(path, choice.chat_template)
    train_on_of(file.form, file.name, choice.train_on)
    if choice.packing and file.single:
        raise UsageError(
            f"{file.name} has one sample: there is nothing to pack",
            remedy="leave --packing out, or give more samples",
        )
    if tokenizer is None:
        check_rows(file)
    elif file.conversational:
        open_template(tokenizer, choice.chat_template)
    return file


def tokens_of(file: TrainingFile, choice: DataChoice, tokenizer: TextTokenizer, note: Say = silent) -> TrainingTokens:
    """The tokens of a file that was read for this choice, from the cache or made now; errors as `make_tokens`."""
    windows = _windows(file, choice)
    encoding = Encoding(
        tokenizer=tokenizer, windows=windows, chat_template=choice.chat_template, train_on=choice.train_on
    )
    return make_tokens(file, encoding, note)


def prepare_data(
    file: TrainingFile, choice: DataChoice, tokenizer: TextTokenizer, settings: RunSettings, shard: tuple[int, int]
) -> Prepared:
    """Mini-batches of a file that was read for this choice.

    Args:
        shard: (j, M): the device takes every M-th window or sample, from the j-th.

    Raises UsageError for a sample that cannot be encoded, RunError where too little is left to train on.
    """
    _check_feedback(file, choice, settings)
    tokens = tokens_of(file, choice, tokenizer)
    notes = _words(file, tokens, choice, tokenizer, settings)
    batches, own = _batches(file, tokens, choice, tokenizer, settings, shard, _left(choice))
    judged = _held_out(file, tokens, choice, tokenizer, settings, shard)
    if judged.rows is None and choice.judges and shard[1] == 1:
        raise _nothing_held_out(choice)
    what: list[object] = [tokens.digest, list(shard)]
    if not isinstance(batches, Batches):
        what += [PACKED if choice.packing else PADDED, tokens.train_on, tokens.encoding]
    # What is held out is not trained on, so another share is other data.
    what += [judged.what] if choice.judges else []
    return Prepared(
        batches=batches, held_out=judged.rows, digest=content_hash(what), notes=(*notes, *own, *judged.notes)
    )


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """Held-out rows of one device, None where it has none; what they are for a digest, and in words."""

    rows: Batches | SampleBatches | None = None
    what: object = None
    notes: tuple[str, ...] = ()


def _nothing_held_out(choice: DataChoice) -> UsageError:
    asked = f"--eval-data {choice.eval_data}" if choice.eval_share is None else f"--eval-share {choice.eval_share:g}"
    return UsageError(
        f"{asked} holds out no row that could be judged", remedy="give a larger share, more data, or a shorter --seq"
    )


def _left(choice: DataChoice) -> Part | None:
    return None if choice.eval_share is None else Part(choice.eval_share, held_out=False)


def _held_out(
    file: TrainingFile,
    tokens: TrainingTokens,
    choice: DataChoice,
    tokenizer: TextTokenizer,
    settings: RunSettings,
    shard: tuple[int, int],
) -> _HeldOut:
    what: object = choice.eval_share
    part, origin = None, choice.eval_data
    if choice.eval_data is not None:
        file, trained = read_data(choice.eval_data, choice, tokenizer), tokens
        tokens = tokens_of(file, choice, tokenizer)
        what = tokens.digest
        if what == trained.digest:
            raise UsageError(
                f"--eval-data {choice.eval_data} has what is trained on",
                remedy="give other rows, or hold some out with --eval-share",
            )
    elif choice.eval_share is not None:
        part = Part(choice.eval_share, held_out=True)
        origin = f"a share of {choice.eval_share:g}, by a hash of their tokens"
    else:
        return _HeldOut()
    try:
        found, _ = _batches(file, tokens, choice, tokenizer, settings, shard, part)
    except NoRowsError:
        return _HeldOut(what=what)
    return _HeldOut(found, what, (f"held out: {found.rows} row(s) of {origin}; the server sees them too",))


def data_words(
    file: TrainingFile,
    choice: DataChoice,
    tokenizer: TextTokenizer,
    settings: RunSettings,
    shards: Mapping[str, tuple[int, int]],
) -> tuple[str, ...]:
    """What `prepare_data` would say to each of these devices, and its errors, before any process is started.

    The tokens that are made for it are those that the devices take.
    """
    _check_feedback(file, choice, settings)
    tokens = tokens_of(file, choice, tokenizer)
    own, judging = [], 0
    for name, shard in shards.items():
        notes = _batches(file, tokens, choice, tokenizer, settings, shard, _left(choice))[1]
        judged = _held_out(file, tokens, choice, tokenizer, settings, shard)
        judging += judged.rows is not None
        own += [f"{name}: {note}" for note in (*notes, *judged.notes)]
    if choice.judges and not judging:
        raise _nothing_held_out(choice)
    return (*_words(file, tokens, choice, tokenizer, settings), *own)


def _windows(file: TrainingFile, choice: DataChoice) -> bool:
    """Whether texts are cut into rows one after the other."""
    return file.form == TEXT and not choice.packing


def _check_feedback(file: TrainingFile, choice: DataChoice, settings: RunSettings) -> None:
    if settings.error_feedback and not choice.packing and not _windows(file, choice):
        raise UsageError(
            "--error-feedback adds what was lost to gradients of the same shape, and padded samples have others",
            remedy="give --packing, or leave --error-feedback out",
        )


def _batches(
    file: TrainingFile,
    tokens: TrainingTokens,
    choice: DataChoice,
    tokenizer: TextTokenizer,
    settings: RunSettings,
    shard: tuple[int, int],
    part: Part | None,
) -> tuple[Batches | SampleBatches, tuple[str, ...]]:
    """Mini-batches of one device, and what is said of them."""
    task = settings.task
    vocabulary = task.architecture.vocab_size
    if tokens.stored.samples is None or _windows(file, choice):
        windows = Batches(
            tokens.stored,
            batch=choice.batch or task.batch,
            sequence=task.sequence,
            vocabulary=vocabulary,
            seed=settings.seed,
            shard=Shard(*shard, part),
        )
        return windows, ()
    samples = SampleBatches(
        tokens.stored.samples,
        batch=choice.batch or task.batch,
        sequence=task.sequence,
        vocabulary=vocabulary,
        seed=settings.seed,
        packing=choice.packing,
        padding=tokenizer.end or 0,
        shard=Shard(*shard, part),
    )
    return samples, samples.notes


def _words(
    file: TrainingFile, tokens: TrainingTokens, choice: DataChoice, tokenizer: TextTokenizer, settings: RunSettings
) -> tuple[str, ...]:
    """What data and tokens are, whoever takes which of them."""
    origin = f"tokens of {file.name}: {tokenizer.origin}"
    if _windows(file, choice):
        between = tokenizer.between(tokens.count)
        return (origin, *((between,) if between else ()), *tokens.read_notes)
    padded = (
        "samples are padded to the longest of their mini-batch, and a prediction is for"
        f" {settings.task.sequence} tokens (--seq)"
    )
    return (
        origin,
        f"{tokens.count} samples: {file.form}",
        *tokens.read_notes,
        *tokens.encoded_notes,
        *(() if choice.packing else (padded,)),
    )

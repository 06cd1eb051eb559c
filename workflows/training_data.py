"""What a device of a run trains on, from its options: samples read, checked, made tokens and put into mini-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cardlab.core.errors import UsageError
from cardlab.core.identity import content_hash
from cardlab.split.batches import PACKED, PADDED, SampleBatches, TrainingData, sample_rows
from cardlab.split.data import Batches, window_rows
from cardlab.split.encoding import loss_words, open_template, train_on_of
from cardlab.split.held_out import NoRowsError, Part, Shard, seen_in_training
from cardlab.split.samples import TEXT
from cardlab.split.settings import RunSettings
from cardlab.split.token_file import TokenArray
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
    judged = _held_out(_judging(file, tokens, choice, tokenizer, settings), choice, tokenizer, settings, shard)
    if judged.rows is None and choice.judges and shard[1] == 1:
        raise _nothing_held_out(choice)
    digest = _digest(tokens, batches, choice, judged, shard)
    return Prepared(batches=batches, held_out=judged.rows, digest=digest, notes=(*notes, *own, *judged.notes))


def data_name(file: TrainingFile, choice: DataChoice, tokenizer: TextTokenizer) -> str:
    """What a device trains on, for people."""
    how = ""
    if not _windows(file, choice):
        chosen = loss_words(file.form, train_on_of(file.form, file.name, choice.train_on))
        how = f" ({chosen}, {'packed' if choice.packing else 'padded'})"
    return f"{file.name}{how}, tokens: {tokenizer.origin}"


def _digest(
    tokens: TrainingTokens,
    batches: Batches | SampleBatches,
    choice: DataChoice,
    judged: _HeldOut,
    shard: tuple[int, int],
) -> str:
    what: list[object] = [tokens.digest, list(shard)]
    if not isinstance(batches, Batches):
        what += [PACKED if choice.packing else PADDED, tokens.train_on, tokens.encoding]
    # What is held out is not trained on, so another share is other data.
    what += [judged.what] if choice.judges else []
    return content_hash(what)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judging:
    """Where held-out rows come from, whoever judges by which of them.

    Attributes:
        file, tokens: their own file's, or the data's.
        part: the side of the data's rows, None for all of a file.
        what: for a digest.
        origin, seen: in words; "" where none of them is trained on.
    """

    file: TrainingFile
    tokens: TrainingTokens
    part: Part | None
    what: object
    origin: str
    seen: str = ""


def _judging(
    file: TrainingFile, tokens: TrainingTokens, choice: DataChoice, tokenizer: TextTokenizer, settings: RunSettings
) -> _Judging | None:
    """None where nothing is held out. Raises UsageError where all of it is trained on."""
    if choice.eval_data is not None:
        own = read_data(choice.eval_data, choice, tokenizer)
        found = tokens_of(own, choice, tokenizer)
        return _Judging(
            file=own,
            tokens=found,
            part=None,
            what=found.digest,
            origin=choice.eval_data,
            seen=_seen(choice, (own, found), (file, tokens), settings.task.sequence),
        )
    if choice.eval_share is None:
        return None
    return _Judging(
        file=file,
        tokens=tokens,
        part=Part(choice.eval_share, held_out=True),
        what=choice.eval_share,
        origin=f"a share of {choice.eval_share:g}, by a hash of their tokens",
    )


def _held_out(
    judging: _Judging | None,
    choice: DataChoice,
    tokenizer: TextTokenizer,
    settings: RunSettings,
    shard: tuple[int, int],
) -> _HeldOut:
    if judging is None:
        return _HeldOut()
    try:
        found, _ = _batches(judging.file, judging.tokens, choice, tokenizer, settings, shard, judging.part)
    except NoRowsError:
        return _HeldOut(what=judging.what)
    words = f"held out: {found.rows} row(s) of {judging.origin}; the server sees them too"
    return _HeldOut(found, judging.what, (words, *((judging.seen,) if judging.seen else ())))


def _seen(
    choice: DataChoice,
    judged: tuple[TrainingFile, TrainingTokens],
    trained: tuple[TrainingFile, TrainingTokens],
    sequence: int,
) -> str:
    """In words, how many rows of --eval-data are trained on too; "" for none. Raises UsageError where all are."""
    both, count = seen_in_training(_rows(*judged, choice, sequence), _rows(*trained, choice, sequence))
    if both and both == count or judged[1].digest == trained[1].digest:
        raise UsageError(
            f"--eval-data {choice.eval_data} has what is trained on",
            remedy="give other rows, or hold some out with --eval-share",
        )
    if not both:
        return ""
    return f"{both} of {count} rows of {choice.eval_data} are trained on too: the held-out loss is lower for it"


def _rows(file: TrainingFile, tokens: TrainingTokens, choice: DataChoice, sequence: int) -> Iterator[TokenArray]:
    """The tokens of each row, or of each sample of packed rows."""
    if tokens.stored.samples is None or _windows(file, choice):
        return window_rows(tokens.stored.tokens, sequence)
    return sample_rows(tokens.stored.samples, sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of the devices' data before any process is started.

    Attributes:
        notes: what `prepare_data` says to each device.
        rows: to train on, of the device that has most; None where that is not known here.
        inputs: by label, the digest of what a device trains on and its name for people.
    """

    notes: tuple[str, ...] = ()
    rows: int | None = None
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def known_data(
    file: TrainingFile,
    choice: DataChoice,
    tokenizer: TextTokenizer,
    settings: RunSettings,
    shards: Mapping[str, tuple[int, int]],
) -> Known:
    """What is known of the data of each of these devices; errors as `prepare_data`.

    The tokens that are made for it are those that the devices take.
    """
    _check_feedback(file, choice, settings)
    tokens = tokens_of(file, choice, tokenizer)
    own, count, rows, inputs = [], 0, [], {}
    judging = _judging(file, tokens, choice, tokenizer, settings)
    for name, shard in shards.items():
        batches, said = _batches(file, tokens, choice, tokenizer, settings, shard, _left(choice))
        rows.append(batches.rows)
        judged = _held_out(judging, choice, tokenizer, settings, shard)
        count += judged.rows is not None
        inputs[name] = (_digest(tokens, batches, choice, judged, shard), data_name(file, choice, tokenizer))
        own += [f"{name}: {note}" for note in (*said, *judged.notes)]
    if choice.judges and not count:
        raise _nothing_held_out(choice)
    notes = (*_words(file, tokens, choice, tokenizer, settings), *own)
    return Known(notes=notes, rows=max(rows), inputs=inputs)


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
        return windows, _repeated(windows.rows, choice.batch or task.batch)
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
    return samples, (*samples.notes, *_repeated(samples.rows, choice.batch or task.batch))


def _repeated(rows: int, batch: int) -> tuple[str, ...]:
    """That a mini-batch has rows more than once, in words."""
    return (f"a mini-batch of {batch} has rows more than once: there are {rows}",) if batch > rows else ()


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

"""What a device of a run trains on, from its options: samples read, checked, made tokens and put into mini-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cardlab.core.errors import UsageError
from cardlab.core.identity import content_hash
from cardlab.split.batches import PACKED, PADDED, SampleBatches, TrainingData
from cardlab.split.data import Batches, corpus_of, read_training
from cardlab.split.encoding import EncodedSamples, encode_samples, open_template, train_on_of, uses_template
from cardlab.split.samples import TEXT, Samples
from cardlab.split.settings import RunSettings
from cardlab.split.tokenizer import TextTokenizer
from cardlab.workflows.options.run import DeviceOptions, RunOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChoice:
    """How samples become mini-batches, as the user asked.

    Attributes:
        chat_template: file, None for the tokenizer's own.
        train_on: "all" or "completion", None for what the data have.
        packing: several samples in a row.
    """

    chat_template: str | None = None
    train_on: str | None = None
    packing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Mini-batches of one device.

    Attributes:
        batches: by number.
        digest: equal exactly where two train on the same.
        notes: data, tokens and what was assumed, for the person before the screen.
    """

    batches: TrainingData
    digest: str
    notes: tuple[str, ...]


def choice_of(options: RunOptions | DeviceOptions) -> DataChoice:
    """The choice that these options make."""
    return DataChoice(chat_template=options.chat_template, train_on=options.train_on, packing=options.packing)


def read_data(path: str | None, choice: DataChoice, tokenizer: TextTokenizer | None) -> Samples:
    """The samples of a file, the bundled text for None, and whether the choice fits them.

    Args:
        tokenizer: None where it is known only once the run is.

    Raises UsageError, MissingDependencyError: as `read_samples`; for a choice that has no effect on these data, and for
    conversations without a chat template.
    """
    samples = read_training(path)
    train_on_of(samples.form, samples.name, choice.train_on)
    if choice.packing and len(samples.samples) == 1:
        raise UsageError(
            f"{samples.name} has one sample: there is nothing to pack",
            remedy="leave --packing out, or give more samples",
        )
    if uses_template(samples, choice.chat_template) and tokenizer is not None:
        open_template(tokenizer, choice.chat_template)
    return samples


def prepare_data(
    samples: Samples, choice: DataChoice, tokenizer: TextTokenizer, settings: RunSettings, shard: tuple[int, int]
) -> Prepared:
    """Mini-batches of samples that were read for this choice.

    Args:
        shard: (j, M): the device takes every M-th window or sample, from the j-th.

    Raises UsageError for a sample that cannot be encoded, RunError where too little is left to train on.
    """
    task = settings.task
    vocabulary = task.architecture.vocab_size
    if samples.form == TEXT and not choice.packing:
        corpus = corpus_of(samples)
        windows = Batches(
            tokenizer.encode(corpus.documents),
            batch=task.batch,
            sequence=task.sequence,
            vocabulary=vocabulary,
            seed=settings.seed,
            shard=shard,
        )
        digest = content_hash([corpus.digest, list(shard)])
        return Prepared(batches=windows, digest=digest, notes=window_words(samples, tokenizer))
    _check_feedback(choice, settings)
    encoded = encode_samples(samples, tokenizer, train_on=choice.train_on, chat_template=choice.chat_template)
    batches = _sample_batches(encoded, choice, tokenizer, settings, shard)
    layout = PACKED if choice.packing else PADDED
    digest = content_hash([samples.digest, list(shard), layout, encoded.train_on, encoded.digest])
    notes = (*_sample_words(samples, encoded, choice, tokenizer, settings), *batches.notes)
    return Prepared(batches=batches, digest=digest, notes=notes)


def _check_feedback(choice: DataChoice, settings: RunSettings) -> None:
    if settings.error_feedback and not choice.packing:
        raise UsageError(
            "--error-feedback adds what was lost to gradients of the same shape, and padded samples have others",
            remedy="give --packing, or leave --error-feedback out",
        )


def _sample_batches(
    encoded: EncodedSamples,
    choice: DataChoice,
    tokenizer: TextTokenizer,
    settings: RunSettings,
    shard: tuple[int, int],
) -> SampleBatches:
    task = settings.task
    return SampleBatches(
        encoded.samples,
        batch=task.batch,
        sequence=task.sequence,
        vocabulary=task.architecture.vocab_size,
        seed=settings.seed,
        packing=choice.packing,
        padding=tokenizer.end or 0,
        shard=shard,
    )


def _sample_words(
    samples: Samples, encoded: EncodedSamples, choice: DataChoice, tokenizer: TextTokenizer, settings: RunSettings
) -> tuple[str, ...]:
    """What is said of samples that are padded or packed, whoever takes which of them."""
    padded = (
        "samples are padded to the longest of their mini-batch, and a prediction is for"
        f" {settings.task.sequence} tokens (--seq)"
    )
    return (
        f"tokens of {samples.name}: {tokenizer.origin}",
        f"{len(samples.samples)} samples: {samples.form}",
        *samples.notes,
        *encoded.notes,
        *(() if choice.packing else (padded,)),
    )


def window_words(samples: Samples, tokenizer: TextTokenizer) -> tuple[str, ...]:
    """What data and tokens of texts are that are cut into windows."""
    between = tokenizer.between(len(samples.samples))
    return (f"tokens of {samples.name}: {tokenizer.origin}", *((between,) if between else ()), *samples.notes)


def data_words(
    samples: Samples,
    choice: DataChoice,
    tokenizer: TextTokenizer,
    settings: RunSettings,
    shards: Mapping[str, tuple[int, int]],
) -> tuple[str, ...]:
    """What `prepare_data` would say to each of these devices, and its errors, before any process is started.

    Texts in windows are not made tokens for it: a large one takes minutes, and each device makes them anyway.
    """
    if samples.form == TEXT and not choice.packing:
        return window_words(samples, tokenizer)
    _check_feedback(choice, settings)
    encoded = encode_samples(samples, tokenizer, train_on=choice.train_on, chat_template=choice.chat_template)
    own = [
        f"{name}: {note}"
        for name, shard in shards.items()
        for note in _sample_batches(encoded, choice, tokenizer, settings, shard).notes
    ]
    return (*_sample_words(samples, encoded, choice, tokenizer, settings), *own)

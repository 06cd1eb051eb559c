"""Parallel split fine-tuning with the constants of a database: measured times, codecs and accuracy curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cardlab.card.problem.codec_times import Codecs
from cardlab.card.problem.from_db import UNTIMED, Gathered
from cardlab.card.problem.scenario import SftSpec
from cardlab.card.schemes.sft.accuracies import Accuracies, accuracies_of
from cardlab.card.schemes.sft.building import Instance, assumed_words, sft_problem
from cardlab.card.schemes.sft.options import PLAIN, Compressions, Option, options_of
from cardlab.card.schemes.sft.sharing import measured_sharing
from cardlab.card.schemes.sft.spectrum import Band
from cardlab.core.records.task import DTYPE_BYTES
from cardlab.db.store import Store

# Labels travel as int32.
LABEL_BYTES = 4
COMMON = "blocks = common (a server that computes all at once needs it)"
_NEAR = 0.3


def instance_from_database(
    store: Store, gathered: Gathered, spec: SftSpec, compression: float | None
) -> tuple[Instance, tuple[str, ...]]:
    """The instance of gathered arrays (made without compression), and uids of the fits and runs that it adds.

    Compressions on offer: with an accuracy target the codecs that were profiled on a machine of the plan
    (`profile-device --compression`); with `compression` the profiled codec within 30 % of it, else that rate by
    formula; else none, since nothing would say how much is too much.
    The line is shared as measured: rates are those of a device alone, and a share of the band is that share of the
    rate unless a channel was drawn.
    """
    spec = replace(spec, raw_bits=8 * DTYPE_BYTES[gathered.wire_dtype])
    accuracies = accuracies_of(store, gathered.task)
    base, codecs = gathered.problem, gathered.codecs
    measured = measured_options(gathered, accuracies)
    if compression is not None:
        # A codec that was timed is worth more than a rate met exactly by one that was not.
        near = min(measured, key=lambda o: abs(o.rate - compression), default=None)
        measured = (near,) if near is not None and abs(near.rate - compression) <= _NEAR * compression else ()
    elif spec.accuracy_target is None:
        measured = ()
    options = measured or tuple(
        _judged(option, accuracies, spec.raw_bits)
        for option in options_of(replace(spec, rates=(compression or 1.0,)), compression or 1.0)
    )
    plain = PLAIN
    if codecs.profiles:
        plain = _uncompressed(gathered, codecs.with_borrowed() if measured else codecs, accuracies)
    if not measured and compression in (None, 1.0) and codecs.profiles:
        options = (plain,)
    if codecs.profiles or compression not in (None, 1.0):
        # Times of uncompressed tensors belong to the option "none".
        nothing = np.zeros_like(base.encode_s)
        base = replace(base, encode_s=nothing, decode_s=nothing)
    sharing = None
    if spec.server_sharing == "batched":
        sharing = measured_sharing(store, gathered)
        spec = replace(spec, blocks="common", sharing_times=tuple(sharing.times[1:]))
    offered = Compressions(options=tuple(options), plain=plain)
    label_bytes = float(LABEL_BYTES * gathered.task.tokens)
    problem = sft_problem(base, spec, offered, sharing=sharing, label_bytes=label_bytes)
    width = spec.bandwidth_hz or 2.0e7
    states = gathered.statistics
    statistics = Band(
        bandwidth_hz=width,
        uplink_bps=np.array([p.uplink_bps for p in states]),
        downlink_bps=np.array([p.downlink_bps for p in states]),
        spectrum=spec.spectrum,
    )
    # One band for a problem: rounds that share it are solved once.
    rounds = {
        id(p): replace(statistics, uplink_bps=p.uplink_bps, downlink_bps=p.downlink_bps) for p in gathered.problems
    }
    words = (*assumed_words(spec, options), *(() if sharing is None else (COMMON, *sharing.words)))
    instance = Instance(
        problem=problem,
        statistics=statistics,
        rounds=tuple(rounds[id(p)] for p in gathered.problems),
        local_s=None if np.isnan(gathered.local_s).any() else gathered.local_s,
        uncertainty=gathered.uncertainty,
        local_bytes=None,
        assumed=(
            # A machine without a codec profile takes another's times here.
            *(words for words in gathered.assumptions if not measured or words != UNTIMED),
            f"all devices share one link ({spec.spectrum})",
            *words,
            *(accuracies.words if measured or compression is not None else ()),
            *(_borrowed_words(codecs) if measured else ()),
        ),
        runs=() if sharing is None else sharing.runs,
    )
    return instance, accuracies.fits


def _judged(option: Option, accuracies: Accuracies, raw_bits: int) -> Option:
    """An option by formula, with what is known of the codec that it names."""
    if option.codec in (None, "none"):
        whole = accuracies.known and option.rate >= 1.0
        return replace(option, accuracy=1.0, penalty=0.0) if whole else option
    kept, lost = accuracies.of(str(option.codec), option.rate * raw_bits / 32)
    return replace(option, accuracy=kept, penalty=lost)


def _borrowed_words(codecs: Codecs) -> tuple[str, ...]:
    """Which machines borrow the speed of another's codecs, as an assumption."""
    if not codecs.borrowed():
        return ()
    first = next(iter(codecs.profiles.values())).profile.run.device.name
    return (f"codecs are as quick on {len(codecs.borrowed())} machine(s) without a codec profile as on {first}",)


def measured_options(gathered: Gathered, accuracies: Accuracies) -> tuple[Option, ...]:
    """Codecs that every codec profile of the plan's machines holds, each at the speed of its own machines and cut."""
    if not gathered.codecs.profiles:
        return ()
    codecs, wire = gathered.codecs.with_borrowed(), DTYPE_BYTES[gathered.wire_dtype]
    cuts = [int(cut) for cut in gathered.problem.cuts]
    found = [_uncompressed(gathered, codecs, accuracies)]
    for codec in codecs.names:
        # Header and levels can make a codec larger than what it packs; such a one is no choice.
        rate = codecs.rate(codec, wire)
        if rate < 1.0:
            kept, lost = accuracies.of(codec, codecs.rate(codec, DTYPE_BYTES["float32"]))
            option = Option(rate=rate, codec=codec, accuracy=kept, penalty=lost)
            found.append(_timed(option, codecs, codec, cuts))
    return tuple(sorted(found, key=lambda o: o.rate)) if len(found) > 1 else ()


def _uncompressed(gathered: Gathered, codecs: Codecs, accuracies: Accuracies) -> Option:
    """Tensors as they are, which take time to pack too, and keep all of the gain."""
    whole = 1.0 if accuracies.known else None
    cuts = [int(cut) for cut in gathered.problem.cuts]
    return _timed(Option(rate=1.0, codec="none", accuracy=whole, penalty=0.0), codecs, "none", cuts)


def _timed(option: Option, codecs: Codecs, codec: str, cuts: list[int]) -> Option:
    """An option with its measured seconds, of both sides and of the server alone."""
    encode_s, decode_s = codecs.seconds(codec, cuts)
    encoded_s, decoded_s = codecs.server_seconds(codec, cuts)
    return replace(option, encode_s=encode_s, decode_s=decode_s, there_encode_s=encoded_s, there_decode_s=decoded_s)

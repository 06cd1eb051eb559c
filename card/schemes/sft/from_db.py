"""Parallel split fine-tuning with the constants of a database: measured times, codecs and accuracy curves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cardlab.card.problem.codec_times import Codecs
from cardlab.card.problem.from_db import Gathered
from cardlab.card.problem.scenario import SftSpec
from cardlab.card.schemes.sft.building import Instance, assumed_words, sft_problem
from cardlab.card.schemes.sft.options import PLAIN, Accuracy, Compressions, Option, options_of
from cardlab.card.schemes.sft.sharing import measured_sharing
from cardlab.card.schemes.sft.spectrum import Band
from cardlab.core.records.fit import Fit
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
    fit = accuracy_fit(store, gathered.task.uid)
    curve = None if fit is None else accuracy_of_fit(fit)
    if curve is not None:
        spec = replace(spec, accuracy_limit=curve.limit, accuracy_loss=curve.loss, accuracy_rate=curve.rate)
    base, codecs = gathered.problem, gathered.codecs
    measured = measured_options(gathered, curve)
    if compression is not None:
        # A codec that was timed is worth more than a rate met exactly by one that was not.
        near = min(measured, key=lambda o: abs(o.rate - compression), default=None)
        measured = (near,) if near is not None and abs(near.rate - compression) <= _NEAR * compression else ()
    elif spec.accuracy_target is None:
        measured = ()
    options = measured or options_of(replace(spec, rates=(compression or 1.0,)), compression or 1.0)
    plain = _uncompressed(gathered, codecs.with_borrowed() if measured else codecs, curve) if codecs.profiles else PLAIN
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
    offered = Compressions(options=tuple(options), curve=curve, plain=plain)
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
            *gathered.assumptions,
            f"all devices share one link ({spec.spectrum})",
            *words,
            *(_borrowed_words(codecs) if measured else ()),
        ),
        runs=() if sharing is None else sharing.runs,
    )
    return instance, () if fit is None else (fit.fit_id,)


def accuracy_fit(store: Store, task: str) -> Fit | None:
    """The newest accuracy curve of a task, None without one."""
    found = [s.fit for s in store.fits.newest(task=task, selected_only=True) if s.fit.quantity == "accuracy"]
    return found[-1] if found else None


def accuracy_of_fit(fit: Fit) -> Accuracy | None:
    """The curve of a fit of the saturating law."""
    if fit.law != "saturating":
        return None
    values = {name: p.value for name, p in fit.parameters.items()}
    return Accuracy(limit=values["limit"], loss=values["loss"], rate=values["rate"])


def _borrowed_words(codecs: Codecs) -> tuple[str, ...]:
    """Which machines borrow the speed of another's codecs, as an assumption."""
    if not codecs.borrowed():
        return ()
    first = next(iter(codecs.profiles.values())).profile.run.device.name
    return (f"codecs are as quick on {len(codecs.borrowed())} machine(s) without a codec profile as on {first}",)


def measured_options(gathered: Gathered, curve: Accuracy | None) -> tuple[Option, ...]:
    """Codecs that every codec profile of the plan's machines holds, each at the speed of its own machines and cut."""
    if not gathered.codecs.profiles:
        return ()
    codecs, wire = gathered.codecs.with_borrowed(), DTYPE_BYTES[gathered.wire_dtype]
    cuts = [int(cut) for cut in gathered.problem.cuts]
    found = [_uncompressed(gathered, codecs, curve)]
    for codec in codecs.names:
        # Header and levels can make a codec larger than what it packs; such a one is no choice.
        rate = codecs.rate(codec, wire)
        if rate < 1.0:
            known = (None, None) if curve is None else (curve.at(rate), curve.penalty(rate))
            option = Option(rate=rate, codec=codec, accuracy=known[0], penalty=known[1])
            found.append(_timed(option, codecs, codec, cuts))
    return tuple(sorted(found, key=lambda o: o.rate)) if len(found) > 1 else ()


def _uncompressed(gathered: Gathered, codecs: Codecs, curve: Accuracy | None) -> Option:
    """Tensors as they are, which take time to pack too."""
    limit = None if curve is None else curve.limit
    cuts = [int(cut) for cut in gathered.problem.cuts]
    return _timed(Option(rate=1.0, codec="none", accuracy=limit, penalty=0.0), codecs, "none", cuts)


def _timed(option: Option, codecs: Codecs, codec: str, cuts: list[int]) -> Option:
    """An option with its measured seconds, of both sides and of the server alone."""
    encode_s, decode_s = codecs.seconds(codec, cuts)
    encoded_s, decoded_s = codecs.server_seconds(codec, cuts)
    return replace(option, encode_s=encode_s, decode_s=decode_s, there_encode_s=encoded_s, there_decode_s=decoded_s)

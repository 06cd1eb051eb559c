"""Parallel split fine-tuning with the constants of a database: measured times, codecs and accuracy curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cardlab.card.from_db import DTYPE_BYTES, Gathered
from cardlab.card.problem import Problem
from cardlab.card.scenario import SftSpec
from cardlab.card.sft.building import Instance, assumed_words, sft_problem
from cardlab.card.sft.options import Accuracy, Option, options_of
from cardlab.card.sft.sharing import measured_sharing
from cardlab.card.sft.spectrum import Band
from cardlab.db.store import Store
from cardlab.records.fit import Fit
from cardlab.records.measurement import Measurement, Profile

COMPRESSION = "compression"
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
    base = gathered.problem
    profiles = codec_profiles(store, gathered)
    measured = measured_options(profiles, gathered, curve)
    if compression is not None:
        near = min(measured, key=lambda o: abs(o.rate - compression), default=None)
        measured = (near,) if near is not None and abs(near.rate - compression) <= _NEAR * compression else ()
    elif spec.accuracy_target is None:
        measured = ()
    options = measured or options_of(replace(spec, rates=(compression or 1.0,)), compression or 1.0)
    sharing = None
    if spec.server_sharing == "batched":
        sharing = measured_sharing(store, gathered)
        spec = replace(spec, blocks="common", sharing_times=tuple(sharing.times[1:]))
    label_bytes = float(LABEL_BYTES * gathered.task.tokens)
    problem = sft_problem(base, spec, options, curve, sharing=sharing, label_bytes=label_bytes)
    width = spec.bandwidth_hz or 2.0e7
    rounds = {id(p): _band(p, width, spec.spectrum) for p in gathered.problems}
    states = list(rounds.values())
    statistics = Band(
        width,
        np.array([b.uplink_bps for b in states]),
        np.array([b.downlink_bps for b in states]),
        spec.spectrum,
    )
    words = (*assumed_words(spec, options), *(() if sharing is None else (COMMON, *sharing.words)))
    instance = Instance(
        problem=problem,
        statistics=statistics,
        rounds=tuple(rounds[id(p)] for p in gathered.problems),
        local_s=None,
        local_bytes=None,
        assumed=(*gathered.assumptions, f"all devices share one link ({spec.spectrum})", *words),
    )
    used = () if fit is None else (fit.fit_id,)
    shared = () if sharing is None else sharing.runs
    return instance, (*used, *((p.run.uid for p in profiles) if measured else ()), *shared)


def _band(problem: Problem, width_hz: float, spectrum: str) -> Band:
    return Band(width_hz, problem.uplink_bps, problem.downlink_bps, spectrum)


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


def codec_profiles(store: Store, gathered: Gathered) -> list[Profile]:
    """Newest codec profile of this task on each machine of the plan's runs."""
    keys = {store.runs.get(uid).run.device.key for uid in gathered.runs}
    newest: dict[str, Profile] = {}
    for profile in store.runs.select(kind=COMPRESSION, task=gathered.task.uid):
        if profile.complete and profile.run.device.key in keys:
            newest[profile.run.device.key] = profile
    return list(newest.values())


def measured_options(profiles: Sequence[Profile], gathered: Gathered, curve: Accuracy | None) -> tuple[Option, ...]:
    """Codecs that every given machine measured; sizes and speeds are means over cuts and machines (server included)."""
    by_codec: dict[str, list[Measurement]] = {}
    for profile in profiles:
        for point in profile.points:
            for m in point.measurements:
                if m.quantity == COMPRESSION and m.estimate is not None:
                    by_codec.setdefault(str(m.details["codec"]), []).append(m)
    wire = DTYPE_BYTES[gathered.wire_dtype]
    found = [Option(rate=1.0, codec="none", accuracy=None if curve is None else curve.limit, penalty=0.0)]
    for codec, rows in by_codec.items():
        rate = float(np.mean([float(str(m.details["bytes"])) / float(str(m.details["values"])) for m in rows])) / wire
        if codec == "none" or not rate < 1.0:
            continue
        encode, decode = (
            float(np.mean([float(str(m.details[key])) / (float(str(m.details["values"])) * wire) for m in rows]))
            for key in ("encode_s", "decode_s")
        )
        found.append(
            Option(
                rate=rate,
                codec=codec,
                encode_s_per_byte=(encode, encode),
                decode_s_per_byte=(decode, decode),
                accuracy=None if curve is None else curve.at(rate),
                penalty=None if curve is None else curve.penalty(rate),
            )
        )
    return tuple(sorted(found, key=lambda o: o.rate)) if len(found) > 1 else ()

"""From a scenario, or the arrays of a database, to the problem of parallel split fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cardlab.card.link.channel import OTHER_SEED, STATES, rates_by_round
from cardlab.card.problem.arrays import Array
from cardlab.card.problem.constraints import check_caps, not_kept
from cardlab.card.problem.problem import Problem, problem_from_scenario
from cardlab.card.problem.scenario import Objective, Scenario, SftSpec
from cardlab.card.schemes.sft.options import Compressions, Option, accuracy_of, check_target, options_of
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.card.schemes.sft.spectrum import Band
from cardlab.card.uncertainty import Uncertainty
from cardlab.core.errors import InfeasibleError
from cardlab.core.text import data_size, si

if TYPE_CHECKING:
    from cardlab.card.schemes.sft.sharing import Sharing

_BAND_HZ = 2.0e7


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What is planned.

    Attributes:
        problem: blocks and compressions to choose.
        statistics: the channel as the large timescale knows it; rates [S,M].
        rounds: the channel as each round finds it; rates [M].
        local_s: time of the whole model, head included, on each device for a mini-batch [M]; None unknown.
        local_bytes: memory of the whole model on a device; None unknown.
        assumed: what was filled in, in words.
        uncertainty: what is not known about the constants; None where nothing says.
        runs: uids of profiles beyond those of the constants.
    """

    problem: SftProblem
    statistics: Band
    rounds: tuple[Band, ...]
    local_s: Array | None
    local_bytes: float | None
    assumed: tuple[str, ...]
    uncertainty: Uncertainty | None = None
    runs: tuple[str, ...] = ()


def instance_from_scenario(scenario: Scenario) -> Instance:
    """The instance of a scenario with scheme "sft". Raises InfeasibleError for an accuracy out of reach."""
    spec = scenario.sft
    # Bytes before compression: here every device may choose a compression of its own.
    plain = replace(scenario, objective=replace(scenario.objective, compression=1.0))
    base = problem_from_scenario(plain)
    options = options_of(spec, scenario.objective.compression)
    problem = sft_problem(base, spec, Compressions(options=options, curve=accuracy_of(spec)))
    task = scenario.task
    whole = (
        task.layers * (task.layer_forward_flop + task.layer_backward_flop)
        + task.head_flop
        - (0.0 if task.first_layer_backward_flop is None else task.layer_backward_flop - task.first_layer_backward_flop)
    )
    width_hz, width_words = _width(scenario)
    statistics, rounds = _bands(scenario, base, width_hz)
    return Instance(
        problem=problem,
        statistics=statistics,
        rounds=rounds,
        local_s=np.array([whole / (d.frequency_hz * d.delta * d.cores) for d in scenario.devices]),
        local_bytes=task.device_base_bytes + task.layers * task.device_bytes_per_layer or None,
        assumed=(*scenario.assumed, *width_words, *assumed_words(spec, options), *_unused(scenario.objective)),
    )


def _unused(objective: Objective) -> tuple[str, ...]:
    """A line that names keys of the objective which this scheme has no use for, where they were given another value."""
    plain = Objective()
    keys = ("weight", "weight_on", "range", "energy", "device_energy_weight", "benchmark")
    changed = [key for key in keys if getattr(objective, key) != getattr(plain, key)]
    return (f"not used by scheme sft: {', '.join(changed)} of [objective]",) if changed else ()


def sft_problem(
    base: Problem,
    spec: SftSpec,
    offered: Compressions,
    *,
    sharing: Sharing | None = None,
    label_bytes: float = 0.0,
) -> SftProblem:
    """The problem of these arrays, server at its highest frequency; `sharing`: measured times and memory of M at once.

    Raises InfeasibleError naming what is short.
    """
    options, curve = offered.options, offered.curve
    check_target(options, curve, spec.accuracy_target)
    check_caps(base)
    top = _highest_frequency(base)
    frequency = float(base.frequency_hz[top])
    count = len(base.devices)
    encode, decode = (_codec_s(base, options, way) for way in ("encode", "decode"))
    times = sharing_times(spec, count)
    # The problem's own memory holds one device; each further one adds activations for the layers above its cut.
    others = (count - 1) * spec.sharing_bytes_per_layer if spec.server_sharing == "batched" else 0.0
    problem = SftProblem(
        base=base,
        options=options,
        plain=offered.plain,
        codec_s=encode + decode,
        encode_s=encode,
        there_decode_s=_there_s(base, options, "decode"),
        there_encode_s=_there_s(base, options, "encode"),
        label_bytes=label_bytes,
        server_s=base.server_s[:, top],
        top=top,
        frequency_hz=None if np.isnan(frequency) else frequency,
        power_w=None if base.power_w is None else float(base.power_w[top]),
        times=times if sharing is None else sharing.times,
        last_times=times if sharing is None else sharing.last_times,
        sharing=spec.server_sharing,
        common=spec.blocks == "common",
        server_bytes=base.server_memory_bytes + others * (base.cuts[-1] + 1 - base.cuts)
        if sharing is None
        else sharing.server_bytes,
        target=spec.accuracy_target,
        curve=curve,
    )
    _refuse_if_none(problem)
    return problem


def _highest_frequency(base: Problem) -> int:
    """Index of the highest frequency that keeps the cap on power: nothing weighs energy, so it is never worse.

    Raises InfeasibleError where none keeps it.
    """
    frequencies = np.zeros(base.frequency_hz.size) if np.isnan(base.frequency_hz).all() else base.frequency_hz
    cap_w = base.constraints.server_power_w
    if cap_w is None or base.power_w is None:
        return int(np.argmax(frequencies))
    kept = base.power_w <= cap_w
    if not kept.any():
        least_w = float(base.power_w.min())
        raise InfeasibleError(
            f"server power cap of {si(cap_w, 'W')} cannot be kept, the best possible is {si(least_w, 'W')}",
            remedy="raise --max-server-power",
        )
    return int(np.argmax(np.where(kept, frequencies, -np.inf)))


def sharing_times(spec: SftSpec, count: int) -> Array:
    """How long 0..M mini-batches at once take in units of one; beyond what was measured each adds a whole one."""
    times = np.arange(count + 1, dtype=float)
    if spec.server_sharing == "batched":
        known = np.array([0.0, *spec.sharing_times])[: count + 1]
        times[: known.size] = known
        for k in range(max(known.size, 2), count + 1):
            times[k] = times[k - 1] + 1.0
    return times


def assumed_words(spec: SftSpec, options: Sequence[Option]) -> tuple[str, ...]:
    """Defaults of the table [sft] that a reader of the plan must know."""
    words = [f"server_sharing = {spec.server_sharing}"]
    if spec.server_sharing == "batched" and not spec.sharing_times:
        words.append("several mini-batches at once take as long as one after the other")
    if any(o.rate < 1.0 for o in options):
        if not any(o.timed for o in options if o.rate < 1.0):
            words.append("encode and decode take no time")
        if any(o.codec not in (None, "none") for o in options):
            words.append(f"{spec.raw_bits} bits for a value before compression")
    return tuple(words)


def _codec_s(base: Problem, options: Sequence[Option], way: str) -> Array:
    """Encode or decode seconds [M,C,K], `way` "encode" or "decode": activations on one side, gradients on the other."""
    found = np.zeros((len(base.devices), base.cuts.size, len(options)))
    for k, option in enumerate(options):
        measured = getattr(option, f"{way}_s")
        device, server = getattr(option, f"{way}_s_per_byte")
        here, there = (device, server) if way == "encode" else (server, device)
        found[:, :, k] = base.up_bytes * here + base.down_bytes * there if measured is None else measured
    own = base.encode_s if way == "encode" else base.decode_s
    return np.asarray(found + own[:, :, None])


def _there_s(base: Problem, options: Sequence[Option], way: str) -> Array:
    """What of `_codec_s` the server computes [M,C,K]: activations decoded, gradients encoded."""
    size_bytes = base.down_bytes if way == "encode" else base.up_bytes
    found = np.zeros((len(base.devices), base.cuts.size, len(options)))
    for k, option in enumerate(options):
        measured = getattr(option, f"there_{way}_s")
        found[:, :, k] = size_bytes * getattr(option, f"{way}_s_per_byte")[1] if measured is None else measured
    return found


def _width(scenario: Scenario) -> tuple[float, tuple[str, ...]]:
    if scenario.sft.bandwidth_hz is not None:
        return scenario.sft.bandwidth_hz, ()
    if scenario.link is not None:
        return scenario.link.bandwidth_hz, ()
    return _BAND_HZ, (
        f"all devices share {_BAND_HZ / 1e6:g} MHz in each direction; uplink_bps and downlink_bps are those of a device"
        " alone on it",
    )


def _bands(scenario: Scenario, base: Problem, width_hz: float) -> tuple[Band, tuple[Band, ...]]:
    spectrum = scenario.sft.spectrum
    if scenario.link is None:
        one = Band(bandwidth_hz=width_hz, uplink_bps=base.uplink_bps, downlink_bps=base.downlink_bps, spectrum=spectrum)
        return replace(one, uplink_bps=base.uplink_bps[None], downlink_bps=base.downlink_bps[None]), (
            one,
        ) * scenario.rounds
    given = [(d.uplink_bps, d.downlink_bps) for d in scenario.devices]
    # The large timescale knows the channel's statistics, not the rounds to come: draws of its own.
    other = replace(scenario.link, seed=scenario.link.seed + OTHER_SEED)
    known = rates_by_round(other, base.devices, given, STATES)
    statistics = Band(
        bandwidth_hz=width_hz,
        uplink_bps=np.array([up for up, _ in known]),
        downlink_bps=np.array([down for _, down in known]),
        spectrum=spectrum,
    )
    drawn = rates_by_round(scenario.link, base.devices, given, scenario.rounds)
    return statistics, tuple(
        Band(bandwidth_hz=width_hz, uplink_bps=up, downlink_bps=down, spectrum=spectrum) for up, down in drawn
    )


def _refuse_if_none(problem: SftProblem) -> None:
    """Raise InfeasibleError naming the device that has no choice, and why."""
    base, allowed = problem.base, problem.allowed()
    for m, name in enumerate(base.devices):
        if allowed[m].any():
            continue
        limit = float(base.device_memory_limit_bytes[m])
        least = float(base.device_memory_bytes[m].min())
        if least > limit:
            raise InfeasibleError(
                f"{name}: device memory of {data_size(limit)} is below one block, which takes {data_size(least)}",
                remedy="use a smaller batch, sequence or model",
            )
        if problem.server_bytes.min() > base.server_memory_limit_bytes:
            raise InfeasibleError(
                f"server memory of {data_size(base.server_memory_limit_bytes)} is too little for {problem.devices}"
                f" devices, which take {data_size(float(problem.server_bytes.min()))} at least",
                remedy="use server_sharing = serial, fewer devices or a smaller batch",
            )
        cap_j, energy_j = base.constraints.server_energy_j, problem.server_energy_j()
        if cap_j is not None and energy_j is not None and not (energy_j <= cap_j).any():
            raise InfeasibleError(
                f"{name}: server energy cap of {si(cap_j, 'J')} cannot be kept, the best possible at"
                f" {si(problem.frequency_hz, 'Hz')} is {si(float(energy_j.min()), 'J')}",
                remedy="raise --max-server-energy, or lower the frequency with --max-server-power",
            )
        # Each limit is over all devices; of one it is a row.
        raise not_kept(name, [limit.row(m) for limit in problem.limits()])
    if problem.common and not allowed.any(axis=2).all(axis=0).any():
        raise InfeasibleError("no cut suits all devices", remedy="use blocks = own")

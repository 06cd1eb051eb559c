"""What a parallel plan is compared with, under the same link and limits.

    federated_lora         the whole model on every device, in parallel; only adapters travel
    sequential_split       devices one after another, each with the whole band and its best cut, no compression
    parallel_uncompressed  the same scheme without compression, blocks and bandwidth chosen anew
    fixed_allocation       the plan's compressions, every cut half way (or the nearest that fits), equal bandwidth

A baseline that cannot keep a limit is left out. Delay is that of a round, all devices done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cardlab.card.problem.delay import (
    Link,
    MiniBatch,
    OncePerRound,
    no_air,
    round_bytes,
    round_seconds,
    round_terms,
    there_and_back_s,
)
from cardlab.card.problem.energy import device_energy_j
from cardlab.card.schemes.sft.building import Instance
from cardlab.card.schemes.sft.deciding import decide, outcome_of
from cardlab.card.schemes.sft.enumeration import Chosen
from cardlab.card.schemes.sft.large_scale import by_lagrangian
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.card.schemes.sft.rounds import shared
from cardlab.card.schemes.sft.spectrum import Band, share_exactly
from cardlab.core.records.plan import Outcome


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Mean over rounds; None where one is unknown."""

    def mean(values: list[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    return Outcome(
        delay_s=sum(o.delay_s for o in outcomes) / len(outcomes),
        server_energy_j=mean([o.server_energy_j for o in outcomes]),
        device_energy_j=mean([o.device_energy_j for o in outcomes]),
        sent_bytes=mean([o.sent_bytes for o in outcomes]),
    )


def baselines(instance: Instance, chosen: Chosen) -> dict[str, Outcome]:
    """Each baseline that can keep the limits, means over rounds."""
    bands = list({id(b): b for b in instance.rounds}.values())
    raw = uncompressed(instance.problem)
    plain = by_lagrangian(raw, instance.statistics)
    made: dict[str, list[Outcome | None]] = {
        "federated_lora": [_federated(instance, band) for band in bands],
        "sequential_split": [_sequential(raw, band) for band in bands],
        "parallel_uncompressed": [None if plain is None else _parallel(raw, band, plain) for band in bands],
        "fixed_allocation": [_fixed(instance.problem, band, chosen) for band in bands],
    }
    found = {}
    for name, outcomes in made.items():
        known = [o for o in outcomes if o is not None]
        if len(known) == len(outcomes):
            found[name] = mean_of(known)
    return found


def uncompressed(problem: SftProblem) -> SftProblem:
    """The same problem without compression, and so without a loss of accuracy; packing takes its measured time."""
    base, plain = problem.base, problem.plain
    nothing = np.zeros_like(base.encode_s)
    encode_s, decode_s, there_encode_s, there_decode_s = (
        (otherwise if measured is None else measured)[:, :, None]
        for measured, otherwise in (
            (plain.encode_s, base.encode_s),
            (plain.decode_s, base.decode_s),
            (plain.there_encode_s, nothing),
            (plain.there_decode_s, nothing),
        )
    )
    return replace(
        problem,
        options=(plain,),
        codec_s=encode_s + decode_s,
        encode_s=encode_s,
        there_decode_s=there_decode_s,
        there_encode_s=there_encode_s,
        target=None,
    )


def _parallel(problem: SftProblem, band: Band, chosen: Chosen) -> Outcome:
    return shared(problem, band, chosen.cuts, chosen.options, None).outcome


def _fixed(problem: SftProblem, band: Band, chosen: Chosen) -> Outcome | None:
    allowed = problem.allowed()
    cuts = []
    half = (problem.base.cuts.size - 1) // 2
    for m in range(problem.devices):
        places = np.flatnonzero(allowed[m, :, int(chosen.options[m])])
        if not places.size:
            return None
        cuts.append(int(places[np.argmin(np.abs(places - half))]))
    at = np.array(cuts)
    even = np.full(problem.devices, 1.0 / problem.devices)
    up, down = problem.sent_bytes(at, chosen.options)
    return _kept(problem, outcome_of(decide(problem, band, at, chosen.options, even), float((up + down).sum())))


def _sequential(problem: SftProblem, band: Band) -> Outcome | None:
    base, epochs = problem.base, problem.base.objective.local_epochs
    allowed = problem.allowed()[:, :, 0]
    delay_s = busy_s = sent = own_j = 0.0
    for m in range(problem.devices):
        batch = MiniBatch(
            device_s=base.device_s[m],
            encode_s=problem.codec_s[m, :, 0],
            decode_s=0.0,
            server_s=problem.server_s,
            up_bits=8.0 * (base.up_bytes + problem.label_bytes),
            down_bits=8.0 * base.down_bytes,
        )
        once = OncePerRound(adapter_bits=8.0 * base.adapter_bytes, handling_s=base.handling[m], switch_s=base.switch_s)
        alone = Link(uplink_bps=band.uplink_bps[m], downlink_bps=band.downlink_bps[m], latency_s=float(base.latency[m]))
        each = np.asarray(round_seconds(round_terms(epochs, batch, once, alone)))
        cut = int(np.argmin(np.where(allowed[m], each, np.inf)))
        if not allowed[m, cut]:
            return None
        delay_s += float(each[cut])
        busy_s += epochs * float(problem.server_s[cut])
        own_j += float(device_energy_j(float(base.device_power_w[m]), epochs, float(base.device_s[m, cut])))
        up = base.up_bytes[cut] + problem.label_bytes
        sent += float(sum(round_bytes(epochs, up, base.down_bytes[cut], base.adapter_bytes[cut])))
    energy = None if problem.power_w is None else problem.power_w * busy_s
    own = None if np.isnan(own_j) else own_j
    return _kept(problem, Outcome(delay_s=delay_s, server_energy_j=energy, device_energy_j=own, sent_bytes=sent))


def _federated(instance: Instance, band: Band) -> Outcome | None:
    problem, base = instance.problem, instance.problem.base
    limit = base.device_memory_limit_bytes
    if instance.local_s is None or (instance.local_bytes is not None and bool((instance.local_bytes > limit).any())):
        return None
    layers = float(base.cuts[-1]) + 1.0
    adapters = np.full(problem.devices, float(base.adapter_bytes[-1]) / (layers - 1.0) * layers)
    compute_s = base.objective.local_epochs * instance.local_s
    # Nothing but the adapters is sent, down and back.
    waited_s = np.asarray(there_and_back_s(no_air(base.latency)))
    delay_s = float(share_exactly(band, compute_s + waited_s, adapters, adapters)[0])
    own = float((base.device_power_w * compute_s).sum())
    # The server only averages adapters.
    return _kept(
        problem,
        Outcome(
            delay_s=delay_s,
            server_energy_j=None if problem.power_w is None else 0.0,
            device_energy_j=None if np.isnan(own) else own,
            sent_bytes=2.0 * float(adapters.sum()),
        ),
    )


def _kept(problem: SftProblem, outcome: Outcome) -> Outcome | None:
    deadline = problem.base.constraints.deadline_s
    return None if deadline is not None and outcome.delay_s > deadline else outcome

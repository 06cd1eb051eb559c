"""What each device's round of a plan for parallel devices takes, the queue at the server simulated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.delay import MiniBatch, OncePerRound, delay_terms_of_each, round_terms
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.card.schemes.sft.queue import waits_batched, waits_serial
from cardlab.card.schemes.sft.spectrum import Band
from cardlab.core.records.plan import Decision, DelayTerms, Outcome


def decide(problem: SftProblem, band: Band, cuts: Index, options: Index, shares: Array) -> tuple[Decision, ...]:
    """Each device's round, waiting at the server simulated."""
    terms = _terms(problem, band, cuts, options, shares)
    waits = _waits(problem, cuts, options, terms)
    base, epochs = problem.base, problem.base.objective.local_epochs
    whole_s = float(problem.server_round_s(cuts))
    link = band.link(shares)
    uplink_bps, downlink_bps = np.asarray(link.uplink_bps), np.asarray(link.downlink_bps)
    decisions = []
    for m, name in enumerate(base.devices):
        option = problem.options[int(options[m])]
        t = terms[m]
        full = DelayTerms(**{**_as_dict(t), "server": t.server + waits[m]})
        # One batched step serves all devices, so each is charged an equal part of it.
        busy_s = epochs * (
            whole_s / problem.devices if problem.sharing == "batched" else float(problem.server_s[cuts[m]])
        )
        own_w = float(base.device_power_w[m])
        decisions.append(
            Decision(
                device=name,
                cut=int(base.cuts[cuts[m]]),
                frequency_hz=problem.frequency_hz,
                delay_s=full.total,
                delay_terms=full,
                server_energy_j=None if problem.power_w is None else problem.power_w * busy_s,
                device_energy_j=None if np.isnan(own_w) else own_w * t.device,
                cost=full.total,
                waiting_s=waits[m],
                bandwidth_share=float(shares[m]),
                uplink_bps=float(uplink_bps[m]),
                downlink_bps=float(downlink_bps[m]),
                compression=option.rate,
                codec=option.codec,
                loss_penalty=0.0 if option.rate >= 1.0 else option.penalty,
                provenance=base.provenance[m],
            )
        )
    return tuple(decisions)


def outcome_of(decisions: Sequence[Decision], sent_bytes: float) -> Outcome:
    """Delay of the slowest; energies add up, None if one is unknown."""
    energies = [d.server_energy_j for d in decisions]
    own = [d.device_energy_j for d in decisions]
    return Outcome(
        delay_s=max(d.delay_s for d in decisions),
        server_energy_j=None if None in energies else sum(e for e in energies if e is not None),
        device_energy_j=None if None in own else sum(e for e in own if e is not None),
        sent_bytes=sent_bytes,
    )


def _as_dict(terms: DelayTerms) -> dict[str, float]:
    return {name: float(getattr(terms, name)) for name in DelayTerms.__slots__}


def _terms(problem: SftProblem, band: Band, cuts: Index, options: Index, shares: Array) -> list[DelayTerms]:
    """Round totals of each device; the server's without waiting for others."""
    base, each = problem.base, np.arange(problem.devices)
    rates, encode_s = problem.rates[options], problem.encode_s[each, cuts, options]
    batched = problem.sharing == "batched"
    batch = MiniBatch(
        device_s=base.device_s[each, cuts],
        encode_s=encode_s,
        decode_s=problem.codec_s[each, cuts, options] - encode_s,
        server_s=float(problem.server_round_s(cuts)) if batched else problem.server_s[cuts],
        up_bits=8.0 * (rates * base.up_bytes[cuts] + problem.label_bytes),
        down_bits=8.0 * rates * base.down_bytes[cuts],
    )
    once = OncePerRound(
        adapter_bits=8.0 * base.adapter_bytes[cuts], handling_s=base.handling[each, cuts], switch_s=base.switch_s
    )
    terms = round_terms(base.objective.local_epochs, batch, once, band.link(shares, base.latency))
    return delay_terms_of_each(terms, problem.devices)


def _waits(problem: SftProblem, cuts: Index, options: Index, terms: Sequence[DelayTerms]) -> list[float]:
    """Waiting of each device in a round; a mini-batch spends half its device's time and codec before the server.

    The server decodes and encodes for one device at a time.
    """
    epochs = problem.base.objective.local_epochs
    each = np.arange(problem.devices)
    decode, encode = (s[each, cuts, options].tolist() for s in (problem.there_decode_s, problem.there_encode_s))
    # Where in a mini-batch the server's part falls is not measured: half of the device's time before it, half after.
    half = [
        ((t.device + t.encode + t.decode) / epochs - d - e) / 2.0 for t, d, e in zip(terms, decode, encode, strict=True)
    ]
    before = [h + t.uplink / epochs for h, t in zip(half, terms, strict=True)]
    after = [h + t.downlink / epochs for h, t in zip(half, terms, strict=True)]
    if problem.sharing == "batched":
        return waits_batched(before, after, epochs, decode, encode)
    own = [float(problem.server_s[c]) + d + e for c, d, e in zip(cuts, decode, encode, strict=True)]
    return waits_serial(before, own, after, epochs)

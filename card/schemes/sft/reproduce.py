"""The headline claims of SFT (arXiv 2501.09237; IEEE JSTSP 2025, 10.1109/JSTSP.2025.3581484) with what comes out here.

The paper's equations, tables, model, devices, bandwidth and benchmarks were not available: only its abstract. So each
claim is held against one stated setting (card-letter's devices and model over 20 MHz, fading, Normal channel, 32-bit
values, one after the other at the server) and every baseline; what would have to be known stands beside it.
"""

from __future__ import annotations

from dataclasses import replace

from cardlab.card.claims import Claim, verdict
from cardlab.card.problem.scenario import Scenario
from cardlab.card.problem.scenario_file import load_scenario
from cardlab.card.schemes.card.planning import solve
from cardlab.card.schemes.sft.options import topk_bits
from cardlab.card.simulate import on_channel
from cardlab.core.records.plan import Outcome, Plan

DELAY = {"published (JSTSP)": -0.664, "preprint (arXiv v1)": -0.802}
COMMUNICATION = -0.936
BAND = 0.05
_KEEP, _BITS = 0.2, 6


def setting(rounds: int) -> Scenario:
    """The stated setting: a compression that sends 6.4 % of float32 bytes, so that the claim on bytes can be judged."""
    base = replace(load_scenario("card-letter"), scheme="sft", rounds=rounds)
    return on_channel(replace(base, objective=replace(base.objective, compression=0.064)), "normal")


def sft_claims(rounds: int) -> tuple[Claim, ...]:
    """The claims on delay, one for each version of the paper, and on communication."""
    plan = solve(setting(rounds))
    return (*_delay_claims(plan), *_communication_claims(plan))


def _changes(plan: Plan, of: str) -> dict[str, float]:
    def value(outcome: Outcome) -> float:
        return float(getattr(outcome, of))

    return {name.replace("_", " "): value(plan.outcome) / value(o) - 1.0 for name, o in plan.baselines.items()}


def _words(changes: dict[str, float]) -> str:
    return ", ".join(f"{change:+.1%} against {name}" for name, change in changes.items())


def _delay_claims(plan: Plan) -> tuple[Claim, ...]:
    changes = _changes(plan, "delay_s")
    found = []
    for version, claimed in DELAY.items():
        near = [name for name, change in changes.items() if abs(change - claimed) <= BAND]
        reached = [name for name, change in changes.items() if change <= claimed]
        words = "no baseline" if not near else ", ".join(near)
        found.append(
            Claim(
                claim=f"SFT: delay against the best of its benchmarks, {version}",
                paper=f"up to {claimed:+.1%}".replace("+-", "-"),
                here=f"{_words(changes)}; within 5 points: {words}; at least as much: {', '.join(reached) or 'none'}",
                open_choice="which benchmarks, devices, bandwidth and model: not known, and the two versions differ",
                verdict=verdict(bool(near)),
            )
        )
    return tuple(found)


def _communication_claims(plan: Plan) -> tuple[Claim, ...]:
    changes = _changes(plan, "sent_bytes")
    split = changes["parallel uncompressed"]
    half = 2.0 * (1.0 + split) - 1.0
    bits = topk_bits(_KEEP, _BITS)
    return (
        Claim(
            claim="SFT: bytes sent against split fine-tuning without compression, float32 values",
            paper=f"{COMMUNICATION:.1%}",
            here=f"{split:+.1%} with adapters; against 16-bit values {half:+.1%}",
            open_choice=(
                f"the rate was set to 6.4 % for this: Top-{_KEEP:.0%} at {_BITS} bits is {bits:.2f} bits a value, and"
                " so is Top-10 % at 15; the dtype of the paper's baseline is not known"
            ),
            verdict="consistent, not independent" if abs(split - COMMUNICATION) <= BAND else "not reproduced",
        ),
        Claim(
            claim="SFT: accuracy at that compression",
            paper="constraint satisfied",
            here="not computed here; card accuracy measures what compression costs on a small language model",
            open_choice="the paper fine-tunes on CIFAR-100 and Tiny-ImageNet; its curve of accuracy is not known",
            verdict="cannot be known from the paper",
        ),
    )

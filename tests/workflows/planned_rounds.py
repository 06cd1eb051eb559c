"""Runs of a plan whose rounds took so many times what was predicted: what happened is known by construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cardlab.core.identity import new_uid
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.plan import TERMS, Plan
from cardlab.core.records.training import DeviceReading, TrainPhase, TrainRound
from cardlab.db.store import Store
from tests import records
from tests.card.database import BOARD, SERVER


def ran(
    store: Store,
    plan: Plan,
    ratios: Mapping[str, Sequence[float]],
    *,
    noise: float = 0.01,
    read_hz: float | None = None,
    **changes: object,
) -> str:
    """The uid of a run whose terms took these times what the plan says, by round.

    `noise`: relative standard deviation of each; `read_hz`: what the board read of itself; `changes`: of the run.
    """
    run = records.run(uid=new_uid(), kind=RunKind.TRAIN, device=SERVER, **changes)
    store.runs.begin(run)
    rng = np.random.default_rng(5)
    for number in range(1, len(next(iter(ratios.values()))) + 1):
        decision = plan.decision(number, "board")
        assert decision is not None
        phases = []
        for term in TERMS:
            seconds = getattr(decision.delay_terms, term)
            taken_s = seconds * ratios[term][number - 1] if term in ratios else seconds
            phases.append(
                TrainPhase(
                    term=term,
                    observed_s=taken_s * rng.lognormal(0.0, noise),
                    predicted_s=seconds,
                    predicted_ci95=decision.terms_ci95.get(term),
                )
            )
        store.rounds.add(
            TrainRound(
                uid=new_uid(),
                run=run.uid,
                plan=plan.uid,
                device=BOARD,
                number=number,
                cut=decision.cut,
                frequency_hz=decision.frequency_hz,
                loss=1.0,
                delay_s=sum(p.observed_s or 0.0 for p in phases),
                energy_j=None,
                phases=tuple(phases),
                predicted_delay_ci95=decision.delay_ci95,
                device_reading=None if read_hz is None else DeviceReading(frequency_hz=read_hz),
            )
        )
    return run.uid

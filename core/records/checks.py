"""What was predicted against what happened: the error of each term and of the whole, and the term that is off.

error = (predicted - observed) / observed          medians over the rounds that have both
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from cardlab.core.quantity import Provenance, union_of
from cardlab.core.records.plan import TERMS, Decision, Plan
from cardlab.core.records.training import TrainPhase, TrainRound

TOTAL = "delay"
# Of the delay: what no reader of a total would miss.
_SMALL = 0.005
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TermCheck:
    """One term of one device, medians over rounds, seconds.

    Attributes:
        term: one of the terms, or "delay" for their sum.
        observed_s, predicted_s: None where nothing was observed or predicted.
        ci95: interval of the prediction, None where its uncertainty is not known.
        observed_range_s: smallest and largest over the rounds.
        error: fraction of the observed value; None without a prediction, or where nothing was observed.
        rounds: how many entered.
        predicted_provenance: of what the prediction was made of; None without one, or where that was not kept.
    """

    device: str
    term: str
    observed_s: float | None
    predicted_s: float | None
    ci95: Interval | None
    observed_range_s: Interval | None
    error: float | None
    rounds: int
    predicted_provenance: Provenance | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the observed value lies in the interval; None without one."""
        # Unknown is neither inside nor outside.
        if self.ci95 is None or self.observed_s is None:
            return None
        return self.ci95[0] <= self.observed_s <= self.ci95[1]


SERVER, DEVICE = "server", "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyCheck:
    """The energy of one party in a round of one device, medians over rounds, joules.

    Attributes:
        device: whose rounds.
        party: "server", or "device" for the device itself.
        observed_j: by the party's meter, None without one.
        predicted_j: by the plan, None where it says none or counts other than the whole round.
        ci95: interval of the prediction, None where its uncertainty is not known.
        error: fraction of the observed value; None unless both are there.
        reason: why there is no error, in words; None where there is one.
        planned_hz, frequency_hz: what the plan asks for and what was read under load, None where unknown.
        temperature_c: as read under load.
    """

    device: str
    party: str = SERVER
    observed_j: float | None
    predicted_j: float | None
    ci95: Interval | None
    error: float | None
    reason: str | None
    rounds: int
    planned_hz: float | None = None
    frequency_hz: float | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TermOff:
    """The term that explains most of a device's difference: predicted minus observed, and its share of the delay."""

    device: str
    term: str
    difference_s: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Of how many rounds the delay was predicted with an interval, and how many delays lie in theirs."""

    rounds: int
    inside: int


def check_rounds(rounds: Sequence[TrainRound]) -> tuple[TermCheck, ...]:
    """Every term of every device, the delay last."""
    found = []
    for name in dict.fromkeys(r.device.name for r in rounds):
        mine = [r for r in rounds if r.device.name == name]
        found += [_term(name, term, mine) for term in TERMS]
        found.append(_delay(name, mine))
    return tuple(found)


def check_energies(rounds: Sequence[TrainRound], plan: Plan | None) -> tuple[EnergyCheck, ...]:
    """The energy of server and device in each device's rounds against what the plan says of them.

    A device whose energy was neither measured nor planned has no line of its own.
    """
    found = []
    for name in dict.fromkeys(r.device.name for r in rounds):
        mine = [r for r in rounds if r.device.name == name]
        planned = [None if plan is None else plan.decision(r.number, name) for r in mine]
        decided = [d for d in planned if d is not None]
        found.append(_of_server(name, mine, decided, plan))
        device = _of_device(name, mine, decided, plan)
        if device.observed_j is not None or device.predicted_j is not None:
            found.append(device)
    return tuple(found)


def _of_server(name: str, rounds: Sequence[TrainRound], decided: Sequence[Decision], plan: Plan | None) -> EnergyCheck:
    # A meter reads the whole round; busy energy, or energy above idle, is another quantity.
    comparable = plan is not None and plan.energy == "round"
    spans = [d.server_energy_ci95 for d in decided if comparable and d.server_energy_ci95 is not None]
    observed = _known(r.energy_j for r in rounds)
    # What the run kept, since it knows what it does otherwise than the plan.
    predicted = _known(r.predicted_energy_j for r in rounds) if comparable else []
    reason = None
    if plan is None:
        reason = "no plan says it"
    elif not comparable:
        reason = f"the plan counts {plan.energy or 'no'} energy, a meter that of the whole round"
    elif not predicted:
        said = any(d.server_energy_j is not None for d in decided)
        reason = (
            "the run kept no prediction: it has a codec that the plan has not, or is of an older version"
            if said
            else "the plan says none"
        )
    elif not observed:
        reason = "the server's power was not measured"
    return EnergyCheck(
        device=name,
        observed_j=_median(observed),
        predicted_j=_median(predicted),
        ci95=(median(low for low, _ in spans), median(high for _, high in spans)) if spans and predicted else None,
        error=None if reason else _error(observed, predicted),
        reason=reason,
        rounds=len(observed),
        planned_hz=_median(_known(d.frequency_hz for d in decided)),
        frequency_hz=_median(_known(r.frequency_hz for r in rounds)),
        temperature_c=_median(_known(r.temperature_c for r in rounds)),
    )


def _of_device(name: str, rounds: Sequence[TrainRound], decided: Sequence[Decision], plan: Plan | None) -> EnergyCheck:
    readings = [r.device_reading for r in rounds if r.device_reading is not None]
    observed = _known(reading.energy_j for reading in readings)
    predicted = _known(r.predicted_device_energy_j for r in rounds)
    unknown = [term for d in decided if d.device_energy_terms is not None for term in d.device_energy_terms.unknown]
    reason = None
    if plan is None:
        reason = "no plan says it"
    elif not predicted:
        lacking = [term for term in dict.fromkeys(unknown) if term != "idle"]
        reason = f"the plan does not know its {', '.join(lacking)}" if lacking else "the plan says none"
    elif not observed:
        reason = "the device's power was not measured"
    return EnergyCheck(
        device=name,
        party=DEVICE,
        observed_j=_median(observed),
        predicted_j=_median(predicted),
        ci95=None,
        error=None if reason else _error(observed, predicted),
        reason=reason,
        rounds=len(observed),
        planned_hz=_median(_known(d.device_frequency_hz for d in decided)),
        frequency_hz=_median(_known(reading.frequency_hz for reading in readings)),
        temperature_c=_median(_known(reading.temperature_c for reading in readings)),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _error(observed: Sequence[float], predicted: Sequence[float]) -> float | None:
    there = median(observed)
    return (median(predicted) - there) / there if there else None


def terms_off(checks: Iterable[TermCheck]) -> tuple[TermOff, ...]:
    """For each device with predictions, the term with the largest difference."""
    by_device: dict[str, list[TermCheck]] = {}
    for check in checks:
        by_device.setdefault(check.device, []).append(check)
    found = []
    for device, mine in by_device.items():
        total = next((c.observed_s for c in mine if c.term == TOTAL), None)
        differences = [
            (c.predicted_s - c.observed_s, c.term)
            for c in mine
            if c.term != TOTAL and c.predicted_s is not None and c.observed_s is not None
        ]
        if differences and total:
            difference_s, term = max(differences, key=lambda pair: abs(pair[0]))
            found.append(TermOff(device=device, term=term, difference_s=difference_s, share=difference_s / total))
    return tuple(found)


def coverage(rounds: Iterable[TrainRound]) -> Coverage:
    """How often one round's delay lies in the interval that was predicted for it."""
    found = [
        r.predicted_delay_ci95[0] <= r.delay_s <= r.predicted_delay_ci95[1]
        for r in rounds
        if r.predicted_delay_ci95 is not None and r.delay_s is not None
    ]
    return Coverage(rounds=len(found), inside=sum(found))


def predicted_delay_s(finished: TrainRound) -> float | None:
    """The predicted terms of a round together; None if one of them was not predicted.

    A term may be missing that took next to nothing.
    """
    parts = [p for p in finished.phases if p.term in TERMS]
    small_s = _SMALL * (finished.delay_s or 0.0)
    predicted = [p.predicted_s for p in parts if p.predicted_s is not None or not _is_small(p, small_s)]
    known = [p for p in predicted if p is not None]
    return sum(known) if known and len(known) == len(predicted) else None


def _is_small(phase: TrainPhase, small_s: float) -> bool:
    return phase.observed_s is not None and phase.observed_s <= small_s


def _term(device: str, term: str, rounds: Sequence[TrainRound]) -> TermCheck:
    rows = [p for r in rounds for p in r.phases if p.term == term]
    return _check(device, term, [(p.observed_s, p.predicted_s, p.predicted_ci95) for p in rows], _made_of(rows))


def _delay(device: str, rounds: Sequence[TrainRound]) -> TermCheck:
    rows = [(r.delay_s, predicted_delay_s(r), r.predicted_delay_ci95) for r in rounds]
    return _check(device, TOTAL, rows, _made_of(p for r in rounds for p in r.phases))


def _made_of(phases: Iterable[TrainPhase]) -> Provenance | None:
    """What all predictions among these were made of."""
    known = [p.predicted_provenance for p in phases if p.predicted_s is not None and p.predicted_provenance is not None]
    return union_of(known) if known else None


def _check(
    device: str,
    term: str,
    rows: Sequence[tuple[float | None, float | None, Interval | None]],
    made_of: Provenance | None,
) -> TermCheck:
    observed = [o for o, _, _ in rows if o is not None]
    predicted = [p for _, p, _ in rows if p is not None]
    intervals = [ci95 for _, _, ci95 in rows if ci95 is not None]
    if 2 * len(intervals) < len(predicted):
        # Of a first round alone, say: no interval of what the median is.
        intervals = []
    observed_s = median(observed) if observed else None
    predicted_s = median(predicted) if predicted else None
    error = None
    if observed_s and predicted_s is not None:
        error = (predicted_s - observed_s) / observed_s
    return TermCheck(
        device=device,
        term=term,
        observed_s=observed_s,
        predicted_s=predicted_s,
        ci95=(median(low for low, _ in intervals), median(high for _, high in intervals)) if intervals else None,
        observed_range_s=(min(observed), max(observed)) if observed else None,
        error=error,
        rounds=len(observed),
        predicted_provenance=made_of if predicted_s is not None else None,
    )

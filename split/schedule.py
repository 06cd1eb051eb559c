"""Which cut and frequency a device gets in a round: from a plan, or one for all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from cardlab.core.errors import RunError
from cardlab.core.quantity import Provenance
from cardlab.core.records.plan import TERMS, Decision, Plan
from cardlab.core.records.task import Task
from cardlab.split.refusals import RefusalCode, RefusalError
from cardlab.split.settings import check_cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was expected of one round of one device, seconds, and what that was made of.

    A term that is not there was not predicted; neither was an energy of None, J, of what a meter counts over the round.
    `first_s`: what the first round takes more, by term; it is in the terms already where the round is the first.
    `ratios`: of terms, what the profile's prediction was multiplied by, as rounds before had taught.
    """

    terms: Mapping[str, float] = field(default_factory=dict)
    terms_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    delay_ci95: tuple[float, float] | None = None
    provenance: Provenance | None = None
    server_energy_j: float | None = None
    device_energy_j: float | None = None
    first_s: Mapping[str, float] = field(default_factory=dict)

    ratios: Mapping[str, float] = field(default_factory=dict)

    def as_first(self, *, anew: bool) -> Prediction:
        """That of the first round a process makes; `anew`: of the run, whose optimizer has no state to send yet.

        What is loaded is not known where a rehearsal did not say it, and so neither is the whole.
        """
        known = {t: more for t, more in self.first_s.items() if t in self.terms and (anew or t != "adapters")}
        spans = {t: _off(self.terms_ci95.get(t, (self.terms[t],) * 2), more) for t, more in known.items()}
        delay = self.delay_ci95
        for more in known.values():
            delay = None if delay is None else _off(delay, more)
        found = replace(
            self,
            terms={**self.terms, **{t: self.terms[t] + more for t, more in known.items()}},
            terms_ci95={**self.terms_ci95, **spans},
            delay_ci95=delay,
        )
        return found if "switch" in known else _without(found, frozenset({"switch"}))


def _off(ci95: tuple[float, float], more_s: float) -> tuple[float, float]:
    """An interval of what takes so much more, as it was rehearsed once, in a process that had computed before."""
    # What is left out is arithmetic, and sure.
    seen_s = max(more_s, 0.0)
    return ci95[0] + more_s - _FIRST_LESS * seen_s, ci95[1] + more_s + _FIRST_MORE * seen_s


# Shares by which it may be off. Of a run's own process, which imports and takes its first memory, loads and first steps
# took 2.2 times as much (an 8-layer model on a CPU).
_FIRST_LESS, _FIRST_MORE = 0.5, 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What devices do from a round on, in place of what the plan says.

    Attributes:
        first: round from which it holds.
        decisions: of each device, by its planned label.
        ratios: by planned label and term, what the profile's predictions were multiplied by.
        not_predicted: terms that nothing measured says.
    """

    first: int
    decisions: Mapping[str, Decision]
    ratios: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    not_predicted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Cut, frequencies of server and device (None as they are), codec (None: the run's), rates of the device's share of
    the band in bit/s (None: not planned) and what is expected."""

    cut: int
    codec: str | None = None
    frequency_hz: float | None = None
    device_frequency_hz: float | None = None
    uplink_bps: float | None = None
    downlink_bps: float | None = None
    expected: Prediction = field(default_factory=Prediction)


# So small that a total stands without them.
_PACKING = frozenset({"encode", "decode"})
# Terms that a codec decides: planned without one, they say nothing of a run that has one.
_OF_CODEC = frozenset({"encode", "uplink", "decode", "downlink"})


class Schedule:
    """Assignments by round and device.

    Args:
        plan: followed round by round; its last round goes on when the run is longer.
        cut: for every device and round, without a plan.
        expected: predictions for a given cut by the key of the device, which no label changes.
        codec: of the run, for devices whose plan names none.
        predicts: whether the run computes as what it is predicted from did.
        cuts: of the devices that have a cut of their own, by label, without a plan.
        keys: planned labels by the key of the hardware that the plan rests on.
        first: the first round that this process makes, where everything is loaded.
    """

    def __init__(
        self,
        plan: Plan | None = None,
        cut: int | None = None,
        expected: Mapping[str, Prediction] | None = None,
        codec: str = "none",
        *,
        predicts: bool = True,
        cuts: Mapping[str, int] | None = None,
        keys: Mapping[str, str] | None = None,
        first: int = 1,
    ) -> None:
        self._plan, self._cut, self._expected, self._codec = plan, cut, expected or {}, codec
        self._predicts, self._cuts, self._keys = predicts, cuts or {}, keys or {}
        self._first = first
        self._revisions: list[Revision] = []

    def revise(self, revision: Revision) -> None:
        """Let devices do otherwise from a round on; a later revision takes the place of an earlier one."""
        self._revisions.append(revision)

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that a plan names, in its order; none for a given cut."""
        return () if self._plan is None else tuple(d.device for d in self._plan.rounds[0].devices)

    @property
    def shares_band(self) -> bool:
        """Whether the plan gives each device a share of a common band."""
        return self._plan is not None and any(d.bandwidth_share is not None for d in self._plan.rounds[0].devices)

    @property
    def gives_rates(self) -> bool:
        """Whether the plan says which rates every device has in every round; plans of older versions do not."""
        return self._plan is not None and all(
            d.uplink_bps is not None and d.downlink_bps is not None for r in self._plan.rounds for d in r.devices
        )

    def planned(self, name: str, key: str, taken: Collection[str] = ()) -> str:
        """The label by which the plan knows a device: that of its hardware's key, else its own; its own without a plan.

        `taken`: labels of the plan that other devices stand for. Raises RefusalError for one the plan does not know.
        """
        if self._plan is None:
            return name
        free = [label for label in self.devices if label not in taken]
        found = self._keys.get(key, name)
        if found not in free and name in free:
            found = name
        if found not in self.devices:
            raise unknown_device(name, self.devices)
        return found

    def mismatch(self, planned: str, key: str) -> str | None:
        """A line where a device stands for one of the plan whose hardware was another; None where it is the same, or
        nobody knows."""
        theirs = next((known for known, label in self._keys.items() if label == planned), None)
        if theirs in (None, key):
            return None
        return f"the plan's {planned} was measured on other hardware ({theirs}, here {key}): so is what it predicts"

    def at(self, number: int, device: str, key: str | None = None) -> Assignment:
        """What the device of that (planned) label and key does in round `number` (from 1).

        Raises RunError for one the plan does not know.
        """
        found = self._found(number, device, key)
        if not self._predicts:
            return replace(found, expected=Prediction())
        if number != self._first:
            return found
        return replace(found, expected=found.expected.as_first(anew=number == 1))

    def _found(self, number: int, device: str, key: str | None) -> Assignment:
        if self._plan is None:
            own = self._cuts.get(device)
            # What is expected was asked for the cut of all.
            expected = self._expected.get(key or "", Prediction()) if own in (None, self._cut) else Prediction()
            return Assignment(cut=own or self._cut or 1, expected=expected)
        revised = next((r for r in reversed(self._revisions) if r.first <= number and device in r.decisions), None)
        decision = self._plan.decision(number, device) if revised is None else revised.decisions[device]
        if decision is None:
            raise unknown_device(device, self.devices)
        terms = {term: float(getattr(decision.delay_terms, term)) for term in TERMS}
        # What a device waits for others at the server is observed apart.
        terms["server"] -= decision.waiting_s or 0.0
        expected = Prediction(
            terms=terms,
            terms_ci95=decision.terms_ci95,
            delay_ci95=decision.delay_ci95,
            provenance=decision.provenance,
            # Busy energy, or energy above idle, is another quantity than a meter's.
            server_energy_j=decision.server_energy_j if self._plan.energy == "round" else None,
            device_energy_j=decision.device_metered_j,
            first_s=decision.first_round_s,
            ratios={} if revised is None else revised.ratios.get(device, {}),
        )
        told = self._plan.not_predicted
        if revised is not None:
            # What packing takes is known no better for deciding anew.
            told = (*revised.not_predicted, *(term for term in told if term in _PACKING))
        if told:
            whole_ci95 = expected.delay_ci95 if _PACKING.issuperset(told) else None
            expected = replace(_without(expected, frozenset(told)), delay_ci95=whole_ci95)
        if decision.codec is None and self._codec != "none":
            # A meter counts the seconds that a codec takes and those of its bytes on the air.
            expected = replace(_without(expected, _OF_CODEC), server_energy_j=None, device_energy_j=None)
        return Assignment(
            cut=decision.cut,
            codec=decision.codec,
            frequency_hz=decision.frequency_hz,
            device_frequency_hz=decision.device_frequency_hz,
            uplink_bps=decision.uplink_bps,
            downlink_bps=decision.downlink_bps,
            expected=expected,
        )


def _without(expected: Prediction, terms: frozenset[str]) -> Prediction:
    """The prediction without these terms, and so without one of the whole."""
    return replace(
        expected,
        terms={term: value for term, value in expected.terms.items() if term not in terms},
        terms_ci95={term: span for term, span in expected.terms_ci95.items() if term not in terms},
        delay_ci95=None,
        ratios={term: ratio for term, ratio in expected.ratios.items() if term not in terms},
    )


def unknown_device(device: str, known: tuple[str, ...]) -> RefusalError:
    """The error for a device that the plan does not name."""
    return RefusalError(
        f"the plan names no device {device!r}",
        code=RefusalCode.UNKNOWN_DEVICE,
        remedy=f"start it with --name, one of: {', '.join(known)}",
    )


def check_length(plan: Plan | None, rounds: int) -> None:
    """Raise RunError where a run goes on after a plan that keeps energy budgets: nothing of them is left by then."""
    if plan is not None and plan.budget is not None and rounds > len(plan.rounds):
        planned = len(plan.rounds)
        raise RunError(
            f"plan {plan.uid[:12]} keeps energy budgets over {planned} round(s), and the run has {rounds}",
            remedy=f"run at most {planned} (--rounds {planned}), or plan with --rounds {rounds}",
        )


def check_plan(plan: Plan, task: Task, codec: str | None = None) -> None:
    """Raise RunError if the plan cannot be followed with this task: another model, a cut outside it, or compression
    without a codec that does it, neither in the plan nor given as `codec`."""
    # Terms of another task would be held against this one's.
    if plan.task is not None and plan.task != task.uid:
        raise RunError(
            f"plan {plan.uid[:12]} is for another task than {task.model} {task.batch} x {task.sequence},"
            f" r={task.lora.rank}, {task.optimizer}",
            remedy="give the model, batch, sequence, LoRA and optimizer of its profiles, or plan again",
        )
    named = codec or plan.rounds[0].devices[0].codec
    if plan.compression is not None and plan.compression < 1.0 and named is None:
        raise RunError(
            f"plan {plan.uid[:12]} compresses to {plan.compression:g} and names no codec",
            remedy="give --codec, plan with --scheme sft, or plan with --compression 1",
        )
    for planned in plan.rounds:
        for decision in planned.devices:
            check_cut(task, decision.cut)

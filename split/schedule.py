"""Which cut and frequency a device gets in a round: from a plan, or one for all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from cardlab.core.errors import RunError
from cardlab.core.quantity import Provenance
from cardlab.core.records.plan import TERMS, Plan
from cardlab.core.records.task import Task
from cardlab.split.refusals import RefusalCode, RefusalError
from cardlab.split.settings import check_cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was expected of one round of one device, seconds, and what that was made of.

    A term that is not there was not predicted; neither was an energy of None, J, of what a meter counts over the round.
    """

    terms: Mapping[str, float] = field(default_factory=dict)
    terms_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    delay_ci95: tuple[float, float] | None = None
    provenance: Provenance | None = None
    server_energy_j: float | None = None
    device_energy_j: float | None = None


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
    ) -> None:
        self._plan, self._cut, self._expected, self._codec = plan, cut, expected or {}, codec
        self._predicts, self._cuts, self._keys = predicts, cuts or {}, keys or {}

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
        return found if self._predicts else replace(found, expected=Prediction())

    def _found(self, number: int, device: str, key: str | None) -> Assignment:
        if self._plan is None:
            own = self._cuts.get(device)
            # What is expected was asked for the cut of all.
            expected = self._expected.get(key or "", Prediction()) if own in (None, self._cut) else Prediction()
            return Assignment(cut=own or self._cut or 1, expected=expected)
        decision = self._plan.decision(number, device)
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
        )
        # The first round loads every layer, from which the plan begins.
        lacking = frozenset(self._plan.not_predicted) | (frozenset({"switch"}) if number == 1 else frozenset())
        if lacking:
            expected = replace(_without(expected, lacking), delay_ci95=expected.delay_ci95)
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
    return Prediction(
        terms={term: value for term, value in expected.terms.items() if term not in terms},
        terms_ci95={term: span for term, span in expected.terms_ci95.items() if term not in terms},
        provenance=expected.provenance,
        server_energy_j=expected.server_energy_j,
        device_energy_j=expected.device_energy_j,
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

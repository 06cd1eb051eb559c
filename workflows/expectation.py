"""What the fits in the database expect of a run with a given cut, where there are any."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from cardlab.calibrate.freshness import stale_of
from cardlab.card.problem.from_db import Gathered, Request, gather
from cardlab.card.problem.parties import task_name
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.scenario import Objective
from cardlab.card.uncertainty import certainties
from cardlab.core.errors import CardlabError, NotFoundError
from cardlab.core.records.device import Device
from cardlab.core.records.measurement import RunKind
from cardlab.core.records.task import Execution
from cardlab.db.store import Store
from cardlab.split.schedule import Prediction
from cardlab.split.settings import RunSettings
from cardlab.split.shaping import parse_link
from cardlab.workflows.grounds import differences

# A problem needs some rate; the terms that it decides are dropped below.
_ANY_BPS = 1e9
# Terms whose absence does not change the delay that a reader compares.
_SMALL = frozenset({"switch"})


@dataclass(frozen=True, slots=True)
class Serving:
    """The server of a run and how it computes; None where that is not known."""

    device: Device
    execution: Execution | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Predictions by device key for a run's cut, and a line for each thing that is not predicted."""

    predictions: dict[str, Prediction]
    notes: tuple[str, ...]


def expected_by_device(store: Store, settings: RunSettings, serving: Serving, link: str | None) -> Expected:
    """What profiles and fits expect of the run, term by term; a term they say nothing of is left out.

    The link's terms are predicted only where its rates are known (`--link`, or the only stored link) and, with a codec,
    where what it sends and takes at the cut was measured.
    """
    predictions, notes = {}, {}
    for device in store.devices.all():
        try:
            predictions[device.key], said = _expected(store, settings, serving, device, link)
        except CardlabError as error:
            # An expectation is a courtesy: what it lacks stops no run.
            said = (f"nothing is predicted for {device.name}: {error.message}",)
        notes[device.key] = said
    # What another device lacks is of no interest to a run that has all its own.
    asked = [serving.device.key] if serving.device.key in notes else list(notes)
    return Expected(predictions=predictions, notes=tuple(dict.fromkeys(line for key in asked for line in notes[key])))


def _expected(
    store: Store, settings: RunSettings, serving: Serving, device: Device, link: str | None
) -> tuple[Prediction, tuple[str, ...]]:
    given = _given(store, link)
    up_bps, down_bps, rtt_s = given or (_ANY_BPS, _ANY_BPS, None)
    request = Request(
        server=serving.device.key,
        devices=(device.key,),
        model=settings.task.model,
        batch=settings.task.batch,
        sequence=settings.task.sequence,
        uplink_bps=up_bps,
        downlink_bps=down_bps,
        rtt_s=rtt_s,
        wire_dtype=settings.wire_dtype,
        # Only delays are used, and this way of counting asks for no waiting power.
        energy="busy",
        objective=Objective(weight=1.0, local_epochs=settings.epochs),
    )
    found = gather(store, request)
    # Model, batch and sequence do not name the LoRA settings: the fits may be of another task.
    if found.task.uid != settings.task.uid:
        ran = settings.task
        other = "" if found.task.optimizer == ran.optimizer else f" (profile-device --optimizer {ran.optimizer})"
        raise NotFoundError(
            f"the fits are of {task_name(found.task)}, and the run is {task_name(ran)}{other}",
            remedy="profile and fit the same task",
        )
    _check_execution(store, found, serving)
    if settings.cut is None:
        return Prediction(), ()
    problem, unknown = _as_run(found, settings)
    place = list(problem.cuts).index(settings.cut)
    # Without a plan nothing locks the server's frequency, and under load it runs at its highest.
    fastest = problem.server_s.shape[1] - 1
    terms = problem.terms(0, place, float(problem.server_s[place, fastest]))
    (sure,) = certainties(problem, [(place, fastest)], found.uncertainty)
    left_out = dict(unknown)
    if given is None:
        left_out |= dict.fromkeys(("uplink", "downlink", "adapters"), "the link's rates are not known (card link)")
    known = {f.name: float(getattr(terms, f.name)) for f in fields(terms) if f.name not in left_out}
    ci95 = {term: span for term, span in sure.terms_ci95.items() if term in known}
    why: dict[str, list[str]] = {}
    for term, reason in left_out.items():
        why.setdefault(reason, []).append(term)
    lacking = tuple(f"not predicted: {', '.join(terms)}: {reason}" for reason, terms in why.items())
    # What marks the fits and profiles marks what is expected of them.
    notes = (*lacking, *found.notes, *stale_of(store, found.fits))
    whole = not set(left_out) - _SMALL
    delay_ci95 = sure.delay_ci95 if whole else None
    (provenance,) = problem.provenance
    made = Prediction(
        terms=known,
        terms_ci95=ci95,
        delay_ci95=delay_ci95,
        provenance=provenance,
        first_s={} if settings.parallel else found.first_round(0, place),
    )
    return made, notes


def _check_execution(store: Store, found: Gathered, serving: Serving) -> None:
    """Raise NotFoundError where what was measured on the server's machine computes otherwise than the run does.

    Of a device elsewhere it is not known how it will compute.
    """
    if serving.execution is None:
        return
    profiles = [store.runs.get(uid).run for uid in found.runs]
    for run in profiles:
        if run.kind != RunKind.PROFILE or run.device.key != serving.device.key:
            continue
        differing = differences(run.execution, serving.execution)
        if differing is not None:
            raise NotFoundError(
                f"{run.device.name} was measured with {differing}",
                remedy="profile and fit with the dtype and threads of the run",
            )


def _as_run(found: Gathered, settings: RunSettings) -> tuple[Problem, dict[str, str]]:
    """The problem with the run's codec, and the terms that nothing measured says, with the reason."""
    problem, codecs, cut = found.problem, found.codecs, settings.cut
    unknown: dict[str, str] = {}
    if len({*settings.cuts.values(), cut}) > 1:
        # Its layers come and go with every turn.
        unknown["switch"] = "between devices of different cuts the server loads layers again"
    sent = None if cut is None else codecs.sent_bytes(settings.codec, cut)
    reason = f"codec {settings.codec} was not profiled at this cut (profile-device --compression)"
    if settings.codec == "none":
        reason = "what packing takes was not rehearsed on both sides (profile-device)"
    if codecs.timed(settings.codec, list(problem.cuts)):
        encode_s, decode_s = codecs.seconds(settings.codec, list(problem.cuts))
        problem = replace(problem, encode_s=encode_s, decode_s=decode_s)
    elif settings.codec != "none" or not found.packs:
        # Both sides pack and unpack: what one of them was not timed at would count as no time.
        unknown |= dict.fromkeys(("encode", "decode"), reason)
    if settings.codec != "none" and sent is None:
        unknown |= dict.fromkeys(("uplink", "downlink"), reason)
    elif settings.codec != "none" and sent is not None:
        here = problem.cuts == cut
        problem = replace(
            problem,
            up_bytes=np.where(here, sent[0], problem.up_bytes),
            down_bytes=np.where(here, sent[1], problem.down_bytes),
        )
    return problem, unknown


_Given = tuple[float | None, float | None, float | None]


def _given(store: Store, link: str | None) -> _Given | None:
    """Rates and round trip to plan with: those of `--link`; three None to take the only stored link's.

    None if nothing is known.
    """
    if link is not None:
        shape = parse_link(link)
        rates = (shape.uplink_bps, shape.downlink_bps)
        # The delay that is imposed, each way; what the true link adds to it is not known.
        return None if None in rates else (*rates, 2.0 * shape.delay_s)
    stored = store.links.all()
    known = len(stored) == 1 and None not in (stored[0].uplink_bps, stored[0].downlink_bps)
    return (None, None, None) if known else None

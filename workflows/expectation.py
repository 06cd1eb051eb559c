"""What the fits in the database expect of a run with a given cut, where there are any."""

from __future__ import annotations

from dataclasses import fields

from cardlab.card.problem.from_db import Request, gather
from cardlab.card.problem.scenario import Objective
from cardlab.card.uncertainty import certainties
from cardlab.core.errors import CardlabError
from cardlab.core.records.device import Device
from cardlab.db.store import Store
from cardlab.split.schedule import Prediction
from cardlab.split.settings import RunSettings
from cardlab.split.shaping import parse_link

# A problem needs some rate; the terms that it decides are dropped below.
_ANY_BPS = 1e9


def expected_by_device(store: Store, settings: RunSettings, server: Device, link: str | None) -> dict[str, Prediction]:
    """Predictions by device label for the run's cut; empty where profiles or fits are missing.

    The link's terms are predicted only where its rates are known: `--link`, or the only stored link.
    """
    names = [device.name for device in store.devices.all()]
    return {name: found for name in names if (found := _expected(store, settings, server, name, link)) is not None}


def _expected(store: Store, settings: RunSettings, server: Device, name: str, link: str | None) -> Prediction | None:
    given = _given(store, link)
    linked = given is not None
    up_bps, down_bps = given or (_ANY_BPS, _ANY_BPS)
    request = Request(
        server=server.key,
        devices=(name,),
        model=settings.task.model,
        batch=settings.task.batch,
        sequence=settings.task.sequence,
        uplink_bps=up_bps,
        downlink_bps=down_bps,
        wire_dtype=settings.wire_dtype,
        # Only delays are used, and this way of counting asks for no waiting power.
        energy="busy",
        objective=Objective(weight=1.0, local_epochs=settings.epochs),
    )
    try:
        found = gather(store, request)
    except CardlabError:
        # An expectation is a courtesy: what it lacks stops no run.
        return None
    # Model, batch and sequence do not name the LoRA settings: the fits may be of another task.
    if found.task.uid != settings.task.uid or settings.cut is None:
        return None
    place = list(found.problem.cuts).index(settings.cut)
    # Without a plan nothing locks the server's frequency, and under load it runs at its highest.
    fastest = found.problem.server_s.shape[1] - 1
    terms = found.problem.terms(0, place, float(found.problem.server_s[place, fastest]))
    (sure,) = certainties(found.problem, [(place, fastest)], found.uncertainty)
    if not linked:
        return Prediction(terms={"device": terms.device, "server": terms.server}, terms_ci95=sure.terms_ci95)
    known = {f.name: float(getattr(terms, f.name)) for f in fields(terms)}
    return Prediction(terms=known, terms_ci95=sure.terms_ci95, delay_ci95=sure.delay_ci95)


def _given(store: Store, link: str | None) -> tuple[float | None, float | None] | None:
    """Rates to plan with: those of `--link`; None and None to take the only stored link; None if nothing is known."""
    if link is not None:
        shape = parse_link(link)
        return None if None in (shape.uplink_bps, shape.downlink_bps) else (shape.uplink_bps, shape.downlink_bps)
    stored = store.links.all()
    known = len(stored) == 1 and None not in (stored[0].uplink_bps, stored[0].downlink_bps)
    return (None, None) if known else None

"""Ratios that runs taught, in a plan from the database: only where asked for, each named with its run and rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.delay import s_per_bit
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.ratios import TermRatios, with_ratios
from cardlab.card.uncertainty import Source, Uncertainty
from cardlab.core.errors import PlanError
from cardlab.core.quantity import union_of
from cardlab.core.records.fit import RATIO, Fit
from cardlab.db.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A party of a plan and what its numbers were made of (uids), of which a ratio must be."""

    key: str
    name: str
    base: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Who takes part: the devices [M], the server, and the link that gives rates (None where they are given)."""

    devices: tuple[Side, ...]
    server: Side
    link: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntRatios:
    """The ratios that hold for a plan: of each device by term [M], of the server; `notes` name every one."""

    devices: tuple[dict[str, Fit], ...]
    server: Fit | None
    notes: tuple[str, ...]

    @property
    def fits(self) -> tuple[Fit, ...]:
        """Every ratio."""
        own = [fit for found in self.devices for fit in found.values()]
        return (*own, *(() if self.server is None else (self.server,)))

    @property
    def ratios(self) -> TermRatios:
        """As a problem takes them."""
        each = {
            term: np.array([float(f[term].values[0]) if term in f else 1.0 for f in self.devices])
            for term in ("device", "uplink", "downlink")
        }
        return TermRatios(server=1.0 if self.server is None else float(self.server.values[0]), **each)

    def applied(self, problem: Problem) -> Problem:
        """The problem with these ratios."""
        each = [[fit.provenance for fit in found.values()] for found in self.devices]
        serving = [] if self.server is None else [self.server.provenance]
        joined = tuple(union_of([own, *more, *serving]) for own, more in zip(problem.provenance, each, strict=True))
        return replace(with_ratios(problem, self.ratios), provenance=joined)

    def unsure(self, known: Uncertainty, problem: Problem) -> Uncertainty:
        """The uncertainty of a problem that has these ratios: that of its constants, and theirs."""
        sources = [self._scaled(source) for source in known.sources]
        for m, (name, found) in enumerate(zip(problem.devices, self.devices, strict=True)):
            if "device" in found:
                times = problem.device_s[m] if problem.offer is None else problem.offer.device_s[m]
                off = _spread(found["device"], known.draws).reshape(-1, *(1,) * times.ndim)
                sources.append(Source(name=f"what was learnt of {name}", device=m, device_s=off * times))
            here: Array = (np.arange(len(problem.devices)) == m).astype(np.float64)
            per_bit = {
                term: _spread(found[term], known.draws)[:, None] * here * s_per_bit(float(rates[m]))
                for term, rates in (("uplink", problem.uplink_bps), ("downlink", problem.downlink_bps))
                if term in found
            }
            if per_bit:
                name = f"what was learnt of the link of {name}"
                up, down = per_bit.get("uplink"), per_bit.get("downlink")
                sources.append(Source(name=name, up_s_per_bit=up, down_s_per_bit=down))
        if self.server is not None:
            off = _spread(self.server, known.draws)[:, None, None]
            sources.append(Source(name="what was learnt of the server", server_s=off * problem.server_s))
        return Uncertainty(sources=tuple(sources), draws=known.draws)

    def _scaled(self, source: Source) -> Source:
        at = self.ratios
        own = 1.0 if source.device is None else float(at.device[source.device])
        return replace(
            source,
            device_s=None if source.device_s is None else source.device_s * own,
            server_s=None if source.server_s is None else source.server_s * at.server,
            up_s_per_bit=None if source.up_s_per_bit is None else source.up_s_per_bit * at.uplink,
            down_s_per_bit=None if source.down_s_per_bit is None else source.down_s_per_bit * at.downlink,
        )


def _spread(fit: Fit, draws: int) -> Array:
    """What draws of a ratio are off by, relative to it [N]."""
    return np.asarray(np.resize(fit.draws[:, 0], draws) / fit.values[0] - 1.0)


def learnt_ratios(store: Store, task: str, sides: Sides) -> LearntRatios:
    """The newest ratios of these parties.

    Raises PlanError where no run taught anything that a plan of these constants could use.
    """
    every = [s.fit for s in store.fits.newest(quantity=RATIO, task=task)]
    notes: list[str] = []
    devices = []
    for side in sides.devices:
        found = {}
        for term, base in (("device", side.base), ("uplink", _of(sides.link)), ("downlink", _of(sides.link))):
            fit = _usable(every, side, term, base, notes)
            if fit is not None:
                found[term] = fit
        devices.append(found)
    server = _usable(every, sides.server, "server", sides.server.base, notes)
    made = LearntRatios(devices=tuple(devices), server=server, notes=tuple(notes))
    if not made.fits:
        old = f": {notes[0]}" if notes else ""
        raise PlanError(
            f"--learnt has no effect: no run taught anything of these parties{old}",
            remedy="run: calibrate learn RUN, or leave --learnt out",
        )
    return made


def _of(link: str | None) -> frozenset[str]:
    return frozenset() if link is None else frozenset({link})


def _usable(every: Sequence[Fit], side: Side, term: str, base: frozenset[str], notes: list[str]) -> Fit | None:
    """The ratio of a term, if it is of the constants in hand; what is said of it goes to `notes`."""
    fit = next((f for f in every if f.device == side.key and f.segment == term), None)
    if fit is None or fit.window is None or fit.learnt_from is None:
        return None
    told = f"run {fit.learnt_from[:12]}, rounds {fit.window[0]} to {fit.window[1]}"
    if not base or not base <= frozenset(fit.base):
        notes.append(f"the {term} term of {side.name} as learnt from {told} is of other constants than these: not used")
        return None
    estimate = fit.parameters["ratio"]
    span = "" if estimate.ci95 is None else f" ({estimate.ci95[0]:.3g} .. {estimate.ci95[1]:.3g})"
    notes.append(f"learnt: the {term} term of {side.name} is {estimate.value:.3g}{span} x its constants, from {told}")
    return fit

"""From a database to a Problem: measured constants of who takes part, on the task they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.link.channel import OTHER_SEED, STATES, rates_by_round
from cardlab.card.problem.arrays import Array, Index
from cardlab.card.problem.check import check_constraints
from cardlab.card.problem.codec_times import Codecs, codecs_of
from cardlab.card.problem.datasheet import datasheet_problem
from cardlab.card.problem.delay import s_per_bit
from cardlab.card.problem.device_offers import DeviceChoices, curves_of, held_hz, held_power_w
from cardlab.card.problem.future import future_sources, rehearsal_sources
from cardlab.card.problem.inputs import PlanInputs
from cardlab.card.problem.learnt import LearntRatios, Side, Sides, learnt_ratios
from cardlab.card.problem.measured import (
    Fits,
    Measured,
    best_point,
    curve,
    device_memory_bytes,
    device_parts,
    device_power_w,
    device_seconds,
    idle_power_w,
    latency_fit,
    layer_load_s,
    link_source,
    server_fits,
    server_frequencies,
    server_parts,
    server_seconds,
    uncertainty_of,
    whole_seconds,
)
from cardlab.card.problem.offer import Offer
from cardlab.card.problem.parties import Given, Party, Request, find_devices, find_server, find_task, newest_profile
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.rehearsals import Rehearsed, first_round, rehearsed, same_subject
from cardlab.card.problem.scenario import LinkSpec, Objective
from cardlab.card.uncertainty import Source, Uncertainty
from cardlab.core import plausible
from cardlab.core.errors import PlanError
from cardlab.core.plain import Document, to_plain
from cardlab.core.quantity import Origin, Provenance, union_of
from cardlab.core.records.device import Device
from cardlab.core.records.fit import Fit
from cardlab.core.records.link import Link
from cardlab.core.records.measurement import Profile
from cardlab.core.records.presence import two_hosts
from cardlab.core.records.run_spread import RunSpread, spread_of_runs
from cardlab.core.records.task import DTYPE_BYTES, Task
from cardlab.core.records.workload import Analysis
from cardlab.core.text import subject
from cardlab.db.store import Store

__all__ = ["UNTIMED", "Gathered", "Request", "TakingPart", "check_powers", "device_choices", "gather", "gather_of"]

UNTIMED = "encode, decode and the handling of adapters take no time (not measured; on real devices: profile-device)"
_NUMBERED = "encode and decode take no time (compression as a number names no codec that was timed)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The problem of each round, its uncertainty, its datasheet twin, and what it was made of.

    `statistics` are problems on draws of the channel that are not those of the rounds (the rounds' own problem where
    nothing is drawn); `local_s` is the time of the whole model on each device for a mini-batch [M], NaN unknown.
    `packs`: whether tensors without a codec and the handling of adapters have a time; `rehearsed`, `server_rehearsed`:
    what steps of devices [M] and server take as a run makes them.
    `server_profile`, `profiles`: what the parties' own numbers were read from; devices [M] as in the problem.
    `request`: what was asked for, in plain form.
    """

    problems: tuple[Problem, ...]
    statistics: tuple[Problem, ...]
    local_s: Array
    uncertainty: Uncertainty
    datasheet: Problem | None
    task: Task
    wire_dtype: str
    server: Device
    fits: tuple[str, ...]
    runs: tuple[str, ...]
    codecs: Codecs
    packs: bool
    rehearsed: tuple[Rehearsed, ...]
    server_rehearsed: Rehearsed
    server_profile: Profile
    profiles: tuple[Profile, ...]
    links: tuple[str, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    request: Document

    @property
    def problem(self) -> Problem:
        """That of the first round."""
        return self.problems[0]

    def first_round(self, device: int, place: int, *, serves_first: bool = True) -> dict[str, float]:
        """What the first round of a run takes that device more, seconds by term, at the cut of that index.

        `serves_first`: it is the first that the server serves. Adapters take less: the optimizer has no state yet that
        would go down with them.
        """
        found = first_round(self.rehearsed[device], self.server_rehearsed if serves_first else None, place)
        factor, rate = self.task.optimizer_factor, float(self.problem.downlink_bps[device])
        if factor > 0.0 and rate > 0.0:
            state_bits = 8.0 * float(self.problem.adapter_bytes[place]) * factor / (1.0 + factor)
            found["adapters"] = -state_bits * float(s_per_bit(rate))
        return found

    @property
    def untimed_packing(self) -> bool:
        """Whether packing counts as no time though it takes some: nobody timed it, and not all is simulated."""
        everyone = (*self.profiles, self.server_profile)
        return not self.packs and any(p.run.device.platform != "simulated" for p in everyone)

    @property
    def inputs(self) -> PlanInputs:
        """What the plan keeps of all this for its reader."""
        return PlanInputs(
            assumptions=self.assumptions,
            notes=self.notes,
            fits=self.fits,
            runs=self.runs,
            links=self.links,
            task=self.task.uid,
            wire_dtype=self.wire_dtype,
            request=self.request,
        )


def gather(store: Store, request: Request, rounds: int = 1, states: int = STATES) -> Gathered:
    """The problem that the database and the request describe, for each round; `states` draws for its statistics.

    Raises NotFoundError or PlanError naming what is missing and the option or command that gives it.
    """
    link = _link(store, request)
    found = _assembled(store, request, link, _taking_part(store, request))
    learnt = learnt_ratios(store, found.task.uid, found.sides) if request.learnt else None
    return found.gathered(rounds, states, learnt)


def gather_of(store: Store, request: Request, taking_part: TakingPart, rounds: int = 1) -> Gathered:
    """The same of these parties: one of them may stand for a device that is only being measured."""
    return _assembled(store, request, _link(store, request), taking_part).gathered(rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakingPart:
    """Who takes part, and what is known of each; `choices` None where devices hold their frequency."""

    task: Task
    server: Device
    server_profile: Profile
    server_fits: Fits
    parties: Sequence[Party]
    profiles: Sequence[Profile]
    choices: DeviceChoices | None


def _taking_part(store: Store, request: Request) -> TakingPart:
    server = find_server(store, request)
    parties = find_devices(store, request, server)
    serving = Party(device=server)
    task = find_task(store, request, [serving, *parties])
    check_constraints(request.constraints, task.architecture.layers)
    profiles = [newest_profile(store, party, task) for party in parties]
    server_profile = newest_profile(store, serving, task)
    return TakingPart(
        task=task,
        server=server,
        server_profile=server_profile,
        server_fits=server_fits(store, server, task, server_profile),
        parties=parties,
        profiles=profiles,
        choices=device_choices(store, request, parties, profiles),
    )


def _analysis_of(profile: Profile) -> Analysis:
    run = profile.run
    if run.analysis is None:
        raise PlanError(f"run {run.uid[:12]} has no analysis", remedy="profile the device again")
    return run.analysis


def _assembled(store: Store, request: Request, link: Link | None, who: TakingPart) -> _Assembly:
    cuts = np.array([float(cut.cut) for cut in _analysis_of(who.server_profile).cuts])
    everyone = [*who.profiles, who.server_profile]
    # One read of a machine's profiles, which a server that is a device too shares.
    read = {uid: same_subject(store, p) for uid, p in {p.run.uid: p for p in everyone}.items()}
    same = [read[p.run.uid] for p in everyone]
    return _Assembly(
        request=request,
        link=link,
        server=who.server,
        task=who.task,
        parties=who.parties,
        profiles=who.profiles,
        fits=who.server_fits,
        server_profile=who.server_profile,
        codecs=codecs_of(store, [p.run.device.key for p in who.profiles], who.server.key, who.task.uid),
        choices=who.choices,
        rehearsed=tuple(
            rehearsed(store, p, own, "device", cuts) for p, own in zip(who.profiles, same[:-1], strict=True)
        ),
        server_rehearsed=rehearsed(store, who.server_profile, same[-1], "server", cuts),
        spreads=tuple(spread_of_runs(p.run.device.platform, own) for p, own in zip(everyone, same, strict=True)),
        shared_keys=_shared_keys(store, everyone),
    )


def device_choices(
    store: Store, request: Request, parties: Sequence[Party], profiles: Sequence[Profile]
) -> DeviceChoices | None:
    """What each device offers, as its fits say; None where devices hold their frequency.

    Raises PlanError as `_choices`, and where a file lists frequencies and nothing is to be chosen.
    """
    if request.objective.device_frequencies == "all":
        return _choices(store, request, parties, profiles)
    for party, given in zip(parties, request.of_each(len(parties)), strict=True):
        if given.frequencies_hz:
            raise PlanError(
                f"frequencies_hz of {party.label} has no effect: devices hold the frequency of their best point",
                remedy="add --device-frequencies all, or leave frequencies_hz out",
            )
    return None


def _choices(store: Store, request: Request, parties: Sequence[Party], profiles: Sequence[Profile]) -> DeviceChoices:
    """What each device offers. Raises PlanError where none has a choice, or its power is known for one frequency."""
    given = request.of_each(len(parties))
    rows = zip(parties, profiles, given, strict=True)
    choices = DeviceChoices(tuple(curves_of(store, p.label, profile, g) for p, profile, g in rows))
    if not any(curves.frequency_hz.size > 1 for curves in choices.curves):
        if any(one.frequencies_hz for one in given):
            raise PlanError(
                "no device has a frequency to choose: frequencies_hz in [[devices]] leaves one of each",
                remedy="list several of a device, or leave frequencies_hz out",
            )
        raise PlanError(
            "no device has a frequency to choose: each was profiled at one",
            remedy="profile a device at several (profile-device --frequencies 8), or use --device-frequencies held",
        )
    check_powers(choices, given)
    return choices


def check_powers(choices: DeviceChoices, given: Sequence[Given]) -> None:
    """Raise PlanError where a power that holds for one frequency is given of a device that may take several."""
    for curves, one in zip(choices.curves, given, strict=True):
        if one.power_w is not None and curves.frequency_hz.size > 1:
            raise PlanError(
                f"power_w of {curves.label!r} is of one frequency, and {curves.label!r} may choose among several",
                remedy="leave power_w out, or use --device-frequencies held",
            )


def _link(store: Store, request: Request) -> Link | None:
    """The stored link to take rates from: the named one, else the only one where no rate was given."""
    up, down = request.uplink_bps, request.downlink_bps
    for option, value in (("--uplink-mbps", up), ("--downlink-mbps", down)):
        if value is not None and not value > 0:
            raise PlanError(f"the rate of {option} is {value:g}", remedy="give a number above 0")
        problem = None if value is None else plausible.LINK_RATE.problem(value)
        if value is not None and problem is not None:
            # Asked for in Mbit/s; whoever writes 100000000 has bit/s at hand.
            meant = value / 1e6
            said = f": {meant:g} bit/s is {meant / 1e6:g}" if plausible.LINK_RATE.holds(meant) else ""
            raise PlanError(f"the rate of {option} {problem}", remedy=f"give {option} in Mbit/s{said}")
    link = None
    each = request.of_each(1)
    lacking = {"--uplink-mbps": [g.uplink_bps for g in each], "--downlink-mbps": [g.downlink_bps for g in each]}
    if request.link_name is not None:
        link = store.links.get(request.link_name)
        if link.rtt_s is None and not any(None in rates for rates in lacking.values()):
            raise PlanError(
                f"link {link.name!r} has no round trip, and both rates are given: nothing of it would be used",
                remedy="leave --link out, or one of --uplink-mbps and --downlink-mbps",
            )
    elif request.link is None and any(None in rates for rates in lacking.values()):
        stored = store.links.all()
        link = stored[0] if len(stored) == 1 else None
        if len(stored) > 1:
            names = ", ".join(known.name for known in stored)
            raise PlanError(f"several links are stored ({names})", remedy="name one with --link NAME")
    measured = (None, None) if link is None else (link.uplink_bps, link.downlink_bps)
    missing = [
        option
        for (option, rates), stored_bps in zip(lacking.items(), measured, strict=True)
        if None in rates and stored_bps is None
    ]
    if missing and request.link is None:
        raise PlanError(
            f"the link between devices and server is not known ({' and '.join(missing)} missing)",
            remedy="give --uplink-mbps, --downlink-mbps, or --channel good|normal|poor, or import: card link",
        )
    return link


@dataclass(frozen=True, slots=True, kw_only=True)
class _Assembly:
    """Everything found in the database, on its way to a Problem."""

    request: Request
    link: Link | None
    server: Device
    task: Task
    parties: Sequence[Party]
    profiles: Sequence[Profile]
    fits: Fits
    server_profile: Profile
    codecs: Codecs
    choices: DeviceChoices | None
    rehearsed: tuple[Rehearsed, ...]
    server_rehearsed: Rehearsed
    spreads: tuple[RunSpread, ...]
    shared_keys: tuple[str, ...]

    def gathered(self, rounds: int, states: int = STATES, learnt: LearntRatios | None = None) -> Gathered:
        """The problems and what they were made of, multiplied by what was learnt where that is given."""
        problem, assumed = self._problem()
        cuts: Array = problem.cuts.astype(np.float64)
        used = [*self._used(), *(() if self.choices is None else self.choices.fits)]
        measured = Measured(
            profiles=self.profiles,
            labels=problem.devices,
            architecture=self.task.architecture,
            cuts=cuts,
            fits=self.fits,
            frequencies=problem.frequency_hz,
            device_sources=() if self.choices is None else self.choices.sources(cuts),
        )
        uncertainty = self._uncertainty(problem, uncertainty_of(measured, self._link_sources()))
        datasheet = datasheet_problem(problem, self._analysis(), self.server, [p.run.device for p in self.profiles])
        if learnt is not None:
            problem = learnt.applied(problem)
            uncertainty = learnt.unsure(uncertainty, problem)
            used += learnt.fits
        return Gathered(
            problems=self._rounds(problem, rounds, self.request.link),
            statistics=self._statistics(problem, states),
            local_s=np.array([whole_seconds(p) for p in self.profiles]),
            uncertainty=uncertainty,
            datasheet=datasheet,
            task=self.task,
            wire_dtype=self._wire()[0],
            server=self.server,
            fits=tuple(fit.fit_id for fit in used),
            runs=tuple(
                dict.fromkeys(
                    [
                        *(p.run.uid for p in self.profiles),
                        self.server_profile.run.uid,
                        *self.codecs.runs,
                        *(uid for one in (*self.rehearsed, self.server_rehearsed) for uid in one.runs),
                    ]
                )
            ),
            codecs=self.codecs,
            packs=self._packing_timed(problem.cuts),
            rehearsed=self.rehearsed,
            server_rehearsed=self.server_rehearsed,
            server_profile=self.server_profile,
            profiles=tuple(self.profiles),
            links=() if self.link is None else (self.link.uid,),
            assumptions=(*self.request.assumed, *assumed),
            notes=(*self._notes(), *(() if learnt is None else learnt.notes)),
            request=to_plain(self.request),
        )

    @property
    def sides(self) -> Sides:
        """Who takes part and what the numbers of each are made of."""
        latency = [latency_fit(self.fits, part) for part in server_parts(self.task.architecture)]
        # A rate that is given is no constant that a run could have taught something of.
        linked = self.link is not None and not any(g.uplink_bps or g.downlink_bps for g in self._given())
        return Sides(
            devices=tuple(
                Side(key=p.run.device.key, name=party.label, base=frozenset({p.run.uid}))
                for party, p in zip(self.parties, self.profiles, strict=True)
            ),
            server=Side(key=self.server.key, name=self.server.name, base=frozenset(fit.fit_id for fit in latency)),
            link=self.link.uid if linked and self.link is not None else None,
        )

    def _used(self) -> list[Fit]:
        latency = [latency_fit(self.fits, part) for part in server_parts(self.task.architecture)]
        powers = [self.fits.get((quantity, None, None)) for quantity in ("power", "wait_power")]
        return latency + [fit for fit in powers if fit is not None]

    def _problem(self) -> tuple[Problem, tuple[str, ...]]:
        analysis = self._analysis()
        cuts = np.array([cut.cut for cut in analysis.cuts])
        layers: Array = cuts.astype(np.float64)
        frequencies = server_frequencies(self.server_profile, self.fits)
        objective, assumed = self._objective()
        wire, wire_note = self._wire()
        # The analysis counts bytes in the dtype of the profile; on the wire they have that of the plan.
        scale = objective.compression * DTYPE_BYTES[wire] / DTYPE_BYTES[self.server_profile.run.execution.dtype]
        # Times were measured for named codecs; a compression given as a number names none.
        codec = "none" if objective.compression == 1.0 else None
        encode_s, decode_s, handling_s = self._packing(codec, cuts)
        numbered = (_NUMBERED,) if codec is None else ()
        untimed = (*numbered, *(() if self._packing_timed(cuts) else (UNTIMED,)))
        up, down = self._rates()
        latency_s, waited = self._latency()
        # Every device's numbers hold the server's: what those were made of counts for all of them.
        origins = union_of([fit.provenance for fit in self._used()] + ([self.link.provenance] if self.link else []))
        problem = Problem(
            devices=tuple(party.label for party in self.parties),
            cuts=cuts,
            frequency_hz=frequencies,
            device_s=np.array(
                [_longer(device_seconds(p, layers), of) for p, of in zip(self.profiles, self.rehearsed, strict=True)]
            ),
            encode_s=encode_s,
            decode_s=decode_s,
            handling_s=handling_s,
            device_layer_s=np.array([layer_load_s(p) for p in self.profiles]),
            server_layer_s=layer_load_s(self.server_profile),
            server_s=_longer(
                server_seconds(self.fits, self.task.architecture, layers, frequencies), self.server_rehearsed
            ),
            power_w=self._curve("power", frequencies),
            wait_power_w=self._curve("wait_power", frequencies),
            idle_power_w=idle_power_w(self.server_profile),
            up_bytes=np.array([c.activation_bytes for c in analysis.cuts]) * scale,
            down_bytes=np.array([c.gradient_bytes for c in analysis.cuts]) * scale,
            adapter_bytes=np.array([c.adapter_bytes for c in analysis.cuts]) * (1.0 + self.task.optimizer_factor),
            uplink_bps=up,
            downlink_bps=down,
            latency_s=np.full(len(self.profiles), latency_s),
            # In its own dtype: the same layers take twice as much in float32 as in the server's bfloat16.
            device_memory_bytes=np.array([device_memory_bytes(p, cuts) for p in self.profiles]),
            device_memory_limit_bytes=np.array([_or_nan(limit) for _, limit in self._memory_limits()]),
            server_memory_bytes=np.array([_or_nan(c.server_memory_bytes) for c in analysis.cuts]),
            server_memory_limit_bytes=_or_nan(self._server_memory_limit()),
            device_power_w=np.array(
                [g.power_w or device_power_w(p) for g, p in zip(self._given(), self.profiles, strict=True)]
            ),
            device_frequency_hz=np.array([held_hz(p) for p in self.profiles]),
            device_wait_power_w=np.array([held_power_w(p, "wait_power") for p in self.profiles]),
            device_idle_power_w=np.array([_or_nan(idle_power_w(p)) for p in self.profiles]),
            transmit_power_w=self._radio_w("transmit_power_w"),
            receive_power_w=self._radio_w("receive_power_w"),
            offer=self._offer(layers),
            objective=objective,
            constraints=self.request.constraints,
            provenance=tuple(
                Provenance(p.run.provenance.origins).joined([origins, *_assumed_of(g)])
                for g, p in zip(self._given(), self.profiles, strict=True)
            ),
        )
        return problem, (*assumed, *wire_note, *waited, *untimed, *self._unrehearsed(), *self._unlimited())

    def _offer(self, layers: Array) -> Offer | None:
        """What devices choose among, with what their steps take beyond their segments."""
        if self.choices is None:
            return None
        offer = self.choices.offer(layers)
        longer = [_longer(offer.device_s[m], of) for m, of in enumerate(self.rehearsed)]
        return replace(offer, device_s=np.array(longer))

    def _packing_timed(self, cuts: Index) -> bool:
        """Whether tensors without a codec and the handling of adapters have a time for every device."""
        server = self.server_rehearsed
        return self.codecs.timed("none", list(cuts)) or (
            server.encode_s is not None
            and server.adapters_s is not None
            and all(of.encode_s is not None and of.adapters_s is not None for of in self.rehearsed)
        )

    def _packing(self, codec: str | None, cuts: Index) -> tuple[Array, Array, Array | None]:
        """Encode and decode of a mini-batch, and the handling of a round's adapters [M,C].

        As codecs were profiled, else as both sides were rehearsed, else no time.
        """
        encode_s, decode_s = self.codecs.seconds(codec, list(cuts))
        handling_s = self.codecs.handling_s(list(cuts))
        if self.codecs.timed("none", list(cuts)) or not self._packing_timed(cuts):
            return encode_s, decode_s, handling_s
        there = self.server_rehearsed
        if codec is not None:
            encode_s = np.array([_both(of.encode_s, there.encode_s) for of in self.rehearsed])
            decode_s = np.array([_both(of.decode_s, there.decode_s) for of in self.rehearsed])
        return encode_s, decode_s, np.array([_both(of.adapters_s, there.adapters_s) for of in self.rehearsed])

    def _unrehearsed(self) -> tuple[str, ...]:
        """A line for each real party of whose steps nothing is known but their segments."""
        return tuple(dict.fromkeys(of.said(name) for name, of in self._real() if of.share is None))

    def _real(self) -> list[tuple[str, Rehearsed]]:
        """Name and rehearsals of each party that is not simulated, the server last."""
        each = [*zip(self.profiles, self.rehearsed, strict=True), (self.server_profile, self.server_rehearsed)]
        return [(p.run.device.name, of) for p, of in each if p.run.device.platform != "simulated"]

    def _uncertainty(self, problem: Problem, of_constants: Uncertainty) -> Uncertainty:
        """What is not known of the constants, of the rehearsals, and of one round of a later run."""
        draws = of_constants.draws
        everyone = [*self.profiles, self.server_profile]
        *devices, server = [(p.run.device.key, spread) for p, spread in zip(everyone, self.spreads, strict=True)]
        sources = (
            *of_constants.sources,
            *rehearsal_sources(problem, self.rehearsed, self.server_rehearsed, draws),
            *future_sources(problem, devices, server, draws),
        )
        return replace(of_constants, sources=sources)

    def _memory_limits(self) -> list[tuple[str, float | None]]:
        """Name and limit of each device: as given, else what its run found."""
        each = zip(self._given(), self.profiles, strict=True)
        return [(p.run.device.name, given.memory_bytes or p.memory_limit_bytes) for given, p in each]

    def _server_memory_limit(self) -> float | None:
        return self.request.server_memory_bytes or self.server_profile.memory_limit_bytes

    def _unlimited(self) -> tuple[str, ...]:
        """A line for each party whose memory limits nothing, because it is not known."""
        parties = [*self._memory_limits(), (self.server.name, self._server_memory_limit())]
        unknown = dict.fromkeys(name for name, limit in parties if limit is None)
        return tuple(f"no memory limit for {name} (its memory is not known)" for name in unknown)

    def _given(self) -> tuple[Given, ...]:
        """What the request gives of each device [M]."""
        return self.request.of_each(len(self.profiles))

    def _rates(self) -> tuple[Array, Array]:
        """Rates of the first round [M]; NaN where the channel is to give them."""
        known = self._known_rates()
        return np.array([_or_nan(up) for up, _ in known]), np.array([_or_nan(down) for _, down in known])

    def _known_rates(self) -> list[tuple[float | None, float | None]]:
        """Of each device, as given, else of the link; None where neither says."""
        timing = None if self.link is None else self.link.timing
        if timing is not None and self.request.rtt_s is not None and self.link is not None:
            # A typed round trip takes the place of the measured one, and rates keep what messages took.
            timing = replace(self.link, rtt_s=self.request.rtt_s).timing
        stored = (None, None) if timing is None else (timing.uplink_bps, timing.downlink_bps)
        return [(given.uplink_bps or stored[0], given.downlink_bps or stored[1]) for given in self._given()]

    def _latency(self) -> tuple[float, tuple[str, ...]]:
        """One-way latency of the link, seconds, and a line where nothing says it.

        Raises PlanError for a typed round trip beside rates that hold one which cannot be taken out.
        """
        link, rtt_s = self.link, self.request.rtt_s
        if link is not None and link.holds_latency and link.message_bytes is None:
            if rtt_s is not None:
                raise PlanError(
                    f"the rates of link {link.name!r} hold its latency, for messages of a size that was not kept",
                    remedy="leave --rtt-ms out, or measure the link again (card link)",
                )
            return 0.0, (f"no link latency beside the rates of link {link.name!r} (they hold it for one message size)",)
        if link is not None:
            latency_s = (link if rtt_s is None else replace(link, rtt_s=rtt_s)).timing.latency_s
        else:
            latency_s = None if rtt_s is None else rtt_s / 2.0
        if latency_s is None:
            return 0.0, ("no link latency (its round trip is not known: --rtt-ms)",)
        return latency_s, ()

    def _link_sources(self) -> list[Source]:
        """What messages of the link differed by, for the devices whose rates are the link's."""
        if self.link is None:
            return []
        up = np.array([given.uplink_bps is None for given in self._given()])
        down = np.array([given.downlink_bps is None for given in self._given()])
        source = link_source(self.link, up=up, down=down)
        return [] if source is None else [source]

    def _statistics(self, problem: Problem, states: int) -> tuple[Problem, ...]:
        link = self.request.link
        if link is None or not self._drawn():
            return (problem,)
        # Not the rounds' own seed: what is decided ahead must not know the channel it will meet.
        return self._rounds(problem, states, replace(link, seed=link.seed + OTHER_SEED))

    def _drawn(self) -> bool:
        """Whether a rate of some device is left to the channel."""
        return any(None in rates for rates in self._known_rates())

    def _rounds(self, problem: Problem, rounds: int, link: LinkSpec | None) -> tuple[Problem, ...]:
        if link is None or not self._drawn():
            return (problem,) * rounds
        rates = rates_by_round(link, problem.devices, self._known_rates(), rounds)
        return tuple(replace(problem, uplink_bps=up, downlink_bps=down) for up, down in rates)

    def _curve(self, quantity: str, frequencies: Array) -> Array | None:
        fit = self.fits.get((quantity, None, None))
        return None if fit is None else curve(fit, frequencies)

    def _analysis(self) -> Analysis:
        return _analysis_of(self.server_profile)

    def _objective(self) -> tuple[Objective, tuple[str, ...]]:
        if self.request.energy is not None:
            return replace(self.request.objective, energy=self.request.energy), ()
        # Paying for the whole round is the true account; where the power while waiting is missing it cannot be had.
        waiting = ("wait_power", None, None) in self.fits
        kind = "round" if waiting else "busy"
        reason = "waiting power was measured" if waiting else "waiting power was not measured"
        assumed = (f"energy = {kind} ({reason})",) if ("power", None, None) in self.fits else ()
        return replace(self.request.objective, energy=kind), assumed

    def _wire(self) -> tuple[str, tuple[str, ...]]:
        if self.request.wire_dtype is not None:
            return self.request.wire_dtype, ()
        dtype = self.server_profile.run.execution.dtype
        return dtype, (f"wire dtype = {dtype} (the server's)",)

    def _marks(self) -> list[str]:
        """What the fits' own warnings and the flags of the devices' times say, the same words once."""
        said: dict[str, list[str]] = {}
        of_devices = () if self.choices is None else self.choices.fits
        for fit in [*self._used(), *of_devices]:
            what = subject(fit.quantity, segment=fit.segment, phase=fit.phase, rail=fit.rail)
            for warning in fit.warnings:
                said.setdefault(f"fits of {fit.device_name}: {warning}", []).append(what)
        for profile in self.profiles:
            for segment, phase in device_parts(self.task.architecture):
                measurement = best_point(profile).find("latency", segment, phase)
                for flag in () if measurement is None else measurement.flags:
                    said.setdefault(f"times of {profile.run.device.name}: {flag}", []).append(f"{segment} {phase}")
        return [f"{words} ({', '.join(dict.fromkeys(where))})" for words, where in said.items()]

    def _spread_lines(self) -> list[str]:
        """How far one round may lie from the means, a line for each real machine."""
        everyone = [*self.profiles, self.server_profile]
        each = zip((p.run.device for p in everyone), self.spreads, strict=True)
        return list(dict.fromkeys(f"{d.name}: {s.said}" for d, s in each if s.between > 0.0 or s.within > 0.0))

    def _radio_w(self, name: str) -> Array:
        """What each device's radio adds, W: as given, else as the link's own device metered it; NaN unknown."""
        metered = None if self.link is None else getattr(self.link, name)
        given = [getattr(g, name) for g in self._given()]
        return np.array([_or_nan(metered if value is None else value) for value in given])

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if ("power", None, None) not in self.fits:
            notes.append(f"{self.server.name} has no power data: energy is N/A and only delay is weighed")
        devices = [p.run.device for p in self.profiles]
        notes.extend(_origin_notes(devices, self.server))
        notes.extend(self._marks())
        notes.extend(of.said(name) for name, of in self._real() if of.share is not None)
        notes.extend(self._spread_lines())
        notes.extend(() if self.choices is None else self.choices.said)
        notes.extend(self.shared_keys)
        if self.link is not None:
            notes.append(f"link {self.link.name!r}, measured {self.link.measured_at}")
            metered = [d.name for d, g in zip(devices, self._given(), strict=True) if g.transmit_power_w is None]
            if self.link.transmit_power_w is not None and metered:
                notes.append(
                    f"radio power of {', '.join(metered)}: that of the device that measured link {self.link.name!r}"
                )
        elif self.request.link is not None:
            notes.append(f"channel {self.request.link.channel}, SNR mapping {self.request.link.snr_mapping}")
        return tuple(notes)


def _longer(seconds: Array, of: Rehearsed) -> Array:
    """Seconds of a side's segments [C,...] as its steps take them."""
    if of.share is None:
        return seconds
    return np.asarray(seconds * (1.0 + of.share.reshape(-1, *(1,) * (seconds.ndim - 1))))


def _both(here: Array | None, there: Array | None) -> Array:
    """What both sides take [C]; both are known."""
    assert here is not None and there is not None
    return np.asarray(here + there)


def _assumed_of(given: Given) -> tuple[Provenance, ...]:
    """The origin of what somebody gave in place of what was measured; rates are of a link, and are typed anyway."""
    typed = (given.memory_bytes, given.power_w, given.transmit_power_w, given.receive_power_w)
    return () if all(value is None for value in typed) else (Provenance.of(Origin.ASSUMED),)


def _shared_keys(store: Store, profiles: Sequence[Profile]) -> tuple[str, ...]:
    """A line for each party that came from two hosts at once, and so may be two machines."""
    keys = {profile.run.device.key for profile in profiles}
    return tuple(str(found) for found in two_hosts(store.runs.presences()) if found.device_key in keys)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _origin_notes(devices: Sequence[Device], server: Device) -> list[str]:
    """Which parties were measured and which were not, so that nobody takes one for the other."""
    parts = {d.key: "device terms" for d in devices}
    # One machine may be both sides, in a local run.
    parts[server.key] = "all terms" if server.key in parts else "server terms and energy"
    # By key: a server and a device may have one label.
    parties = {d.key: d for d in [*devices, server]}
    lines = []
    for words, chosen in (
        ("measured", lambda platform: platform not in ("simulated", "imported")),
        ("imported", lambda platform: platform == "imported"),
        ("simulated, no number of these is real", lambda platform: platform == "simulated"),
    ):
        names = [f"{d.name} ({parts[key]})" for key, d in parties.items() if chosen(d.platform)]
        if names:
            lines.append(f"{words}: {', '.join(names)}")
    return lines

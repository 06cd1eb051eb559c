"""Plan with the database's constants or with a scenario's."""

from __future__ import annotations

from dataclasses import fields, replace

from cardlab.calibrate.freshness import staleness
from cardlab.card import load_scenario, solve
from cardlab.card.problem.check import check_objective, check_scenario
from cardlab.card.problem.from_db import Gathered, Request, gather
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.scenario import CHANNELS, SCHEMES, Constraints, LinkSpec, Objective, Scenario, SftSpec
from cardlab.card.schemes.card.planning import plan_rounds, problems_of
from cardlab.card.schemes.card.tradeoffs import with_pareto, with_sensitivity
from cardlab.card.schemes.sft.from_db import instance_from_database
from cardlab.card.schemes.sft.planning import plan_instance
from cardlab.card.simulate import on_channel
from cardlab.core.errors import UsageError
from cardlab.core.options import given
from cardlab.core.plain import Document
from cardlab.core.records.plan import SHARINGS, Plan
from cardlab.core.records.task import DTYPE_BYTES
from cardlab.db.store import Store
from cardlab.db.times import utc_now
from cardlab.workflows.opening import need_store
from cardlab.workflows.options.card import PlanOptions


def plan(store: Store | None, options: PlanOptions | None = None) -> Plan:
    """Make a plan from the store's constants, or from a scenario, and store it where there is a store.

    Args:
        store: None only with a scenario, whose plan is then not stored.

    Raises:
        UsageError: an option that is wrong or has no effect on what was asked.
        PlanError, NotFoundError: no plan is feasible, or what it needs was not measured.
    """
    asked = options or PlanOptions()
    _check(asked)
    if asked.scenario is None:
        if store is None:
            raise UsageError("a plan needs constants", remedy="give a store, or name a scenario")
        _check_scheme(asked, asked.scheme or "card", has_curve=True)
        return _from_database(need_store(store), asked)
    scenario = _changed(load_scenario(asked.scenario), asked)
    _check_scheme(asked, scenario.scheme, has_curve=scenario.sft.accuracy_limit is not None)
    # After the changes: they may contradict what the file had right.
    check_scenario(scenario)
    made = solve(scenario)
    if scenario.scheme == "card":
        made = _extended(made, problems_of(scenario)[0], asked)
    return made if store is None else store.plans.add(made, utc_now())


def _extended(made: Plan, problem: Problem, options: PlanOptions) -> Plan:
    if options.pareto:
        made = with_pareto(made, problem)
    if options.sensitivity:
        made = with_sensitivity(made, problem)
    return made


# What names measured parties and how their numbers travel: a scenario gives all of this itself.
_DATABASE_ONLY = (
    *("--server", "--device", "--model", "--batch", "--seq", "--task", "--wire-dtype", "--link"),
    *("--server-sharing", "--rtt-ms"),
)


def _check_link(options: PlanOptions) -> None:
    """A channel draws the rates that nothing gives: with both given it would only stand in the notes."""
    if options.channel is not None and None not in (options.uplink_mbps, options.downlink_mbps):
        raise UsageError(
            "--channel has no effect when both rates are given", remedy="leave --channel out, or one of the rates"
        )


def _check_effect(options: PlanOptions) -> None:
    """Raise UsageError for the first option that cannot change the answer."""
    asked = given(options)
    if options.from_db and options.scenario is not None:
        raise UsageError("a plan needs one source", remedy="give --from-db, or --scenario FILE (or card-letter)")
    if options.scenario is not None:
        for flag in _DATABASE_ONLY:
            if flag in asked:
                instead = "write server_sharing in [sft]" if flag == "--server-sharing" else f"leave {flag} out"
                raise UsageError(f"{flag} has no effect on a scenario", remedy=f"{instead}, or plan with --from-db")


def _check_scheme(options: PlanOptions, scheme: str, *, has_curve: bool) -> None:
    """The same, once the scheme is known."""
    asked = given(options)
    if scheme == "card" and "--min-accuracy" in asked:
        raise UsageError("--min-accuracy has no effect on scheme card", remedy="leave it out, or use --scheme sft")
    if scheme == "sft" and "--weight" in asked:
        raise UsageError("--weight has no effect on scheme sft, which has no weight", remedy="leave --weight out")
    if scheme == "sft" and options.energy not in (None, "busy"):
        raise UsageError(
            f"--energy {options.energy} has no effect on scheme sft, which counts busy energy",
            remedy="leave --energy out",
        )
    if scheme == "sft" and (options.pareto or options.sensitivity or options.confidence is not None):
        raise UsageError(
            "--pareto, --sensitivity and --confidence are for --scheme card", remedy="leave them out with sft"
        )
    if "--min-accuracy" in asked and not has_curve:
        raise UsageError(
            "--min-accuracy has no effect: the scenario has no accuracy curve",
            remedy="leave it out, or give the scenario accuracy points in [sft]",
        )


def _check(options: PlanOptions) -> None:
    _check_effect(options)
    _check_link(options)
    if options.scheme not in (None, *SCHEMES):
        raise UsageError(f"there is no scheme {options.scheme!r}", remedy="use --scheme card or --scheme sft")
    _check_sharing(options)
    if options.wire_dtype is not None and options.wire_dtype not in DTYPE_BYTES:
        raise UsageError(f"{options.wire_dtype!r} is no wire dtype", remedy=f"choose one of: {', '.join(DTYPE_BYTES)}")
    for name, value in (
        ("--uplink-mbps", options.uplink_mbps),
        ("--downlink-mbps", options.downlink_mbps),
        ("--deadline", options.deadline_s),
    ):
        # Written as `not value > 0` so that NaN is refused too.
        if value is not None and not value > 0:
            raise UsageError(f"{name} is {value:g}", remedy="give a number above 0")
    if options.rtt_ms is not None and not options.rtt_ms >= 0:
        raise UsageError(f"--rtt-ms is {options.rtt_ms:g}", remedy="give a number of 0 or more")
    if options.channel is not None and options.channel not in CHANNELS:
        raise UsageError(f"there is no channel {options.channel!r}", remedy=f"choose one of: {', '.join(CHANNELS)}")
    if options.link is not None and (options.channel is not None or options.scenario is not None):
        raise UsageError("--link names a stored link", remedy="use it with --from-db and without --channel")
    if options.rounds is not None and options.rounds < 1:
        raise UsageError(f"--rounds is {options.rounds}", remedy="give 1 or more")


def _check_sharing(options: PlanOptions) -> None:
    if options.server_sharing is None:
        return
    if options.server_sharing not in SHARINGS:
        raise UsageError(
            f"there is no server sharing {options.server_sharing!r}", remedy=f"choose one of: {', '.join(SHARINGS)}"
        )
    if options.scenario is not None or options.scheme != "sft":
        raise UsageError(
            "--server-sharing is for --from-db --scheme sft", remedy="in a scenario write server_sharing in [sft]"
        )


def _objective(base: Objective, options: PlanOptions) -> Objective:
    given: Document = {
        "weight": options.weight,
        "local_epochs": options.local_epochs,
        "compression": options.compression,
        "energy": options.energy,
    }
    objective = replace(base, **{k: v for k, v in given.items() if v is not None})
    check_objective(objective)
    return objective


def _constraints(base: Constraints, options: PlanOptions) -> Constraints:
    given: Document = {
        "deadline_s": options.deadline_s,
        "deadline_confidence": options.confidence,
        "server_power_w": options.max_server_power_w,
        "server_energy_j": options.max_server_energy_j,
        "device_energy_j": options.max_device_energy_j,
        "min_device_layers": options.min_device_layers,
    }
    return replace(base, **{k: v for k, v in given.items() if v is not None})


def _changed(scenario: Scenario, options: PlanOptions) -> Scenario:
    """The scenario with what the command line overrides."""
    rates = {
        "uplink_bps": options.uplink_mbps and options.uplink_mbps * 1e6,
        "downlink_bps": options.downlink_mbps and options.downlink_mbps * 1e6,
    }
    given: Document = {k: v for k, v in rates.items() if v}
    if options.channel is not None:
        scenario = replace(
            on_channel(scenario, options.channel), assumed=(*scenario.assumed, *_link_defaults(scenario))
        )
    if options.min_accuracy is not None:
        scenario = replace(scenario, sft=replace(scenario.sft, accuracy_target=options.min_accuracy))
    # One rate was asked for, so the list that the scheme would choose from gives way.
    if options.compression is not None:
        scenario = replace(scenario, sft=replace(scenario.sft, rates=()))
    return replace(
        scenario,
        scheme=options.scheme or scenario.scheme,
        rounds=options.rounds or scenario.rounds,
        objective=_objective(scenario.objective, options),
        constraints=_constraints(scenario.constraints, options),
        devices=tuple(replace(d, **given) for d in scenario.devices),
    )


def _from_database(store: Store, options: PlanOptions) -> Plan:
    base = Objective()
    request = Request(
        server=options.server,
        devices=options.devices,
        model=options.model,
        batch=options.batch,
        sequence=options.sequence,
        task=options.task,
        uplink_bps=None if options.uplink_mbps is None else options.uplink_mbps * 1e6,
        downlink_bps=None if options.downlink_mbps is None else options.downlink_mbps * 1e6,
        rtt_s=None if options.rtt_ms is None else options.rtt_ms * 1e-3,
        wire_dtype=options.wire_dtype,
        # sft charges the server for its busy time alone.
        energy="busy" if options.scheme == "sft" else options.energy,
        # sft chooses the rate of each device itself: a factor in the objective would count it twice.
        objective=_objective(base, replace(options, compression=1.0) if options.scheme == "sft" else options),
        link=None if options.channel is None else LinkSpec(channel=options.channel),
        link_name=options.link,
        constraints=_constraints(Constraints(), options),
        assumed=_assumed(base, options),
    )
    found = gather(store, request, options.rounds or 1)
    used = [stored.fit for stored in store.fits.newest(device=found.server.key) if stored.fit.fit_id in found.fits]
    found = replace(found, notes=(*found.notes, *staleness(store, used)))
    if options.scheme == "sft":
        return store.plans.add(_shared_plan(store, found, options), utc_now())
    made = plan_rounds(found.problems, uncertainty=found.uncertainty, datasheet=found.datasheet, inputs=found.inputs)
    return store.plans.add(_extended(made, found.problem, options), utc_now())


def _shared_plan(store: Store, found: Gathered, options: PlanOptions) -> Plan:
    # A stored or given rate is a line that devices share by time. A drawn channel is radio, where a narrower
    # share holds the same transmit power.
    spectrum = "linear" if options.channel is None else "power"
    sharing = options.server_sharing or SHARINGS[0]
    spec = SftSpec(accuracy_target=options.min_accuracy, spectrum=spectrum, server_sharing=sharing)
    instance, used = instance_from_database(store, found, spec, options.compression)
    return plan_instance(instance, replace(found.inputs, fits=(*found.fits, *used)))


def _assumed(base: Objective, options: PlanOptions) -> tuple[str, ...]:
    """Defaults that a reader of the plan must know, because nobody gave them."""
    shown = (
        ("weight", options.weight, f"{base.weight} on delay"),
        ("local_epochs", options.local_epochs, str(base.local_epochs)),
        ("compression", options.compression, f"{base.compression:g} (none)"),
    )
    kept = shown[1:] if options.scheme == "sft" else shown
    words = [f"{name} = {text}" for name, given, text in kept if given is None]
    return (*words, *(_link_defaults(None) if options.channel is not None else ()))


def _link_defaults(scenario: Scenario | None) -> tuple[str, ...]:
    """What a channel named on the command line assumes where no [link] says it."""
    if scenario is not None and scenario.link is not None:
        return ()
    return tuple(f"link {f.name} = {f.default}" for f in fields(LinkSpec) if f.name != "channel")

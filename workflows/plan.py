"""Plan with the database's constants or with a scenario's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from cardlab.calibrate.freshness import stale_of
from cardlab.card import load_scenario, solve
from cardlab.card.budget import DRAWS
from cardlab.card.problem.calibrated_file import CalibratedDevice, CalibratedScenario, load_calibrated
from cardlab.card.problem.check import check_objective, check_scenario
from cardlab.card.problem.from_db import Gathered, Request, gather
from cardlab.card.problem.governed import governors_of
from cardlab.card.problem.parties import Given
from cardlab.card.problem.problem import Problem
from cardlab.card.problem.scenario import CHANNELS, SCHEMES, Constraints, LinkSpec, Objective, Scenario, SftSpec
from cardlab.card.schemes.card.planning import Budgets, plan_rounds, problems_of
from cardlab.card.schemes.card.side_by_side import side_by_side
from cardlab.card.schemes.card.tradeoffs import with_pareto, with_sensitivity
from cardlab.card.schemes.sft.from_db import instance_from_database
from cardlab.card.schemes.sft.planning import plan_instance
from cardlab.card.simulate import on_channel
from cardlab.core import plausible
from cardlab.core.errors import UsageError
from cardlab.core.options import given
from cardlab.core.plain import Document
from cardlab.core.records.plan import SHARINGS, Plan, PlannedRound
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
    if asked.scenario is None or asked.from_db:
        if store is None:
            raise UsageError("a plan needs constants", remedy="give a store, or a scenario without from_db")
        file = CalibratedScenario() if asked.scenario is None else load_calibrated(asked.scenario)
        _check_scheme(asked, asked.scheme or file.scheme or "card", has_curve=True)
        return _from_database(need_store(store), asked, file)
    file_scenario = load_scenario(asked.scenario)
    budgets_of_file = [d.energy_budget_j for d in file_scenario.devices]
    _check_budget(asked, asked.scheme or file_scenario.scheme, budgets_of_file)
    scenario = _changed(file_scenario, asked)
    _check_scheme(asked, scenario.scheme, has_curve=scenario.sft.accuracy_limit is not None)
    # After the changes: they may contradict what the file had right.
    check_scenario(scenario)
    made = solve(scenario)
    lines = budget_replaced([d.name for d in scenario.devices], budgets_of_file, asked.device_budget_j)
    made = replace(made, notes=(*made.notes, *lines))
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
    *("--server-sharing", "--rtt-ms", "--learnt"),
)


def _measured(options: PlanOptions) -> bool:
    """Whether constants come from the database."""
    return options.from_db or options.scenario is None


def _check_link(options: PlanOptions) -> None:
    """A channel draws the rates that nothing gives: with both given it would only stand in the notes."""
    if options.channel is not None and None not in (options.uplink_mbps, options.downlink_mbps):
        raise UsageError(
            "--channel has no effect when both rates are given", remedy="leave --channel out, or one of the rates"
        )


def _check_effect(options: PlanOptions) -> None:
    """Raise UsageError for the first option that cannot change the answer."""
    asked = given(options)
    if options.scenario is not None and not options.from_db:
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
    if scheme == "sft" and options.learnt:
        raise UsageError("--learnt is for --scheme card", remedy="leave it out with sft")
    for flag in ("--device-weight", "--device-energy", "--max-fleet-energy"):
        if scheme == "sft" and flag in asked:
            raise UsageError(f"{flag} has no effect on scheme sft, which weighs no energy", remedy=f"leave {flag} out")
    if scheme == "sft" and options.device_frequencies not in (None, "held"):
        raise UsageError(
            f"--device-frequencies {options.device_frequencies} is for --scheme card: the quickest is best in sft",
            remedy="leave it out with sft",
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
    if options.rtt_ms is not None and not plausible.ROUND_TRIP.holds(options.rtt_ms * 1e-3):
        raise UsageError(
            f"--rtt-ms is {options.rtt_ms:g}: {plausible.ROUND_TRIP.problem(options.rtt_ms * 1e-3)}",
            remedy="give the round trip in milliseconds, 0 to 10,000",
        )
    if options.channel is not None and options.channel not in CHANNELS:
        raise UsageError(f"there is no channel {options.channel!r}", remedy=f"choose one of: {', '.join(CHANNELS)}")
    if options.link is not None and (options.channel is not None or not _measured(options)):
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
    # What a file says of the scheme is known later.
    if not _measured(options) or (options.scenario is None and options.scheme != "sft"):
        raise UsageError(
            "--server-sharing is for --from-db --scheme sft", remedy="in a scenario write server_sharing in [sft]"
        )


def _objective(base: Objective, options: PlanOptions) -> Objective:
    given: Document = {
        "weight": options.weight,
        "local_epochs": options.local_epochs,
        "compression": options.compression,
        "energy": options.energy,
        "device_energy_weight": options.device_weight,
        "device_energy": options.device_energy,
        "device_frequencies": options.device_frequencies,
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
        "fleet_energy_j": options.max_fleet_energy_j,
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
    if options.device_budget_j is not None:
        given["energy_budget_j"] = options.device_budget_j
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


def _check_budget(options: PlanOptions, scheme: str, of_file: Sequence[float | None]) -> None:
    """Raise UsageError for a budget that makes no sense or has no effect, and for what knows of none."""
    check_device_budget(options.device_budget_j, scheme)
    if scheme == "sft" and any(budget is not None for budget in of_file):
        raise UsageError(
            "[[devices]] energy_budget_j has no effect on scheme sft, which weighs no energy",
            remedy="leave it out with sft",
        )
    budgeted = options.device_budget_j is not None or any(budget is not None for budget in of_file)
    if budgeted and options.sensitivity:
        raise UsageError(
            "--sensitivity plans one round again by itself, and a budget is of all rounds",
            remedy="leave --sensitivity or the budgets out",
        )


def check_device_budget(budget_j: float | None, scheme: str) -> None:
    """Raise UsageError for a `--device-budget-j` that makes no sense or has no effect."""
    if budget_j is None:
        return
    # Written as `not value > 0` so that NaN is refused too.
    if not budget_j > 0:
        raise UsageError(f"--device-budget-j is {budget_j:g}", remedy="give a number above 0")
    problem = plausible.BATTERY.problem(budget_j)
    if problem is not None:
        raise UsageError(f"--device-budget-j {problem}", remedy=plausible.BATTERY.remedy(budget_j, "it"))
    if scheme == "sft":
        raise UsageError(
            "--device-budget-j has no effect on scheme sft, which weighs no energy",
            remedy="leave it out, or use --scheme card",
        )


def budget_replaced(devices: Sequence[str], of_file: Sequence[float | None], budget_j: float | None) -> tuple[str, ...]:
    """A line where an option replaces budgets of a file."""
    names = [n for n, own in zip(devices, of_file, strict=True) if own is not None and own != budget_j]
    if budget_j is None or not names:
        return ()
    return (f"--device-budget-j {budget_j:g} in place of energy_budget_j of {', '.join(names)}",)


def _from_database(store: Store, options: PlanOptions, file: CalibratedScenario) -> Plan:
    """A plan with measured constants; what the command line says wins over what the file says."""
    scheme = options.scheme or file.scheme or SCHEMES[0]
    request = calibrated_request(options, file)
    of_file = [d.energy_budget_j for d in file.devices]
    _check_budget(options, scheme, of_file)
    budgeted = options.device_budget_j is not None or any(budget is not None for budget in of_file)
    rounds = options.rounds or file.rounds or 1
    found = gather(store, request, rounds, DRAWS) if budgeted else gather(store, request, rounds)
    found = replace(found, notes=(*found.notes, *stale_of(store, found.fits)))
    if scheme == "sft":
        compression = options.compression or (file.objective.compression if "compression" in file.given else None)
        return store.plans.add(_shared_plan(store, found, options, file, compression), utc_now())
    every = [options.device_budget_j] * len(found.problem.devices)
    budgets_j = every if options.device_budget_j is not None else of_file
    found = replace(
        found, notes=(*found.notes, *budget_replaced(found.problem.devices, of_file or every, options.device_budget_j))
    )
    made = plan_rounds(
        found.problems,
        uncertainty=found.uncertainty,
        datasheet=found.datasheet,
        inputs=found.inputs,
        budgets=Budgets(budgets_j, found.statistics) if budgeted else None,
    )
    made = replace(made, rounds=tuple(_with_first(planned, found) for planned in made.rounds))
    if found.untimed_packing:
        made = replace(made, not_predicted=(*made.not_predicted, "encode", "decode"))
    if options.learnt:
        beside = "learnt: no governor's default stands beside this plan, whose profile is of before"
        made = replace(made, notes=(*made.notes, beside))
    else:
        governors = governors_of(store, found.server_profile, found.problem.devices, found.profiles)
        made = replace(made, side_by_side=side_by_side(found.problem, made.rounds[0], governors, found.task))
    return store.plans.add(_extended(made, found.problem, options), utc_now())


def _with_first(planned: PlannedRound, found: Gathered) -> PlannedRound:
    """A round with what it would take more as the first of a run, whichever it is: one that goes on begins there."""
    places = {int(cut): n for n, cut in enumerate(found.problem.cuts)}
    devices = tuple(
        replace(d, first_round_s=found.first_round(m, places[d.cut], serves_first=m == 0))
        for m, d in enumerate(planned.devices)
    )
    return replace(planned, devices=devices)


def calibrated_request(options: PlanOptions, file: CalibratedScenario) -> Request:
    """What a plan from the database is asked by these options and this file. Raises UsageError where they collide."""
    scheme = options.scheme or file.scheme or SCHEMES[0]
    _check_file(file, options, scheme)
    objective = _objective(file.objective, options)
    return Request(
        server=options.server or (None if file.server is None else file.server.name),
        devices=options.devices or tuple(d.name for d in file.devices),
        given=() if options.devices else tuple(_given(d) for d in file.devices),
        server_memory_bytes=None if file.server is None else file.server.memory_bytes,
        model=options.model,
        batch=options.batch,
        sequence=options.sequence,
        task=options.task,
        uplink_bps=None if options.uplink_mbps is None else options.uplink_mbps * 1e6,
        downlink_bps=None if options.downlink_mbps is None else options.downlink_mbps * 1e6,
        rtt_s=None if options.rtt_ms is None else options.rtt_ms * 1e-3,
        wire_dtype=options.wire_dtype,
        energy=_energy(options, file, scheme),
        # sft chooses the rate of each device itself: a factor in the objective would count it twice.
        objective=replace(objective, compression=1.0) if scheme == "sft" else objective,
        link=_radio(options, file),
        link_name=options.link,
        constraints=_constraints(file.constraints, options),
        assumed=_assumed(options, file, scheme),
        learnt=options.learnt,
    )


def _given(device: CalibratedDevice) -> Given:
    return Given(
        uplink_bps=device.uplink_bps,
        downlink_bps=device.downlink_bps,
        memory_bytes=device.memory_bytes,
        power_w=device.power_w,
        frequencies_hz=device.frequencies_hz,
        transmit_power_w=device.transmit_power_w,
        receive_power_w=device.receive_power_w,
    )


def _energy(options: PlanOptions, file: CalibratedScenario, scheme: str) -> str | None:
    """How server energy is counted; None is to be found out."""
    # sft charges the server for its busy time alone.
    if scheme == "sft":
        return "busy"
    return options.energy or (file.objective.energy if "energy" in file.given else None)


def _radio(options: PlanOptions, file: CalibratedScenario) -> LinkSpec | None:
    if options.channel is not None:
        return replace(file.link or LinkSpec(), channel=options.channel)
    return file.link


def _check_file(file: CalibratedScenario, options: PlanOptions, scheme: str) -> None:
    """Raise UsageError for what a file says and the plan would not do."""
    if options.devices and file.devices:
        raise UsageError("--device and the file's [[devices]] both name who takes part", remedy="leave one of them out")
    if options.server is not None and file.server is not None:
        raise UsageError("--server and the file's [server] both name the server", remedy="leave one of them out")
    if file.link is not None and options.link is not None:
        raise UsageError("--link and the file's [link] are two links", remedy="leave one of them out")
    rates = [(options.uplink_mbps or d.uplink_bps, options.downlink_mbps or d.downlink_bps) for d in file.devices]
    if rates and not any(None in pair for pair in rates):
        for name, given_here in (("[link]", file.link), ("--channel", options.channel)):
            if given_here is not None:
                raise UsageError(f"{name} has no effect: every device has its rates", remedy=f"leave {name} out")
    if scheme != "sft" and options.server_sharing is not None:
        raise UsageError("--server-sharing has no effect on scheme card", remedy="leave it out, or use --scheme sft")
    if scheme != "sft" and file.sft is not None:
        raise UsageError("[sft] has no effect on scheme card", remedy="leave it out, or use --scheme sft")
    if scheme == "sft":
        for key in (
            *("weight", "weight_on", "range", "benchmark"),
            *("device_energy_weight", "device_energy", "device_frequencies"),
        ):
            if key in file.given:
                raise UsageError(f"[objective] {key} has no effect on scheme sft", remedy=f"leave {key} out")
        if file.objective.energy != "busy":
            raise UsageError("scheme sft counts busy energy", remedy='leave energy out, or write energy = "busy"')
        if file.constraints.fleet_energy_j is not None:
            raise UsageError("fleet_energy_j is for scheme card", remedy="leave it out with sft")
        if file.constraints.deadline_confidence is not None:
            raise UsageError("deadline_confidence is for scheme card", remedy="leave it out with sft")
        _check_shared(file, options)


def _check_shared(file: CalibratedScenario, options: PlanOptions) -> None:
    """Raise UsageError for a key of [sft] that the plan would not use."""
    spec = file.sft
    if spec is None:
        return
    linear = spec.spectrum == "linear" if "sft.spectrum" in file.given else _radio(options, file) is None
    if "sft.bandwidth_hz" in file.given and linear:
        raise UsageError(
            "[sft] bandwidth_hz has no effect on a line that is shared by time",
            remedy='leave it out, or write spectrum = "power"',
        )
    compressed = options.compression is not None or "compression" in file.given
    for key in ("codec", "bits"):
        if f"sft.{key}" in file.given and not compressed:
            raise UsageError(f"[sft] {key} is of a compression that is given", remedy=f"leave {key} out, or give one")
    if "sft.bits" in file.given and spec.codec == "dense":
        raise UsageError("[sft] bits has no effect on codec dense, whose bits follow the rate", remedy="leave it out")


def _shared_plan(
    store: Store, found: Gathered, options: PlanOptions, file: CalibratedScenario, compression: float | None
) -> Plan:
    # A stored or given rate is a line that devices share by time. A drawn channel is radio, where a narrower
    # share holds the same transmit power.
    spec = file.sft or SftSpec()
    if "sft.spectrum" not in file.given:
        spec = replace(spec, spectrum="linear" if _radio(options, file) is None else "power")
    if options.min_accuracy is not None:
        spec = replace(spec, accuracy_target=options.min_accuracy)
    if options.server_sharing is not None:
        spec = replace(spec, server_sharing=options.server_sharing)
    instance, used = instance_from_database(store, found, spec, compression)
    return plan_instance(instance, replace(found.inputs, fits=(*found.fits, *used)))


def _assumed(options: PlanOptions, file: CalibratedScenario, scheme: str) -> tuple[str, ...]:
    """Defaults that a reader of the plan must know, because nobody gave them."""
    base = Objective()
    shown = (
        ("weight", options.weight, f"{base.weight} on delay"),
        ("local_epochs", options.local_epochs, str(base.local_epochs)),
        ("compression", options.compression, f"{base.compression:g} (none)"),
    )
    kept = shown[1:] if scheme == "sft" else shown
    words = [f"{name} = {text}" for name, given, text in kept if given is None and name not in file.given]
    words += [f"{who} = {value:g} (the file's)" for who, value in _of_the_file(file)]
    if file.link is not None:
        return (*words, *(line for line in file.assumed if line.startswith("link ")))
    return (*words, *(_link_defaults(None) if options.channel is not None else ()))


_TYPED = ("memory_bytes", "power_w", "transmit_power_w", "receive_power_w")


def _of_the_file(file: CalibratedScenario) -> list[tuple[str, float]]:
    """What a file gives in place of what was measured."""
    parties = [*file.devices, *(() if file.server is None else (file.server,))]
    every = [(f"{key} of {p.name}", getattr(p, key, None)) for p in parties for key in _TYPED]
    return [(name, value) for name, value in every if value is not None]


def _link_defaults(scenario: Scenario | None) -> tuple[str, ...]:
    """What a channel named on the command line assumes where no [link] says it."""
    if scenario is not None and scenario.link is not None:
        return ()
    return tuple(f"link {f.name} = {f.default}" for f in fields(LinkSpec) if f.name != "channel")

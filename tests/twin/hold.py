"""Documents held against the truth, number by number, each within the bound that it states."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from scipy.stats import t as student

from tests.cli.run import Result
from tests.twin.commands import Measured
from tests.twin.truth import (
    BYTES,
    Asked,
    Machine,
    Passings,
    Terms,
    Work,
    World,
    costs,
    device_bytes,
    kept,
    server_bytes,
)

Document = dict[str, Any]
# Widens an interval of 95 % to one of 99.9 %.
NORMAL = 3.2905 / 1.9600
# What states no interval is counted or computed from what was given: it is exact.
EXACT = 1e-9
# What is made of measured numbers and states no interval of its own: what these are off by, at most.
DERIVED = 0.02
# A round of parallel devices against the best of all: two of which each is known that well.
ROUND = 0.01
# The rail of the whole; another one reads a part of it.
BOARD = "board"
SEGMENTS = ("embedding", "first_layer", "layer", "head")


@dataclass
class Held:
    """Numbers that were compared, those outside their bound, and those far outside."""

    compared: int = 0
    plans: int = 0
    refusals: int = 0
    outside: list[str] = field(default_factory=list)
    far: list[str] = field(default_factory=list)

    def number(self, name: str, said: float | None, truth: float, bound: float) -> None:
        """One number; `bound` is the largest difference that is stated."""
        self.compared += 1
        if said is None or not math.isfinite(said):
            self.far.append(f"{name}: {said}, in truth {truth:.6g}")
            return
        off = abs(said - truth)
        # A number printed and read again differs in its last digit.
        if off > bound + EXACT * abs(truth):
            share = (said - truth) / abs(truth or 1.0)
            line = f"{name}: {said:.6g}, in truth {truth:.6g} ({share:+.2%}), bound {bound:.3g}"
            (self.far if off > 2.0 * bound + EXACT * abs(truth) else self.outside).append(line)

    def exact(self, name: str, said: float | None, truth: float) -> None:
        """A count."""
        self.number(name, said, truth, 0.0)

    def true(self, name: str, holds: bool) -> None:
        """Something that is or is not so."""
        self.compared += 1
        if not holds:
            self.far.append(name)


def bound_of(estimate: Document) -> float:
    """Half of the 99.9 % interval that an estimate states."""
    low, high = estimate["ci95"]
    return wider(estimate.get("n")) * (high - low) / 2.0


def wider(n: int | None) -> float:
    """From 95 % to 99.9 %, with the tails of a deviation that was itself estimated.

    The absolute deviation of n samples is worth what the standard deviation of half as many is.
    """
    freedom = max(1, (n - 1) // 2) if n else None
    return NORMAL if freedom is None else float(student.ppf(0.9995, freedom) / student.ppf(0.975, freedom))


def simulated(held: Held, name: str, provenance: Document) -> None:
    """Nothing here was measured, and everything says so."""
    held.true(f"{name} does not say that it is simulated", "simulated" in provenance["origins"])


def hold_profile(held: Held, world: World, machine: Machine, document: Document, passing: Passings) -> None:
    """Task, points and cuts of one machine."""
    work, name = world.work, machine.label
    held.exact(f"{name} parameters", document["task"]["parameters"], work.model.weights)
    trainable = work.model.layers * work.layer_adapters
    held.exact(f"{name} trainable parameters", document["task"]["trainable_parameters"], trainable)
    held.true(f"{name} points", [p["done"] for p in document["points"]].count(False) == 0)
    held.exact(f"{name} highest frequency", document["device"]["frequency_max_hz"], machine.top_hz)
    for point in document["points"]:
        _hold_point(held, work, machine, point)
    _hold_cuts(held, work, machine, document["cuts"])
    hold_memory(held, work, machine, document, passing)


def _hold_point(held: Held, work: Work, machine: Machine, point: Document) -> None:
    hz, where = point["frequency_hz"], f"{machine.label} at {point['frequency_hz'] / 1e6:.0f} MHz"
    if machine.throttles(point["requested_hz"]):
        # It swings between two steps: that it says so is all that can be held.
        held.true(f"{machine.label} at {point['requested_hz']} Hz throttles and does not say so", point["throttled"])
        return
    held.true(f"{where}: throttled", point["throttled"] is False)
    held.exact(f"{where}: requested", point["requested_hz"], hz)
    held.true(f"{where}: power of {point['rail']}", point["rail"] == BOARD)
    for key, truth in (
        ("power_w", machine.power_w(hz)),
        ("wait_power_w", machine.wait_w(hz)),
        ("idle_power_w", machine.idle_w),
    ):
        estimate = point["estimates"].get(key)
        if estimate is None:
            held.true(f"{where}: {key} without an estimate", point[key] is None)
            continue
        held.number(f"{where}: {key}", point[key], truth, bound_of(estimate))
        simulated(held, f"{where}: {key}", estimate["provenance"])
    for segment in point["segments"]:
        flops = work.flop(segment["segment"])
        energy = 0.0
        for phase, flop in zip(("forward", "backward"), flops, strict=True):
            here = f"{where}: {segment['segment']} {phase}"
            held.exact(f"{here} flop", segment[f"{phase}_flop"], flop)
            if phase == "backward" and segment["segment"] == "embedding":
                held.true(f"{here} has a time", segment["backward_s"] is None)
                continue
            seconds = machine.seconds(flop, hz)
            energy += seconds * machine.power_w(hz)
            estimate = segment["estimates"][f"{phase}_s"]
            held.number(f"{here} time", segment[f"{phase}_s"], seconds, bound_of(estimate))
            simulated(held, here, estimate["provenance"])
        if segment["energy_j"] is not None:
            estimate = segment["estimates"]["energy_j"]
            # Of a single time it has that one's tails.
            bound = bound_of({**estimate, "n": segment["estimates"]["forward_s"]["n"]})
            held.number(f"{where}: {segment['segment']} energy", segment["energy_j"], energy, bound)


def _hold_cuts(held: Held, work: Work, machine: Machine, cuts: list[Document]) -> None:
    held.true(f"{machine.label}: cuts", [c["cut"] for c in cuts] == list(range(1, work.model.layers)))
    hidden = work.hidden_values() * BYTES[machine.dtype]
    for cut in cuts:
        where = f"{machine.label} cut {cut['cut']}"
        held.exact(f"{where} device flop", cut["device_flop"], work.device_flop(cut["cut"]))
        held.exact(f"{where} server flop", cut["server_flop"], work.server_flop(cut["cut"]))
        held.exact(f"{where} activations", cut["activation_bytes"], hidden)
        held.exact(f"{where} gradients", cut["gradient_bytes"], hidden)
        held.exact(f"{where} adapters", cut["adapter_bytes"], work.adapter_bytes(cut["cut"]))


def hold_memory(held: Held, work: Work, machine: Machine, document: Document, passing: Passings) -> None:
    """Both sides of every cut to the byte; what pieces save and rise to is held between what it must and may be."""
    hidden, most = work.hidden_bytes(machine.dtype), _most_saved_bytes(work)
    logits = 8 * 4 * work.training.tokens * (work.model.vocab + work.model.hidden)
    held.exact(f"{machine.label} embedding saves", passing["embedding"].saved, 0)
    held.exact(f"{machine.label} embedding's output", passing["embedding"].peak, hidden)
    for segment, may in (("first_layer", most), ("layer", most), ("head", logits)):
        piece = passing[segment]
        # At the least a piece keeps a hidden state, and a gradient of one comes into a layer.
        held.true(f"{machine.label} {segment} saves {piece.saved}", hidden <= piece.saved <= may)
        held.true(f"{machine.label} {segment} rises by {piece.peak}", hidden <= piece.peak <= 2 * may)
        if work.training.checkpointing and segment != "head":
            held.exact(f"{machine.label} {segment} saves more than its input", piece.saved, hidden)
    held.exact(f"{machine.label} memory", document["memory_budget_bytes"], machine.memory_bytes)
    for cut in document["cuts"]:
        where, layers = f"{machine.label} cut {cut['cut']}", cut["cut"]
        own = device_bytes(work, machine.dtype, layers, passing)
        held.exact(f"{where} memory of the device", cut["device_memory_bytes"], own)
        other = server_bytes(work, machine.dtype, layers, passing)
        held.exact(f"{where} memory of the server", cut["server_memory_bytes"], other)
        held.true(f"{where} fits: {cut['device_fits']}", cut["device_fits"] is (own <= machine.memory_bytes))


def _most_saved_bytes(work: Work) -> float:
    """Every number that a layer computes, twice, in float32; scores of attention too."""
    m, t = work.model, work.training
    widths = 12 * m.hidden + 6 * m.inner + 12 * m.heads * m.head_dim + 2 * t.rank * 7
    scores = 6 * t.batch * m.heads * t.sequence**2
    return 2.0 * 4 * (t.tokens * widths + scores)


def hold_predictions(held: Held, world: World, hz: float, document: Document) -> None:
    """Laws at a frequency, with the intervals they state; of a server that aged between what it was and is."""
    server, seen = world.server, set()
    table = server.frequencies_hz
    for row in document["predictions"]:
        quantity, segment, phase = row["quantity"], row["segment"], row["phase"]
        if row["rail"] not in (None, BOARD):
            continue
        flop = world.work.flop(segment)[0 if phase == "forward" else 1] if quantity == "latency" else 0.0
        before = world.before or server
        if quantity == "latency":
            truth, states = server.seconds(flop, hz), [m.seconds(flop, f) for m in (server, before) for f in table]
        elif quantity == "power":
            truth, states = server.power_w(hz), [m.power_w(f) for m in (server, before) for f in table]
        else:
            truth, states = server.wait_w(hz), [m.wait_w(f) for m in (server, before) for f in table]
        low, high = row["ci95"]
        bound = NORMAL * (high - low) / 2.0
        seen.add((quantity, segment, phase))
        name = f"predicted {quantity} {segment} {phase} at {hz / 1e6:.0f} MHz ({row['law']})"
        if world.before is None:
            held.number(name, row["value"], truth, bound)
        else:
            between(held, name, row["value"], states, bound)
        held.true(f"{name} extrapolated", not row["extrapolated"])
    parts = {("latency", s, p) for s in SEGMENTS[1:] for p in ("forward", "backward")}
    held.true("a prediction is missing", parts | {("power", None, None), ("wait_power", None, None)} <= seen)


def between(held: Held, name: str, said: float, truths: list[float], bound: float | None = None) -> None:
    """What was fitted to two states lies between what they are anywhere in the range; where exactly is of neither.

    What they differ by can hide how either follows the frequency, and then the law is another one than either's: at an
    end of the range it is off by more than both, within its stated uncertainty (`bound`; None for what states none).
    """
    low, high = min(truths), max(truths)
    low, high = (low * (1.0 - DERIVED), high * (1.0 + DERIVED)) if bound is None else (low - bound, high + bound)
    held.true(f"{name}: {said:.6g} not in {low:.6g}..{high:.6g}", low <= said <= high)


def hold_fit(held: Held, world: World, measured: Measured) -> None:
    """Constants of the server: its cores, its range, and delta at every point; laws say where it aged."""
    (constants,) = [c for c in measured.fit["constants"] if c["rail"] == BOARD]
    server = world.server
    held.exact("cores", constants["cores"], server.cores)
    held.exact("lowest frequency", constants["frequency_min_hz"], server.frequencies_hz[0])
    held.exact("highest frequency", constants["frequency_max_hz"], server.top_hz)
    for row in constants["delta"]:
        flop = world.work.flop(row["segment"])[0 if row["phase"] == "forward" else 1]
        hz = row["frequency_hz"]
        truths = [flop / (m.seconds(flop, hz) * m.cores * hz) for m in (server, world.before or server)]
        name = f"delta of {row['segment']} {row['phase']} at {hz / 1e6:.0f} MHz"
        if world.before is None:
            held.number(name, row["delta"], truths[0], bound_of(row["estimates"]["delta"]))
        else:
            between(held, name, row["delta"], truths)
    for fit in measured.fit["fits"]:
        held.true(f"fit of {fit['device']}", fit["device"] == server.label)
        # Of power and the overhead alone the change is the whole; beside the rest of a layer it may be little.
        if fit["rail"] == BOARD or fit["segment"] == "embedding":
            mixed = any("2 runs differ by" in line for line in fit["warnings"])
            what = f"{fit['quantity']} {fit['segment']} {fit['phase']} {fit['rail']}"
            held.true(f"{what}: fitted to two states, it says {mixed}", mixed is (world.before is not None))


def hold_age(held: Held, world: World, asked: Asked, measured: Measured, result: Result) -> None:
    """A server that was measured twice and is not what it was: the plan says why numbers of neither hold."""
    if measured.stale is not None:
        said = " ".join(measured.stale.document["notes"])
        held.true("a plan from fits that do not know the newest data says nothing", "do not know newer data" in said)
    if result.code == 0:
        said = " ".join(result.document["notes"])
        held.true("runs that differ are fitted together without a word", "runs differ by" in said)
        held.true("a fresh fit is called stale", "do not know newer data" not in said)


def hold_plan(held: Held, world: World, asked: Asked, measured: Measured, result: Result) -> None:
    """A plan, or the refusal that it should be."""
    if world.before is not None:
        hold_age(held, world, asked, measured, result)
    boards = [world.boards[index] for index in asked.order]
    held.plans, held.refusals = held.plans + (result.code == 0), held.refusals + (result.code != 0)
    if result.code != 0:
        _hold_refusal(held, world, asked, measured, result)
        return
    document = result.document
    simulated(held, "plan", document["provenance"])
    decisions = document["rounds"][0]["devices"]
    held.true("devices of the plan", [d["device"] for d in decisions] == [b.label for b in boards])
    held.true("the energy that is counted", asked.scheme == "sft" or document["energy"] == asked.energy)
    held.exact("epochs", document["local_epochs"], asked.epochs)
    for board, decision in zip(boards, decisions, strict=True):
        share = decision.get("bandwidth_share")
        _hold_decision(held, world, asked, board, decision, 1.0 if share is None else share)
        if world.before is not None:
            _hold_own_limits(held, world, asked, measured, board, decision)
        elif asked.scheme == "card":
            _hold_choice(held, world, asked, measured, board, decision)
    if world.before is not None:
        # Totals and choices are made of a law that is of neither state.
        return
    if asked.scheme == "card":
        _hold_summary(held, world, asked, boards, document)
    else:
        _hold_together(held, world, asked, measured, document)


def _hold_decision(held: Held, world: World, asked: Asked, board: Machine, decision: Document, share: float) -> None:
    cut, hz = decision["cut"], decision["frequency_hz"]
    truth = world.terms(asked, board, cut, hz, share)
    said, known = decision["delay_terms"], decision["estimates"]
    where = f"{asked.scheme} {board.label} cut {cut} at {hz / 1e6:.0f} MHz"
    air = EXACT if asked.scheme == "card" else 1e-6
    held.number(f"{where}: uplink", said["uplink"], truth.uplink, air * truth.uplink)
    held.number(f"{where}: downlink", said["downlink"], truth.downlink, air * truth.downlink)
    held.number(f"{where}: adapters", said["adapters"], truth.adapters, air * truth.adapters)
    for name in ("encode", "decode", "switch"):
        held.number(f"{where}: {name}", said[name], 0.0, 0.0)
    held.number(f"{where}: device", said["device"], truth.device, bound_of(known["delay_terms.device"]))
    held.number(f"{where}: sum of the terms", sum(said.values()), decision["delay_s"], EXACT)
    bound = DERIVED * truth.device_energy_j
    held.number(f"{where}: device energy", decision["device_energy_j"], truth.device_energy_j, bound)
    waiting = decision.get("waiting_s") or 0.0
    if world.before is not None:
        both = (world, replace(world, server=world.before))
        states = [w.terms(asked, board, cut, f, share) for w in both for f in world.server.frequencies_hz]
        between(held, f"{where}: server", said["server"] - waiting, [t.server for t in states])
        if asked.scheme == "sft" or asked.energy == "busy":
            powers, seconds = [t.power_w for t in states], [t.server for t in states]
            spent = [min(powers) * min(seconds), max(powers) * max(seconds)]
            between(held, f"{where}: server energy", decision["server_energy_j"], spent)
        return
    held.number(f"{where}: server", said["server"] - waiting, truth.server, bound_of(known["delay_terms.server"]))
    kind = asked.energy if asked.scheme == "card" else "busy"
    if asked.scheme == "card":
        held.number(f"{where}: delay", decision["delay_s"], truth.delay_s, bound_of(known["delay_s"]))
        bound = bound_of(known["server_energy_j"])
        held.number(f"{where}: server energy ({kind})", decision["server_energy_j"], truth.energy_j(kind), bound)
    else:
        held.number(
            f"{where}: server energy", decision["server_energy_j"], truth.energy_j(kind), DERIVED * truth.energy_j(kind)
        )


def _fits(world: World, measured: Measured, board: Machine, cut: int) -> bool:
    """Whether both sides of a cut have room, in truth."""
    work, server, passing = world.work, world.server, measured.passing
    own = device_bytes(work, board.dtype, cut, passing[board.label])
    other = server_bytes(work, server.dtype, cut, passing[server.label])
    return own <= board.memory_bytes and other <= server.memory_bytes


def _open(
    world: World, asked: Asked, measured: Measured, board: Machine, slack: float
) -> dict[tuple[int, float], Terms]:
    """The choices that keep every limit in truth."""
    return {
        (cut, hz): terms
        for (cut, hz), terms in world.choices(asked, board).items()
        if kept(asked, terms, cut, slack) and _fits(world, measured, board, cut)
    }


def _hold_own_limits(
    held: Held, world: World, asked: Asked, measured: Measured, board: Machine, decision: Document
) -> None:
    """Limits in which the server's law has no part: those of the device, and the room on both sides."""
    own = replace(asked, deadline_s=None, server_power_w=None, server_energy_j=None)
    cut, hz = decision["cut"], decision["frequency_hz"]
    good = kept(own, world.terms(asked, board, cut, hz), cut, DERIVED) and _fits(world, measured, board, cut)
    held.true(f"{board.label} {cut}: breaks a limit of its own", good and hz in world.server.frequencies_hz)


def _hold_choice(
    held: Held, world: World, asked: Asked, measured: Measured, board: Machine, decision: Document
) -> None:
    """The choice is the best that the limits leave, but for what the intervals leave open."""
    place = (decision["cut"], decision["frequency_hz"])
    choices = world.choices(asked, board)
    cost = costs(asked, choices)
    held.true(f"{board.label} {place}: no choice of the world", place in choices)
    if place not in choices:
        return
    room = _open(world, asked, measured, board, DERIVED)
    held.true(f"{board.label} {place}: breaks a limit", place in room)
    if asked.confidence is not None and asked.deadline_s is not None:
        # A guard is there so that what was not measured exactly does not break it.
        late = choices[place].delay_s
        held.true(
            f"{board.label} {place}: {late} s, a guarded deadline of {asked.deadline_s}", late <= asked.deadline_s
        )
    strict = _open(world, asked, measured, board, -DERIVED)
    if strict:
        best = min(cost[other] for other in strict)
        # An error of one per cent in a delay or energy weighs what it is against their ranges.
        delays = [t.delay_s for t in choices.values()]
        energies = [t.energy_j(asked.energy) for t in choices.values()]
        slack = asked.weight * _weigh(delays) + (1.0 - asked.weight) * _weigh(energies)
        held.number(f"{board.label} {place}: cost against the best", max(cost[place], best), best, max(slack, 1e-3))
        held.number(f"{board.label} {place}: cost", decision["cost"], cost[place], max(slack, 1e-3))


def _room_for(world: World, asked: Asked, measured: Measured) -> set[tuple[int, int]]:
    """Who has room for what: places in the order, and cuts."""
    cuts = range(1, world.work.model.layers)
    return {(p, cut) for p, i in enumerate(asked.order) for cut in cuts if _fits(world, measured, world.boards[i], cut)}


def _hold_together(held: Held, world: World, asked: Asked, measured: Measured, document: Document) -> None:
    """Parallel devices: every limit is kept, nothing is quicker, and the shares are those of the quickest round."""
    decisions = document["rounds"][0]["devices"]
    cuts, fits = tuple(d["cut"] for d in decisions), _room_for(world, asked, measured)
    held.number("shares", sum(d["bandwidth_share"] for d in decisions), 1.0, 1e-6)
    (hz,) = {d["frequency_hz"] for d in decisions}
    allowed = {world.capped_hz(asked, slack) for slack in (-DERIVED, 0.0, DERIVED)}
    held.true(f"sft at {hz / 1e6:.0f} MHz, in truth {allowed}", hz in allowed)
    held.true(f"sft {cuts}: breaks a limit", cuts in world.shared(asked, fits, DERIVED))
    found = world.together(asked, cuts, hz)
    strict = world.shared(asked, fits, -DERIVED)
    best = min((t.delay_s for t in strict.values()), default=found.delay_s)
    # Only a round that is quicker than the best that the limits leave, strictly read, says nothing.
    held.number(f"sft {cuts}: slowest against the best", max(found.delay_s, best), best, ROUND * best)
    for f, a, d in zip(found.fixed_s, found.air_s, decisions, strict=True):
        held.true(f"sft {d['device']}: later than any order", d["delay_s"] <= found.delay_s * (1.0 + ROUND))
        own = f + a / d["bandwidth_share"]
        held.true(f"sft {d['device']}: a share of {d['bandwidth_share']}", own <= found.delay_s * (1.0 + ROUND))
    slowest = max(d["delay_s"] for d in decisions)
    held.exact("delay of the round", document["summary"]["delay_s"], slowest)
    total = sum(d["server_energy_j"] for d in decisions)
    held.exact("server energy of the round", document["summary"]["server_energy_j"], total)


def _weigh(values: list[float]) -> float:
    return 0.01 * max(values) / max(max(values) - min(values), 1e-12)


def _hold_summary(held: Held, world: World, asked: Asked, boards: list[Machine], document: Document) -> None:
    """Totals, and baselines at the cuts they are named for."""
    summary = document["summary"]
    decisions = document["rounds"][0]["devices"]
    held.exact("total delay", summary["delay_s"], sum(d["delay_s"] for d in decisions))
    held.exact("total energy", summary["server_energy_j"], sum(d["server_energy_j"] for d in decisions))
    for name, cut in (("server_only", 1), ("device_only", world.work.model.layers - 1)):
        baseline = summary["baselines"].get(name)
        if baseline is None:
            continue
        # A baseline has the best frequency of its own, so its delay lies between those of all frequencies.
        rows = [[world.terms(asked, b, cut, hz) for hz in world.server.frequencies_hz] for b in boards]
        low = sum(min(t.delay_s for t in row) for row in rows) * (1.0 - DERIVED)
        high = sum(max(t.delay_s for t in row) for row in rows) * (1.0 + DERIVED)
        held.true(f"delay of {name}: {baseline['delay_s']} not in {low}..{high}", low <= baseline["delay_s"] <= high)
        own = sum(row[0].device_energy_j for row in rows)
        held.number(f"device energy of {name}", baseline["device_energy_j"], own, DERIVED * own)


def _hold_refusal(held: Held, world: World, asked: Asked, measured: Measured, result: Result) -> None:
    """Only what no choice of a device keeps may be refused, in one line with a remedy."""
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    held.true(f"refused in other than one line with a remedy: {result.err!r}", len(lines) == 1 and "; " in lines[0])
    held.true(f"refused as wrong usage: {result.err!r}", result.code == 1)
    if world.before is not None:
        # Which choices a law of two states leaves open is no truth.
        return
    if asked.scheme == "card":
        shut = [b for b in world.boards if not _open(world, asked, measured, b, -DERIVED)]
        held.true(f"refused, though every device has a choice: {result.err!r}", bool(shut))
    else:
        left = world.shared(asked, _room_for(world, asked, measured), -DERIVED)
        held.true(f"refused, though {sorted(left)[:1]} keeps every limit: {result.err!r}", not left)

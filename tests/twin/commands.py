"""The real commands in a world: what a person would type, and the documents that came."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cardlab.core.records.task import Task
from cardlab.core.records.workload import CutCost, SegmentCost
from cardlab.profilers.runtime.budget import cut_costs
from tests.cli.run import Result, command
from tests.twin.machine import standing
from tests.twin.truth import Asked, Machine, Passing, Passings, World

Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A world's database and what measuring and fitting said.

    `passing` is what each machine's pieces save and rise to, as counted on the way to the memory of the cuts.
    `stale` is a plan made when the server had been measured anew and not yet fitted; None where it never aged.
    """

    database: Path
    profiles: dict[str, Document]
    passing: dict[str, Passings]
    fit: Document
    stale: Result | None


def profile_words(world: World, machine: Machine, config: Path, database: Path) -> list[str]:
    """profile-device with everything that the task and the execution are made of."""
    t = world.work.training
    words = ["--platform", f"simulated:{machine.kind}:{machine.label}", "--model", str(config), "--db", str(database)]
    words += ["--batch", str(t.batch), "--seq", str(t.sequence), "--lora-rank", str(t.rank), "--dtype", machine.dtype]
    words += ["--lora-targets", ",".join(t.targets), "--adapter-dtype", t.adapter_dtype, "--optimizer", t.optimizer]
    words += ["--frequencies", _frequencies(world, machine), "--no-whole-step", "--json"]
    return words + (["--checkpointing"] if t.checkpointing else [])


def _frequencies(world: World, machine: Machine) -> str:
    # A board is asked for its highest frequency; one that throttles there needs one that it holds.
    return "max" if machine in world.boards and not machine.throttles(machine.top_hz) else "all"


def measure(world: World, folder: Path) -> Measured:
    """Profile every machine of the world and fit the server; one that aged twice."""
    config, database = folder / "config.json", folder / "world.db"
    config.write_text(json.dumps(world.work.model.config()))
    if world.before is not None:
        profiled(world, world.before, config, database)
        _fit(world, database)
    both = {m.label: profiled(world, m, config, database) for m in (*world.boards, world.server)}
    stale = None
    if world.before is not None:
        words = ("--server", world.server.label, "--device", world.boards[0].label, "--weight", "1")
        rates = ("--uplink-mbps", "10", "--downlink-mbps", "10", "--db", str(database), "--json")
        answer = command("card", "plan", "--from-db", *words, *rates)
        # Its board may hold no cut at all, and there is no plan to say anything.
        stale = answer if answer.code == 0 else None
    profiles, passing = ({label: pair[i] for label, pair in both.items()} for i in (0, 1))
    return Measured(database=database, profiles=profiles, passing=passing, fit=_fit(world, database), stale=stale)


def written(measured: Measured) -> Document:
    """For a file beside the database."""
    return {
        "profiles": measured.profiles,
        "passing": {
            label: {segment: [p.saved, p.peak] for segment, p in each.items()}
            for label, each in measured.passing.items()
        },
        "fit": measured.fit,
        "stale": None if measured.stale is None else [measured.stale.code, measured.stale.out, measured.stale.err],
    }


def read(document: Document, database: Path) -> Measured:
    """From one."""
    passing = {
        label: {segment: Passing(saved=saved, peak=peak) for segment, (saved, peak) in each.items()}
        for label, each in document["passing"].items()
    }
    stale = None if document["stale"] is None else Result(*document["stale"])
    return Measured(database=database, profiles=document["profiles"], passing=passing, fit=document["fit"], stale=stale)


def profiled(world: World, machine: Machine, config: Path, database: Path) -> tuple[Document, Passings]:
    """A machine's profile, and what its pieces save and rise to."""
    passing: Passings = {}

    def noting(task: Task, segments: Sequence[SegmentCost], **others: Any) -> tuple[CutCost, ...]:
        # No document says it, and no closed form of ours could: it is counted on the kernels. What a side makes of it
        # is held to the byte, and it itself loosely.
        passing.update({s.segment: Passing(saved=s.saved_bytes, peak=s.peak_bytes) for s in segments})
        return cut_costs(task, segments, **others)

    with standing(machine), patch("cardlab.profilers.runtime.analysis.cut_costs", noting):
        return done("profile-device", *profile_words(world, machine, config, database)), passing


def _fit(world: World, database: Path) -> Document:
    return done("calibrate", "fit", "--device", world.server.label, "--db", str(database), "--json")


def done(name: str, *words: str) -> Document:
    """The document of a command that must succeed."""
    result = command(name, *words)
    assert result.code == 0, f"{name} {' '.join(words)}: {result.err}"
    return result.document


def plan_words(world: World, asked: Asked) -> list[str]:
    """card plan with all that is asked, spelt out."""
    words = ["plan", "--from-db", "--server", world.server.label, "--json", "--scheme", asked.scheme]
    for index in asked.order:
        words += ["--device", world.boards[index].label]
    words += ["--uplink-mbps", repr(asked.uplink_bps / 1e6), "--downlink-mbps", repr(asked.downlink_bps / 1e6)]
    words += ["--local-epochs", str(asked.epochs), *_only_typed(asked)]
    if asked.compression != 1.0:
        words += ["--compression", repr(asked.compression)]
    if asked.scheme == "card":
        words += ["--weight", repr(asked.weight), "--energy", asked.energy]
    for flag, value in (
        ("--deadline", asked.deadline_s),
        ("--max-server-power", asked.server_power_w),
        ("--max-server-energy", asked.server_energy_j),
        ("--max-device-energy", asked.device_energy_j),
        ("--min-device-layers", asked.least_layers),
        ("--confidence", asked.confidence),
    ):
        words += [] if value is None else [flag, repr(value)]
    return words


def _only_typed(asked: Asked) -> list[str]:
    """What no scenario file says."""
    return ["--wire-dtype", asked.wire, *(["--rtt-ms", repr(asked.rtt_s * 1e3)] if asked.rtt_s else [])]


def scenario_text(world: World, asked: Asked) -> str:
    """The same in a scenario file, in bit/s, seconds, watts and joules."""
    tables: list[tuple[str, dict[str, object]]] = [("[server]", {"name": world.server.label})]
    for index in asked.order:
        rates = {"uplink_bps": asked.uplink_bps, "downlink_bps": asked.downlink_bps}
        tables.append(("[[devices]]", {"name": world.boards[index].label, **rates}))
    objective: dict[str, object] = {"local_epochs": asked.epochs}
    if asked.compression != 1.0:
        objective["compression"] = asked.compression
    if asked.scheme == "card":
        objective |= {"weight": asked.weight, "energy": asked.energy}
    tables.append(("[objective]", objective))
    limits = {
        "deadline_s": asked.deadline_s,
        "server_power_w": asked.server_power_w,
        "server_energy_j": asked.server_energy_j,
        "device_energy_j": asked.device_energy_j,
        "min_device_layers": asked.least_layers,
        "deadline_confidence": asked.confidence,
    }
    tables.append(("[constraints]", {k: v for k, v in limits.items() if v is not None}))
    lines = [f"scheme = {json.dumps(asked.scheme)}"]
    for head, keys in tables:
        lines += [head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())] if keys else []
    return "\n".join(lines) + "\n"


def plan(world: World, asked: Asked, database: Path) -> Result:
    """The answer, whatever it is."""
    if not asked.in_file:
        return command("card", *plan_words(world, asked), "--db", str(database))
    file = database.parent / "asked.toml"
    file.write_text(scenario_text(world, asked))
    words = ("plan", "--from-db", "--scenario", str(file), *_only_typed(asked), "--json")
    return command("card", *words, "--db", str(database))


def predict(world: World, hz: float, database: Path) -> Document:
    """Power and times of the server at a frequency."""
    words = ("--device", world.server.label, "--frequency-mhz", repr(hz / 1e6), "--db", str(database), "--json")
    return done("calibrate", "predict", *words)

"""Scenario files over calibrated devices: who takes part, what they share and what is wanted; constants are measured.

    [server]     name, memory_bytes
    [[devices]]  name, uplink_bps, downlink_bps, memory_bytes, power_w,
                 frequencies_hz, transmit_power_w, receive_power_w, energy_budget_j
    [objective], [constraints], [link], [sft], scheme, rounds as in a scenario that gives every number

Names are labels or keys of the database, LABEL@MODE for a power mode. What a measurement or a fit says cannot be said
here: a key of that kind is refused, since one of the two would be dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cardlab.card.problem.check import check_link, check_objective, check_party, check_sft
from cardlab.card.problem.scenario import (
    SCHEMES,
    Constraints,
    DeviceSpec,
    LinkSpec,
    Objective,
    ServerSpec,
    SftSpec,
)
from cardlab.card.problem.scenario_file import Reader, assumed_of, read_toml, scenario_text
from cardlab.core.errors import ScenarioError


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedServer:
    """The server by its label; `memory_bytes` is a limit in place of what its profile found."""

    name: str
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedDevice:
    """A device by its label, with its link; rates in bit/s, `memory_bytes` and `power_w` in place of what was found.

    `frequencies_hz` are the only ones it may choose among; the powers of its radio are measured nowhere.
    `energy_budget_j` is what it may spend in all rounds together.
    """

    name: str
    uplink_bps: float | None = None
    downlink_bps: float | None = None
    memory_bytes: float | None = None
    power_w: float | None = None
    frequencies_hz: tuple[float, ...] = ()
    transmit_power_w: float | None = None
    receive_power_w: float | None = None
    energy_budget_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedScenario:
    """What a file over calibrated devices says.

    Attributes:
        scheme, rounds: as in a scenario; None was not given.
        server: None takes the database's only one.
        devices: empty takes all of the database.
        link, sft: None where the table is missing.
        given: keys of [objective] that the file gives, and of [sft] as "sft.KEY".
        assumed: what was filled in because the file does not give it, in words.
    """

    scheme: str | None = None
    rounds: int | None = None
    server: CalibratedServer | None = None
    devices: tuple[CalibratedDevice, ...] = ()
    objective: Objective = field(default_factory=Objective)
    constraints: Constraints = field(default_factory=Constraints)
    link: LinkSpec | None = None
    sft: SftSpec | None = None
    given: frozenset[str] = frozenset()
    assumed: tuple[str, ...] = ()


_TABLES = {"server": CalibratedServer, "objective": Objective, "constraints": Constraints, "link": LinkSpec}
_TOP = ("scheme", "rounds", "devices", *_TABLES, "sft")
# Of [sft], what no measurement says: times and bytes of codecs and of a batched server are profiled, as is the curve.
_SHARED = ("bandwidth_hz", "spectrum", "server_sharing", "blocks", "codec", "bits", "accuracy_target")
_WITHOUT = "leave it out, or plan without --from-db"


def load_calibrated(name_or_path: str | Path, *, instead: str = _WITHOUT) -> CalibratedScenario:
    """The file's scenario. Raises ScenarioError naming file, line and key of what is wrong or is measured.

    `instead` is the remedy for a key that the database knows.
    """
    return parse_calibrated(*scenario_text(name_or_path), instead=instead)


def parse_calibrated(text: str, source: str = "scenario", *, instead: str = _WITHOUT) -> CalibratedScenario:
    """The scenario over calibrated devices that a TOML text describes; `source` names it in messages."""
    document, reader = read_toml(text, source), Reader(text, source)
    for key in document:
        if key == "task":
            raise reader.error("", key, "comes from the database", instead)
        if key not in _TOP:
            raise reader.error("", key, "is no key of a scenario", f"known keys: {', '.join(_TOP)}")
    _refuse_measured(document, reader, instead)
    values: dict[str, Any] = {n: reader.spec(kind, document[n], n) for n, kind in _TABLES.items() if n in document}
    if "sft" in document:
        values["sft"] = reader.spec(SftSpec, document["sft"], "sft")
    if "devices" in document:
        values["devices"] = reader.tables(CalibratedDevice, document["devices"], "devices")
    for key, kind in (("scheme", str), ("rounds", int)):
        if key in document:
            values[key] = reader.value(kind, document[key], "", key)
    given = frozenset((*document.get("objective", {}), *(f"sft.{key}" for key in document.get("sft", {}))))
    found = CalibratedScenario(**values, given=given, assumed=assumed_of(document, values.get("link")))
    with reader.placed():
        _check(found)
    return found


def _refuse_measured(document: dict[str, Any], reader: Reader, instead: str) -> None:
    measured = {
        "server": {f.name for f in fields(ServerSpec)} - {f.name for f in fields(CalibratedServer)},
        "devices": {f.name for f in fields(DeviceSpec)} - {f.name for f in fields(CalibratedDevice)},
        "sft": {f.name for f in fields(SftSpec)} - set(_SHARED),
    }
    for table, keys in measured.items():
        found = document.get(table)
        for index, one in enumerate(found if isinstance(found, list) else [found]):
            for key in one if isinstance(one, dict) else ():
                if key in keys:
                    raise reader.error(table, key, "comes from the database", instead, index)


def _check(found: CalibratedScenario) -> None:
    if found.scheme is not None and found.scheme not in SCHEMES:
        raise ScenarioError(f"scheme is {found.scheme!r}", remedy=f"choose one of: {', '.join(SCHEMES)}")
    if found.rounds is not None and found.rounds < 1:
        raise ScenarioError(f"rounds is {found.rounds}", remedy="give 1 or more")
    check_objective(found.objective)
    if found.link is not None:
        check_link(found.link)
    if found.sft is not None:
        check_sft(found.sft)
    if found.server is not None:
        check_party("server", found.server)
    for index, device in enumerate(found.devices):
        check_party("devices", device, index)

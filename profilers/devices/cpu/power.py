"""RAPL: energy counters of CPU packages below /sys/class/powercap.

    intel-rapl:0           package-0      energy_uj counts up to max_energy_range_uj and starts again
      intel-rapl:0:0       core, uncore, dram
    intel-rapl-mmio:0      package-0      the same package through another register: not added again

AMD's driver publishes the same names. Since 2020 only root may read energy_uj (CVE-2020-8694).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cardlab.core.errors import PermissionDeniedError
from cardlab.profilers.board.files import read_text
from cardlab.profilers.board.sampler import Sampler
from cardlab.profilers.board.timer import Timer
from cardlab.profilers.devices.power import PowerMeter, Rail, RailTrace, Recording

POWERCAP = "sys/class/powercap"
# Counters move about every millisecond: the grain of a hundred moves is 1 %, and none starts again twice in
# between, which takes minutes.
UPDATE_S = 0.1
# Nothing is promised; packages held against meters were some per cent off.
SYSTEMATIC = 0.05
REMEDY = "sudo chmod -R a+r /sys/class/powercap/intel-rapl:*/ (until the next boot), or run as root"
_PACKAGE = re.compile(r"intel-rapl(-mmio)?:\d+")
_PART = re.compile(r"intel-rapl:\d+:\d+")
_MICROJOULE = 1e-6


@dataclass(frozen=True, slots=True)
class Zone:
    """One counter: its name, the file, and the range after which it starts again (J, None if not published)."""

    name: str
    file: Path
    range_j: float | None

    def energy_j(self) -> float | None:
        """The counter now, None if it cannot be read."""
        text = read_text(self.file)
        return int(text) * _MICROJOULE if text and text.isdigit() else None


def find_zones(root: Path) -> tuple[Zone, ...]:
    """Packages once each, then their parts and the platform's own counter, whether readable or not."""
    folder = root / POWERCAP
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    found: dict[str, Zone] = {}
    # "intel-rapl:0" sorts after "intel-rapl-mmio:0", and it is the one to keep.
    for name in sorted(names, key=lambda n: "mmio" in n):
        zone = _zone(folder / name)
        if zone is not None and _PACKAGE.fullmatch(name):
            found.setdefault(zone.name, zone)
    parts = [zone for name in names if _PART.fullmatch(name) and (zone := _zone(folder / name)) is not None]
    return (*found.values(), *parts)


def _zone(folder: Path) -> Zone | None:
    name = read_text(folder / "name")
    if not name or not (folder / "energy_uj").exists():
        return None
    text = read_text(folder / "max_energy_range_uj")
    return Zone(name, folder / "energy_uj", int(text) * _MICROJOULE if text and text.isdigit() else None)


def readable(zones: tuple[Zone, ...]) -> bool:
    """Whether this user may read every package."""
    packages = [zone for zone in zones if zone.name.startswith("package")]
    return bool(packages) and all(os.access(zone.file, os.R_OK) for zone in packages)


def energy_between(start_j: float, end_j: float, range_j: float | None) -> float | None:
    """Energy used between two readings of one counter; None if it went back and its range is unknown.

    Right as long as the counter started again at most once in between.
    """
    if end_j >= start_j:
        return end_j - start_j
    return None if range_j is None else end_j - start_j + range_j


class RaplMeter(PowerMeter):
    """All packages as the total, and each kind of part (core, uncore, dram, psys) as a rail of its own.

    Raises PermissionDeniedError if a package may not be read.
    """

    def __init__(self, zones: tuple[Zone, ...], timer: Timer, sampler: Sampler) -> None:
        if not readable(zones):
            raise PermissionDeniedError("RAPL counters may not be read by this user", remedy=REMEDY)
        self._zones: dict[str, list[Zone]] = {}
        for zone in zones:
            kind = "package" if zone.name.startswith("package") else zone.name
            self._zones.setdefault(kind, []).append(zone)
        self.rails = tuple(
            Rail(name=kind, scope=_scope(kind, len(zones)), total=kind == "package")
            for kind, zones in self._zones.items()
        )
        self.update_s = UPDATE_S
        self._timer = timer
        self._sampler = sampler

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Counters are read every 100 ms; a part that stops answering loses only its own updates."""
        recording = _Differences(self._zones, self.rails, self._timer)
        with self._sampler.during(recording.look):
            yield recording


def _scope(kind: str, count: int) -> str:
    if kind == "package":
        return f"{count} CPU package(s), without board and, on servers, memory"
    return {"dram": "memory modules", "psys": "whole platform"}.get(kind, f"{kind} part of the packages")


class _Differences(Recording):
    def __init__(self, zones: Mapping[str, list[Zone]], rails: tuple[Rail, ...], timer: Timer) -> None:
        self._zones = zones
        self._rails = rails
        self._timer = timer
        self._last: dict[str, tuple[float, list[float | None]]] = {}
        self._end_s: dict[str, list[float]] = {kind: [] for kind in zones}
        self._power_w: dict[str, list[float]] = {kind: [] for kind in zones}

    def look(self) -> float:
        for kind, zones in self._zones.items():
            before_s = self._timer.now()
            readings = [zone.energy_j() for zone in zones]
            # The middle of the reads, which take a while with several packages.
            at_s = (before_s + self._timer.now()) / 2
            last = self._last.get(kind)
            self._last[kind] = (at_s, readings)
            if last is not None and at_s > last[0]:
                used_j = _used(zones, last[1], readings)
                if used_j is not None:
                    self._end_s[kind].append(at_s)
                    self._power_w[kind].append(used_j / (at_s - last[0]))
        return UPDATE_S

    @property
    def traces(self) -> Mapping[str, RailTrace]:
        return {
            rail.name: RailTrace(
                rail=rail,
                end_s=tuple(self._end_s[rail.name]),
                power_w=tuple(self._power_w[rail.name]),
                update_s=UPDATE_S,
                quantisation_w=None,
                source="RAPL energy counter",
                systematic=SYSTEMATIC,
            )
            for rail in self._rails
        }


def _used(zones: list[Zone], start_j: list[float | None], end_j: list[float | None]) -> float | None:
    """Energy of all zones together, None if one of them could not be read."""
    total_j = 0.0
    for zone, start, end in zip(zones, start_j, end_j, strict=True):
        used_j = None if start is None or end is None else energy_between(start, end, zone.range_j)
        if used_j is None:
            return None
        total_j += used_j
    return total_j

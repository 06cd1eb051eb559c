"""Sweeps from Kernel Tuner: its cache file or its published results (T4) file, JSON.

A cache keeps one entry per configuration under "cache"; a results file a list under "results" with the
configuration and the measurements apart. Of each: the frequency that was read back (`core_freq`), else the one
that was set (`nvml_gr_clock`), MHz; power (`nvml_power` or `ps_power`, W); `time`, ms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardlab.calibrate.importers.rows import MAX_ROWS, Imported, ImportedRow, averaged, quantity
from cardlab.core import plausible
from cardlab.core.errors import BadDataError
from cardlab.core.files import read_text
from cardlab.core.plain import Document

CLOCKS = ("core_freq", "nvml_gr_clock")
POWER_KEYS = ("nvml_power", "ps_power", "pwr_power", "power")
MEMORY = ("mem_freq", "nvml_mem_clock")
# Settings that are the sweep itself, and no setting of the kernel.
FREQUENCIES = ("nvml_gr_clock", "nvml_mem_clock", "core_freq", "mem_freq")


def read_kernel_tuner(path: str | Path, *, max_rows: int = MAX_ROWS) -> Imported:
    """All valid configurations of a Kernel Tuner file that have a frequency; rows count entries from 1.

    Other parameters that were tuned beside the frequency make a workload of each of their settings. Configurations
    that failed to run carry text in place of a time and are left out; requests that read one frequency back (a card
    at its limit) are averaged. A note says so.

    Raises:
        BadDataError: not a Kernel Tuner file, or an entry cannot be used.
    """
    document = _load(Path(path))
    workload = str(document.get("kernel_name") or "kernel")
    entries = list(_entries(document))
    valid = [(line, entry) for line, entry in enumerate(entries, start=1) if not _failed(entry.flat)]
    settings = _labels([entry for _, entry in valid])
    rows = [
        _row(line, entry.flat, f"{workload} {setting}" if setting else workload)
        for (line, entry), setting in zip(valid, settings, strict=True)
    ]
    means, note = averaged(rows, max_rows)
    notes = [] if note is None else [note]
    if len(valid) < len(entries):
        notes.append(f"{len(entries) - len(valid)} configuration(s) that failed to run are left out")
    if any(settings):
        notes.append(f"{len(set(settings))} settings of the kernel are as many workloads")
    return Imported(rows=means, notes=tuple(notes))


def _load(path: Path) -> Document:
    text = read_text(path, remedy="give a Kernel Tuner JSON file").strip()
    if not text:
        raise BadDataError("the file is empty", remedy="give a Kernel Tuner JSON file")
    # A cache that Kernel Tuner has not closed ends with a comma.
    if text.endswith(","):
        text = text[:-1] + "}}"
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadDataError(
            f"line {error.lineno}: not valid JSON", remedy="give a Kernel Tuner cache or results file"
        ) from error
    except RecursionError as error:
        raise BadDataError("nested too deep", remedy="give a Kernel Tuner cache or results file") from error
    if not isinstance(document, dict):
        raise BadDataError("not a Kernel Tuner file", remedy="give its cache or results file")
    return document


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One configuration: what was set, and everything known of it."""

    parameters: Document
    flat: Document


def _entries(document: Document) -> Iterator[_Entry]:
    cache, results = document.get("cache"), document.get("results")
    if isinstance(cache, dict):
        keys = document.get("tune_params_keys")
        for name, entry in cache.items():
            if isinstance(entry, dict):
                yield _Entry(parameters=_cached_parameters(str(name), entry, keys), flat=entry)
    elif isinstance(results, list):
        for entry in results:
            if isinstance(entry, dict):
                parameters = entry.get("configuration")
                yield _Entry(parameters=parameters if isinstance(parameters, dict) else {}, flat=_flat(entry))
    else:
        raise BadDataError("neither a cache nor results in the file", remedy="give a Kernel Tuner JSON file")


def _cached_parameters(name: str, entry: Document, keys: object) -> Document:
    """What was set in an entry of a cache: the named parameters, else those whose values make up its name."""
    if isinstance(keys, list):
        return {str(key): entry[key] for key in keys if key in entry}
    parts = name.split(",")
    leading = list(entry.items())[: len(parts)]
    return dict(leading) if [str(value) for _, value in leading] == parts else {}


def _labels(entries: Sequence[_Entry]) -> list[str]:
    """Words for the settings of each entry, of the parameters that differ and are no frequency."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.parameters if name not in FREQUENCIES))
    varied = [n for n in names if len({str(entry.parameters.get(n)) for entry in entries}) > 1]
    return [" ".join(f"{n}={entry.parameters.get(n)}" for n in varied) for entry in entries]


def _flat(entry: Document) -> Document:
    configuration = entry.get("configuration")
    flat: Document = dict(configuration) if isinstance(configuration, dict) else {}
    measurements = entry.get("measurements")
    for item in measurements if isinstance(measurements, list) else ():
        if isinstance(item, dict) and "name" in item:
            flat[str(item["name"])] = item.get("value")
    return flat


def _failed(entry: Document) -> bool:
    time_ms = entry.get("time")
    return isinstance(time_ms, str) and not _numeric(time_ms)


def _row(line: int, entry: Document, workload: str) -> ImportedRow:
    time_ms, clock = entry.get("time"), _first(entry, CLOCKS)
    if clock is None:
        raise BadDataError(f"row {line}: no frequency (core_freq or nvml_gr_clock)", remedy="tune over nvml_gr_clock")
    power, memory = _first(entry, POWER_KEYS), _first(entry, MEMORY)
    if power is None and time_ms is None:
        raise BadDataError(f"row {line}: neither power nor time", remedy="observe nvml_power")
    return ImportedRow(
        line=line,
        frequency_hz=quantity(clock[1], line, clock[0], 1e6, plausible.FREQUENCY),
        power_w=None if power is None else quantity(power[1], line, power[0], 1.0, plausible.POWER),
        latency_s=None if time_ms is None else quantity(time_ms, line, "time", 1e-3, plausible.LATENCY),
        workload=workload,
        rail="board",
        memory_hz=None if memory is None else quantity(memory[1], line, memory[0], 1e6, plausible.FREQUENCY),
    )


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first(entry: Document, names: tuple[str, ...]) -> tuple[str, Any] | None:
    return next(((name, entry[name]) for name in names if entry.get(name) is not None), None)

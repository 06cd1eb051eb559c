"""Sweeps from Kernel Tuner: its cache file or its published results (T4) file, JSON.

A cache keeps one entry per configuration under "cache"; a results file a list under "results" with the
configuration and the measurements apart. Of each: the frequency that was read back (`core_freq`), else the one
that was set (`nvml_gr_clock`), MHz, which a note says; power (of one instrument in the whole file, `nvml_power` before
`ps_power`), W; `time`, ms. A results file may give another unit with each measurement.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cardlab.calibrate.importers.columns import FREQUENCY, LATENCY, MEMORY, POWER, Kind, factor
from cardlab.calibrate.importers.rows import MAX_ROWS, Imported, ImportedRow, averaged, quantity
from cardlab.core.errors import BadDataError
from cardlab.core.files import read_text
from cardlab.core.plain import Document

CLOCKS = ("core_freq", "nvml_gr_clock")
POWER_KEYS = ("nvml_power", "ps_power", "pwr_power", "power")
MEMORY_CLOCKS = ("mem_freq", "nvml_mem_clock")
# Those of each pair that are read back while the kernel runs; the others are what was asked for.
READ = ("core_freq", "mem_freq")
# Settings that are the sweep itself, and no setting of the kernel.
FREQUENCIES = ("nvml_gr_clock", "nvml_mem_clock", "core_freq", "mem_freq")
# What stands in place of a value where a configuration did not run; releases before 0.4 wrote a number.
_FAILED = re.compile(r"[A-Za-z]+Config")
_FAILED_MS = 1e20
_VALID = (None, "", "correct")
_WORDS = {
    **{"s": "s", "sec": "s", "second": "s", "seconds": "s", "millisecond": "ms", "milliseconds": "ms", "msec": "ms"},
    **{"microsecond": "us", "microseconds": "us", "usec": "us", "nanosecond": "ns", "nanoseconds": "ns", "nsec": "ns"},
    **{"watt": "W", "watts": "W", "milliwatt": "mW", "milliwatts": "mW", "hertz": "Hz", "megahertz": "MHz"},
}


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
    entries = list(enumerate(_entries(document), start=1))
    failed = Counter(why for _, entry in entries if (why := _failed(entry)) is not None)
    valid = [(line, entry) for line, entry in entries if _failed(entry) is None]
    settings = _labels([entry for _, entry in valid])
    powers = [key for key in POWER_KEYS if any(entry.flat.get(key) is not None for _, entry in valid)]
    rows = [
        _row(line, entry, powers[0] if powers else None, f"{workload} {setting}" if setting else workload)
        for (line, entry), setting in zip(valid, settings, strict=True)
    ]
    means, note = averaged(rows, max_rows)
    notes = [] if note is None else [note]
    if failed:
        reasons = ", ".join(f"{why} {count}" for why, count in failed.items())
        notes.append(f"{failed.total()} configuration(s) that failed to run are left out: {reasons}")
    notes += [f"{key} is passed over: {powers[0]} is read" for key in powers[1:]]
    notes += _asked([entry.flat for _, entry in valid])
    if any(settings):
        notes.append(f"{len(set(settings))} settings of the kernel are as many workloads")
    return Imported(rows=means, notes=tuple(notes))


def _asked(entries: Sequence[Document]) -> list[str]:
    """Notes on frequencies that are those asked for, which a card at its limit does not reach."""
    notes = []
    for what, keys in (("frequency", CLOCKS), ("memory frequency", MEMORY_CLOCKS)):
        names = Counter(key[0] for entry in entries if (key := _first(entry, keys)) is not None and key[0] not in READ)
        for name, count in names.items():
            some = "" if count == len(entries) else f" in {count} of {len(entries)} configurations"
            notes.append(f"the {what} is the one asked for ({name}){some}, not one read back ({keys[0]})")
    return notes


def _load(path: Path) -> Document:
    text = read_text(path, remedy="give a Kernel Tuner JSON file").strip()
    if not text:
        raise BadDataError("the file is empty", remedy="give a Kernel Tuner JSON file")
    # A cache that Kernel Tuner has not closed ends with a comma.
    if text.endswith(","):
        text = text[:-1] + "}}"
    try:
        document = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise BadDataError(
            f"line {error.lineno}: not valid JSON", remedy="give a Kernel Tuner cache or results file"
        ) from error
    except RecursionError as error:
        raise BadDataError("nested too deep", remedy="give a Kernel Tuner cache or results file") from error
    if not isinstance(document, dict):
        raise BadDataError("not a Kernel Tuner file", remedy="give its cache or results file")
    return document


def _once(pairs: Sequence[tuple[str, Any]]) -> Document:
    """An object of JSON, whose parser would keep the last of equal names and drop the others."""
    made: Document = dict(pairs)
    if len(made) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise BadDataError(f"the file names {name!r} twice in one place", remedy="remove one of the two, or tune again")
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One configuration: what was set, everything known of it, units that were given, and why it counts for nothing."""

    parameters: Document
    flat: Document
    units: Mapping[str, object] = field(default_factory=dict)
    invalid: str | None = None


def _entries(document: Document) -> Iterator[_Entry]:
    cache, results = document.get("cache"), document.get("results")
    if isinstance(cache, dict):
        keys = document.get("tune_params_keys")
        for line, (name, entry) in enumerate(cache.items(), start=1):
            known = _an_object(entry, line)
            yield _Entry(parameters=_cached_parameters(str(name), known, keys), flat=known, invalid=_invalid(known))
    elif isinstance(results, list):
        for line, entry in enumerate(results, start=1):
            yield _result(_an_object(entry, line), line)
    else:
        raise BadDataError("neither a cache nor results in the file", remedy="give a Kernel Tuner JSON file")


def _an_object(entry: object, line: int) -> Document:
    if not isinstance(entry, dict):
        raise BadDataError(f"row {line}: {str(entry)[:40]!r} is no configuration", remedy="remove it, or tune again")
    return entry


def _invalid(entry: Document) -> str | None:
    """Why a configuration counts for nothing, in the word of the file; None for one that ran and was right."""
    for key in ("invalidity", "__error__"):
        if entry.get(key) not in _VALID:
            return str(entry[key])
    # A kernel that computes something else does another work.
    return "wrong result" if entry.get("correctness", 1) in (0, False) else None


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


def _result(entry: Document, line: int) -> _Entry:
    configuration = entry.get("configuration")
    parameters: Document = dict(configuration) if isinstance(configuration, dict) else {}
    flat, units = dict(parameters), {}
    measurements = entry.get("measurements")
    for item in measurements if isinstance(measurements, list) else ():
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise BadDataError(f"row {line}: a measurement without a name", remedy="remove it, or tune again")
        if name in units or (name in flat and flat[name] != item.get("value")):
            raise BadDataError(f"row {line}: two values of {name}", remedy="remove one of them, or tune again")
        flat[name], units[name] = item.get("value"), item.get("unit")
    return _Entry(parameters=parameters, flat=flat, units=units, invalid=_invalid(entry))


def _failed(entry: _Entry) -> str | None:
    """Why a configuration is left out, None for one that is read."""
    if entry.invalid is not None:
        return entry.invalid
    values = [entry.flat.get(key) for key in ("time", *POWER_KEYS)]
    words = [value for value in values if isinstance(value, str) and _FAILED.fullmatch(value)]
    return words[0] if words else "no time" if entry.flat.get("time") == _FAILED_MS else None


def _row(line: int, entry: _Entry, power_key: str | None, workload: str) -> ImportedRow:
    time, clock = entry.flat.get("time"), _first(entry.flat, CLOCKS)
    if clock is None:
        raise BadDataError(f"row {line}: no frequency (core_freq or nvml_gr_clock)", remedy="tune over nvml_gr_clock")
    power, memory = None if power_key is None else entry.flat.get(power_key), _first(entry.flat, MEMORY_CLOCKS)
    if power is None and time is None:
        raise BadDataError(f"row {line}: neither power nor time", remedy="observe nvml_power")
    return ImportedRow(
        line=line,
        frequency_hz=_si(entry, line, clock[0], FREQUENCY, "MHz"),
        frequency_read=clock[0] in READ,
        power_w=None if power is None or power_key is None else _si(entry, line, power_key, POWER, "W"),
        latency_s=None if time is None else _si(entry, line, "time", LATENCY, "ms"),
        workload=workload,
        rail="board",
        memory_hz=None if memory is None else _si(entry, line, memory[0], MEMORY, "MHz"),
    )


def _si(entry: _Entry, line: int, name: str, kind: Kind, usual: str) -> float:
    """A value in SI, from the unit that the file gives with it, else from the usual one."""
    given = entry.units.get(name) or usual
    unit = _WORDS.get(given.lower(), given) if isinstance(given, str) else str(given)
    size = factor(kind, unit, line)
    if size is None:
        raise BadDataError(f"row {line}: {name} in {given!r}", remedy=f"give it in one of: {', '.join(kind.units)}")
    return quantity(entry.flat[name], line, name, size, kind.bounds)


def _first(entry: Document, names: tuple[str, ...]) -> tuple[str, Any] | None:
    return next(((name, entry[name]) for name in names if entry.get(name) is not None), None)

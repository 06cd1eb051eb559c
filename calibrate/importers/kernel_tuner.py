"""Sweeps from Kernel Tuner: its cache file or its published results (T4) file, JSON.

A cache keeps one entry per configuration under "cache"; a results file a list under "results" with the
configuration and the measurements apart. Of each: the frequency that was read back (`core_freq`), else the one
that was set (`nvml_gr_clock`), MHz; power (`nvml_power` or `ps_power`, W); `time`, ms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cardlab.calibrate.importers.rows import MAX_ROWS, ImportedRow, collect, number
from cardlab.core.errors import BadDataError
from cardlab.core.plain import Document

MAX_BYTES = 256 * 2**20
CLOCKS = ("core_freq", "nvml_gr_clock")
POWER_KEYS = ("nvml_power", "ps_power", "pwr_power", "power")
MEMORY = ("mem_freq", "nvml_mem_clock")


def read_kernel_tuner(path: str | Path, *, max_rows: int = MAX_ROWS) -> tuple[ImportedRow, ...]:
    """All valid configurations of a Kernel Tuner file that have a frequency; rows count entries from 1.

    Configurations that failed to run carry text in place of a time and are left out.

    Raises:
        BadDataError: not a Kernel Tuner file, or an entry cannot be used.
    """
    document = _load(Path(path))
    workload = str(document.get("kernel_name") or "kernel")
    return collect(_rows(_entries(document), workload), max_rows)


def _load(path: Path) -> Document:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadDataError(
                f"{path} is larger than {MAX_BYTES // 2**20} MiB",
                remedy="keep the frequency sweep of one kernel only",
            )
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise BadDataError(f"{path} is not UTF-8 text", remedy="give a Kernel Tuner JSON file") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadDataError(f"cannot read {path}: {reason}", remedy="give a readable file") from error
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
    if not isinstance(document, dict):
        raise BadDataError("not a Kernel Tuner file", remedy="give its cache or results file")
    return document


def _entries(document: Document) -> Iterator[Document]:
    cache, results = document.get("cache"), document.get("results")
    if isinstance(cache, dict):
        yield from (entry for entry in cache.values() if isinstance(entry, dict))
    elif isinstance(results, list):
        for entry in results:
            if isinstance(entry, dict):
                yield _flat(entry)
    else:
        raise BadDataError("neither a cache nor results in the file", remedy="give a Kernel Tuner JSON file")


def _flat(entry: Document) -> Document:
    flat: Document = dict(entry.get("configuration") or {})
    for item in entry.get("measurements") or ():
        if isinstance(item, dict) and "name" in item:
            flat[str(item["name"])] = item.get("value")
    return flat


def _rows(entries: Iterator[Document], workload: str) -> Iterator[ImportedRow]:
    for line, entry in enumerate(entries, start=1):
        time_ms = entry.get("time")
        if isinstance(time_ms, str) and not _numeric(time_ms):
            continue
        clock = _first(entry, CLOCKS)
        if clock is None:
            raise BadDataError(
                f"row {line}: no frequency (core_freq or nvml_gr_clock)", remedy="tune over nvml_gr_clock"
            )
        power, memory = _first(entry, POWER_KEYS), _first(entry, MEMORY)
        if power is None and time_ms is None:
            raise BadDataError(f"row {line}: neither power nor time", remedy="observe nvml_power")
        yield ImportedRow(
            line=line,
            frequency_hz=number(clock[1], line, clock[0]) * 1e6,
            power_w=None if power is None else number(power[1], line, power[0]),
            latency_s=None if time_ms is None else number(time_ms, line, "time") / 1e3,
            workload=workload,
            rail="board",
            memory_hz=None if memory is None else number(memory[1], line, memory[0]) * 1e6,
        )


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first(entry: Document, names: tuple[str, ...]) -> tuple[str, Any] | None:
    return next(((name, entry[name]) for name in names if entry.get(name) is not None), None)

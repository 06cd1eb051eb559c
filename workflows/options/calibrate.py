"""Options of calibrating: fit, predict, import, meter, bundles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cardlab.core.options import Checked, Opt


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions(Checked):
    """What to fit."""

    device: Annotated[str | None, Opt("Label or key of a device; default: all.", metavar="LABEL")] = None
    law: Annotated[str, Opt("auto, or the name of a law.")] = "auto"
    intervals: Annotated[
        str, Opt("covariance, or bootstrap (operating points drawn with replacement, for outliers).")
    ] = "covariance"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowFitsOptions(Checked):
    """Which stored fits to show."""

    device: Annotated[str | None, Opt("Label or key of a device; default: all.", metavar="LABEL")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions(Checked):
    """What to predict, and at which frequency."""

    device: Annotated[str, Opt("Label or key of the device.", metavar="LABEL")]
    frequency_mhz: Annotated[float, Opt("Compute frequency in MHz.")]
    segment: Annotated[str | None, Opt("Only this segment.")] = None
    power_mode: Annotated[str | None, Opt("Only this power mode.")] = None
    memory_mhz: Annotated[float | None, Opt("Only this memory frequency.")] = None
    model: Annotated[str | None, Opt("Predict a task that need not have been measured.", panel="Task")] = None
    batch: Annotated[int | None, Opt("Of that task.", shown="1", panel="Task")] = None
    sequence: Annotated[int | None, Opt("Of that task.", flag="--seq", shown="512", panel="Task")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOptions(Checked):
    """Which run to learn from."""

    run: Annotated[str, Opt("Id of a split run of a plan, or its first digits.", argument=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions(Checked):
    """Which file to bring in, and whose it is."""

    file: Annotated[str, Opt("CSV, a log of nvidia-smi --format=csv, or a Kernel Tuner JSON file.", argument=True)]
    device: Annotated[str, Opt("Label of the device it was measured on.", metavar="LABEL")]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterOptions(Checked):
    """Pairs of readings, and whose sensor they are of."""

    reference: Annotated[str, Opt("CSV with the columns reference_w and sensor_w.")]
    device: Annotated[str, Opt("Label or key of the device whose sensor it is.", metavar="LABEL")]
    rail: Annotated[str, Opt("Rail of the sensor.")] = "board"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions(Checked):
    """Where to write the bundle."""

    out: Annotated[str, Opt("Bundle to write.", metavar="FILE")]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions(Checked):
    """Bundles to add."""

    bundles: Annotated[tuple[str, ...], Opt("Bundle files.", argument=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReportOptions(Checked):
    """The page of a device, or of all devices side by side."""

    out: Annotated[str, Opt("HTML file to write.", metavar="FILE")]
    device: Annotated[str | None, Opt("Label or key of a device; default: all.", metavar="LABEL")] = None

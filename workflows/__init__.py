"""Everything a person does, one function each: options dataclass in, record out, nothing printed.

The commands call these functions, and so does anybody from Python. Names are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.workflows.accuracy import accuracy
    from cardlab.workflows.agent import pack
    from cardlab.workflows.database import check_store, info, prune_store, vacuum_store
    from cardlab.workflows.doctor import doctor
    from cardlab.workflows.exchange import calibrate_sensor, export, import_sweep, merge
    from cardlab.workflows.fit import Fits, fit, stored_fits
    from cardlab.workflows.links import answer_probes, import_link, measure_link
    from cardlab.workflows.options.calibrate import (
        DeviceReportOptions,
        ExportOptions,
        FitOptions,
        ImportOptions,
        MergeOptions,
        MeterOptions,
        PredictOptions,
        ShowFitsOptions,
    )
    from cardlab.workflows.options.card import (
        AccuracyOptions,
        LinkOptions,
        PlanOptions,
        PlanReportOptions,
        ReproduceOptions,
        SimulateOptions,
    )
    from cardlab.workflows.options.database import PruneOptions
    from cardlab.workflows.options.profile import AgentOptions, DoctorOptions, ProfileOptions, SelftestOptions
    from cardlab.workflows.options.run import DeviceOptions, KeysOptions, RunOptions, ServerOptions
    from cardlab.workflows.plan import plan
    from cardlab.workflows.predict import predict
    from cardlab.workflows.profile import bundled_models, dry_run, profile, restore_frequencies
    from cardlab.workflows.report import report
    from cardlab.workflows.run import run, run_server
    from cardlab.workflows.run_device import run_device, write_keys
    from cardlab.workflows.selftest import selftest
    from cardlab.workflows.simulate import reproduce, simulate
    from cardlab.workflows.validate import validate

_WHERE = {
    "accuracy": ("accuracy",),
    "agent": ("pack",),
    "database": ("check_store", "info", "prune_store", "vacuum_store"),
    "doctor": ("doctor",),
    "exchange": ("calibrate_sensor", "export", "import_sweep", "merge"),
    "fit": ("Fits", "fit", "stored_fits"),
    "links": ("answer_probes", "import_link", "measure_link"),
    "options.calibrate": (
        "DeviceReportOptions",
        "ExportOptions",
        "FitOptions",
        "ImportOptions",
        "MergeOptions",
        "MeterOptions",
        "PredictOptions",
        "ShowFitsOptions",
    ),
    "options.card": (
        "AccuracyOptions",
        "LinkOptions",
        "PlanOptions",
        "PlanReportOptions",
        "ReproduceOptions",
        "SimulateOptions",
    ),
    "options.database": ("PruneOptions",),
    "options.profile": ("AgentOptions", "DoctorOptions", "ProfileOptions", "SelftestOptions"),
    "options.run": ("DeviceOptions", "KeysOptions", "RunOptions", "ServerOptions"),
    "plan": ("plan",),
    "predict": ("predict",),
    "profile": ("bundled_models", "dry_run", "profile", "restore_frequencies"),
    "report": ("report",),
    "run": ("run", "run_server"),
    "run_device": ("run_device", "write_keys"),
    "selftest": ("selftest",),
    "simulate": ("reproduce", "simulate"),
    "validate": ("validate",),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
__all__ = [
    "AccuracyOptions",
    "AgentOptions",
    "DeviceOptions",
    "DeviceReportOptions",
    "DoctorOptions",
    "ExportOptions",
    "FitOptions",
    "Fits",
    "ImportOptions",
    "KeysOptions",
    "LinkOptions",
    "MergeOptions",
    "MeterOptions",
    "PlanOptions",
    "PlanReportOptions",
    "PredictOptions",
    "ProfileOptions",
    "PruneOptions",
    "ReproduceOptions",
    "RunOptions",
    "SelftestOptions",
    "ServerOptions",
    "ShowFitsOptions",
    "SimulateOptions",
    "accuracy",
    "answer_probes",
    "bundled_models",
    "calibrate_sensor",
    "check_store",
    "doctor",
    "dry_run",
    "export",
    "fit",
    "import_link",
    "import_sweep",
    "info",
    "measure_link",
    "merge",
    "pack",
    "plan",
    "predict",
    "profile",
    "prune_store",
    "report",
    "reproduce",
    "restore_frequencies",
    "run",
    "run_device",
    "run_server",
    "selftest",
    "simulate",
    "stored_fits",
    "vacuum_store",
    "validate",
    "write_keys",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'cardlab.workflows' has no attribute {name!r}")
    return getattr(import_module(f"cardlab.workflows.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return __all__

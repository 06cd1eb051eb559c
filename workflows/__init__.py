"""Everything a person does, one function each: options dataclass in, record out, nothing printed.

The commands call these functions, and `cardlab` gives them to Python users by name: `cardlab.plan` is
`cardlab.workflows.plan.plan`. From here come the dataclasses that the options are declared in, each loaded when it is
used: making them takes longer than printing a help page may.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.workflows.options.calibrate import (
        DeviceReportOptions,
        ExportOptions,
        FitOptions,
        ImportOptions,
        LearnOptions,
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
        ValidateOptions,
    )
    from cardlab.workflows.options.database import (
        PruneOptions,
    )
    from cardlab.workflows.options.profile import (
        AgentOptions,
        DoctorOptions,
        ProfileOptions,
        SelftestOptions,
    )
    from cardlab.workflows.options.run import (
        DeviceOptions,
        KeysOptions,
        RunExportOptions,
        RunOptions,
        ServerOptions,
    )

_MODULE = {
    "DeviceReportOptions": "calibrate",
    "ExportOptions": "calibrate",
    "FitOptions": "calibrate",
    "ImportOptions": "calibrate",
    "LearnOptions": "calibrate",
    "MergeOptions": "calibrate",
    "MeterOptions": "calibrate",
    "PredictOptions": "calibrate",
    "ShowFitsOptions": "calibrate",
    "AccuracyOptions": "card",
    "LinkOptions": "card",
    "PlanOptions": "card",
    "PlanReportOptions": "card",
    "ReproduceOptions": "card",
    "SimulateOptions": "card",
    "ValidateOptions": "card",
    "PruneOptions": "database",
    "AgentOptions": "profile",
    "DoctorOptions": "profile",
    "ProfileOptions": "profile",
    "SelftestOptions": "profile",
    "DeviceOptions": "run",
    "KeysOptions": "run",
    "RunExportOptions": "run",
    "RunOptions": "run",
    "ServerOptions": "run",
}
__all__ = [
    "AccuracyOptions",
    "AgentOptions",
    "DeviceOptions",
    "DeviceReportOptions",
    "DoctorOptions",
    "ExportOptions",
    "FitOptions",
    "ImportOptions",
    "KeysOptions",
    "LearnOptions",
    "LinkOptions",
    "MergeOptions",
    "MeterOptions",
    "PlanOptions",
    "PlanReportOptions",
    "PredictOptions",
    "ProfileOptions",
    "PruneOptions",
    "ReproduceOptions",
    "RunExportOptions",
    "RunOptions",
    "SelftestOptions",
    "ServerOptions",
    "ShowFitsOptions",
    "SimulateOptions",
    "ValidateOptions",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'cardlab.workflows' has no attribute {name!r}")
    return getattr(import_module(f"cardlab.workflows.options.{_MODULE[name]}"), name)

"""Everything a person does, one function each: options dataclass in, record out, nothing printed.

The commands call these functions, and `cardlab` gives them to Python users by name: `cardlab.plan` is
`cardlab.workflows.plan.plan`. From here come the dataclasses that the options are declared in; they import nothing
heavy.
"""

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
    RunOptions,
    ServerOptions,
)

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
    "ValidateOptions",
]

"""cardlab: profile, calibrate and plan split fine-tuning of language models on real hardware.

    import cardlab
    from cardlab.workflows import PlanOptions, ProfileOptions

    store = cardlab.open_store("cardlab.db")
    cardlab.profile(store, ProfileOptions(model="llama-3.2-1b", platform="simulated:rtx-4060-ti"))

Everything a command does is one function here with the same result. Names are loaded when they are used, so that
importing cardlab is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cardlab.db import open_store
    from cardlab.profilers.devices import open_device
    from cardlab.workflows.fit import fit
    from cardlab.workflows.plan import plan
    from cardlab.workflows.predict import predict
    from cardlab.workflows.profile import profile
    from cardlab.workflows.report import report
    from cardlab.workflows.run import run
    from cardlab.workflows.simulate import simulate
    from cardlab.workflows.validate import validate

_MODULE = {
    "fit": "cardlab.workflows.fit",
    "open_device": "cardlab.profilers.devices",
    "open_store": "cardlab.db",
    "plan": "cardlab.workflows.plan",
    "predict": "cardlab.workflows.predict",
    "profile": "cardlab.workflows.profile",
    "report": "cardlab.workflows.report",
    "run": "cardlab.workflows.run",
    "simulate": "cardlab.workflows.simulate",
    "validate": "cardlab.workflows.validate",
}
__all__ = [
    "__version__",
    "fit",
    "open_device",
    "open_store",
    "plan",
    "predict",
    "profile",
    "report",
    "run",
    "simulate",
    "validate",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'cardlab' has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    return __all__

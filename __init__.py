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
    from cardlab.calibrate.best_frequency import best_frequency
    from cardlab.db import open_store
    from cardlab.profilers.measure.open import open_device
    from cardlab.workflows.accuracy import accuracy
    from cardlab.workflows.agent import pack
    from cardlab.workflows.best_for_plan import best_for_plan
    from cardlab.workflows.database import check_store, info, prune_store, vacuum_store
    from cardlab.workflows.doctor import doctor
    from cardlab.workflows.exchange import calibrate_sensor, export, import_sweep, merge
    from cardlab.workflows.fit import fit, stored_fits
    from cardlab.workflows.learn import learn
    from cardlab.workflows.links import answer_probes, import_link, measure_link
    from cardlab.workflows.lists import list_links, list_plans, list_profiles, list_runs
    from cardlab.workflows.models import bundled_models, supported_models
    from cardlab.workflows.plan import plan
    from cardlab.workflows.predict import predict
    from cardlab.workflows.profile import dry_run, profile, restore_frequencies
    from cardlab.workflows.report import report
    from cardlab.workflows.run import run, run_server
    from cardlab.workflows.run_adapters import export_adapters
    from cardlab.workflows.run_device import run_device, write_keys
    from cardlab.workflows.selftest import selftest
    from cardlab.workflows.simulate import reproduce, simulate
    from cardlab.workflows.validate import validate

_MODULE = {
    "open_device": "cardlab.profilers.measure.open",
    "open_store": "cardlab.db",
    "accuracy": "cardlab.workflows.accuracy",
    "answer_probes": "cardlab.workflows.links",
    "bundled_models": "cardlab.workflows.models",
    "supported_models": "cardlab.workflows.models",
    "best_for_plan": "cardlab.workflows.best_for_plan",
    "best_frequency": "cardlab.calibrate.best_frequency",
    "calibrate_sensor": "cardlab.workflows.exchange",
    "check_store": "cardlab.workflows.database",
    "doctor": "cardlab.workflows.doctor",
    "dry_run": "cardlab.workflows.profile",
    "export": "cardlab.workflows.exchange",
    "export_adapters": "cardlab.workflows.run_adapters",
    "fit": "cardlab.workflows.fit",
    "import_link": "cardlab.workflows.links",
    "import_sweep": "cardlab.workflows.exchange",
    "info": "cardlab.workflows.database",
    "learn": "cardlab.workflows.learn",
    "list_links": "cardlab.workflows.lists",
    "list_plans": "cardlab.workflows.lists",
    "list_profiles": "cardlab.workflows.lists",
    "list_runs": "cardlab.workflows.lists",
    "measure_link": "cardlab.workflows.links",
    "merge": "cardlab.workflows.exchange",
    "pack": "cardlab.workflows.agent",
    "plan": "cardlab.workflows.plan",
    "predict": "cardlab.workflows.predict",
    "profile": "cardlab.workflows.profile",
    "prune_store": "cardlab.workflows.database",
    "report": "cardlab.workflows.report",
    "reproduce": "cardlab.workflows.simulate",
    "restore_frequencies": "cardlab.workflows.profile",
    "run": "cardlab.workflows.run",
    "run_device": "cardlab.workflows.run_device",
    "run_server": "cardlab.workflows.run",
    "selftest": "cardlab.workflows.selftest",
    "simulate": "cardlab.workflows.simulate",
    "stored_fits": "cardlab.workflows.fit",
    "vacuum_store": "cardlab.workflows.database",
    "validate": "cardlab.workflows.validate",
    "write_keys": "cardlab.workflows.run_device",
}
__all__ = [
    "__version__",
    "accuracy",
    "answer_probes",
    "best_for_plan",
    "best_frequency",
    "bundled_models",
    "calibrate_sensor",
    "check_store",
    "doctor",
    "dry_run",
    "export",
    "export_adapters",
    "fit",
    "import_link",
    "import_sweep",
    "info",
    "learn",
    "list_links",
    "list_plans",
    "list_profiles",
    "list_runs",
    "measure_link",
    "merge",
    "open_device",
    "open_store",
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
    "supported_models",
    "vacuum_store",
    "validate",
    "write_keys",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'cardlab' has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    return __all__

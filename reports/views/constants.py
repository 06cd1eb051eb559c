"""Published constants as a document: plain numbers, their uncertainty beside them."""

from __future__ import annotations

from cardlab.core.plain import Document, to_plain
from cardlab.core.records.constants import Constants, Delta
from cardlab.reports.views.estimates import Estimates


def constants_document(constants: Constants) -> Document:
    """The constants of one power curve, as `calibrate fit --json` prints them; what was not measured is None."""
    estimates = Estimates()
    return {
        "device": constants.device_name,
        "device_key": constants.device,
        "task": constants.task,
        "workload": constants.workload,
        "execution": constants.execution,
        "rail": constants.rail,
        "power_mode": constants.power_mode,
        "memory_hz": constants.memory_hz,
        "kappa_w_per_hz3": estimates.put("kappa_w_per_hz3", constants.kappa_w_per_hz3),
        "static_power_w": estimates.put("static_power_w", constants.static_power_w),
        "error": constants.error,
        "kappa_paper_w_per_hz3": estimates.put("kappa_paper_w_per_hz3", constants.kappa_paper_w_per_hz3),
        "paper_error": constants.paper_error,
        "cores": constants.cores,
        "frequency_min_hz": constants.frequency_min_hz,
        "frequency_max_hz": constants.frequency_max_hz,
        "delta": [_delta(delta) for delta in constants.delta],
        "estimates": estimates.beside,
    }


def _delta(delta: Delta) -> Document:
    estimates = Estimates()
    plain: Document = to_plain(delta)
    return {**plain, "delta": estimates.put("delta", delta.delta), "estimates": estimates.beside}

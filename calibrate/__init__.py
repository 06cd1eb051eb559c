"""Calibration: from measured points to laws with honest uncertainty. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cardlab.calibrate.fit import Comparison, compare, fit_latency, fit_power

_WHERE = dict.fromkeys(("Comparison", "compare", "fit_latency", "fit_power"), "cardlab.calibrate.fit")

__all__ = ["Comparison", "compare", "fit_latency", "fit_power"]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)

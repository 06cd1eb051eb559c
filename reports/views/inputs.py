"""What the views of devices are made from: records of one device, gathered by whoever has a store.

Constants and optima are results of the calibration, which this room does not import; their records are core's.
"""

from __future__ import annotations

from dataclasses import dataclass

from cardlab.core.records.constants import Constants, DeltaCurve, Optimum
from cardlab.core.records.device import Device
from cardlab.core.records.fit import Fit
from cardlab.core.records.measurement import Profile
from cardlab.reports.views.fit import Curve


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaLaw:
    """How delta of one segment and phase follows the frequency: the law behind it, and the points as measured.

    Attributes:
        fit: of the latency that the law follows from.
        points: (Hz, FLOP per core per cycle).
    """

    fit: Fit
    law: DeltaCurve
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceData:
    """One device with what is known of it.

    Attributes:
        profiles: the newest run of each task or load.
        fits: newest fits, those only compared included.
        curves: measured points with their law, powers first.
        deltas: of each latency whose law says how delta falls with the frequency.
        stale: a line where newer data are not in the fits.
    """

    device: Device
    profiles: tuple[Profile, ...] = ()
    fits: tuple[Fit, ...] = ()
    curves: tuple[Curve, ...] = ()
    constants: tuple[Constants, ...] = ()
    optima: tuple[Optimum, ...] = ()
    deltas: tuple[DeltaLaw, ...] = ()
    stale: tuple[str, ...] = ()

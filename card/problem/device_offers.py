"""What devices of a database hold and offer: their frequencies, and times and powers by their fits at each.

A device's fits are taken as a server's are: of the execution of its newest profile, at the frequencies that its run
says it offered and the fits cover. Only fits of the power mode and the memory frequency of its best point count: a
curve through points of two would be of no machine there is. A device that was measured at one frequency offers that
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.measured import (
    DRAWS,
    Fits,
    Part,
    architecture_of,
    best_point,
    curve,
    device_parts,
    device_power_w,
    device_seconds,
    fits_of,
    held_spread_s,
    latency_fit,
    on_device,
    power_at,
    spread_of,
    within,
)
from cardlab.card.problem.offer import Offer, OneDevice, filled_places, offer_of
from cardlab.card.problem.parties import Given
from cardlab.card.uncertainty import Source
from cardlab.core.clocks import is_same_clock, offered_as
from cardlab.core.errors import PlanError
from cardlab.core.records.fit import Fit
from cardlab.core.records.measurement import Point, Profile
from cardlab.core.text import si
from cardlab.db.store import Store

_POWERS = ("power", "wait_power")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCurves:
    """The fits of one device at the frequencies it offers, Hz [G]; no fits where it was measured at one alone.

    `power_w` is what a file gives in place of the one power that was measured.
    """

    label: str
    profile: Profile
    frequency_hz: Array
    fits: Fits
    power_w: float | None = None

    def offer(self, cuts: Array) -> OneDevice:
        """Times and powers at each frequency; power NaN where there is no fit of it."""
        profile, hz = self.profile, self.frequency_hz
        if not self.fits:
            return OneDevice(
                frequency_hz=hz,
                device_s=device_seconds(profile, cuts)[:, None],
                power_w=np.array([self.power_w or device_power_w(profile)]),
                wait_power_w=np.array([held_power_w(profile, "wait_power")]),
            )
        powers = [self.fits.get((quantity, None, None)) for quantity in _POWERS]
        busy_w, wait_w = (np.full(hz.size, np.nan) if fit is None else curve(fit, hz) for fit in powers)
        counts = self._counts(cuts)
        seconds = sum(n[:, None] * curve(latency_fit(self.fits, part), hz)[None, :] for part, n in counts)
        return OneDevice(frequency_hz=hz, device_s=np.asarray(seconds), power_w=busy_w, wait_power_w=wait_w)

    def spread_s(self, cuts: Array) -> Array:
        """What draws add to its seconds at each frequency [N,C,G]; one draw of a fit for all of them."""
        if not self.fits:
            return held_spread_s(self.profile, cuts)[:, :, None]
        added = np.zeros((DRAWS, cuts.size, self.frequency_hz.size))
        for part, n in self._counts(cuts):
            added += n[None, :, None] * spread_of(latency_fit(self.fits, part), self.frequency_hz)[:, None, :]
        return added

    @property
    def used(self) -> tuple[Fit, ...]:
        """Every fit that is used."""
        if not self.fits:
            return ()
        times = [latency_fit(self.fits, part) for part in device_parts(architecture_of(self.profile))]
        powers = [self.fits.get((quantity, None, None)) for quantity in _POWERS]
        return (*times, *(fit for fit in powers if fit is not None))

    @property
    def said(self) -> str:
        """Its frequencies and the state they are of, for the plan's reader."""
        state, hz = best_point(self.profile).operating, self.frequency_hz
        span = f"{hz.size} from {si(float(hz[0]), 'Hz')} to {si(float(hz[-1]), 'Hz')}"
        words = [span if hz.size > 1 else f"{si(float(hz[0]), 'Hz')} alone"]
        if state is not None:
            words += [] if state.power_mode is None else [f"power mode {state.power_mode}"]
            words += [] if state.memory_hz is None else [f"memory at {si(state.memory_hz, 'Hz')}"]
        cpu = sorted({p.operating.cpu_hz for p in self.profile.points if p.operating and p.operating.cpu_hz})
        if cpu:
            ends = si(cpu[0], "Hz") if len(cpu) == 1 else f"{si(cpu[0], 'Hz')} to {si(cpu[-1], 'Hz')}"
            words.append(f"CPU at {ends}")
        return f"frequencies of {self.label}: {', '.join(words)}"

    def _counts(self, cuts: Array) -> list[tuple[Part, Array]]:
        architecture = architecture_of(self.profile)
        return [(part, on_device(architecture, part[0], cuts)) for part in device_parts(architecture)]


@dataclass(frozen=True, slots=True)
class DeviceChoices:
    """What every device of a plan offers."""

    curves: tuple[DeviceCurves, ...]

    def offer(self, cuts: Array) -> Offer:
        """As the arrays of a problem."""
        return offer_of([curves.offer(cuts) for curves in self.curves])

    def sources(self, cuts: Array) -> tuple[Source, ...]:
        """How unsure the times of each device are, as many frequencies each as the offer has."""
        most = max(curves.frequency_hz.size for curves in self.curves)
        return tuple(
            Source(
                name=f"times of {curves.label}",
                device=m,
                device_s=curves.spread_s(cuts)[:, :, filled_places(curves.frequency_hz.size, most)],
            )
            for m, curves in enumerate(self.curves)
        )

    @property
    def fits(self) -> tuple[Fit, ...]:
        """Every fit that is used."""
        return tuple(fit for curves in self.curves for fit in curves.used)

    @property
    def said(self) -> tuple[str, ...]:
        """A line for each device, for the plan's reader."""
        return tuple(curves.said for curves in self.curves)


def held_hz(profile: Profile) -> float:
    """The frequency of the best point, Hz: as asked for where it was kept, else as read; NaN where none was read.

    A clock that is read is never quite the one that is offered, and a run can only ask for one that is.
    """
    point = best_point(profile)
    read_hz = None if point.operating is None else point.operating.frequency_hz
    if read_hz is None:
        return float("nan")
    asked_hz = point.requested_hz
    return asked_hz if asked_hz is not None and is_same_clock(read_hz, asked_hz) else read_hz


def held_power_w(profile: Profile, quantity: str) -> float:
    """A power of the whole device at its best point, W; NaN where it was not measured."""
    return power_at(best_point(profile), quantity)


def curves_of(store: Store, label: str, profile: Profile, given: Given) -> DeviceCurves:
    """What a device offers, only the frequencies that are given where some are.

    Raises PlanError naming a missing fit or frequency.
    """
    curves = replace(_every(store, label, profile), power_w=given.power_w)
    return _only(curves, given.frequencies_hz) if given.frequencies_hz else curves


def _every(store: Store, label: str, profile: Profile) -> DeviceCurves:
    name, task = profile.run.device.name, profile.run.task
    measured = _same_state(profile)
    if len(measured) < 2 or np.isnan(held_hz(profile)):
        return DeviceCurves(label=label, profile=profile, frequency_hz=np.array([held_hz(profile)]), fits={})
    assert task is not None
    fits = fits_of(store, profile.run.device, task, profile, same_state=True)
    parts = device_parts(architecture_of(profile))
    for segment, phase in parts:
        if ("latency", segment, phase) not in fits:
            raise PlanError(
                f"the device {name!r} has no fit of {segment} {phase} to choose its frequency by",
                remedy=f"run: calibrate fit --device {name}, or use --device-frequencies held",
            )
    # Parts may have been measured over different spans: all of them must hold where one is chosen.
    axes = [latency_fit(fits, part).x for part in parts]
    known = [(axis.min, axis.max) for axis in axes if axis.min is not None and axis.max is not None]
    low, high = max((low for low, _ in known), default=np.nan), min((high for _, high in known), default=np.nan)
    return DeviceCurves(label=label, profile=profile, frequency_hz=within(profile, low, high), fits=fits)


def _same_state(profile: Profile) -> list[Point]:
    """Points at different frequencies in the power mode and at the memory frequency of the best one."""
    best = best_point(profile).operating
    found: dict[float | None, Point] = {}
    for point in profile.points:
        state = point.operating
        if best is None or state is None or not point.times_a_layer:
            continue
        # Where the governor went is no frequency to choose.
        if profile.holds and not point.held:
            continue
        if (state.power_mode, state.memory_hz) == (best.power_mode, best.memory_hz):
            found[point.requested_hz] = point
    return list(found.values())


def _only(curves: DeviceCurves, wanted_hz: Sequence[float]) -> DeviceCurves:
    places = []
    for hz in wanted_hz:
        named_hz = offered_as(hz, curves.frequency_hz.tolist())
        if named_hz is None:
            known = ", ".join(si(float(f), "Hz") for f in curves.frequency_hz)
            raise PlanError(
                f"device {curves.label!r} has no profile at {si(hz, 'Hz')}",
                remedy=f"name frequencies it was profiled for: {known}",
            )
        places.append(curves.frequency_hz.tolist().index(named_hz))
    return replace(curves, frequency_hz=curves.frequency_hz[sorted(set(places))])

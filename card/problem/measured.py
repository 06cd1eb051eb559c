"""Measured constants as arrays: what a device's profile and a server's fits say, and how sure they are.

A device brings the times of its highest frequency that was neither throttled nor contended; the server its
fitted curves over the frequencies it offers. Uncertainty of a curve: its parameter draws, times one draw of the
law's misfit for the fit; power also times one draw of the meter's gain for the server. Uncertainty of a device:
the standard error of each segment's time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cardlab.card.problem.arrays import Array, Mask
from cardlab.card.uncertainty import Source, Uncertainty
from cardlab.core.clocks import SAME_CLOCK_SHARE
from cardlab.core.errors import PlanError
from cardlab.core.records.device import Device
from cardlab.core.records.fit import Fit
from cardlab.core.records.link import Link
from cardlab.core.records.measurement import Point, Profile
from cardlab.core.records.task import Architecture, Task
from cardlab.core.records.workload import EMBEDDING, FIRST_LAYER, FORWARD, HEAD, PHASES, is_layer
from cardlab.db.store import Store

DRAWS = 200
Part = tuple[str, str]
"""A segment and a phase."""
Fits = Mapping[tuple[str, str | None, str | None], Fit]


def server_parts(architecture: Architecture) -> tuple[Part, ...]:
    """What the server may have to compute: every kind of layer that is not the first, and the head."""
    kinds = dict.fromkeys(architecture.layer_segments[1:])
    return tuple((name, phase) for name in (*kinds, HEAD) for phase in PHASES)


def device_parts(architecture: Architecture) -> tuple[Part, ...]:
    """What a device may have to compute, up to the last layer."""
    kinds = dict.fromkeys(architecture.layer_segments[1:])
    return ((EMBEDDING, FORWARD), *((name, phase) for name in (FIRST_LAYER, *kinds) for phase in PHASES))


def best_point(profile: Profile) -> Point:
    """`Profile.best_point`; PlanError if there is none."""
    point = profile.best_point
    if point is None:
        raise PlanError(
            f"{profile.run.device.name!r} has no point with trustworthy times",
            remedy="profile it again on a quiet machine, or with --repeats",
        )
    return point


def _segment_times(profile: Profile) -> dict[Part, tuple[float, float]]:
    """Seconds and their standard error (0 if unknown) of every part a device needs, at its best point."""
    return times_at(best_point(profile), profile.run.device.name, device_parts(architecture_of(profile)))


def times_at(point: Point, name: str, parts: Sequence[Part]) -> dict[Part, tuple[float, float]]:
    """Seconds and their standard error (0 if unknown) of these parts at a point of the device of that name.

    Raises PlanError for a part without a time.
    """
    found = {}
    for part in parts:
        estimate = point.latency(*part)
        if estimate is None:
            raise PlanError(
                f"{name!r} lacks the time of {part[0]} {part[1]}", remedy="go on with profile-device --resume"
            )
        found[part] = (estimate.value, estimate.stderr or 0.0)
    return found


def architecture_of(profile: Profile) -> Architecture:
    """Of the task of a profile; PlanError where it is of none."""
    if profile.run.task is None:
        raise PlanError(
            f"run {profile.run.uid[:12]} of {profile.run.device.name!r} is of no model",
            remedy="profile the device with --model",
        )
    return profile.run.task.architecture


def on_device(architecture: Architecture, segment: str, cuts: Array) -> Array:
    """How often a segment occurs below each cut [C], up to the last layer."""
    if not is_layer(segment):
        return np.ones(cuts.size)
    return np.asarray(_counts(architecture.layer_segments[1:], segment)[cuts.astype(int) - 1])


def on_server(architecture: Architecture, segment: str, cuts: Array) -> Array:
    """How often a segment occurs above each cut [C]."""
    if not is_layer(segment):
        return np.ones(cuts.size)
    counts = _counts(architecture.layer_segments, segment)
    return np.asarray(counts[-1] - counts[cuts.astype(int)])


def _counts(layers: Sequence[str], segment: str) -> Array:
    """Occurrences among the first 0, 1, 2... layers [L + 1]."""
    return np.cumsum([0.0, *(float(name == segment) for name in layers)])


def device_seconds(profile: Profile, cuts: Array) -> Array:
    """Seconds per mini-batch of the device's side at each cut [C], at its best point."""
    return device_seconds_at(best_point(profile), profile, cuts)


def device_seconds_at(point: Point, profile: Profile, cuts: Array) -> Array:
    """The same at any point of its profile. Raises PlanError for a part without a time."""
    architecture = architecture_of(profile)
    times = times_at(point, profile.run.device.name, device_parts(architecture))
    return np.asarray(sum(v * on_device(architecture, segment, cuts) for (segment, _), (v, _) in times.items()))


def server_seconds_at(point: Point, profile: Profile, cuts: Array) -> Array:
    """Seconds per mini-batch of the server's side at each cut [C], at a point of its profile.

    Raises PlanError for a part without a time.
    """
    architecture = architecture_of(profile)
    times = times_at(point, profile.run.device.name, server_parts(architecture))
    return np.asarray(sum(v * on_server(architecture, segment, cuts) for (segment, _), (v, _) in times.items()))


def device_memory_bytes(profile: Profile, cuts: Array) -> Array:
    """Bytes that the device's side of each cut takes there [C], in the dtype it computes in; NaN unknown.

    Raises PlanError where the profile does not say what its cuts need.
    """
    analysis = profile.run.analysis
    needs = {} if analysis is None else {cut.cut: cut.device_memory_bytes for cut in analysis.cuts}
    if analysis is None or any(int(cut) not in needs for cut in cuts):
        raise PlanError(
            f"run {profile.run.uid[:12]} of {profile.run.device.name!r} has no analysis of these cuts",
            remedy="profile the device again",
        )
    found = [needs[int(cut)] for cut in cuts]
    return np.array([np.nan if need is None else float(need) for need in found])


def whole_seconds(profile: Profile) -> float:
    """Seconds per mini-batch of the whole model, head included, on that device; NaN where its head was not timed."""
    point, layers = best_point(profile), architecture_of(profile).layers
    head = [point.latency(HEAD, phase) for phase in PHASES]
    head_s = [estimate.value for estimate in head if estimate is not None]
    return float(device_seconds(profile, np.array([float(layers)]))[0]) + sum(head_s) if len(head_s) == 2 else np.nan


def device_power_w(profile: Profile) -> float:
    """Power of the whole device at its point, W; NaN without a meter."""
    return power_at(best_point(profile))


def power_at(point: Point, quantity: str = "power") -> float:
    """A power of the whole device at a point, W; NaN where it was not measured."""
    measurement = point.total_power(quantity)
    return float("nan") if measurement is None or measurement.estimate is None else measurement.estimate.value


def layer_load_s(profile: Profile) -> float:
    """Seconds to fetch one layer's weights there; NaN where it was not measured."""
    found = profile.layer_load
    return float("nan") if found is None else found.value


def idle_power_w(profile: Profile) -> float | None:
    """Power with nothing to do, W; None if it was not measured."""
    idle = profile.idle_power
    return None if idle is None else idle.value


def fits_of(store: Store, device: Device, task: Task, profile: Profile, *, same_state: bool = False) -> Fits:
    """The selected fits of a device by (quantity, segment, phase), of the profile's execution.

    Powers are those of the rail that covers the whole device. Where several power modes or memory frequencies
    were measured, those of the profile's best point count; with `same_state` no others do.
    """
    state, rail = best_point(profile).operating, profile.total_rail
    # Latency and power belong to a power mode and a memory frequency: a fit of another one would mix two machines.
    here = (None, None) if state is None else (state.power_mode, state.memory_hz)
    found: dict[tuple[str, str | None, str | None], Fit] = {}
    for stored in store.fits.newest(device=device.key, task=task.uid, selected_only=True):
        fit = stored.fit
        key = (fit.quantity, fit.segment, fit.phase)
        if fit.execution not in (None, profile.run.execution.uid):
            continue
        if fit.quantity in ("power", "wait_power") and rail is not None and fit.rail != rail:
            continue
        there = (fit.power_mode, fit.memory_hz) == here
        if there or (key not in found and not same_state):
            found[key] = fit
    return found


def server_fits(store: Store, server: Device, task: Task, profile: Profile) -> Fits:
    """The selected fits of the server by (quantity, segment, phase), of the profile's execution.

    Raises PlanError naming a part without a fit.
    """
    found = fits_of(store, server, task, profile)
    for segment, phase in server_parts(task.architecture):
        if ("latency", segment, phase) not in found:
            raise PlanError(
                f"the server {server.name!r} has no fit of {segment} {phase}",
                remedy=f"run: calibrate fit --device {server.name}",
            )
    return found


def server_frequencies(profile: Profile, fits: Fits) -> Array:
    """Compute frequencies the server offers within the range its fits cover, Hz [F].

    [NaN] where the device has no frequency control, which only constant laws can be evaluated at. Raises PlanError
    where laws depend on the frequency and the run does not say what was offered: any choice would be a guess.
    """
    axis = latency_fit(fits, server_parts(architecture_of(profile))[0]).x
    if axis.min is None or axis.max is None:
        return np.array([np.nan])
    return within(profile, axis.min, axis.max)


def within(profile: Profile, low_hz: float, high_hz: float) -> Array:
    """The frequencies that a run says its device offered, between those its fits cover.

    Raises PlanError where it does not say any.
    """
    offered = profile.run.offered_hz
    if not offered:
        raise PlanError(
            f"run {profile.run.uid[:12]} of {profile.run.device.name!r} does not say which frequencies were offered",
            remedy=f"profile it again: profile-device --name {profile.run.device.name}",
        )
    frequencies = np.unique(np.array(offered, dtype=float))
    # Room for the clock's own: the frequency read back under load is never quite the one requested.
    least_hz, most_hz = low_hz * (1.0 - SAME_CLOCK_SHARE), high_hz * (1.0 + SAME_CLOCK_SHARE)
    inside = frequencies[(frequencies >= least_hz) & (frequencies <= most_hz)]
    # Nothing offered lies where the fits hold; the highest one measured is the nearest that is known.
    return inside if inside.size else np.array([high_hz])


def server_seconds(fits: Fits, architecture: Architecture, cuts: Array, frequencies: Array) -> Array:
    """Seconds per mini-batch of the server's side [C,F]: the layers above each cut and the head."""
    return np.asarray(
        sum(
            count[:, None] * curve(latency_fit(fits, part), frequencies)[None, :]
            for part, count in _server_counts(architecture, cuts)
        )
    )


def _server_counts(architecture: Architecture, cuts: Array) -> list[tuple[Part, Array]]:
    return [(part, on_server(architecture, part[0], cuts)) for part in server_parts(architecture)]


def latency_fit(fits: Fits, part: Part) -> Fit:
    """The fit of one (segment, phase)."""
    segment, phase = part
    return fits[("latency", segment, phase)]


def curve(fit: Fit, frequencies_hz: Array) -> Array:
    """A fit at frequencies [F]; at an unknown one (NaN) only a constant law has a value.

    Raises PlanError for a law that depends on a frequency which is not known.
    """
    return np.asarray(fit.curve.evaluate(_at(fit, frequencies_hz), fit.values))


def _at(fit: Fit, frequencies_hz: Array) -> Array:
    unknown = np.isnan(frequencies_hz)
    if not unknown.any():
        return frequencies_hz
    if fit.x.min is not None:
        raise PlanError(
            f"the {fit.quantity} of {fit.device_name!r} follows {fit.law} and its frequency is not known",
            remedy="profile the server again, so that its run says which frequencies it offers",
        )
    # A constant law ignores its argument, which must only be a number.
    return np.asarray(np.where(unknown, 1.0, frequencies_hz))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a plan from a database is computed from.

    Attributes:
        profiles, labels: of each device [M].
        architecture: of the task.
        cuts: layers on the device [C].
        fits: of the server; frequencies: what it offers, Hz [F].
        device_sources: of each device that chooses its frequency [M]; empty where all hold theirs.
    """

    profiles: Sequence[Profile]
    labels: Sequence[str]
    architecture: Architecture
    cuts: Array
    fits: Fits
    frequencies: Array
    device_sources: tuple[Source, ...] = ()


def uncertainty_of(measured: Measured, links: Sequence[Source] = ()) -> Uncertainty:
    """Every source of uncertainty in a plan from a database, each an independent one; `links` those of rates."""
    architecture, cuts = measured.architecture, measured.cuts
    fits, frequencies = measured.fits, measured.frequencies
    sources = list(links)
    for part, count in _server_counts(architecture, cuts):
        fit = latency_fit(fits, part)
        sources.append(
            Source(
                name=f"server {' '.join(part)}",
                server_s=count[None, :, None] * spread_of(fit, frequencies)[:, None, :],
            )
        )
    power, wait = fits.get(("power", None, None)), fits.get(("wait_power", None, None))
    if power is not None:
        sources.append(Source(name="server power", power_w=spread_of(power, frequencies)))
        if wait is not None:
            sources.append(Source(name="server waiting power", wait_power_w=spread_of(wait, frequencies)))
        # A meter's gain error does not average out over points: it moves the whole curve.
        gain = power.meter_systematic
        if gain:
            # One gain for all that the meter read.
            off = gain * _normal("meter", power.device)[:, None]
            waiting = None if wait is None else off * curve(wait, frequencies)[None, :]
            sources.append(
                Source(name="server power meter", power_w=off * curve(power, frequencies), wait_power_w=waiting)
            )
    if measured.device_sources:
        return Uncertainty(sources=(*sources, *measured.device_sources), draws=DRAWS)
    for m, (profile, label) in enumerate(zip(measured.profiles, measured.labels, strict=True)):
        sources.append(Source(name=f"times of {label}", device=m, device_s=held_spread_s(profile, cuts)))
    return Uncertainty(sources=tuple(sources), draws=DRAWS)


def held_spread_s(profile: Profile, cuts: Array) -> Array:
    """What draws add to a device's seconds at its best point [N,C]."""
    added = np.zeros((DRAWS, cuts.size))
    for part, (_, stderr) in _segment_times(profile).items():
        seed = (profile.run.uid, *part)
        added += stderr * _normal(*seed)[:, None] * on_device(architecture_of(profile), part[0], cuts)
    return added


def link_source(link: Link, *, up: Mask, down: Mask) -> Source | None:
    """What messages of a measured link differed by, taken as 95 % of what they do; None where nothing says.

    `up`, `down` [M]: whether that direction's rate of a device is the link's.
    """
    found = {
        way: _message_spread(link, way) if wanted.any() else None
        for way, wanted in (("uplink", up), ("downlink", down))
    }
    if all(part is None for part in found.values()):
        return None
    # One link: what it does in a draw it does to all devices whose rate it is.
    added = {
        way: None if part is None else part[:, None] * mask[None, :]
        for (way, part), mask in zip(found.items(), (up, down), strict=True)
    }
    return Source(name=f"rate of link {link.name}", up_s_per_bit=added["uplink"], down_s_per_bit=added["downlink"])


def _message_spread(link: Link, way: str) -> Array | None:
    span = link.uplink_range_bps if way == "uplink" else link.downlink_range_bps
    if span is None:
        return None
    # Time per bit and not rate is what adds up, so the spread is taken of that.
    slow_bps, quick_bps = span
    if not 0.0 < slow_bps <= quick_bps:
        return None
    return np.asarray((1.0 / slow_bps - 1.0 / quick_bps) / (2.0 * 1.96) * _normal(link.uid, way))


def spread_of(fit: Fit, frequencies: Array) -> Array:
    """What draws of a fit add to its curve [N,F]: parameters, and one misfit for the fit."""
    # Fits may keep fewer draws than are asked for here; repeating them keeps their spread.
    drawn = np.resize(fit.predict_draws(_at(fit, frequencies)), (DRAWS, frequencies.size))
    # The law's own error: parameters can be sharp while the curve has the wrong shape.
    misfit = (fit.misfit or 0.0) * _normal("misfit", *_of_data(fit))
    return np.asarray(drawn * (1.0 + misfit[:, None]) - curve(fit, frequencies)[None, :])


def _of_data(fit: Fit) -> tuple[str, ...]:
    # Not by its id: fitted again, or in another database, the same data say the same.
    return (fit.device, fit.data_hash, fit.quantity, fit.segment or "", fit.phase or "")


def _normal(*names: str) -> Array:
    # Seeded by what it belongs to: the same database gives the same plan.
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(DRAWS)

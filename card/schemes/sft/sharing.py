"""Several mini-batches at once on a server, from its profiles at multiples of the batch B.

    times(k) = layer(k B) / layer(B)          last_times(k) = (layer + head)(k B) / (layer + head)(B)

Forward and backward together, at the highest frequency of both profiles. The profiles are of one server, one execution
and tasks that differ in their batch alone. The memory of M at once is that of a mini-batch of M B sequences: the
devices' mini-batches are computed as one, with one set of adapters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cardlab.card.problem.arrays import Array
from cardlab.card.problem.from_db import Gathered
from cardlab.card.problem.measured import architecture_of, best_point
from cardlab.card.problem.parties import Party, newest_profile, profile_command
from cardlab.core.errors import PlanError
from cardlab.core.records.measurement import Profile
from cardlab.core.records.workload import HEAD, PHASES
from cardlab.core.text import si
from cardlab.db.store import Store

_SAME_FREQUENCY = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What M mini-batches at once take.

    Attributes:
        times, last_times: of k mini-batches in units of one [M + 1], for a layer, and for the last layer and the head.
        server_bytes: server memory by cut with all M [C]; NaN unknown.
        runs: uids of the profiles it was made of.
        words: what a reader of the plan must know.
    """

    times: Array
    last_times: Array
    server_bytes: Array
    runs: tuple[str, ...]
    words: tuple[str, ...]


def measured_sharing(store: Store, gathered: Gathered) -> Sharing:
    """Times and memory of all devices' mini-batches at once on the plan's server.

    Between measured numbers of mini-batches times are interpolated, and `words` say so; nothing is extrapolated.
    Raises PlanError naming the profile that is missing and the command that makes it.
    """
    count = len(gathered.problem.devices)
    one = newest_profile(store, Party(device=gathered.server), gathered.task)
    found = {1: one, **_multiples(store, one, count)}
    if count not in found:
        batch = gathered.task.batch * count
        raise PlanError(
            f"{gathered.server.name!r} has no profile of {count} mini-batches at once (batch {batch})",
            remedy=f"run: {profile_command(one, batch)}",
        )
    for profile in found.values():
        _check_frequency(profile, one, gathered)
    known = sorted(found)
    seconds = np.array([_seconds(found[k]) for k in known])
    ratios = seconds / seconds[0]
    # Timing noise can make more mini-batches look quicker than fewer, and the planner would then ask for more.
    risen = np.maximum.accumulate(ratios, axis=0)
    at = np.arange(1, count + 1)
    times, last = (np.array([0.0, *np.interp(at, known, risen[:, part])]) for part in (0, 1))
    return Sharing(
        times=times,
        last_times=last,
        server_bytes=_server_bytes(found[count]),
        runs=tuple(found[k].run.uid for k in known),
        words=_words(known, count, bool((risen > ratios).any()), kinds=gathered.task.architecture.kinds),
    )


def _multiples(store: Store, one: Profile, count: int) -> dict[int, Profile]:
    """The newest complete profile at each multiple of the batch that was measured, from 2 to `count`."""
    task = one.run.task
    assert task is not None
    wanted = {replace(task, batch=k * task.batch).uid: k for k in range(2, count + 1)}
    found: dict[int, Profile] = {}
    for uid, done in store.runs.finished(one.run.device.key):
        k = None if done is None else wanted.get(done.uid)
        if k is None:
            continue
        profile = store.runs.get(uid)
        if profile.run.execution.uid == one.run.execution.uid:
            found[k] = profile
    return found


def _seconds(profile: Profile) -> tuple[float, float]:
    """A layer (of several kinds the mean), and the last layer with the head, forward and backward, seconds."""
    point, layers = best_point(profile), architecture_of(profile).layer_segments[1:]
    parts = {}
    for segment in (*dict.fromkeys(layers), HEAD):
        readings = [point.find("latency", segment, phase) for phase in PHASES]
        values = [r.estimate.value for r in readings if r is not None and r.estimate is not None]
        if len(values) < len(readings):
            raise PlanError(
                f"run {profile.run.uid[:12]} lacks times of the {segment}", remedy="go on with profile-device --resume"
            )
        parts[segment] = sum(values)
    alike = len(set(layers)) == 1
    mean = parts[layers[0]] if alike else sum(parts[name] for name in layers) / len(layers)
    return mean, parts[layers[-1]] + parts[HEAD]


def _check_frequency(profile: Profile, one: Profile, gathered: Gathered) -> None:
    """Raise PlanError where the server's frequency can be chosen and the two profiles have no common highest one."""
    # Times at different frequencies have a ratio that says nothing about the batch.
    here, there = (_frequency_hz(p) for p in (profile, one))
    if np.isnan(gathered.problem.frequency_hz).all() or here is None or there is None:
        return
    if abs(here - there) > _SAME_FREQUENCY * there:
        assert profile.run.task is not None
        raise PlanError(
            f"{gathered.server.name!r} was profiled up to {si(here, 'Hz')} at batch {profile.run.task.batch} and up to"
            f" {si(there, 'Hz')} at batch {gathered.task.batch}",
            remedy=f"run: {profile_command(one, profile.run.task.batch)} --frequencies max",
        )


def _frequency_hz(profile: Profile) -> float | None:
    state = best_point(profile).operating
    return None if state is None else state.frequency_hz


def _server_bytes(profile: Profile) -> Array:
    if profile.run.analysis is None:
        raise PlanError(f"run {profile.run.uid[:12]} has no analysis", remedy="profile the server again")
    memory = [c.server_memory_bytes for c in profile.run.analysis.cuts]
    return np.array([np.nan if m is None else float(m) for m in memory])


def _words(known: list[int], count: int, raised: bool, *, kinds: tuple[str, ...] | None) -> tuple[str, ...]:
    words = []
    if kinds is not None and len(set(kinds[1:])) > 1:
        words.append("several mini-batches at once slow all kinds of layers alike, as their mean does")
    between = [str(k) for k in range(2, count) if k not in known]
    if between:
        words.append(
            f"times of {', '.join(between)} mini-batches at once are interpolated between those of"
            f" {', '.join(map(str, known))}"
        )
    if raised:
        words.append("more mini-batches at once were measured no slower than fewer: taken as equally slow")
    return tuple(words)

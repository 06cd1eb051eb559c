"""Schemes over channels, as the paper's figures 3 and 4 show them: cuts, frequencies, mean delay and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cardlab.reports.views.parts import Axis, Bars, Chart, Series

Pair = tuple[float, float | None]
_NOTE = "Computed from a scenario, so assumed, not measured; means over rounds of sums over devices."


def simulation_pictures(
    schemes: Mapping[str, Mapping[str, Pair]], cuts: Mapping[str, Mapping[str, float]]
) -> tuple[Chart | Bars, ...]:
    """Mean delay and energy by scheme and job, and the mean cut by job and device."""
    cut_bars = Bars(
        key="mean-cut",
        title="mean cut by device",
        note="Layers on the device, mean over rounds; computed from a scenario.",
        unit="layers",
        rows=tuple(f"{job}: {device}" for job, by_device in cuts.items() for device in by_device),
        terms=("cut",),
        values=tuple((cut,) for by_device in cuts.values() for cut in by_device.values()),
    )
    return (*scheme_bars(schemes), *((cut_bars,) if cut_bars.rows else ()))


def paper_pictures(
    cut_by_round: Mapping[str, Sequence[int]],
    clock_hz: Mapping[str, float],
    schemes: Mapping[str, Mapping[str, Pair]],
) -> tuple[Chart | Bars, ...]:
    """The series of the paper's Fig. 3 (cuts by round, frequency by device) and Fig. 4 (delay and energy)."""
    cuts = Chart(
        key="fig-3a-cuts",
        title="like Fig. 3a: cut by round, Normal channel",
        note="Computed from the scenario card-letter.",
        x=Axis(label="round", unit="1", shown="1"),
        y=Axis(label="cut", unit="1", shown="1", zero=True),
        series=tuple(
            Series(
                name=name,
                style="line",
                colour=m,
                x=tuple(float(i) for i in range(1, len(found) + 1)),
                y=tuple(float(c) for c in found),
            )
            for m, (name, found) in enumerate(cut_by_round.items())
        ),
    )
    clocks = Bars(
        key="fig-3b-clocks",
        title="like Fig. 3b: mean server frequency by device",
        note="Computed from the scenario card-letter.",
        unit="GHz",
        rows=tuple(clock_hz),
        terms=("server frequency",),
        values=tuple((f / 1e9,) for f in clock_hz.values()),
    )
    return (cuts, clocks, *scheme_bars(schemes))


def scheme_bars(schemes: Mapping[str, Mapping[str, Pair]]) -> tuple[Bars, ...]:
    """Two pictures, delay and energy, a row for each job and scheme; energy only where one is known."""
    jobs = list(dict.fromkeys(job for by_job in schemes.values() for job in by_job))
    pairs = [
        (f"{job}: {name.replace('_', ' ')}", by_job[job])
        for job in jobs
        for name, by_job in schemes.items()
        if job in by_job
    ]
    delay, energy = (
        Bars(
            key=f"schemes-{what.replace(' ', '-')}",
            title=f"like Fig. 4: mean {what} by scheme",
            note=_NOTE,
            unit=unit,
            rows=tuple(row for row, _ in pairs),
            terms=(what,),
            values=tuple((pair[index],) for _, pair in pairs),
        )
        for index, (what, unit) in enumerate((("delay", "s"), ("server energy", "J")))
    )
    known = any(pair[1] is not None for _, pair in pairs)
    return tuple(b for b in (delay, *((energy,) if known else ())) if b.rows)

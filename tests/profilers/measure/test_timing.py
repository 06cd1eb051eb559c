"""If these fail, a user gets a number that the samples do not support, or waits longer than asked."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cardlab.core.quantity import Provenance
from cardlab.profilers.board.cpu_timer import CpuLapTimer
from cardlab.profilers.board.series import TimingPolicy
from cardlab.profilers.board.summary import HOST_BOUND
from cardlab.profilers.board.timer import LapSample
from cardlab.profilers.board.work import Lap, Work
from cardlab.profilers.measure.samples import measurements
from cardlab.profilers.measure.timing import Progress, TimingTools, time_work
from tests.profilers.fakes import ScriptedLapTimer, clean, disturbed, two_lap_work


def run(watch: ScriptedLapTimer, work: Work | None = None, **options: object):
    policy = TimingPolicy(**options)  # type: ignore[arg-type]
    return time_work(work or two_lap_work(), tools(watch), policy=policy)


def tools(watch: ScriptedLapTimer, **more: object) -> TimingTools:
    return TimingTools(lap_timer=watch, timer=watch.timer, **more)  # type: ignore[arg-type]


def test_time_of_one_layer_is_the_lap_divided_by_the_chain() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.3 if phase == "forward" else 0.6))
    timing = run(watch, two_lap_work(repeats=3))
    assert timing.lap("forward").estimate.value == pytest.approx(0.1)
    assert timing.lap("backward").estimate.value == pytest.approx(0.2)
    assert timing.lap("forward").samples["wall_s"][0] == 0.3, "raw samples stay as they were read"


def test_quiet_device_is_measured_with_the_fewest_samples_after_three_warm_ups() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.1))
    timing = run(watch)
    assert timing.lap("forward").clean == 8
    assert watch.calls.count(("layer", "forward")) == 3 + 8


def test_disturbed_samples_do_not_reach_the_value() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: disturbed(0.9) if n % 2 else clean(0.1 + 1e-5 * n))
    timing = run(watch)
    estimate = timing.lap("forward").estimate
    assert estimate.value == pytest.approx(0.1, rel=2e-3)
    assert not timing.contended
    assert estimate.n == timing.lap("forward").clean


def test_busy_machine_says_contended_instead_of_a_number() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.1) if n in (5, 9, 12, 20) else disturbed(0.9))
    timing = run(watch)
    assert timing.contended
    assert timing.lap("forward").estimate is None
    assert measurements(timing)[0].flags == ("contended",)
    assert measurements(timing)[0].estimate is None


def test_exact_repeats_always_give_a_flagged_value() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.1) if n == 4 else disturbed(0.2 + 0.1 * n))
    timing = run(watch, repeats=7)
    lap = timing.lap("forward")
    assert len(lap.samples["wall_s"]) == 7
    assert lap.contended
    assert lap.estimate.value == pytest.approx(min(lap.samples["wall_s"])), "disturbances only add time"


def test_exactly_one_repeat_has_a_value_and_no_made_up_uncertainty() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.1))
    estimate = run(watch, repeats=1).lap("forward").estimate
    assert (estimate.value, estimate.stderr, estimate.ci95, estimate.n) == (0.1, None, None, 1)


def test_noise_asks_for_more_samples_and_the_interval_is_as_narrow_as_wanted() -> None:
    def noisy(segment: str, phase: str, n: int) -> LapSample:
        return clean(0.1 * (1 + 0.02 * ((n * 7919) % 11 - 5) / 5))

    watch = ScriptedLapTimer(noisy)
    lap = run(watch, wanted_spread=0.008, patience_s=60.0).lap("forward")
    assert 8 < lap.clean < 40
    low, high = lap.estimate.ci95
    assert (high - low) / 2 / lap.estimate.value <= 0.008
    assert low < 0.1 < high


def test_budget_is_kept_even_when_the_spread_is_not_reached() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(1.0 + (n % 5)))
    timing = run(watch, budget_s=60.0)
    assert timing.elapsed_s <= 60.0
    assert timing.lap("forward").clean >= 5


def test_series_without_clean_samples_gives_up() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: disturbed(2.0))
    timing = run(watch, patience_s=20.0)
    assert timing.contended
    assert timing.elapsed_s < 2 * 20.0 + 10.0


def test_reference_kernel_runs_before_every_sample_and_is_kept() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.01 if s == "reference" else 0.1))
    reference = Work(segment="reference", laps=(Lap(phase="run", run=None),))
    timing = time_work(two_lap_work(), tools(watch), reference=reference)
    after_warm_up = watch.calls[6:]
    assert after_warm_up[:3] == [("reference", "run"), ("layer", "forward"), ("layer", "backward")]
    assert len(timing.reference_s) == len(timing.lap("forward").samples["wall_s"])
    assert measurements(timing)[1].samples["reference_s"] == timing.reference_s


def test_garbage_collection_is_off_while_timing_and_on_again_after_an_interruption() -> None:
    calls = []

    def run_lap() -> None:
        assert not gc.isenabled()
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    work = Work(segment="layer", laps=(Lap(phase="run", run=run_lap),))
    for watch in (CpuLapTimer(pin=False), CpuLapTimer(cpus=sorted(os.sched_getaffinity(0))[:1])):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            time_work(work, TimingTools(lap_timer=watch))
        assert gc.isenabled()


def test_progress_says_what_how_far_and_how_long() -> None:
    seen: list[Progress] = []
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.1))
    time_work(two_lap_work(), tools(watch, on_progress=seen.append))
    assert [p.samples for p in seen] == list(range(1, 9))
    assert seen[-1].what == "layer"
    assert seen[-1].spread == 0.0
    assert all(p.seconds_left is not None and p.seconds_left >= 0 for p in seen)


def test_time_outside_the_laps_is_negligible() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.1))
    timing = run(watch)
    assert timing.elapsed_s <= 1.001 * timing.timed_s


def test_simulated_samples_stay_simulated() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: LapSample(wall_s=0.1))
    simulated = Provenance.of("simulated")
    timing = time_work(two_lap_work(), tools(watch, provenance=simulated))
    assert timing.lap("forward").estimate.provenance == simulated
    assert "cpu_s" not in timing.lap("forward").samples, "a timer without CPU time does not invent one"


def test_records_carry_raw_samples_and_say_how_many_occurrences_they_cover() -> None:
    watch = ScriptedLapTimer(lambda s, phase, n: clean(0.3))
    forward, backward = measurements(run(watch, two_lap_work(repeats=3)))
    assert (forward.quantity, forward.unit, forward.segment, forward.phase) == ("latency", "s", "layer", "forward")
    assert forward.repeats == 3
    assert statistics.median(forward.samples["wall_s"]) / 3 == pytest.approx(forward.estimate.value)
    assert forward.uid != backward.uid


class GpuTimer:
    """A GPU that needs `gpu_s` of every lap, launched by a CPU that needs `cpu_s`."""

    def __init__(self, gpu_s: float, cpu_s: float) -> None:
        self.gpu_s, self.cpu_s = gpu_s, cpu_s

    @contextmanager
    def held(self) -> Iterator[None]:
        yield

    def time(self, lap: Lap, work: Work) -> LapSample:
        return LapSample(wall_s=max(self.gpu_s, self.cpu_s))

    def queued(self, lap: Lap, work: Work, lead_s: float) -> float:
        return max(self.gpu_s, self.cpu_s - lead_s)


@pytest.mark.parametrize(("gpu_s", "cpu_s", "bound"), [(1e-3, 6e-3, True), (6e-3, 1e-3, False), (5e-3, 6e-3, False)])
def test_a_time_that_is_the_launching_of_kernels_is_flagged(gpu_s: float, cpu_s: float, bound: bool) -> None:
    """Such a time does not follow the GPU's frequency, and another process on another day has another."""
    timing = time_work(two_lap_work(), TimingTools(lap_timer=GpuTimer(gpu_s, cpu_s)))
    for record in measurements(timing):
        assert (HOST_BOUND in record.flags) is bound
        assert record.estimate is not None and record.estimate.value == max(gpu_s, cpu_s)
        assert record.samples["queued_s"] == (gpu_s,) * 5


def test_long_laps_are_not_run_again_for_it() -> None:
    timing = time_work(two_lap_work(), TimingTools(lap_timer=GpuTimer(0.4, 0.1)))
    assert all("queued_s" not in record.samples and not record.flags for record in measurements(timing))

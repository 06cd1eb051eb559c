"""The same parties by their datasheets: what a plan is compared with when nothing is measured.

    device(c) = flop(c) / (2 cores f_max),   server(c, f) = flop / (2 cores f),   P(f) = P(f_max) (f/f_max)^3

Peak rates with one fused multiply-add per core and cycle, and the paper's cubic through the power at the
highest frequency (a datasheet's board power; here the measured one). Waiting is not known to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cardlab.card.problem.problem import Problem
from cardlab.core.records.device import Device
from cardlab.core.records.workload import Analysis

FLOP_PER_CORE_CYCLE = 2.0


def datasheet_problem(
    problem: Problem, analysis: Analysis, server: Device, devices: Sequence[Device]
) -> Problem | None:
    """The problem with times and power by datasheet; None where cores or frequencies are not known."""
    if np.isnan(problem.frequency_hz).any() or not server.cores:
        return None
    rates = []
    for device in devices:
        if not device.cores or not device.frequency_max_hz:
            return None
        rates.append(FLOP_PER_CORE_CYCLE * device.cores * device.frequency_max_hz)
    device_flop = np.array([c.device_flop for c in analysis.cuts])
    server_flop = np.array([c.server_flop for c in analysis.cuts])
    frequencies, power_w = problem.frequency_hz, problem.power_w
    top = int(np.argmax(frequencies))
    # A datasheet says nothing about power while waiting, so this twin cannot count it.
    energy = "busy" if problem.objective.energy == "round" else problem.objective.energy
    return replace(
        problem,
        device_s=device_flop[None, :] / np.array(rates)[:, None],
        server_s=server_flop[:, None] / (FLOP_PER_CORE_CYCLE * server.cores * frequencies),
        # Through one known point, as one reads it off a datasheet; measured curves are flatter at low frequencies.
        power_w=None if power_w is None else power_w[top] * (frequencies / frequencies[top]) ** 3,
        wait_power_w=None,
        offer=None,
        objective=replace(problem.objective, energy=energy),
        guard_s=None,
    )

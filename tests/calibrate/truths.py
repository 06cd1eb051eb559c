"""Synthetic devices for the calibration tests: the laws themselves, and physics that no law contains.

Every truth is a function of the clock in Hz; `top` is 2 GHz, powers at the top clock 60 to 300 W.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cardlab.core.laws import law_named
from cardlab.core.laws.base import Array, Law

TOP_HZ = 2e9
CLOCKS_HZ = np.linspace(0.2, 1.0, 12) * TOP_HZ
NOISE = 0.01
STEP_W = 0.1

Truth = Callable[[Array], Array]


def law_truth(quantity: str, name: str, rng: np.random.Generator) -> tuple[Law, Array]:
    """A law bound to the clocks and parameters away from its bounds."""
    law = law_named(quantity, name).bound_to(CLOCKS_HZ, CLOCKS_HZ)
    u = rng.uniform
    top, static = u(60, 300), u(0.15, 0.35)
    rest = (1 - static) * top
    if name == "cubic":
        values = [top / TOP_HZ**3]
    elif name == "static_cubic":
        values = [static * top, rest / TOP_HZ**3]
    elif name == "static_linear_cubic":
        share = u(0.3, 0.6)
        values = [static * top, share * rest / TOP_HZ, (1 - share) * rest / TOP_HZ**3]
    elif name == "power_law":
        exponent = u(1.5, 4.0)
        values = [static * top, rest / (TOP_HZ / 1e9) ** exponent, exponent]
    elif name == "pure_power_law":
        exponent = u(1.2, 3.0)
        values = [top / (TOP_HZ / 1e9) ** exponent, exponent]
    elif name == "ridge":
        ratio = u(1.2, 1.45)
        values = [static * top, rest / TOP_HZ / ratio**2, u(0.55, 0.8) * TOP_HZ, ratio]
    elif name == "inverse":
        values = [u(1e7, 1e8)]
    elif name == "affine_inverse":
        time, stall = u(0.01, 0.2), u(0.1, 0.5)
        values = [stall * time, (1 - stall) * time * TOP_HZ]
    else:
        values = [top if quantity == "power" else u(0.01, 0.2)]
    return law, np.array(values)


def stepped(rng: np.random.Generator) -> Truth:
    """A voltage table in steps of 2.5 % above the knee."""
    static, ratio, knee = rng.uniform(0.15, 0.4), rng.uniform(1.2, 1.5), rng.uniform(0.5, 0.8)
    top = rng.uniform(60, 300)

    def power(f: Array) -> Array:
        u = f / TOP_HZ
        rise = np.maximum(u - knee, 0) / (1 - knee) * (ratio - 1)
        voltage = 1 + np.ceil(rise / 0.025 - 1e-9) * 0.025
        return top * (static + (1 - static) * u * voltage**2 / ratio**2)

    return power


def quadratic(rng: np.random.Generator) -> Truth:
    """Voltage a quadratic of the clock."""
    static, a, b = rng.uniform(0.15, 0.4), rng.uniform(0.05, 0.3), rng.uniform(0.1, 0.5)
    top = rng.uniform(60, 300)

    def power(f: Array) -> Array:
        u = f / TOP_HZ
        return top * (static + (1 - static) * u * (1 + a * u + b * u * u) ** 2 / (1 + a + b) ** 2)

    return power


def leakage(rng: np.random.Generator) -> Truth:
    """A ridge whose leakage grows with voltage and temperature, which grows with power."""
    static, ratio, knee = rng.uniform(0.15, 0.35), rng.uniform(1.15, 1.45), rng.uniform(0.55, 0.8)
    feedback, top = rng.uniform(0.15, 0.5), rng.uniform(60, 300)

    def power(f: Array) -> Array:
        u = f / TOP_HZ
        voltage = 1 + np.maximum(u - knee, 0) / (1 - knee) * (ratio - 1)
        dynamic = (1 - static) * u * voltage**2 / ratio**2
        leak = np.full_like(u, static)
        for _ in range(40):
            leak = static * voltage * np.exp(feedback * (dynamic + leak - 0.5))
        return top * (dynamic + leak)

    return power


def second_knee(rng: np.random.Generator) -> Truth:
    """Voltage rises, rests, and rises again."""
    static, top = rng.uniform(0.15, 0.4), rng.uniform(60, 300)
    first, second = rng.uniform(0.35, 0.5), rng.uniform(0.7, 0.85)
    low, high = rng.uniform(0.08, 0.2), rng.uniform(0.1, 0.25)

    def power(f: Array) -> Array:
        u = f / TOP_HZ
        rise = np.clip((u - first) / (second - first), 0, 1) * low
        voltage = 1 + rise + np.maximum(u - second, 0) / (1 - second) * high
        return top * (static + (1 - static) * u * voltage**2 / (1 + low + high) ** 2)

    return power


FOREIGN = {"stepped": stepped, "quadratic": quadratic, "leakage": leakage, "second_knee": second_knee}


def noisy_power(truth: Array, rng: np.random.Generator) -> Array:
    """Readings [n] of true powers [n]: 1 % noise, rounded to the meter's step."""
    noisy = truth * (1 + NOISE * rng.standard_normal(truth.size))
    return np.round(noisy / STEP_W) * STEP_W

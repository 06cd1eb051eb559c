"""Power fits of cardlab beside those of its peers, in one run on the same sweeps.

    python benchmarks/fits.py [--data sweeps.csv] [--sweeps N]

Columns of the data file: device, workload, mem_mhz, core_mhz, power_w (others are ignored); without
--data, CARDLAB_SWEEPS names it, and without either only synthetic sweeps are fitted. A peer that is not
installed is N/A. Every peer gets one clock left out in turn and predicts it; reported are the median over
sweeps of its mean absolute relative error, the sweeps on which it failed, and seconds per sweep.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from cardlab.calibrate.data import prepare
from cardlab.calibrate.fitter import Options
from cardlab.calibrate.select import choose, try_laws

Array = np.ndarray
Sweep = tuple[Array, Array]
HeldOut = Callable[[Array, Array], float]


def cardlab_auto(f: Array, y: Array) -> float:
    """Held-out error of the automatic choice."""
    return choose(try_laws("power", prepare(f, y), Options(polish=False))).score


def cardlab_cubic(f: Array, y: Array) -> float:
    """Held-out error of the paper's cubic."""
    return try_laws("power", prepare(f, y), Options(polish=False), ("cubic",))[0].score


def _left_out(fit: Callable[[Array, Array], Callable[[Array], Array]]) -> HeldOut:
    def held_out(f: Array, y: Array) -> float:
        errors = []
        for i in range(f.size):
            keep = np.arange(f.size) != i
            errors.append(abs(float(fit(f[keep], y[keep])(f[i : i + 1])[0]) / y[i] - 1))
        return float(np.mean(errors))

    return held_out


def _static_power(x: Array, p0: float, k: float, a: float) -> Array:
    return p0 + k * x**a


def scipy_power_law(f: Array, y: Array) -> Callable[[Array], Array]:
    """scipy.optimize.curve_fit of P0 + k f^a as a user would call it: f over the top, bounded."""
    top = f.max()
    start = (y.min() / 2, y.max() / 2, 2.0)
    p, _ = curve_fit(_static_power, f / top, y, start, bounds=((0, 0, 0.5), (np.inf, np.inf, 8)))
    return lambda x: _static_power(x / top, *p)


def lmfit_power_law(f: Array, y: Array) -> Callable[[Array], Array]:
    """The same form by lmfit's Model."""
    from lmfit import Model

    top = f.max()
    model = Model(_static_power, independent_vars=["x"])
    parameters = model.make_params(
        p0={"value": y.min() / 2, "min": 0},
        k={"value": y.max() / 2, "min": 0},
        a={"value": 2, "min": 0.5, "max": 8},
    )
    result = model.fit(y, parameters, x=f / top)
    return lambda x: result.eval(x=x / top)


def _ridge(x: Array, p0: float, c: float, knee: float, slope: float) -> Array:
    return p0 + c * x * (1 + slope * np.maximum(x - knee, 0)) ** 2


def published_ridge(f: Array, y: Array) -> Callable[[Array], Array]:
    """The form Kernel Tuner publishes (static + clock V^2, V flat up to a ridge), by curve_fit."""
    top = f.max()
    start = (y.min() / 2, y.max() / 3, 0.7, 1.0)
    p, _ = curve_fit(_ridge, f / top, y, start, bounds=((0, 0, 0.2, 0), (np.inf, np.inf, 1, 10)))
    return lambda x: _ridge(x / top, *p)


PEERS: dict[str, tuple[str, HeldOut]] = {
    "cardlab auto": ("cardlab", cardlab_auto),
    "cardlab cubic (paper)": ("cardlab", cardlab_cubic),
    "scipy curve_fit, P0 + k f^a": ("scipy", _left_out(scipy_power_law)),
    "lmfit Model, P0 + k f^a": ("lmfit", _left_out(lmfit_power_law)),
    "Kernel Tuner's form, curve_fit": ("scipy", _left_out(published_ridge)),
}


def synthetic(count: int) -> list[Sweep]:
    """Cards with a knee, a stepped voltage table, and 1 % noise; 12 clocks."""
    rng = np.random.default_rng(0)
    u = np.linspace(0.2, 1.0, 12)
    sweeps = []
    for i in range(count):
        static, ratio, knee = rng.uniform(0.15, 0.4), rng.uniform(1.15, 1.5), rng.uniform(0.5, 0.8)
        rise = np.maximum(u - knee, 0) / (1 - knee) * (ratio - 1)
        voltage = 1 + (np.ceil(rise / 0.025) * 0.025 if i % 2 else rise)
        power = 200 * (static + (1 - static) * u * voltage**2 / ratio**2)
        sweeps.append((u * 2e9, power * (1 + 0.01 * rng.standard_normal(12))))
    return sweeps


def real(path: Path) -> dict[str, list[Sweep]]:
    """Sweeps of a file by device."""
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            point = (float(row["core_mhz"]) * 1e6, float(row["power_w"]))
            groups[row["device"], row["mem_mhz"], row["workload"]].append(point)
    sweeps: dict[str, list[Sweep]] = defaultdict(list)
    for (device, _, _), points in groups.items():
        f, y = np.array(sorted(points)).T
        sweeps[device].append((f, y))
    return sweeps


def measure(name: str, sweeps: list[Sweep]) -> str:
    """One line of the table."""
    package, held_out = PEERS[name]
    if find_spec(package) is None:
        return f"  {name:<32} N/A ({package} is not installed)"
    errors, failures = [], 0
    begin = time.perf_counter()
    for f, y in sweeps:
        try:
            errors.append(held_out(f, y))
        except (RuntimeError, ValueError, TypeError):
            failures += 1
    took = (time.perf_counter() - begin) / len(sweeps)
    median = f"{100 * np.median(errors):6.2f} %" if errors else "    N/A "
    worst = f"{100 * np.max(errors):7.2f} %" if errors else "     N/A "
    return f"  {name:<32} {median}  worst {worst}  failed {failures:3d}  {1e3 * took:7.1f} ms/sweep"


def main() -> None:
    """Print the tables."""
    warnings.simplefilter("ignore", OptimizeWarning)
    parser = argparse.ArgumentParser(description="Held-out error of power fits, cardlab and peers.")
    parser.add_argument("--data", type=Path, default=os.environ.get("CARDLAB_SWEEPS"))
    parser.add_argument("--sweeps", type=int, default=40, help="at most so many per device")
    arguments = parser.parse_args()
    sets = {"synthetic ridge and stepped": synthetic(arguments.sweeps)}
    if arguments.data is None:
        print("real sweeps: N/A (give --data or CARDLAB_SWEEPS)")
    else:
        sets |= {name: found[: arguments.sweeps] for name, found in real(Path(arguments.data)).items()}
    for label, sweeps in sets.items():
        print(f"{label}: {len(sweeps)} sweeps of {len(sweeps[0][0])} clocks, median held-out error")
        for name in PEERS:
            print(measure(name, sweeps), flush=True)


if __name__ == "__main__":
    main()

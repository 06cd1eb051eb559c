"""Faults planted one at a time: a function of the product with one piece of its text replaced."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cardlab.calibrate import freshness, service
from cardlab.card.problem import constraints, delay, from_db, measured, objective
from cardlab.card.schemes.sft import building, enumeration
from cardlab.card.schemes.sft.problem import SftProblem
from cardlab.core.records.task import Task
from cardlab.profilers.measure import point
from cardlab.profilers.runtime import budget, flops
from cardlab.workflows import plan
from tests.twin.truth import Asked, World

Function = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`old` occurs once in the source of `function` and is replaced by `new`.

    `stage`: where it lies. What lies in the plan is asked of fleets that were measured without it; what lies in a
    profile or in a server that is measured anew and fitted again needs that again. `asking`, `among`: the questions
    and worlds that can show it; the others are left out.
    """

    function: Function
    old: str
    new: str
    stage: str = "plan"
    asking: Callable[[Asked], bool] = lambda asked: True
    among: Callable[[World], bool] = lambda world: True


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """While it lasts the function does the wrong thing, wherever it was imported to."""
    function = fault.function
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(fault.old) == 1, (
        f"{fault.old!r} occurs {source.count(fault.old)} times in {function.__qualname__}"
    )
    space: dict[str, Any] = {}
    source = "from __future__ import annotations\n" + source.replace(fault.old, fault.new).replace("@property\n", "")
    exec(compile(source, function.__code__.co_filename, "exec"), function.__globals__, space)  # noqa: S102
    right = function.__code__
    function.__code__ = space[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = right


def _getter(name: str, of: type) -> Function:
    found: Function = vars(of)[name].fget
    return found


def _with(name: str, scheme: str) -> Callable[[Asked], bool]:
    """Questions of a scheme with a limit."""
    return lambda asked: asked.scheme == scheme and getattr(asked, name) is not None


FAULTS = {
    "the server's bytes for a device": Fault(
        function=from_db._Assembly._problem,
        old="device_memory_bytes(p, cuts) for p in self.profiles",
        new="device_memory_bytes(self.server_profile, cuts) for p in self.profiles",
        asking=lambda asked: asked.scheme == "card",
    ),
    "uplink for downlink": Fault(
        function=from_db._Assembly._known_rates,
        old="given.downlink_bps or stored[1]",
        new="given.uplink_bps or stored[0]",
    ),
    "mini-batches of a round forgotten": Fault(
        function=delay.round_terms, old="device=epochs * each.device_s", new="device=each.device_s"
    ),
    "the rail of a part for the whole": Fault(
        function=measured.fits_of, old="fit.rail != rail", new="fit.rail == rail"
    ),
    "a stale fit without a word": Fault(
        function=freshness._lines,
        old="if stale.fit.fit_id in used",
        new="if False",
        stage="age",
        among=lambda world: world.before is not None,
    ),
    "runs of two states without a word": Fault(
        function=service._changed,
        old="spread <= RUNS_DIFFER",
        new="True",
        stage="age",
        among=lambda world: world.before is not None,
    ),
    "the flag of a throttled point dropped": Fault(
        function=point.PointMeasurer.operating_point,
        old="throttled=throttled,",
        new="throttled=False,",
        stage="profile",
        among=lambda world: any(b.throttles(b.top_hz) for b in world.boards),
    ),
    "the server's head forgotten": Fault(
        function=measured._server_counts, old="server_parts(architecture)]", new="server_parts(architecture)[:2]]"
    ),
    "one layer too many on a device": Fault(function=measured.on_device, old="astype(int) - 1]", new="astype(int)]"),
    "optimizer state that travels forgotten": Fault(
        function=_getter("optimizer_factor", Task), old='self.optimizer == "adamw"', new="False"
    ),
    "bytes of the profile's dtype on the wire": Fault(
        function=from_db._Assembly._problem,
        old="DTYPE_BYTES[wire] / ",
        new="DTYPE_BYTES[self.server_profile.run.execution.dtype] / ",
    ),
    "compression dropped": Fault(
        function=from_db._Assembly._problem,
        old="objective.compression * DTYPE",
        new="1.0 * DTYPE",
        asking=lambda asked: asked.compression != 1.0,
    ),
    "waiting not paid for": Fault(
        function=objective.server_energy_j,
        old="power_w * busy_s + wait_w * (delay_s - busy_s)",
        new="power_w * busy_s",
        asking=lambda asked: asked.energy == "round",
    ),
    "a cap on power dropped": Fault(function=constraints.limits_on, old="wanted.server_power_w,", new="None,"),
    "2^20 for a million": Fault(
        function=plan.calibrated_request,
        old="None if options.uplink_mbps is None else options.uplink_mbps * 1e6",
        new="None if options.uplink_mbps is None else options.uplink_mbps * 2**20",
        asking=_with("server_power_w", "card"),
    ),
    "multiply-accumulates for FLOPs": Fault(
        function=flops.torch_flop, old="forward_flop=float(", new="forward_flop=0.5 * float(", stage="profile"
    ),
    "a cut off by one": Fault(function=budget.cut_sides, old="layers[1:cut])", new="layers[:cut])", stage="profile"),
    "the embedding held by nobody": Fault(
        function=budget.cut_sides, old="by_name[EMBEDDING], ", new="", stage="profile"
    ),
    "the embedding held by the server": Fault(
        function=budget.cut_sides, old="by_name[HEAD])", new='by_name["head"], by_name["embedding"])', stage="profile"
    ),
    "what crosses the cut held by nobody": Fault(
        function=budget.side_bytes, old=" + 2 * activation_bytes", new="", stage="profile"
    ),
    "moments of the optimizer held by nobody": Fault(
        function=budget.adapter_state_bytes, old="2 + _OPTIMIZER_COPIES[task.optimizer]", new="2", stage="profile"
    ),
    "gradients of adapters held by nobody": Fault(
        function=budget.adapter_state_bytes, old="(2 + ", new="(1 + ", stage="profile"
    ),
    "adapters of the server's layers forgotten": Fault(
        function=budget.side_bytes,
        old="s.adapter_bytes for s in pieces",
        new="s.adapter_bytes for s in pieces[:1]",
        stage="profile",
    ),
    "the costliest moment of the first piece alone": Fault(
        function=budget.side_bytes, old="max(s.peak_bytes for s in pieces)", new="pieces[0].peak_bytes", stage="profile"
    ),
    "the framework's own memory forgotten": Fault(
        function=budget.cut_costs, old="server_overhead_bytes + side", new="side", stage="profile"
    ),
    "a cap on the server's power ignored in sft": Fault(
        function=building._highest_frequency,
        old="if cap_w is None",
        new="if True",
        asking=_with("server_power_w", "sft"),
    ),
    "a cap on the server's energy ignored in sft": Fault(
        function=SftProblem.limits,
        old="server_energy_j=None if energy_j is None",
        new="server_energy_j=None if True",
        asking=_with("server_energy_j", "sft"),
    ),
    "a cap on a device's energy ignored in sft": Fault(
        function=SftProblem.limits,
        old="device_energy_j=np",
        new="device_energy_j=0.0 * np",
        asking=_with("device_energy_j", "sft"),
    ),
    "the least layers ignored in sft": Fault(
        function=SftProblem.limits,
        old="base.cuts.astype(float)",
        new="base.cuts + 9.0",
        asking=_with("least_layers", "sft"),
    ),
    "the deadline ignored in sft": Fault(
        function=enumeration.best_of, old="if deadline is not None", new="if False", asking=_with("deadline_s", "sft")
    ),
    "the server's time for others forgotten in sft": Fault(
        function=SftProblem.fixed_s,
        old="others + self.server_round_s(cuts)[..., None]",
        new="others + self.server_s[cuts]",
        asking=_with("scheme", "sft"),
    ),
    "the slowest choice of sft": Fault(
        function=enumeration.best_of,
        old="best = int(np.argmin(mean))",
        new="best = int(np.argmax(mean))",
        asking=_with("scheme", "sft"),
    ),
    "half of the round trip": Fault(
        function=delay.round_terms,
        old="each.down_bits * s_per_bit(link.downlink_bps) + epochs * link.latency_s",
        new="each.down_bits * s_per_bit(link.downlink_bps)",
        asking=lambda asked: asked.rtt_s > 0.0,
    ),
}

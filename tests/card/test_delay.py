"""If these fail, the delay of a round is written a second time, or two paths to it disagree.

The equation stands in `cardlab.card.problem.delay`. A second copy has to divide by a rate of the link somewhere, and
an argument of a kernel that is given by its place can be exchanged with its neighbour: both are looked for in the
syntax tree.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import cardlab.card
from cardlab.card.problem import delay
from cardlab.card.problem.delay import Link, MiniBatch, OncePerRound, air_s, no_air, round_bytes, round_seconds
from cardlab.card.problem.objective import table
from cardlab.card.schemes.sft import kernels as sft_kernels
from cardlab.card.solvers import records
from cardlab.card.solvers.batch import _cuts, _fleet, _rule
from cardlab.card.solvers.kernels import ROUND, away_s, compiled
from tests.card.instances import random_problem

ROOM = Path(cardlab.card.__file__).resolve().parent
RATE = re.compile(r"uplink|downlink|\bup_bps|\bdown_bps")


def trees():
    for path in sorted(ROOM.rglob("*.py")):
        yield path.relative_to(ROOM).as_posix(), ast.parse(path.read_text("utf-8"))


def test_only_one_module_divides_by_the_rates_of_a_link() -> None:
    dividing = {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and RATE.search(ast.unparse(node.right))
    }
    assert dividing == set()  # s_per_bit(rate_bps) is the one division, and it knows no direction
    converting = {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.name in ("s_per_bit", "round_terms", "round_seconds", "air_s", "there_and_back_s")
        if not (name == "problem/problem.py" and node.name == "round_terms")  # fills in the arrays of a Problem
    }
    assert converting == {"problem/delay.py"}


def test_what_kernels_are_given_is_given_by_name() -> None:
    named = {
        name
        for module in (records, sft_kernels, delay)
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, tuple) and hasattr(kind, "_fields")
    }
    assert {"Fleet", "Link", "MiniBatch", "Problems", "Rule"} <= named
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in named:
                assert not node.args, f"{path}:{node.lineno}: fields of {node.func.id} by their place"


def test_no_function_outside_kernels_takes_many_parameters() -> None:
    found = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and len([a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg != "self"]) >= 7
    ]
    assert not found


@pytest.mark.parametrize("kind", ["paper", "noisy"])
@pytest.mark.parametrize("seed", range(4))
def test_every_path_to_the_delay_gives_the_same(seed: int, kind: str) -> None:
    problem = random_problem(seed, kind=kind)
    fleet, cuts, rule = _fleet(problem, None), _cuts(problem, None), _rule(problem)
    in_a_kernel = compiled(away_s, *ROUND[1:])
    every = problem.every_fixed_s()
    for m in range(len(problem.devices)):
        t = table(problem, m)
        for c in range(problem.cuts.size):
            terms = problem.terms(m, c, float(t.server_s[c, 0]))
            assert terms.total == pytest.approx(float(t.delay_s[c, 0]), rel=1e-12)
            away = terms.total - terms.server
            paths = (every[m, c], away_s(fleet, cuts, rule, m, c), in_a_kernel(fleet, cuts, rule, m, c))
            assert paths == pytest.approx((away,) * 3, rel=1e-12)


def test_a_round_by_hand() -> None:
    each = MiniBatch(device_s=1.0, encode_s=0.1, decode_s=0.2, server_s=0.5, up_bits=8e6, down_bits=4e6)
    once = OncePerRound(adapter_bits=2e6, handling_s=0.03, switch_s=0.02)
    link = Link(uplink_bps=8e6, downlink_bps=2e6, latency_s=0.25)
    terms = delay.round_terms(3, each, once, link)
    assert terms._asdict() == pytest.approx(
        {
            "device": 3.0,
            "encode": 0.3,
            "uplink": 3.0 + 3 * 0.25,
            "decode": 0.6,
            "server": 1.5,
            "downlink": 6.0 + 3 * 0.25,
            "adapters": 2e6 / 8e6 + 2e6 / 2e6 + 2 * 0.25 + 0.03,
            "switch": 0.02,
        }
    )
    up, down = round_bytes(3, 1e6, 0.5e6, 0.25e6)
    sent = air_s(8.0 * up, 8.0 * down, link)
    grounded = round_seconds(delay.round_terms(3, each, once, no_air(0.25)))
    assert np.isclose(grounded + sent, round_seconds(terms))

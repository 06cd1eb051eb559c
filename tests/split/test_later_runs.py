# ruff: noqa: E402 - what needs torch is imported after the check that it is there
"""Runs that come after a profile, in sittings of their own: are their rounds where they were predicted?

If these fail, a plan's delay is off, or 95 % intervals do not hold 95 % of rounds. The profile is made once before all
runs, a link when it is set up; every round of every run counts, the first ones too, and none is made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("zmq")
pytestmark = pytest.mark.torch

from tests.split.netns import slow_link
from tests.split.test_prediction import BURSTS, MIDDLE, Bench, activation_bytes

# Terms below this share of the delay are not judged one by one.
LEAST = 0.05


@dataclass(frozen=True)
class Ran:
    """A run beside its prediction: error of the median delay, and by term (rounds, inside)."""

    link: str
    cut: int
    observed_s: float
    error: float
    terms: dict[str, tuple[int, int]]

    def line(self) -> str:
        inside = ", ".join(f"{term} {there} of {rounds}" for term, (rounds, there) in self.terms.items())
        return f"| {self.link} | {self.cut} | {self.observed_s:.3f} | {self.error:+.1%} | {inside} |"


def ran(bench: Bench, run: str, link: str, cut: int) -> Ran:
    document = bench.do("card", "validate", run)
    terms: dict[str, Any] = {str(t["term"]): t for t in document["terms"]}
    delay = terms["delay"]
    large = {
        name for name, t in terms.items() if name == "delay" or (t["observed_s"] or 0.0) > LEAST * delay["observed_s"]
    }
    counted = {c["term"]: (c["rounds"], c["inside"]) for c in document["coverage"] if c["term"] in large}
    # A term without an interval would be in no count, and look as if it held.
    assert large <= set(counted), (large, counted)
    return Ran(link=link, cut=cut, observed_s=delay["observed_s"], error=delay["error"], terms=counted)


def judged(runs: Sequence[Ran]) -> tuple[float, float, dict[str, float]]:
    """Median and worst error of the runs, and the share inside by term."""
    errors = [abs(r.error) for r in runs]
    shares = {}
    for term in dict.fromkeys(t for r in runs for t in r.terms):
        rounds = sum(r.terms[term][0] for r in runs if term in r.terms)
        shares[term] = sum(r.terms[term][1] for r in runs if term in r.terms) / rounds
    return median(errors), max(errors), shares


def later_runs(folder: Path, model: str, task: Sequence[str], smashed_bytes: int, cuts: Sequence[int]) -> list[Ran]:
    """Profile and fit once; then two runs a sitting and link, cuts in turn, three sittings."""
    bench = Bench(folder)
    bench.make_keys()
    bench.profile(model, *task)
    found: list[Ran] = []
    for sitting in range(3):
        for rate in ("100mbit", "1000mbit"):
            with slow_link(rate, BURSTS[rate]) as (namespace, here, _):
                bench.link(namespace, here, smashed_bytes, "radio")
                for n in range(2):
                    cut = cuts[(2 * sitting + n) % len(cuts)]
                    run = bench.run(namespace, here, model, cut, 8, *task)
                    found.append(ran(bench, run, rate, cut))
                    print(found[-1].line(), flush=True)
    return found


@pytest.mark.accept
@pytest.mark.parametrize("which", ["eight layers", "llama-3.2-1b"])
def test_later_runs_lie_where_they_were_predicted(tmp_path: Path, which: str) -> None:
    if which == "eight layers":
        (tmp_path / "middle.json").write_text(json.dumps(MIDDLE))
        size = activation_bytes(4, 192, 512)
        task = ("--batch", "4", "--seq", "192", "--dtype", "float32")
        found = later_runs(tmp_path, "middle.json", task, size, (1, 4, 7))
    else:
        found = later_runs(tmp_path, "llama-3.2-1b", ("--batch", "1", "--seq", "128"), 128 * 2048 * 2, (1, 4, 8))
    middle, worst, shares = judged(found)
    assert all(r.observed_s > 0.5 for r in found)
    print(f"{which}, {len(found)} runs: median error {middle:.1%}, worst {worst:.1%};", end=" ")
    print("inside: " + ", ".join(f"{term} {share:.1%}" for term, share in shares.items()))
    assert middle <= 0.03 and worst <= 0.06
    assert all(0.90 <= share <= 1.0 for share in shares.values()), shares

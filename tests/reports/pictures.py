"""Makes the pictures of the manual, docs/images/: reports of simulated devices in a real browser.

    python -m tests.reports.pictures

The devices are simulated and say so in every picture; profiling them needs the models extra.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cli.run import command
from tests.conftest import ROOT
from tests.reports.browser import Browser, Page

FOLDER = ROOT / "docs" / "images"
WORK = ("--model", "llama-3.2-1b", "--seq", "512", "--dtype", "bfloat16", "--no-whole-step")
DEVICES = ("rtx-4060-ti", "orin-nx", "orin-nano")


def make(folder: Path) -> None:
    """Profile, fit, plan, report, and photograph."""
    db = ("--db", str(folder / "cardlab.db"))
    for name in DEVICES:
        _run("profile-device", *WORK, "--platform", f"simulated:{name}", *db)
    _run("calibrate", "fit", *db)
    _run(
        "card",
        "plan",
        "--from-db",
        "--uplink-mbps",
        "50",
        "--downlink-mbps",
        "100",
        "--local-epochs",
        "5",
        "--pareto",
        *db,
    )
    _run("calibrate", "report", "--device", "rtx-4060-ti", "--out", str(folder / "device.html"), *db)
    _run("calibrate", "report", "--out", str(folder / "fleet.html"), *db)
    _run("card", "report", "--out", str(folder / "plan.html"), *db)
    FOLDER.mkdir(exist_ok=True)
    with Browser(str(shutil.which("chromium")), folder / "chromium") as browser:
        light = browser.open(folder / "device.html", width=900)
        _shot(light, "Power and latency", "device-light", 620)
        _shot(light, "Profile of", "roofline-light", 620)
        _shot(browser.open(folder / "fleet.html", width=900), "Side by side", "fleet-light", 900)
        dark = browser.open(folder / "plan.html", width=900, dark=True)
        _shot(dark, "Plan", "plan-dark", 820)
        _shot(browser.open(folder / "plan.html", width=380), "Delay and energy", "plan-phone", 800)
        _shot(browser.open(folder / "device.html", width=900, dark=True), "Clock of least energy", "energy-dark", 480)


def _run(*words: str) -> None:
    result = command(*words)
    if result.code != 0:
        raise SystemExit(f"{' '.join(words)}: {result.err}")


def _shot(page: Page, heading: str, name: str, height: float) -> None:
    """The part of a page below the first heading that begins so."""
    top = page.evaluate(
        f"[...document.querySelectorAll('h2')].find(h => h.textContent.startsWith({heading!r}))"
        ".getBoundingClientRect().top + scrollY - 12"
    )
    page.screenshot(FOLDER / f"{name}.png", top=top, height=height)
    print(name, (FOLDER / f"{name}.png").stat().st_size, file=sys.stderr)


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        make(Path(made))

"""`doctor`: what was found, what feeds what, and the command that mends each lack."""

from __future__ import annotations

import platform as host_platform
from collections.abc import Iterable
from importlib import metadata

from cardlab import __version__
from cardlab.cli.console import print_json, print_table
from cardlab.cli.settings import database
from cardlab.db import open_store
from cardlab.errors import CardlabError, NotFoundError
from cardlab.profilers.platforms import Probe, open_platform
from cardlab.profilers.platforms.guard import journals

MODEL_PACKAGES = ("torch", "transformers", "peft", "fvcore")


def software_probes() -> Iterable[Probe]:
    """Python and the packages that measuring needs."""
    yield Probe(name="cardlab", ok=True, state=f"{__version__} on Python {host_platform.python_version()}")
    for package in MODEL_PACKAGES:
        try:
            yield Probe(name=package, ok=True, state=metadata.version(package))
        except metadata.PackageNotFoundError:
            remedy = "pip install 'cardlab[models]'"
            yield Probe(
                name=package, ok=False, state="not installed: models cannot be profiled", remedy=remedy
            )


def database_probe(location: str) -> Probe:
    """Whether the database opens, and what is in it."""
    try:
        with open_store(location, create=False) as store:
            count = len(store.runs.summaries())
    except NotFoundError:
        return Probe(
            name="database", ok=None, state=f"{location} does not exist yet; the first profile makes it"
        )
    except CardlabError as error:
        return Probe(name="database", ok=False, state=error.message, remedy=error.remedy)
    return Probe(name="database", ok=True, state=f"{location}: {count} runs")


def clock_probes() -> Iterable[Probe]:
    """Clocks that a dead process left locked."""
    for journal in journals():
        if journal.abandoned:
            yield Probe(
                name="clock left locked",
                ok=False,
                state=f"{journal.device_key}, by process {journal.pid} that is gone",
                remedy="profile-device restore",
            )


def platform_probes(name: str) -> Iterable[Probe]:
    """What the platform says of itself, or why it cannot be opened."""
    try:
        platform = open_platform(name)
    except CardlabError as error:
        yield Probe(name="platform", ok=False, state=error.message, remedy=error.remedy)
        return
    yield Probe(name="platform", ok=True, state=platform.identity.platform)
    yield from platform.capabilities()
    platform.close()


def show_doctor(platform: str, db: str | None, as_json: bool) -> None:
    """Print all probes."""
    probes = [*software_probes(), database_probe(database(db)), *platform_probes(platform), *clock_probes()]
    if as_json:
        print_json(
            {"probes": [{"name": p.name, "ok": p.ok, "state": p.state, "remedy": p.remedy} for p in probes]}
        )
        return
    words = {True: "ok", False: "lacking", None: "-"}
    rows = [(p.name, words[p.ok], p.state, p.remedy or "") for p in probes]
    print_table(None, ("what", "", "state", "remedy"), rows, left=4)

"""Shared fixtures: records to store, a database of one's own, a runner of the command line."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fakes.nvml.card import FakeCard

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """What the processes that tests start would inherit, set right."""
    # Without bytecode on disk each of several hundred processes would compile the whole product again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Arrays here are small, and several processes test at once.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Started in the background by a shell, a process ignores SIGINT, and so would all its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take a process the longest. Begun last, they would go on while the other processes have nothing left.
LONGEST = (
    "tests/twin/test_planted.py",
    "tests/twin/test_twin.py",
    "tests/twin/test_changes.py",
    "tests/split/test_commands.py",
    "tests/cli/test_matrix.py",
    "tests/card/test_caps.py",
    "tests/test_manual.py",
    "tests/golden/test_answers.py",
    "tests/profilers/agent/test_agent.py",
    "tests/split/test_agreement.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the order of the rest stays."""

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return LONGEST.index(file) if file in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the settings, state or database of the person who runs it."""
    surround(monkeypatch, tmp_path)


def surround(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Settings and state in a folder. What is made once for several tests is made before `own_surroundings`."""
    for variable in ("CARD_DB", "CARDLAB_NAME", "CARDLAB_DEBUG"):
        patch.delenv(variable, raising=False)
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))
    patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))


@pytest.fixture(scope="session")
def no_card_folder(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A folder whose libnvidia-ml.so.1 finds no driver; None where there is no real card to hide."""
    if not Path("/dev/nvidiactl").exists():
        return None
    from tests.fakes.nvml.card import build

    need("gcc")
    return build(tmp_path_factory.mktemp("no-card"), "no_card.c").parent


@pytest.fixture(autouse=True)
def hidden_card(no_card_folder: Path | None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a card the tests see none, but for those in tests/gpu: what they expect is of its CPU."""
    if no_card_folder is None or "gpu" in request.path.parts:
        return
    import pynvml

    def no_driver(*_given: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{no_card_folder}:{os.environ.get('LD_LIBRARY_PATH', '')}")
    # This process may have the real library loaded already; a fake card brings its own.
    if "fake_card" not in request.fixturenames:
        monkeypatch.setattr(pynvml, "nvmlInit", no_driver)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Path of a database that does not exist yet."""
    return tmp_path / "cardlab.db"


@pytest.fixture(scope="session")
def fake_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake libnvidia-ml.so.1, compiled once."""
    from tests.fakes.nvml.card import build

    need("gcc")
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def fake_card(fake_nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    """A fresh fake card behind the real pynvml; its locks live in a file."""
    from tests.fakes.nvml.card import FakeCard

    monkeypatch.setenv("FAKE_NVML_STATE", str(tmp_path / "locks"))
    card = FakeCard(fake_nvml_library)
    card.reset()
    return card


def need(tool: str) -> str:
    """Path of an external tool; without it the test is skipped, and in CI it fails."""
    # What the environment installs lies beside its Python, and need not be on the path.
    found = shutil.which(tool, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        missing(f"{tool} is not installed")
    return str(found)


def missing(reason: str) -> None:
    """Skip for a missing tool, which CI does not accept."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {reason}")
    pytest.skip(reason)


def as_user_without_rights(folder: Path, function: Callable[[], str]) -> str:
    """What `function` returns when a user without rights runs it in a forked copy of this process.

    Only for tests that run as root. `folder` is made reachable for that user.
    """
    for parent in [folder, *folder.parents]:
        if parent != Path("/"):
            parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o055)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            text = function()
        except BaseException as error:  # noqa: BLE001 - the parent asserts on what is reported
            text = f"the child failed: {error!r}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text

"""Split runs in tests: small models, weights in a folder of the test's own, one thread."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made weights are shared by the tests of a session and by nobody else."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """A split run and its reference compute with one thread."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)

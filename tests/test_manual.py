"""If these fail, the manual leaves out a command, shows one that is gone, or code that does not run."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = ROOT / "docs"
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def generator():
    spec = importlib.util.spec_from_file_location("make_commands", DOCS / "make_commands.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_option_stands_in_the_manual() -> None:
    expected = generator().page()
    written = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert written == expected, "run: python docs/make_commands.py"
    assert expected.count("\n### ") > 20 and expected.count("| `--") > 120


def test_every_option_explains_itself() -> None:
    silent = [line for line in generator().page().splitlines() if line.startswith("| `--") and line.endswith("|  |")]
    assert silent == []


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in sorted(DOCS.rglob("*.md")):
        assert str(page.relative_to(DOCS)) in navigation, f"{page.name} is in no menu"
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_manual_builds_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css)"', page), "the manual asks another host"


@pytest.mark.torch
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    notebook = json.loads((ROOT / "examples" / "python.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(cells), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "embedding" in done.stdout and "cut" in done.stdout


def test_nothing_is_left_in_the_notebook_from_a_run() -> None:
    notebook = json.loads((ROOT / "examples" / "python.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])


BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _pages_with_python() -> list[Path]:
    return [p for p in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))] if BLOCK.search(p.read_text("utf-8"))]


@pytest.mark.torch
@pytest.mark.parametrize("page", _pages_with_python(), ids=lambda page: page.name)
def test_every_python_block_of_the_manual_runs(page: Path, tmp_path: Path) -> None:
    """The blocks of a page run one after the other, as somebody who follows it would type them."""
    pytest.importorskip("torch")
    pytest.importorskip("pandas")
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(BLOCK.findall(page.read_text("utf-8"))), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, f"{page.name}: {done.stderr[-2000:]}"

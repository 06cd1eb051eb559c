"""If these fail, what people install is not what stands here: a file is left out, or one ships that should not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import cardlab
from tests.conftest import ROOT, need
from tests.test_layout import NOT_SHIPPED

VERSION = cardlab.__version__


def tracked() -> list[str]:
    """What git has or would have of this tree."""
    words = [need("git"), "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [name for name in found if (ROOT / name).is_file()]


def run(*words: str, where: Path) -> str:
    done = subprocess.run([sys.executable, "-m", *words], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def contents(wheel: Path) -> dict[str, str]:
    """The files of a wheel with the digest of each."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def copied(folder: Path) -> Path:
    """The tree in another place, so that building leaves nothing here."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is made from it, as `python -m build` does."""
    pytest.importorskip("build")
    tree = copied(tmp_path_factory.mktemp("tree"))
    out = tmp_path_factory.mktemp("dist")
    run("build", "--no-isolation", "--outdir", str(out), where=tree)
    return out


@pytest.mark.once
def test_the_wheel_holds_every_file_of_the_rooms_and_no_other(built: Path) -> None:
    rooms = {name for name in tracked() if "/" in name and name.split("/")[0] not in NOT_SHIPPED and name[0] != "."}
    expected = {f"cardlab/{name}" for name in rooms | {"__init__.py", "py.typed"}}
    found = contents(built / f"cardlab-{VERSION}-py3-none-any.whl")
    about = f"cardlab-{VERSION}.dist-info/"
    assert {name for name in found if not name.startswith(about)} == expected
    assert {name.removeprefix(about) for name in found if name.startswith(about)} >= {
        "METADATA",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    # One of each kind that a forgotten pattern would lose.
    for name in (
        "profilers/runtime/configs/tiny-llama.json",
        "card/scenarios/card-letter.toml",
        "split/texts/trial.txt",
        "reports/templates/page.html.j2",
    ):
        assert f"cardlab/{name}" in found


@pytest.mark.once
def test_the_sdist_builds_the_wheel_that_the_tree_builds(built: Path, tmp_path: Path) -> None:
    """A distribution of Linux builds from the sdist; it must get what PyPI has."""
    with tarfile.open(built / f"cardlab-{VERSION}.tar.gz") as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "py.typed"} <= inside
    assert not [name for name in inside if name.startswith(("docs/", "build/", ".venv", "demo/"))]
    run("build", "--no-isolation", "--wheel", "--outdir", str(tmp_path / "out"), where=copied(tmp_path / "tree"))
    (direct,) = (tmp_path / "out").iterdir()
    one, other = contents(direct), contents(built / direct.name)
    assert {n: d for n, d in one.items() if "RECORD" not in n} == {n: d for n, d in other.items() if "RECORD" not in n}


@pytest.mark.once
def test_the_package_index_would_take_both(built: Path) -> None:
    pytest.importorskip("twine")
    said = run("twine", "check", "--strict", *map(str, sorted(built.iterdir())), where=built)
    assert said.count("PASSED") == 2


def test_the_version_is_one_everywhere_and_is_that_of_the_tag() -> None:
    """A release is the tag vX.Y.Z on the commit that says X.Y.Z; another tag there would publish under a wrong name."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {VERSION}\n" in changelog
    if not (ROOT / ".git").exists():
        return
    words = [need("git"), "tag", "--points-at", "HEAD", "--list", "v*"]
    tags = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert tags in ([], [f"v{VERSION}"])

"""If these fail, an image with a compiler, with pip, run as root or without a health check passes as a good one."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.jetson.tree import put
from tests.image.faults import LABELS, faults
from tests.image.pip_settings import relocated

GOOD: Mapping[str, Any] = {
    "User": "10001:10001",
    "Healthcheck": {"Test": ["CMD", "sh", "-c", 'profile-device doctor --platform "$DOCTOR_PLATFORM"']},
    "Labels": {f"org.opencontainers.image.{name}": "x" for name in LABELS},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image without a fault."""
    put(tmp_path / "opt/cardlab/bin/profile-device", "")
    put(tmp_path / "usr/bin/gcc-free-name", "")
    put(tmp_path / "opt/cardlab/lib/python3.11/site-packages/torch/__init__.py", "")
    put(tmp_path / "opt/cardlab/lib/python3.11/site-packages/numba/pip/__init__.py", "")
    (tmp_path / "var/lib/cardlab").mkdir(parents=True)
    return tmp_path


def test_a_good_image_has_no_fault(root: Path) -> None:
    assert faults(root, GOOD) == []


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("usr/bin/gcc-12", "/usr/bin/gcc-12 is in the image"),
        ("usr/bin/make", "/usr/bin/make is in the image"),
        ("opt/cardlab/bin/pip3.11", "/opt/cardlab/bin/pip3.11 is in the image"),
        ("opt/cardlab/lib/python3.11/site-packages/pip/__init__.py", "the Python module pip is in the image"),
        ("usr/lib/python3.11/ensurepip/__init__.py", "the Python module ensurepip is in the image"),
        ("root/.cache/pip/http/x", "/root/.cache/pip was left behind"),
        ("var/lib/apt/lists/deb.debian.org_debian_InRelease", "InRelease was left behind"),
        ("var/lib/cardlab/cardlab.db", "/var/lib/cardlab/cardlab.db was left behind"),
    ],
)
def test_what_should_not_be_in_an_image_is_named(root: Path, file: str, said: str) -> None:
    put(root / file, "")
    found = faults(root, GOOD)
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"User": ""}, "it runs as root"),
        ({"User": "0:0"}, "it runs as 0"),
        ({"User": "cardlab"}, "it runs as cardlab"),
        ({"Healthcheck": None}, "its health check is []"),
        ({"Healthcheck": {"Test": ["CMD", "true"]}}, "its health check is ['CMD', 'true']"),
        ({"Labels": {**GOOD["Labels"], "org.opencontainers.image.version": ""}}, "image.version is missing"),
    ],
)
def test_a_configuration_that_is_wrong_is_named(root: Path, changed: dict[str, Any], said: str) -> None:
    found = faults(root, {**GOOD, **changed})
    assert len(found) == 1 and said in found[0]


def test_the_settings_of_pip_hold_in_the_build_with_the_files_that_they_name(tmp_path: Path) -> None:
    """Else the build asks the public index on a machine that has its own, and fails where there is no other."""
    (tmp_path / "mirror/simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    limits = put(tmp_path / "limits.txt", "torch<3\n")
    listing = (
        f":env:.find-links='{tmp_path}/wheels'\n"
        f"global.constraint='{limits}'\n"
        f"global.extra-index-url='file://{tmp_path}/mirror/simple https://example.org/simple'\n"
        "global.find-links='/nowhere'\n"
        "install.no-binary='fvcore'\n"
    )
    settings = relocated(listing)
    inside = settings.mounts
    assert set(inside) == {limits, tmp_path / "mirror", tmp_path / "wheels"}
    written = configparser.RawConfigParser()
    written.read_string(settings.text)
    assert dict(written["global"]) == {
        "constraint": str(inside[limits]),
        "extra-index-url": f"file://{inside[tmp_path / 'mirror']}/simple https://example.org/simple",
        "find-links": str(inside[tmp_path / "wheels"]),
    }
    assert dict(written["install"]) == {"no-binary": "fvcore"}

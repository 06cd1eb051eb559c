"""The key of a host is frozen: if one of these changes, every stored board is orphaned, or tells its serial."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cardlab.core.errors import PermissionDeniedError
from cardlab.profilers.board import identity
from cardlab.profilers.board.identity import host_key, serial_key
from cardlab.profilers.board.scrypt import slow_scrypt
from cardlab.profilers.devices import open_platform
from cardlab.profilers.devices.identity import device_key


def test_serial_key_is_frozen_and_hides_the_serial() -> None:
    key = serial_key("jetson", "1421621045678")
    digest = hashlib.scrypt(b"1421621045678", salt=b"cardlab device key v1", n=16384, r=8, p=1, dklen=16)
    assert key == f"jetson:{digest.hex()}"
    assert "1421621045678" not in key
    assert serial_key("jetson", " 1421621045678\n") == key


def test_key_is_the_same_where_python_has_no_scrypt() -> None:
    arguments = (b"serial", b"salt", 16, 8, 2, 16)
    assert slow_scrypt(*arguments) == hashlib.scrypt(b"serial", salt=b"salt", n=16, r=8, p=2, dklen=16)


def test_key_made_once_is_kept(tmp_path: Path) -> None:
    first = host_key("cpu", tmp_path, tmp_path / "state")
    assert first == host_key("cpu", tmp_path, tmp_path / "state")
    assert first.source == f"key made once in {tmp_path / 'state' / 'device-key'}"


def in_docker(root: Path, mounted: str = "") -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / ".dockerenv").write_text("")
    lines = "21 1 0:50 / / rw - overlay overlay rw\n"
    (root / "proc/self/mountinfo").write_text(lines + (f"22 21 8:1 {mounted} {mounted} ro - ext4 /dev/sda1 rw\n"))
    return root


def test_a_key_made_in_a_container_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This machine's own mounts: where tests write may be one.
    monkeypatch.setattr(identity, "is_mounted", lambda root, path: False)
    key = host_key("cpu", in_docker(tmp_path), tmp_path / "state")
    assert "the next one is another device" in (key.problem or "")
    assert key.remedy == "start the container with -v /etc/machine-id:/etc/machine-id:ro"


def test_a_machine_id_of_an_image_is_no_hosts(tmp_path: Path) -> None:
    """Two boards that run one image would be one device; a file mounted by the host is its own."""
    root = in_docker(tmp_path)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    key = host_key("cpu", root)
    assert "every container of that image is one device" in (key.problem or "") and key.remedy
    mounts = root / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text() + "23 21 8:1 /etc/machine-id /etc/machine-id ro - ext4 /dev/sda1 rw\n")
    own = host_key("cpu", root)
    assert (own.key, own.problem) == (key.key, None)


def test_the_cpu_of_a_container_says_so_in_doctor(tmp_path: Path) -> None:
    root = in_docker(tmp_path)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    device = open_platform("cpu", sysfs_root=root)
    probe = next(p for p in device.capabilities() if p.name == "identity")
    assert (
        probe.ok is False
        and "machine-id in /etc/machine-id" in probe.state
        and "-v /etc/machine-id" in str(probe.remedy)
    )
    assert "-v /etc/machine-id" in str(device.identity_problem)


def test_host_without_any_identity_is_an_error_of_the_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(PermissionDeniedError, match="this host has no identity.*XDG_STATE_HOME"):
        device_key("cpu", tmp_path)

"""The key of a host is frozen: if one of these changes, every stored board is orphaned, or tells its serial."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cardlab.core.errors import PermissionDeniedError
from cardlab.profilers.board.identity import host_key, serial_key
from cardlab.profilers.board.scrypt import slow_scrypt
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


def test_host_without_any_identity_is_an_error_of_the_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(PermissionDeniedError, match="this host has no identity.*XDG_STATE_HOME"):
        device_key("cpu", tmp_path)

"""Never leave a frequency locked: one guard for all devices.

    journal (old values) -> write frequency -> ... work ... -> write old values -> remove journal

The journal is a file per device in the user's state folder, on disk before the first write. Whatever
ends the process - return, exception, SIGINT, SIGTERM - the old values go back; after SIGKILL the
journal remains, the next command says so, and `profile-device restore` puts the old values back.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TextIO

from cardlab.core.errors import DeviceBusyError, DeviceError, PermissionDeniedError
from cardlab.profilers.board.identity import state_folder

Saved = Mapping[str, Any]
"""Plain JSON values by name, as the control that made them understands them."""


class FrequencyControl(Protocol):
    """What a device lends to the guard: read, set and put back its frequencies."""

    def saved_state(self) -> Saved:
        """Plain JSON values that `restore` needs to undo everything `apply` may write."""
        ...

    def apply(self, frequency_hz: float, memory_hz: float | None) -> None:
        """Request a compute frequency, and a memory frequency where one is given."""
        ...

    def restore(self, saved: Saved) -> None:
        """Undo: put back what `saved_state` returned. Must be safe to call twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """A frequency that some process locked and has not restored.

    Attributes:
        device_key: whose frequency.
        platform: the name under which `open_platform` finds the device again.
        pid: the process that locked it.
        saved: the old values.
        path: the journal file.
    """

    device_key: str
    platform: str
    pid: int
    saved: Saved
    path: Path

    @property
    def abandoned(self) -> bool:
        """Whether nobody holds the device any more, so that its frequency stayed locked by accident."""
        # Asked of the lock and not of the pid, which another process may have by now: the kernel drops a lock
        # with its holder.
        with contextlib.suppress(OSError), _lock_path(self.path).open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


def journals(folder: Path | None = None) -> tuple[Journal, ...]:
    """All journals in the state folder: frequencies that are locked now or were left locked."""
    base = folder or _lock_folder()
    found = []
    for path in sorted(base.glob("*.json")):
        # Its owner may be removing it at this moment.
        with contextlib.suppress(OSError, ValueError, KeyError):
            found.append(_read(path))
    return tuple(found)


class FrequencyGuard:
    """Locks the frequencies of one device and always puts them back.

    Args:
        device_key: identity of the device.
        platform: the name under which `open_platform` finds it again.
        control: how its frequencies are read and written.
        folder: where journals are kept; the user's state folder unless a test says otherwise.
    """

    def __init__(self, device_key: str, platform: str, control: FrequencyControl, folder: Path | None = None) -> None:
        self._key = device_key
        self._platform = platform
        self._control = control
        # Keys hold colons and labels, which are no file names.
        name = hashlib.sha256(device_key.encode()).hexdigest()[:24]
        self._journal = (folder or _lock_folder()) / f"{name}.json"

    @contextlib.contextmanager
    def locked(self, frequency_hz: float, memory_hz: float | None = None) -> Iterator[None]:
        """Hold the requested frequencies while the block runs.

        Raises DeviceBusyError if another process holds the device's frequencies, DeviceError if the frequency
        was left locked by a process that died.
        """
        with self._exclusive():
            # Saved now, the lock that was left would become the state to go back to.
            self._refuse_leftover()
            saved = dict(self._control.saved_state())
            self._write_journal(saved)
            with _terminate_as_exception():
                try:
                    # Inside the try, so that what failed half-way is undone as well.
                    self._control.apply(frequency_hz, memory_hz)
                    yield
                finally:
                    self._restore(saved)

    def restore_leftover(self) -> bool:
        """Put back what a dead process left locked; False if there was nothing to do."""
        with self._exclusive():
            if not self._journal.exists():
                return False
            self._restore(_read(self._journal).saved)
            return True

    def _restore(self, saved: Saved) -> None:
        with _undisturbed():
            self._control.restore(saved)
            # Only once the old values are back: should that fail, `restore` still needs them.
            self._journal.unlink(missing_ok=True)

    def _refuse_leftover(self) -> None:
        if self._journal.exists():
            raise DeviceError(
                "a process that died left this device's frequency locked",
                remedy="release it with: profile-device restore",
            )

    def _write_journal(self, saved: Saved) -> None:
        document = {
            "device_key": self._key,
            "platform": self._platform,
            "pid": os.getpid(),
            "saved": saved,
        }
        draft = self._journal.with_suffix(".tmp")
        with draft.open("w", encoding="utf-8") as handle:
            json.dump(document, handle)
            handle.flush()
            os.fsync(handle.fileno())
        draft.replace(self._journal)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """The device is held by this process; the kernel lets go of it however the process ends."""
        with self._lock_file() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DeviceBusyError(
                    "another process holds this device's frequencies", remedy="wait for it to finish"
                ) from error
            yield

    def _lock_file(self) -> TextIO:
        """A file of its own: a lock belongs to an inode, and each write of the journal makes a new one."""
        folder = self._journal.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _lock_path(self._journal).open("a", encoding="utf-8")
        except OSError as error:
            raise PermissionDeniedError(
                f"what is needed to put frequencies back cannot be kept in {folder} ({error.strerror})",
                remedy="set XDG_STATE_HOME to a folder that you may write, or use --readonly",
            ) from error


def _lock_folder() -> Path:
    return state_folder() / "clocks"


def _lock_path(journal: Path) -> Path:
    return journal.with_suffix(".lock")


def _read(path: Path) -> Journal:
    document = json.loads(path.read_text(encoding="utf-8"))
    return Journal(
        device_key=document["device_key"],
        platform=document["platform"],
        pid=document["pid"],
        saved=document["saved"],
        path=path,
    )


@contextlib.contextmanager
def _terminate_as_exception() -> Iterator[None]:
    """SIGTERM raises inside the block, so that `finally` runs; signals are the main thread's affair."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminated(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C waits until the frequencies are back."""
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

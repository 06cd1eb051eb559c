"""Whether a folder can hold an SQLite database: its file system must have byte-range locks and shared mappings.

NFS without its lock service, 9p and many FUSE mounts lack one of them. SQLite then waits out its timeout for another
process that does not exist, or speaks of a disk error.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import tempfile
from pathlib import Path

from cardlab.core.errors import StoreError

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO}
_REMEDY = "use a database on a local disk with --db, or PostgreSQL (docs: Storage)"


def check_folder(folder: Path) -> None:
    """Raise StoreError where SQLite could not work in this folder; one where nothing can be made is not tried."""
    # Another file: to close one of the database's own would drop the locks this process holds on it. What fails for
    # want of room or rights is named when the database itself is opened.
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as probe:
        _lock(probe.fileno(), folder)
        probe.truncate(mmap.PAGESIZE)
        _map(probe.fileno(), folder)


def _lock(number: int, folder: Path) -> None:
    try:
        # Not on Windows, which SQLite locks in another way.
        import fcntl
    except ImportError:
        return
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise StoreError(f"{folder} is on a network file system without file locks", remedy=_REMEDY) from error


def _map(number: int, folder: Path) -> None:
    try:
        mmap.mmap(number, mmap.PAGESIZE).close()
    except OSError as error:
        # Short of memory is another matter.
        if error.errno != errno.ENOMEM:
            raise StoreError(f"{folder} is on a file system without shared mappings", remedy=_REMEDY) from error

"""Which database a command means: `--db`, else CARD_DB, else the settings file, else cardlab.db here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING

from cardlab.cli.parameters import Shared
from cardlab.core.errors import UsageError
from cardlab.workflows.settings import database

if TYPE_CHECKING:
    from cardlab.db.store import Store


def open_shared(shared: Shared, *, create: bool = False) -> Store:
    """The store of a command; one that only reads makes no file. Raises NotFoundError if there is none."""
    from cardlab.db import open_store

    if database(shared.db) == ":memory:":
        raise UsageError("a database in memory is gone when the command ends", remedy="name a file with --db")
    return open_store(database(shared.db), create=create)


@contextmanager
def opening(shared: Shared, *, create: bool = True) -> Iterator[Callable[[], Store]]:
    """What opens the store of a command that writes, once it is known that there is something to write.

    Asked again, it is the same store. Without `create` there must be one.
    """
    with ExitStack() as stack:
        # Nothing to close where nothing was opened.
        yield cache(lambda: stack.enter_context(open_shared(shared, create=create)))

"""A store that is opened only when it is needed: what cannot be read or measured then makes no database."""

from __future__ import annotations

from collections.abc import Callable

from cardlab.core.errors import UsageError
from cardlab.db.store import Store

Opening = Callable[[], Store]


def opened(store: Store | Opening) -> Store:
    """The store, opened now where it was not yet; whoever gave it closes it."""
    if isinstance(store, Store):
        return store
    if not callable(store):
        return need_store(store)
    return store()


def need_store(store: object) -> Store:
    """The store itself; UsageError for anything else, a path above all."""
    if not isinstance(store, Store):
        raise UsageError(f"{store!r} is no store", remedy="open one with cardlab.open_store(PATH)")
    return store

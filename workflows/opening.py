"""A store that is opened only when it is needed: what cannot be read or measured then makes no database."""

from __future__ import annotations

from collections.abc import Callable

from cardlab.db.store import Store

Opening = Callable[[], Store]


def opened(store: Store | Opening) -> Store:
    """The store, opened now where it was not yet; whoever gave it closes it."""
    return store if isinstance(store, Store) else store()

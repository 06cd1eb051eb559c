"""What every part of the store shares: sessions with errors in words, and content-addressed rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cardlab.core.errors import AmbiguousNameError, NotFoundError
from cardlab.db.engine import read_session, translated, write_session
from cardlab.db.schema import Row

R = TypeVar("R", bound=Row)


class Repository:
    """Base of the parts of a store."""

    def __init__(self, engine: Engine, location: str) -> None:
        self._engine = engine
        self._location = location

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A reading session."""
        with translated(self._location), read_session(self._engine) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """A writing transaction, committed when the block ends without an error."""
        with translated(self._location), write_session(self._engine) as session, session.begin():
            yield session


def find_uid(session: Session, kind: type[R], uid: str) -> R | None:
    """The row with that uid, or None."""
    return session.scalars(select(kind).where(kind.uid == uid)).one_or_none()


def find_or_add(session: Session, row: R) -> R:
    """The row already stored under `row.uid`, else `row`, stored.

    Two writers may store the same description at the same moment (not on SQLite, where one waits for the
    other): whoever comes second takes the row of the first.
    """
    found = find_uid(session, type(row), row.uid)
    if found is not None:
        return found
    try:
        # A savepoint, because PostgreSQL refuses everything else in a transaction once an insert has failed.
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        found = find_uid(session, type(row), row.uid)
        if found is None:
            raise
        return found
    return row


# The command that lists what an id names.
_LISTS = {"run": "profile-device show --all", "fit": "calibrate show", "plan": "card plans"}


def find_prefix(session: Session, kind: type[R], prefix: str, what: str, **where: Any) -> R:
    """The only row whose uid begins with `prefix`.

    Raises NotFoundError or AmbiguousNameError (listing the matches).
    """
    # Six are enough to list, where a single digit may fit thousands. Escaped, or a % would fit them all.
    query = select(kind).where(kind.uid.startswith(prefix, autoescape=True)).filter_by(**where).limit(6)
    rows = session.scalars(query).all()
    if not rows:
        raise NotFoundError(f"there is no {what} {prefix!r}", remedy=f"copy one from: {_LISTS[what]}")
    if len(rows) > 1:
        raise AmbiguousNameError(
            f"{prefix!r} fits several {what}s: {', '.join(r.uid[:12] for r in rows)}",
            remedy="give more digits of the id",
        )
    return rows[0]

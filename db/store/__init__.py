"""The store: frozen records in, frozen records out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from sqlalchemy.engine import Connection

from cardlab.db.engine import connect, translated
from cardlab.db.store.devices import Devices
from cardlab.db.store.fits import Fits
from cardlab.db.store.links import Links
from cardlab.db.store.plans import Plans
from cardlab.db.store.rounds import Rounds
from cardlab.db.store.runs import Runs

__all__ = ["Store", "open_store"]


class Store:
    """One open database. Use as a context manager, or call close().

    Attributes:
        location: path or URL it was opened with.
        devices: find devices by label or key.
        runs: profiles, written point by point.
        fits: fitted laws with what they came from.
        links: links between devices and servers.
        plans: plans as they were made.
        rounds: what split runs did.
    """

    def __init__(self, location: str | Path, *, create: bool = True) -> None:
        self.location = str(location)
        self._engine = connect(location, create=create)
        self.devices = Devices(self._engine, self.location)
        self.runs = Runs(self._engine, self.location)
        self.fits = Fits(self._engine, self.location)
        self.links = Links(self._engine, self.location)
        self.plans = Plans(self._engine, self.location)
        self.rounds = Rounds(self._engine, self.location)

    @contextlib.contextmanager
    def connection(self, *, write: bool = False) -> Iterator[Connection]:
        """One transaction below the records, for bundles and checks."""
        engine = self._engine.execution_options(cardlab_write=write)
        with translated(self.location), engine.begin() as connection:
            yield connection

    @property
    def backend(self) -> str:
        """ "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    def run_outside_transactions(self, statements: Sequence[str]) -> None:
        """Maintenance that may not run inside a transaction (VACUUM)."""
        with translated(self.location):
            if self.backend != "sqlite":
                with self._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                    for statement in statements:
                        connection.exec_driver_sql(statement)
                return
            # The SQLite engine begins its transactions by itself, so the driver's own connection is used.
            raw = self._engine.raw_connection()
            try:
                for statement in statements:
                    raw.cursor().execute(statement)
            finally:
                raw.close()

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_store(location: str | Path, *, create: bool = True) -> Store:
    """Open the database at a path or URL.

    Args:
        location: a file path (SQLite) or a database URL.
        create: make it if it does not exist; reading commands say False.

    Raises:
        StoreError: it cannot be opened, is no database of ours, or has another schema.
    """
    return Store(location, create=create)

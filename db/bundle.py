"""Bundles: everything in a database as one file that travels without a network.

A zip of JSON lines (one file a table, integer keys replaced by uids), `blobs.bin` (packed float64, little
endian) and `manifest.json` with a version and the SHA-256 of every other file. Data only: nothing in it is
executed, and Python 3.6's standard library can write it.

Merging inserts what is not there yet and changes nothing that is, so order and repetition do not matter. A row
that is there with another content is a conflict: it is named and nothing is merged.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from cardlab.core.errors import StoreError
from cardlab.core.plain import Document
from cardlab.db.engine import lock_exclusively
from cardlab.db.rowcheck import content_problem, type_problem
from cardlab.db.rows_0_1 import upgrade_tables
from cardlab.db.schema import Base
from cardlab.db.store import Store

FORMAT, VERSION = "cardlab-bundle", 2
ENDINGS = (".cardlab", ".zip", ".bundle")
BLOBS, MANIFEST = "blobs.bin", "manifest.json"
_REMEDY = "export it again, or copy it again if it was cut short on the way"

Row = Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Rows that a merge added, and rows that were there already, by table."""

    added: Mapping[str, int]
    known: Mapping[str, int]


def export_bundle(store: Store, path: str | Path) -> int:
    """Write everything in the store to a bundle; returns the number of rows.

    The file appears whole or not at all. Raises StoreError if it cannot be written.
    """
    target = Path(path)
    # Beside the target and not in the temporary folder: only inside one file system does a rename replace a
    # file whole.
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with store.connection() as connection, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as bundle:
            count = _write(connection, bundle)
        draft.replace(target)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}", remedy="name another file") from error
    finally:
        draft.unlink(missing_ok=True)
    return count


def is_bundle(path: Path) -> bool:
    """Whether a file is a bundle, of whatever version and however damaged behind its manifest."""
    try:
        with zipfile.ZipFile(path) as bundle:
            document = json.loads(bundle.read(MANIFEST))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def merge_bundle(store: Store, path: str | Path) -> Merged:
    """Add what the bundle holds and the store does not; all or nothing.

    Raises StoreError: unreadable, damaged, written by a newer version, or in conflict with the store.
    """
    tables, blobs = _read(Path(path))
    added: dict[str, int] = {}
    known: dict[str, int] = {}
    with store.connection(write=True) as connection:
        # On PostgreSQL two merges at once could each find a row missing, and both would insert it.
        lock_exclusively(connection)
        ids: dict[str, dict[str, int]] = {}
        # Tables that others refer to come first, so that the key behind each uid is known when it is needed.
        for table in Base.metadata.sorted_tables:
            rows = [_from_plain(table, row, blobs, ids) for row in tables.get(table.name, ())]
            _merge_table(connection, table, rows, ids, added, known)
    return Merged(added=added, known=known)


def _write(connection: Connection, bundle: zipfile.ZipFile) -> int:
    digests: dict[str, str] = {}
    blobs = bytearray()
    count = 0
    uids = {t.name: _uids(connection, t) for t in Base.metadata.sorted_tables if "uid" in t.c}
    for table in Base.metadata.sorted_tables:
        rows = [_to_plain(table, row, blobs, uids) for row in connection.execute(sa.select(table).order_by(table.c.id))]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        digests[f"{table.name}.jsonl"] = _put(bundle, f"{table.name}.jsonl", text.encode("utf-8"))
        count += len(rows)
    digests[BLOBS] = _put(bundle, BLOBS, bytes(blobs))
    manifest = {"format": FORMAT, "version": VERSION, "files": digests}
    _put(bundle, MANIFEST, json.dumps(manifest, sort_keys=True).encode("utf-8"))
    return count


def _put(bundle: zipfile.ZipFile, name: str, data: bytes) -> str:
    # A fixed date, so that equal contents give equal files.
    bundle.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return hashlib.sha256(data).hexdigest()


def _uids(connection: Connection, table: sa.Table) -> dict[int, str]:
    return {int(i): str(uid) for i, uid in connection.execute(sa.select(table.c.id, table.c.uid))}


def _foreign(column: sa.Column[Any]) -> str | None:
    """The table a column refers to."""
    return next((key.column.table.name for key in column.foreign_keys), None)


def _to_plain(table: sa.Table, row: Any, blobs: bytearray, uids: Mapping[str, Mapping[int, str]]) -> Row:
    plain: Row = {}
    for column in table.c:
        value = getattr(row, column.name)
        target = _foreign(column)
        # Integer keys are this database's own; in the next one they belong to other rows.
        if column.name == "id":
            continue
        if target is not None:
            plain[column.name] = None if value is None else uids[target][value]
        elif isinstance(value, bytes):
            plain[column.name] = [len(blobs), len(value)]
            blobs.extend(value)
        else:
            plain[column.name] = value
    return plain


def _read(path: Path) -> tuple[dict[str, list[Row]], bytes]:
    """Tables and blobs of a bundle whose checksums hold."""
    try:
        with zipfile.ZipFile(path) as bundle:
            version, listed = _manifest(path, bundle)
            files = {name: _checked(path, bundle, name, digest) for name, digest in listed.items()}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", remedy="give a bundle file") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        # zipfile has an error for each case: NotImplementedError for an unknown compression, RuntimeError for
        # an encrypted member, KeyError for one that is missing.
        raise StoreError(f"{path} is no whole bundle", remedy=_REMEDY) from error
    # A file whose table is not known here was checked like the others and is then passed over.
    names = {f"{table.name}.jsonl": table.name for table in Base.metadata.sorted_tables}
    tables = {names[file]: list(_lines(path, file, data)) for file, data in files.items() if file in names}
    if version < VERSION:
        try:
            tables = upgrade_tables(tables)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path} holds a row that cannot be read: {error!r}", remedy=_REMEDY) from error
    return tables, files.get(BLOBS, b"")


def _manifest(path: Path, bundle: zipfile.ZipFile) -> tuple[int, dict[str, str]]:
    """Version of the bundle, and the checksum of each of its files."""
    try:
        document = json.loads(bundle.read(MANIFEST))
    except (ValueError, zlib.error) as error:
        raise StoreError(f"{path} has a damaged manifest", remedy=_REMEDY) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StoreError(f"{path} is no cardlab bundle", remedy="make one with: calibrate export --out FILE")
    version = document.get("version")
    # A newer version may have given a column another meaning: read by today's rules it would become wrong rows.
    if not isinstance(version, int) or version > VERSION:
        raise StoreError(
            f"{path} is a bundle of version {version}, this one reads up to {VERSION}",
            remedy="install a newer cardlab here",
        )
    files = document.get("files")
    if not isinstance(files, dict) or not all(isinstance(d, str) for d in files.values()):
        raise StoreError(f"{path} has a damaged manifest", remedy=_REMEDY)
    return version, files


def _checked(path: Path, bundle: zipfile.ZipFile, name: str, digest: str) -> bytes:
    try:
        data = bundle.read(name)
    except zlib.error as error:
        raise StoreError(f"{path}: {name} is damaged", remedy=_REMEDY) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreError(f"{path}: the checksum of {name} is wrong", remedy=_REMEDY)
    return data


def _lines(path: Path, name: str, data: bytes) -> Iterator[Row]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise StoreError(f"{path}: {name} line {number} is no JSON", remedy=_REMEDY) from error
        if not isinstance(row, dict):
            raise StoreError(f"{path}: {name} line {number} is no row", remedy=_REMEDY)
        yield row


def _from_plain(table: sa.Table, plain: Row, blobs: bytes, ids: Mapping[str, Mapping[str, int]]) -> Row:
    """A row for this database; columns that a newer version added are left out."""
    row: Row = {}
    for column in table.c:
        if column.name == "id":
            continue
        # A nullable column that is missing is one that the writer did not know yet.
        if column.name not in plain and not column.nullable:
            raise StoreError(f"a row of {table.name} lacks {column.name}", remedy=_REMEDY)
        value = plain.get(column.name)
        target = _foreign(column)
        if target is not None and value is not None:
            if not isinstance(value, str) or value not in ids.get(target, {}):
                raise StoreError(f"a row of {table.name} refers to a missing {target}", remedy=_REMEDY)
            value = ids[target][value]
        elif isinstance(column.type, sa.LargeBinary) and value is not None:
            value = _blob(table, value, blobs)
        else:
            problem = type_problem(column, value)
            if problem is not None:
                raise StoreError(f"a row of {table.name}: {column.name} {problem}", remedy=_REMEDY)
        row[column.name] = value
    problem = content_problem(table.name, row)
    if problem is not None:
        raise StoreError(f"{table.name} {row.get('uid', '')} {problem}", remedy=_REMEDY)
    return row


def _blob(table: sa.Table, place: Any, blobs: bytes) -> bytes:
    # The place comes from a file: a negative number would count from the end and pass for data.
    valid = isinstance(place, list) and len(place) == 2 and all(isinstance(n, int) and n >= 0 for n in place)
    if not valid or place[0] + place[1] > len(blobs):
        raise StoreError(f"a row of {table.name} points outside {BLOBS}", remedy=_REMEDY)
    return blobs[place[0] : place[0] + place[1]]


def _merge_table(
    connection: Connection,
    table: sa.Table,
    rows: Iterable[Row],
    ids: dict[str, dict[str, int]],
    added: dict[str, int],
    known: dict[str, int],
) -> None:
    keys = _key_columns(table)
    here: dict[tuple[Any, ...], Row] = {}
    for found in connection.execute(sa.select(table)).mappings():
        here[tuple(found[k] for k in keys)] = dict(found)
    new: list[Row] = []
    for row in rows:
        key = tuple(row[k] for k in keys)
        if key in here:
            _same_or_refuse(table, row, here[key])
            known[table.name] = known.get(table.name, 0) + 1
        else:
            here[key] = row
            new.append(row)
    # SQLAlchemy takes an empty list of rows for one row without values.
    if new:
        connection.execute(sa.insert(table), new)
        added[table.name] = len(new)
    if "uid" in table.c:
        # Read back, because the database gives new rows their keys.
        ids[table.name] = {uid: i for i, uid in _uids(connection, table).items()}


def _key_columns(table: sa.Table) -> tuple[str, ...]:
    """The uid, else the columns of the table's own unique constraint."""
    if "uid" in table.c:
        return ("uid",)
    # Rows without a uid hang on rows that have one; their own constraint tells them apart.
    unique = next(c for c in table.constraints if isinstance(c, sa.UniqueConstraint))
    return tuple(column.name for column in unique.columns)


def _same_or_refuse(table: sa.Table, row: Row, here: Row) -> None:
    # Values and not texts are compared: both sides have decoded their JSON, whose spelling may differ.
    for name, value in row.items():
        if here[name] != value:
            raise StoreError(
                f"{table.name} {row.get('uid', '')} is there already with another {name}",
                remedy="one of the two was changed by hand; merge into a fresh database to keep both",
            )

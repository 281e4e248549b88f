"""Extended attributes in SQL; functions that change run inside a transaction of `SqlMeta`."""

import os

from nexusfs.contracts.errors import NoDataError, NoSpaceError
from nexusfs.drivers.sqlite import Database

LIST_MAX = 65_536
"""Bytes of all names with their NULs. Source: Linux XATTR_LIST_MAX."""

_UPSERT = """
INSERT INTO xattr VALUES (?, ?, ?) ON CONFLICT (body, name) DO UPDATE SET value = excluded.value
"""


def get(db: Database, body: int, name: bytes) -> bytes:
    """One attribute. NoDataError."""
    row = db.row("SELECT value FROM xattr WHERE body = ? AND name = ?", (body, name))
    if row is None:
        raise NoDataError(f"no extended attribute {os.fsdecode(name)!r}")
    return bytes(row[0])


def names(db: Database, body: int) -> list[bytes]:
    """All names, sorted."""
    rows = db.rows("SELECT name FROM xattr WHERE body = ? ORDER BY name", (body,))
    return [bytes(row[0]) for row in rows]


def put(db: Database, body: int, name: bytes, value: bytes) -> None:
    """Sets one attribute. NoSpaceError over 64 KiB of names."""
    db.run(_UPSERT, (body, name, value))
    if sum(len(each) + 1 for each in names(db, body)) > LIST_MAX:
        raise NoSpaceError(f"over {LIST_MAX} bytes of names of extended attributes")


def remove(db: Database, body: int, name: bytes) -> None:
    """Removes one attribute. NoDataError."""
    if not db.run("DELETE FROM xattr WHERE body = ? AND name = ?", (body, name)):
        raise NoDataError(f"no extended attribute {os.fsdecode(name)!r}")


def erase(db: Database, body: int) -> None:
    """Removes all attributes."""
    db.run("DELETE FROM xattr WHERE body = ?", (body,))

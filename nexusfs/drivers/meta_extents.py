"""Extents and blob references in SQL: what a file's content is made of.

Functions here run inside a transaction of `SqlMeta`. An extent row is inline bytes or names
part of a blob; each row that names a blob counts once in `blob.refs`. Extents of a body never
overlap and never reach past the file's size.
"""

from collections.abc import Sequence
from typing import Any

from nexusfs.contracts.store import SIZE_MAX, BlobRef, Extent
from nexusfs.drivers.sqlite import Database

BlobKey = tuple[bytes, str]

_SELECT = """
SELECT e.start, e.length, e.data, e.digest, e.algorithm, e.blob_offset, b.size, b.place
FROM extent e LEFT JOIN blob b ON b.digest = e.digest AND b.algorithm = e.algorithm
WHERE e.body = ? AND e.start >= COALESCE(
    (SELECT MAX(start) FROM extent WHERE body = ? AND start <= ?), ?) AND e.start < ?
ORDER BY e.start
"""
_UPSERT = """
INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (body, start) DO UPDATE SET
length = excluded.length, data = excluded.data, digest = excluded.digest,
algorithm = excluded.algorithm, blob_offset = excluded.blob_offset
"""
_NAME = """
INSERT INTO blob VALUES (?, ?, ?, ?, 1)
ON CONFLICT (digest, algorithm) DO UPDATE SET refs = refs + 1
"""
_UNNAME = """
UPDATE blob SET refs = refs - 1 WHERE digest = ? AND algorithm = ? RETURNING refs
"""


class DeadBlobs:
    """Blobs that no extent names, from the transaction that dropped them to their deletion.

    A blob may die, be named again and die again while a collection waits for the disk; only
    one that stayed dead since `take` may be deleted. Losing this in a crash is harmless: it is
    read again from `blob` rows with refs 0.
    """

    def __init__(self, refs: Sequence[BlobRef]) -> None:
        """Starts with the blobs a former process left dead."""
        self._fresh = {(ref.digest, ref.algorithm): ref for ref in refs}
        self._taken: dict[BlobKey, BlobRef] = {}
        self.fresh_bytes = sum(ref.size for ref in refs)

    def apply(self, died: dict[BlobKey, BlobRef], revived: set[BlobKey]) -> None:
        """Enters what a committed transaction did; `died` is dead at its end."""
        for key in revived:
            self._fresh.pop(key, None)
            self._taken.pop(key, None)
        self._fresh.update(died)
        self.fresh_bytes += sum(ref.size for ref in died.values())

    def take(self) -> list[BlobRef]:
        """Everything dead now becomes the collection under way."""
        self._taken.update(self._fresh)
        self._fresh = {}
        self.fresh_bytes = 0
        return list(self._taken.values())

    def taken(self) -> list[BlobRef]:
        """What of the collection nobody revived; ends it."""
        taken, self._taken = self._taken, {}
        return list(taken.values())


class Edit:
    """The extents of one body in one transaction, with what becomes of blobs on the way."""

    def __init__(self, db: Database, body: int) -> None:
        """Edits `body` in the transaction that is open on `db`."""
        self._db = db
        self._body = body
        self.used = 0
        self.died: dict[BlobKey, BlobRef] = {}
        self.revived: set[BlobKey] = set()

    def carve(self, start: int, stop: int, *, overwritten: int = -1) -> None:
        """Takes [start, stop) out; what is left of an extent at either side stays.

        The row that starts at `overwritten` is left for `add` to replace.
        """
        for extent in select(self._db, self._body, start, stop):
            self.used -= extent.length
            if extent.start < start:
                self.add(_part(extent, extent.start, start), named=extent.stop > stop)
            elif extent.start != overwritten:
                self._drop(extent.start)
            if extent.stop > stop:
                self.add(_part(extent, stop, extent.stop), named=False)
            elif extent.start >= start and extent.blob is not None:
                self._unname(extent.blob)

    def replace(self, start: int, stop: int, extents: Sequence[Extent], *, carve: bool) -> None:
        """Puts `extents` where [start, stop) was; `carve` False says that nothing was there."""
        if carve:
            self.carve(start, stop, overwritten=start)
        for extent in extents:
            self.add(extent)

    def add(self, extent: Extent, *, named: bool = True) -> None:
        """Stores one extent; `named` counts one more name of its blob."""
        blob = extent.blob
        digest, algorithm = (blob.digest, blob.algorithm) if blob else (None, None)
        self._db.run(
            _UPSERT,
            (
                self._body,
                extent.start,
                extent.length,
                extent.data,
                digest,
                algorithm,
                extent.offset,
            ),
        )
        self.used += extent.length
        if blob is not None and named:
            self._db.run(_NAME, (blob.digest, blob.algorithm, blob.size, blob.place))
            self.died.pop((blob.digest, blob.algorithm), None)
            self.revived.add((blob.digest, blob.algorithm))

    def erase(self) -> None:
        """Takes everything out, with one statement for all rows."""
        for extent in select(self._db, self._body, 0, SIZE_MAX):
            if extent.blob is not None:
                self._unname(extent.blob)
        self._db.run("DELETE FROM extent WHERE body = ?", (self._body,))

    def _drop(self, start: int) -> None:
        self._db.run("DELETE FROM extent WHERE body = ? AND start = ?", (self._body, start))

    def _unname(self, blob: BlobRef) -> None:
        row = self._db.row(_UNNAME, (blob.digest, blob.algorithm))
        if row is not None and row[0] == 0:
            self.died[blob.digest, blob.algorithm] = blob


def select(db: Database, body: int, start: int, stop: int) -> list[Extent]:
    """The extents that overlap [start, stop), whole, by start."""
    found = [
        _extent(row) for row in db.rows(_SELECT, (body, body, start, start, min(stop, SIZE_MAX)))
    ]
    if found and found[0].stop <= start:
        del found[0]
    return found


def find_blob(db: Database, digest: bytes, algorithm: str) -> BlobRef | None:
    """The reference of a stored blob."""
    row = db.row(
        "SELECT size, place FROM blob WHERE digest = ? AND algorithm = ?", (digest, algorithm)
    )
    return BlobRef(algorithm, digest, *row) if row else None


def dead_blobs(db: Database) -> list[BlobRef]:
    """Every blob that no extent names."""
    rows = db.rows("SELECT algorithm, digest, size, place FROM blob WHERE refs = 0")
    return [BlobRef(*row) for row in rows]


def forget_blob(db: Database, ref: BlobRef) -> None:
    """Drops the row of a blob that was deleted."""
    db.run(
        "DELETE FROM blob WHERE digest = ? AND algorithm = ? AND refs = 0",
        (ref.digest, ref.algorithm),
    )


def _extent(row: Any) -> Extent:
    start, length, data, digest, algorithm, offset, size, place = row
    if digest is None:
        return Extent(start, length, data)
    # A blob row that is missing is found out by the digest, when the extent is read.
    return Extent(start, length, None, BlobRef(algorithm, digest, size or 0, place or ""), offset)


def _part(extent: Extent, start: int, stop: int) -> Extent:
    """The bytes [start, stop) of an extent."""
    skip = start - extent.start
    if extent.data is not None:
        return Extent(start, stop - start, extent.data[skip : skip + stop - start])
    return Extent(start, stop - start, None, extent.blob, extent.offset + skip)

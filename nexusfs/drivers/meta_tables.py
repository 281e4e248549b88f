"""The metadata in SQL, written once for all dialects: single reads, and batches of rows.

The tree lives in memory and in the operation journal; what is here is where it comes from and
where it rests. Reads come one at a time, when something is not in memory. Writes come as a
`Batch`, which is one transaction and says up to which record of the journal it reaches.

SQL here and in `meta_schema` is what SQLite 3.35 and PostgreSQL share, but for the sign of a
parameter. Layer and version are 1 until there are snapshots: `meta_schema` says how they grow.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from nexusfs.contracts.node import DirEntry
from nexusfs.contracts.store import BlobRef, Extent
from nexusfs.drivers.meta_attr import Attr, blocks_of
from nexusfs.drivers.meta_blobs import BlobKey
from nexusfs.drivers.sqlite import Connection, Database

_COLUMNS = ", ".join(
    f"i.{name}"
    for name in ("ino", "mode", "nlink", "uid", "gid", "size", "atime", "mtime", "ctime", "rdev",
                 "used", "parent", "target")
)  # fmt: skip
_INODE = f"SELECT {_COLUMNS} FROM inode i WHERE i.ino = ? AND i.layer = 1 AND i.version = 1"
_INODES_OF = f"""
SELECT {_COLUMNS} FROM edge e JOIN inode i ON i.ino = e.ino AND i.layer = 1 AND i.version = 1
WHERE e.parent = ? AND e.layer = 1
"""
_EDGE = "SELECT ino, kind FROM edge WHERE parent = ? AND name = ? AND layer = 1 AND version = 1"
_EDGES = "SELECT name, ino, kind FROM edge WHERE parent = ? AND layer = 1 ORDER BY name"
_EXTENTS = """
SELECT e.start, e.length, e.data, e.digest, e.algorithm, e.blob_offset, b.size, b.place
FROM extent e LEFT JOIN blob b ON b.digest = e.digest AND b.algorithm = e.algorithm
WHERE e.body = ? AND e.start >= ? AND e.start < ? ORDER BY e.start
"""
_SET_INODES = """
INSERT INTO inode VALUES {} ON CONFLICT (ino, layer, version) DO UPDATE SET
mode = excluded.mode, nlink = excluded.nlink, uid = excluded.uid, gid = excluded.gid,
size = excluded.size, atime = excluded.atime, mtime = excluded.mtime, ctime = excluded.ctime,
used = excluded.used, parent = excluded.parent
"""
_SET_EDGES = """
INSERT INTO edge VALUES {} ON CONFLICT (parent, name, layer, version) DO UPDATE SET
ino = excluded.ino, kind = excluded.kind
"""
_SET_EXTENTS = """
INSERT INTO extent VALUES {} ON CONFLICT (body, start) DO UPDATE SET
length = excluded.length, data = excluded.data, digest = excluded.digest,
algorithm = excluded.algorithm, blob_offset = excluded.blob_offset
"""
_SET_XATTRS = """
INSERT INTO xattr VALUES {} ON CONFLICT (body, name) DO UPDATE SET value = excluded.value
"""
_SET_BLOBS = """
INSERT INTO blob VALUES {} ON CONFLICT (digest, algorithm) DO UPDATE SET
size = excluded.size, place = excluded.place, refs = excluded.refs
"""
_AT_PLACE = "place >= ? AND place < ?"
_LAST = "\x7f"
"""After everything that a place has: its words are ASCII."""
_SET_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


@dataclass(slots=True)
class Batch:
    """Rows to store in one transaction.

    Attributes:
        number: the last record of the operation journal that the rows include.
        next_ino: the number that the next new inode gets.
        inodes: new or changed ones.
        gone: inodes that were erased, with their extents and extended attributes.
        edges: (parent, name, ino, kind); ino 0 for a name that is gone.
        extents: (body, start, extent); None for a row to delete.
        xattrs: (body, name, value); None for one that was removed.
        blobs: (blob, how many extents name it).
        blobs_gone: blobs to forget.
    """

    number: int
    next_ino: int
    inodes: list[Attr] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    edges: list[tuple[int, bytes, int, int]] = field(default_factory=list)
    extents: list[tuple[int, int, Extent | None]] = field(default_factory=list)
    xattrs: list[tuple[int, bytes, bytes | None]] = field(default_factory=list)
    blobs: list[tuple[BlobRef, int]] = field(default_factory=list)
    blobs_gone: list[BlobKey] = field(default_factory=list)

    def __len__(self) -> int:
        """How many rows."""
        return sum(
            len(rows)
            for rows in (self.inodes, self.gone, self.edges, self.extents, self.xattrs, self.blobs)
        )


class MetaTables:
    """One database of metadata, over two connections.

    The kernel's thread reads with one; whoever runs the flush stores with the other.
    """

    def __init__(self, reader: Connection, writer: Database) -> None:
        """Over two connections to the same database, whose tables are there."""
        self._reader = reader
        self._writer = writer

    # Reading, in the kernel's thread

    def number(self, key: str) -> int:
        """A value of the table `meta`; 0 when it is not there."""
        row = self._reader.row("SELECT value FROM meta WHERE key = ?", (key,))
        return int(row[0]) if row else 0

    def inode(self, ino: int) -> Attr | None:
        """The attributes of an inode."""
        row = self._reader.row(_INODE, (ino,))
        return None if row is None else _attr(row)

    def inodes_of(self, parent: int) -> list[Attr]:
        """The attributes of all that a directory has: a fifth of what one by one costs."""
        return [_attr(row) for row in self._reader.rows(_INODES_OF, (parent,))]

    def edge(self, parent: int, name: bytes) -> tuple[int, int] | None:
        """(ino, type bits) of a name."""
        row = self._reader.row(_EDGE, (parent, name))
        return (int(row[0]), int(row[1])) if row else None

    def edges(self, parent: int) -> list[DirEntry]:
        """The names of a directory, by name."""
        return [DirEntry(*row) for row in self._reader.rows(_EDGES, (parent,))]

    def extents(self, body: int, start: int, stop: int) -> list[Extent]:
        """The extents of a body that begin in [start, stop), by start."""
        return [_extent(row) for row in self._reader.rows(_EXTENTS, (body, start, stop))]

    def xattrs(self, body: int) -> dict[bytes, bytes]:
        """The extended attributes of a body."""
        rows = self._reader.rows("SELECT name, value FROM xattr WHERE body = ?", (body,))
        return {bytes(name): bytes(value) for name, value in rows}

    def blob(self, digest: bytes, algorithm: str) -> tuple[BlobRef, int] | None:
        """A blob and how many extents name it."""
        return _blob(self._reader, digest, algorithm)

    def orphans(self) -> list[int]:
        """Inodes that no name leads to."""
        return [row[0] for row in self._reader.rows("SELECT ino FROM inode WHERE nlink = 0")]

    def dead_blobs(self) -> list[BlobRef]:
        """Blobs that no extent names."""
        sql = "SELECT algorithm, digest, size, place FROM blob WHERE refs = 0"
        return [BlobRef(*row) for row in self._reader.rows(sql)]

    # Storing, in the thread that runs the flush

    def stored_blob(self, digest: bytes, algorithm: str) -> BlobRef | None:
        """A blob that is stored and alive, as the writer sees it."""
        found = _blob(self._writer, digest, algorithm)
        return found[0] if found and found[1] else None

    def bytes_at(self, prefix: str) -> int:
        """The size of all blobs that are alive and whose place begins with `prefix`."""
        sql = f"SELECT COALESCE(SUM(size), 0) FROM blob WHERE {_AT_PLACE} AND refs > 0"
        return int(self._writer.row(sql, (prefix, prefix + _LAST))[0])

    def blobs_at(self, prefix: str, most: int) -> list[BlobRef]:
        """Some of these blobs, at most so many."""
        sql = (
            "SELECT algorithm, digest, size, place FROM blob "
            f"WHERE {_AT_PLACE} AND refs > 0 LIMIT {most:d}"
        )
        return [BlobRef(*row) for row in self._writer.rows(sql, (prefix, prefix + _LAST))]

    def store(self, batch: Batch) -> None:
        """Stores a batch: one transaction, on disk when this returns. Blocks.

        Raises:
            NoSpaceError: ENOSPC; nothing is stored.
        """
        db = self._writer
        with db:
            self._drop(batch)
            db.run_many(_SET_INODES, f"(?, 1, 1, {_marks(13)})", map(_inode_row, batch.inodes))
            named = [each for each in batch.edges if each[2]]
            db.run_many(_SET_EDGES, "(?, ?, 1, 1, ?, ?)", named)
            rows = [_extent_row(body, new) for body, _, new in batch.extents if new is not None]
            db.run_many(_SET_EXTENTS, f"({_marks(7)})", rows)
            kept = [each for each in batch.xattrs if each[2] is not None]
            db.run_many(_SET_XATTRS, "(?, ?, ?)", kept)
            db.run_many(_SET_BLOBS, f"({_marks(5)})", map(_blob_row, batch.blobs))
            db.run(_SET_META, ("applied", batch.number))
            db.run(_SET_META, ("next_ino", batch.next_ino))

    def _drop(self, batch: Batch) -> None:
        """Deletes rows; the lists of one directory or body go into one statement.

        A list of pairs, `(parent, name) IN (…)`, would scan the table: SQLite uses the index for
        lists of single values only.
        """
        db = self._writer
        for table, key in (("inode", "ino"), ("extent", "body"), ("xattr", "body")):
            gone = ((ino,) for ino in batch.gone)
            db.run_many(f"DELETE FROM {table} WHERE {key} IN ({{}})", "?", gone)
        edges = ((parent, name) for parent, name, ino, _ in batch.edges if not ino)
        extents = ((body, start) for body, start, extent in batch.extents if extent is None)
        xattrs = ((body, name) for body, name, value in batch.xattrs if value is None)
        for table, key, column, pairs in (
            ("edge", "parent", "name", edges),
            ("extent", "body", "start", extents),
            ("xattr", "body", "name", xattrs),
        ):
            for first, group in itertools.groupby(sorted(pairs), key=lambda pair: pair[0]):
                sql = f"DELETE FROM {table} WHERE {key} = {first:d} AND {column} IN ({{}})"
                db.run_many(sql, "?", ((second,) for _, second in group))
        for blob in batch.blobs_gone:
            db.run("DELETE FROM blob WHERE digest = ? AND algorithm = ? AND refs = 0", blob)

    def checkpoint(self) -> None:
        """Moves what is committed from the log to its place. Blocks."""
        self._writer.checkpoint()

    def shrink(self) -> None:
        """Checkpoints, and gives unused space of the log and the database to the disk. Blocks."""
        self._writer.shrink()


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _attr(row: Any) -> Attr:
    ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev, used, parent, target = row
    return Attr(
        ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev, blocks_of(used), used, parent,
        bytes(target or b""),
    )  # fmt: skip


def _inode_row(a: Attr) -> tuple[Any, ...]:
    return (
        a.ino, a.ino, a.mode, a.nlink, a.uid, a.gid, a.size, a.atime_ns, a.mtime_ns, a.ctime_ns,
        a.rdev, a.used, a.parent, a.target or None,
    )  # fmt: skip


def _extent_row(body: int, extent: Extent) -> tuple[Any, ...]:
    blob = extent.blob
    digest, algorithm = (blob.digest, blob.algorithm) if blob else (None, None)
    return body, extent.start, extent.length, extent.data, digest, algorithm, extent.offset


def _blob_row(named: tuple[BlobRef, int]) -> tuple[Any, ...]:
    blob, count = named
    return blob.digest, blob.algorithm, blob.size, blob.place, count


def _extent(row: Any) -> Extent:
    start, length, data, digest, algorithm, offset, size, place = row
    if digest is None:
        return Extent(start, length, data)
    # A blob row that is missing is found out by the digest, when the extent is read.
    return Extent(start, length, None, BlobRef(algorithm, digest, size or 0, place or ""), offset)


def _blob(db: Connection, digest: bytes, algorithm: str) -> tuple[BlobRef, int] | None:
    row = db.row(
        "SELECT size, place, refs FROM blob WHERE digest = ? AND algorithm = ?", (digest, algorithm)
    )
    return (BlobRef(algorithm, digest, row[0], row[1]), int(row[2])) if row else None

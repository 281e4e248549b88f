"""The metadata store in SQL, written once for all dialects.

Each method that changes something follows one order: check against the cache or the database,
run one transaction, then enter the result into the cache. A transaction that fails leaves
database and cache as they were.

Concurrency: one thread, and no method suspends, so each is atomic for every trio task.
"""

import os
import stat as _stat
import time
from collections.abc import Container, Sequence
from dataclasses import replace

from nexusfs.contracts.errors import (
    InvalidError,
    IsDirectoryError,
    NotFoundError,
    NotPermittedError,
    TooBigError,
)
from nexusfs.contracts.node import Change, DirEntry, NewNode, Stat, StatFs
from nexusfs.contracts.store import SIZE_MAX, BlobRef, BlobStore, Extent
from nexusfs.drivers import meta_extents, meta_schema, meta_xattr
from nexusfs.drivers.meta_cache import Attr
from nexusfs.drivers.meta_inodes import DELETE_EDGE, INSERT_EDGE, Inodes, unlinked
from nexusfs.drivers.meta_rename import Rename
from nexusfs.drivers.room import Room, grows, shrinks
from nexusfs.drivers.sqlite import Database

ATIMES_MAX = 4096
"""Access times kept in memory before they are stored."""
CHECKPOINT_COMMITS = 1000
"""Commits between checkpoints: about 4 pages each make a WAL of 16 MiB."""
DEAD_BYTES = 64 << 20
"""Space of removed content that is worth a sync of its own."""


class SqlMeta:
    """Names, attributes and extents in one database; see `contracts.store.MetaStore`."""

    def __init__(self, db: Database, room: Room | None = None) -> None:
        """Opens the tree in `db`; makes the tables and the root in a new one; erases orphans.

        `room` says whether the disk below lets the tree grow.
        """
        self._db = db
        self.room = room or Room()
        self.checkpoint_commits = CHECKPOINT_COMMITS
        self._inodes = Inodes(db, new=meta_schema.prepare(db))
        for (ino,) in db.rows("SELECT ino FROM inode WHERE nlink = 0"):
            self.free(ino)

    @property
    def changes(self) -> int:
        """Counts committed transactions."""
        return self._db.commits

    @property
    def maintenance_due(self) -> bool:
        """True when a sync with a checkpoint should be made soon."""
        return (
            self._db.commits_since_checkpoint >= self.checkpoint_commits
            or self._inodes.dead.fresh_bytes >= DEAD_BYTES
        )

    # Reading

    def getattr(self, ino: int) -> Stat:
        """The attributes of an inode. StaleError ESTALE when it is gone."""
        return self._inodes.attr(ino)

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode of one name. NotFoundError, NotDirectoryError."""
        return self._inodes.lookup(parent, name)

    def readdir(self, ino: int) -> list[DirEntry]:
        """All entries but . and .., by name."""
        self._inodes.directory(ino)
        rows = self._db.rows(
            "SELECT name, ino, kind FROM edge WHERE parent = ? AND layer = 1 ORDER BY name", (ino,)
        )
        return [DirEntry(*row) for row in rows]

    def readlink(self, ino: int) -> bytes:
        """The text of a symlink."""
        if not self._inodes.attr(ino).is_link:
            raise InvalidError("not a symlink")
        row = self._db.row("SELECT target FROM inode WHERE ino = ? AND layer = 1", (ino,))
        return bytes(row[0])

    # Names

    @grows
    def create(self, parent: int, name: bytes, new: NewNode) -> Stat:
        """Makes an inode and its first name."""
        inodes = self._inodes
        directory = inodes.directory(parent)
        inodes.refuse_existing(parent, name)
        attr = inodes.new_attr(new)
        now = attr.ctime_ns
        after = directory.changed(nlink=directory.nlink + attr.is_dir, mtime_ns=now, ctime_ns=now)
        with self._db:
            inodes.insert(attr, parent, new.target or None)
            self._db.run(INSERT_EDGE, (parent, name, attr.ino, _stat.S_IFMT(new.mode)))
            inodes.save(after)
        inodes.remember(attr, after)
        inodes.set_name(parent, name, attr.ino)
        return attr

    @grows
    def link(self, parent: int, name: bytes, ino: int) -> Stat:
        """Adds a name to an inode that is not a directory."""
        inodes = self._inodes
        directory = inodes.directory(parent)
        attr = inodes.attr(ino)
        inodes.refuse_existing(parent, name)
        if attr.is_dir:
            raise NotPermittedError("a directory cannot be linked")
        if attr.nlink == 0:
            raise NotFoundError("the file was removed")
        now = time.time_ns()
        linked = attr.changed(nlink=attr.nlink + 1, ctime_ns=now)
        after = directory.changed(mtime_ns=now, ctime_ns=now)
        with self._db:
            self._db.run(INSERT_EDGE, (parent, name, ino, _stat.S_IFMT(attr.mode)))
            inodes.save(linked)
            inodes.save(after)
        inodes.remember(linked, after)
        inodes.set_name(parent, name, ino)
        return linked

    @shrinks
    def unlink(self, parent: int, name: bytes, held: Container[int] = ()) -> Stat:
        """Removes a name; the inode goes with its last one, unless it is held."""
        directory = self._inodes.directory(parent)
        attr = self._inodes.attr(self.lookup(parent, name))
        if attr.is_dir:
            raise IsDirectoryError(f"is a directory: {os.fsdecode(name)!r}")
        return self._remove(directory, name, attr, held)

    @shrinks
    def rmdir(self, parent: int, name: bytes) -> Stat:
        """Removes an empty directory."""
        directory = self._inodes.directory(parent)
        attr = self._inodes.attr(self.lookup(parent, name))
        self._inodes.refuse_unempty(attr, name)
        return self._remove(directory, name, attr, ())

    @shrinks
    def rename(
        self,
        source: tuple[int, bytes],
        target: tuple[int, bytes],
        flags: int = 0,
        held: Container[int] = (),
    ) -> Stat | None:
        """Moves a name, replaces what is there, or exchanges the two."""
        return Rename(self._inodes, source, target).run(flags, held)

    # Attributes

    @shrinks
    def setattr(self, ino: int, change: Change) -> Stat:
        """Sets attributes; a new size cuts or extends the file."""
        attr = self._inodes.attr(ino)
        values = _changed_values(attr, change)
        edit = meta_extents.Edit(self._db, ino)
        with self._db:
            if change.size is not None and change.size < attr.size and attr.used:
                edit.carve(change.size, SIZE_MAX)
            after = attr.changed(**values, used=attr.used + edit.used)
            self._inodes.save(after)
        self._inodes.remember(after)
        self._inodes.dead.apply(edit.died, edit.revived)
        return after

    def touch(self, ino: int, atime_ns: int) -> None:
        """Sets atime in memory."""
        if self._inodes.touch(ino, atime_ns) >= ATIMES_MAX:
            self.flush_atimes()

    def flush_atimes(self) -> None:
        """Stores the access times that `touch` kept in memory."""
        self._inodes.flush_atimes()

    # Content

    def extents(self, ino: int, start: int, stop: int) -> list[Extent]:
        """The extents that overlap [start, stop), whole, by start."""
        return meta_extents.select(self._db, ino, start, stop)

    def write(self, ino: int, extents: Sequence[Extent]) -> Stat:
        """Replaces what the extents cover and grows the file to their end."""
        attr = self._inodes.attr(ino)
        start, stop = extents[0].start, extents[-1].stop
        _check_size(attr, stop)
        now = time.time_ns()
        edit = meta_extents.Edit(self._db, ino)
        with self._db:
            edit.replace(start, stop, extents, carve=start < attr.size and attr.used > 0)
            after = attr.changed(
                size=max(attr.size, stop), used=attr.used + edit.used, mtime_ns=now, ctime_ns=now
            )
            self._inodes.save(after)
        self._inodes.remember(after)
        self._inodes.dead.apply(edit.died, edit.revived)
        return after

    def find_blob(self, digest: bytes, algorithm: str) -> BlobRef | None:
        """A blob of these bytes that is already stored."""
        return meta_extents.find_blob(self._db, digest, algorithm)

    def take_dead(self) -> list[BlobRef]:
        """Blobs that nothing names any more; starts a collection."""
        return self._inodes.dead.take()

    def end_collection(self, blobs: BlobStore) -> int:
        """Deletes what `take_dead` returned and nothing revived."""
        dead = self._inodes.dead.taken()
        if dead:
            # Space first: after a crash in between, the rows are found again and both repeated.
            for ref in dead:
                blobs.delete(ref)
            with self._db:
                for ref in dead:
                    meta_extents.forget_blob(self._db, ref)
        return len(dead)

    @shrinks
    def free(self, ino: int) -> None:
        """Erases an orphan."""
        with self._db:
            edit = self._inodes.erase(self._inodes.attr(ino))
        self._inodes.forget(ino, edit)

    # Extended attributes

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """One attribute. NoDataError."""
        return meta_xattr.get(self._db, ino, name)

    def setxattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Sets one attribute. NoSpaceError over 64 KiB of names."""
        self.room.check()
        after = self._inodes.attr(ino).changed(ctime_ns=time.time_ns())
        with self._db:
            meta_xattr.put(self._db, ino, name, value)
            self._inodes.save(after)
        self._inodes.remember(after)

    def listxattr(self, ino: int) -> list[bytes]:
        """The names, sorted."""
        return meta_xattr.names(self._db, ino)

    @shrinks
    def removexattr(self, ino: int, name: bytes) -> None:
        """Removes one attribute. NoDataError."""
        after = self._inodes.attr(ino).changed(ctime_ns=time.time_ns())
        with self._db:
            meta_xattr.remove(self._db, ino, name)
            self._inodes.save(after)
        self._inodes.remember(after)

    # The store

    def dirty_fds(self) -> list[int]:
        """New descriptors to fdatasync and close."""
        return self._db.dirty_fds()

    def checkpoint(self) -> None:
        """Moves what is committed from the log to its place; blobs must be durable before."""
        self._db.checkpoint()

    def shrink(self) -> None:
        """Checkpoints, and gives unused space of the log and the database to the disk."""
        self._db.shrink()

    def statfs(self) -> StatFs:
        """Size and use of the disk below; what only removals may use is not free."""
        host = self._db.statfs()
        return replace(host, bfree=0, bavail=0) if self.room.full else host

    def close(self) -> None:
        """Writes what is left in memory and releases the database."""
        try:
            self.flush_atimes()
        finally:
            self._db.close()

    def _remove(self, directory: Attr, name: bytes, attr: Attr, held: Container[int]) -> Attr:
        inodes, now = self._inodes, time.time_ns()
        left = unlinked(attr, now)
        after = directory.changed(nlink=directory.nlink - attr.is_dir, mtime_ns=now, ctime_ns=now)
        with self._db:
            self._db.run(DELETE_EDGE, (directory.ino, name))
            edit = inodes.save_or_erase(left, held)
            inodes.save(after)
        inodes.remember(after)
        inodes.settle(left, edit)
        inodes.set_name(directory.ino, name, 0)
        return left


def _changed_values(attr: Attr, change: Change) -> dict[str, int]:
    """The fields of `Attr` that a change sets; ctime always."""
    now = time.time_ns()
    values = {"ctime_ns": now}
    if change.size is not None:
        _check_size(attr, change.size)
        values |= {"size": change.size, "mtime_ns": now}
    if change.mode is not None:
        values["mode"] = _stat.S_IFMT(attr.mode) | (change.mode & 0o7777)
    for name in ("uid", "gid", "atime_ns", "mtime_ns", "ctime_ns"):
        value = getattr(change, name)
        if value is not None:
            values[name] = value
    return values


def _check_size(attr: Attr, size: int) -> None:
    if attr.is_dir:
        raise IsDirectoryError("is a directory")
    if size < 0 or not attr.is_file:
        raise InvalidError("not a regular file" if size >= 0 else "a size cannot be negative")
    if size > SIZE_MAX:
        raise TooBigError(f"a file has at most {SIZE_MAX} bytes")

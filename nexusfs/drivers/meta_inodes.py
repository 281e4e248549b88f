"""Rows of inodes and edges, and the memory in front of them.

`Inodes` is the floor `SqlMeta` stands on: reads go to the cache first; `save`, `insert` and
`erase` are for the inside of a transaction, `remember`, `forget` and `set_name` enter its result
afterwards, so that a transaction that fails leaves the cache as it was.
"""

import os
import stat as _stat
import time
from collections.abc import Container

from nexusfs.contracts.errors import (
    ExistsError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    StaleError,
)
from nexusfs.contracts.node import NewNode
from nexusfs.contracts.store import ROOT_INO
from nexusfs.drivers import meta_extents, meta_xattr
from nexusfs.drivers.meta_cache import COLUMNS, Attr, trim
from nexusfs.drivers.sqlite import Database

INO_BATCH = 4096
"""Inode numbers set aside by one write; at most so many are skipped at each open."""
DIRECTORY_BYTES = 4096
"""st_size of a directory, as on ext4."""

INSERT_EDGE = "INSERT INTO edge VALUES (?, ?, 1, 1, ?, ?)"
DELETE_EDGE = "DELETE FROM edge WHERE parent = ? AND name = ? AND layer = 1 AND version = 1"
UPDATE_EDGE = """
UPDATE edge SET ino = ?, kind = ? WHERE parent = ? AND name = ? AND layer = 1 AND version = 1
"""
_SELECT_EDGE = "SELECT ino FROM edge WHERE parent = ? AND name = ? AND layer = 1 AND version = 1"
_INSERT_INODE = "INSERT INTO inode VALUES (?, 1, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT_INODE = f"SELECT {COLUMNS} FROM inode WHERE ino = ? AND layer = 1 AND version = 1"
_UPDATE_INODE = """
UPDATE inode SET mode = ?, nlink = ?, uid = ?, gid = ?, size = ?, atime = ?, mtime = ?,
ctime = ?, used = ? WHERE ino = ? AND layer = 1 AND version = 1
"""
_DELETE_INODE = "DELETE FROM inode WHERE ino = ? AND layer = 1 AND version = 1"
_UPDATE_PARENT = "UPDATE inode SET parent = ? WHERE ino = ? AND layer = 1 AND version = 1"
_SELECT_PARENT = "SELECT parent FROM inode WHERE ino = ? AND layer = 1 AND version = 1"


class Inodes:
    """Inodes and names of one database, cached."""

    def __init__(self, db: Database, *, new: bool) -> None:
        """`new` makes the root directory."""
        self.db = db
        self._stats: dict[int, Attr] = {}
        self._names: dict[tuple[int, bytes], int] = {}
        self._atimes: dict[int, int] = {}
        self._next_ino = self._ino_limit = ROOT_INO
        if new:
            self._make_root()
        self._next_ino = self._ino_limit = db.row("SELECT value FROM meta WHERE key = 'next_ino'")[
            0
        ]
        self.dead = meta_extents.DeadBlobs(meta_extents.dead_blobs(db))

    # Attributes

    def attr(self, ino: int) -> Attr:
        """The attributes of an inode. StaleError when it is gone."""
        return self._stats.get(ino) or self._load(ino)

    def directory(self, ino: int) -> Attr:
        """The attributes of a directory. NotFoundError, NotDirectoryError."""
        try:
            attr = self.attr(ino)
        except StaleError as exc:
            raise NotFoundError("the directory was removed") from exc
        if not attr.is_dir:
            raise NotDirectoryError("not a directory")
        return attr

    def new_attr(self, new: NewNode) -> Attr:
        """Attributes for a new inode, with the next number."""
        now = time.time_ns()
        is_dir = _stat.S_ISDIR(new.mode)
        size = DIRECTORY_BYTES if is_dir else len(new.target)
        used = DIRECTORY_BYTES if is_dir else 0
        return Attr.of(
            (self._allocate(), new.mode, 1 + is_dir, new.uid, new.gid, size, now, now, now,
             new.rdev, used)
        )  # fmt: skip

    def parent(self, ino: int) -> int:
        """The directory that a directory is in."""
        return int(self.db.row(_SELECT_PARENT, (ino,))[0])

    def touch(self, ino: int, atime_ns: int) -> int:
        """Sets atime in memory; returns how many wait to be stored."""
        self._stats[ino] = self.attr(ino).changed(atime_ns=atime_ns)
        self._atimes[ino] = atime_ns
        return len(self._atimes)

    def flush_atimes(self) -> None:
        """Stores the access times that `touch` kept in memory."""
        if self._atimes:
            with self.db:
                for ino in list(self._atimes):
                    self.save(self.attr(ino))

    # Inside a transaction

    def save(self, a: Attr) -> None:
        """Stores all attributes that can change."""
        self.db.run(
            _UPDATE_INODE,
            (a.mode, a.nlink, a.uid, a.gid, a.size, a.atime_ns, a.mtime_ns, a.ctime_ns, a.used,
             a.ino),
        )  # fmt: skip
        self._atimes.pop(a.ino, None)

    def place(self, attr: Attr, parent: int) -> None:
        """Stores an inode that has moved to `parent`."""
        self.save(attr)
        if attr.is_dir:
            self.db.run(_UPDATE_PARENT, (parent, attr.ino))

    def insert(self, a: Attr, parent: int, target: bytes | None) -> None:
        """Stores a new inode."""
        self.db.run(
            _INSERT_INODE,
            (a.ino, a.ino, a.mode, a.nlink, a.uid, a.gid, a.size, a.atime_ns, a.mtime_ns,
             a.ctime_ns, a.rdev, a.used, parent, target),
        )  # fmt: skip

    def erase(self, attr: Attr) -> meta_extents.Edit:
        """Removes an inode with its content and attributes."""
        edit = meta_extents.Edit(self.db, attr.ino)
        if attr.is_file and attr.used:
            edit.erase()
        meta_xattr.erase(self.db, attr.ino)
        self.db.run(_DELETE_INODE, (attr.ino,))
        return edit

    def save_or_erase(self, after: Attr, held: Container[int]) -> meta_extents.Edit | None:
        """Erases an inode without links that nobody holds; returns the edit if it did."""
        if after.nlink or after.ino in held:
            self.save(after)
            return None
        return self.erase(after)

    # After a transaction

    def remember(self, *attrs: Attr) -> None:
        """Enters new attributes."""
        trim(self._stats)
        for attr in attrs:
            self._stats[attr.ino] = attr

    def settle(self, after: Attr, edit: meta_extents.Edit | None) -> None:
        """Enters the result of `save_or_erase`."""
        if edit is None:
            self.remember(after)
        else:
            self.forget(after.ino, edit)

    def forget(self, ino: int, edit: meta_extents.Edit) -> None:
        """Drops an inode that was erased."""
        self._stats.pop(ino, None)
        self._atimes.pop(ino, None)
        self.dead.apply(edit.died, edit.revived)

    def set_name(self, parent: int, name: bytes, ino: int) -> None:
        """Enters a name; `ino` 0 says that there is none."""
        trim(self._names)
        self._names[parent, name] = ino

    # Names

    def find(self, parent: int, name: bytes) -> int:
        """The inode of a name, 0 when there is none."""
        ino = self._names.get((parent, name))
        if ino is None:
            row = self.db.row(_SELECT_EDGE, (parent, name))
            ino = int(row[0]) if row else 0
            self.set_name(parent, name, ino)
        return ino

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode of a name. NotFoundError, NotDirectoryError."""
        ino = self.find(parent, name)
        if not ino:
            self.directory(parent)
            raise NotFoundError(f"no such file or directory: {os.fsdecode(name)!r}")
        return ino

    def refuse_existing(self, parent: int, name: bytes) -> None:
        """ExistsError when the name is taken."""
        if self.find(parent, name):
            raise ExistsError(f"exists: {os.fsdecode(name)!r}")

    def refuse_unempty(self, attr: Attr, name: bytes) -> None:
        """NotDirectoryError or NotEmptyError unless `attr` is an empty directory."""
        if not attr.is_dir:
            raise NotDirectoryError(f"not a directory: {os.fsdecode(name)!r}")
        if self.db.row("SELECT 1 FROM edge WHERE parent = ? LIMIT 1", (attr.ino,)):
            raise NotEmptyError(f"directory not empty: {os.fsdecode(name)!r}")

    def _load(self, ino: int) -> Attr:
        row = self.db.row(_SELECT_INODE, (ino,))
        if row is None:
            raise StaleError(f"inode {ino} is gone")
        attr = Attr.of(row)
        if ino in self._atimes:
            attr = attr.changed(atime_ns=self._atimes[ino])
        self.remember(attr)
        return attr

    def _allocate(self) -> int:
        if self._next_ino >= self._ino_limit:
            limit = self._next_ino + INO_BATCH
            with self.db:
                self.db.run("UPDATE meta SET value = ? WHERE key = 'next_ino'", (limit,))
            self._ino_limit = limit
        self._next_ino += 1
        return self._next_ino - 1

    def _make_root(self) -> None:
        root = NewNode(_stat.S_IFDIR | 0o755, os.getuid(), os.getgid())
        self._ino_limit = ROOT_INO + 1
        with self.db:
            self.insert(self.new_attr(root), ROOT_INO, None)
            self.db.run("INSERT INTO meta VALUES ('next_ino', ?)", (ROOT_INO + 1,))


def unlinked(attr: Attr, now: int) -> Attr:
    """The inode with one name less; a directory has no link left."""
    return attr.changed(nlink=0 if attr.is_dir else attr.nlink - 1, ctime_ns=now)

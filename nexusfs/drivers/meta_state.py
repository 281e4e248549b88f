"""The tree in memory: attributes, names, extents, extended attributes, and what has changed.

What is here is the truth. The tables below lag behind by what is in `changed`, which the
operation journal holds meanwhile. Everything that has changed since the last flush stays in
memory, also what is gone; what is as stored may be dropped and read again.

A directory that was made here, or was listed, is complete: a name that is not in memory does not
exist, and no table is asked.

Concurrency: one thread, and no method suspends.
"""

import os
import stat as _stat
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from nexusfs.contracts.errors import (
    ExistsError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    StaleError,
)
from nexusfs.contracts.node import DirEntry
from nexusfs.contracts.store import ROOT_INO, SIZE_MAX, BlobRef, Extent
from nexusfs.drivers.meta_attr import Attr
from nexusfs.drivers.meta_blobs import BlobNames
from nexusfs.drivers.meta_body import Body
from nexusfs.drivers.meta_changes import Cut, EraseInode, SetInode, TreeChange
from nexusfs.drivers.meta_tables import Batch, MetaTables

INODES_MAX = 32_768
"""Attributes and bodies in memory: 600 bytes each, 20 MB when full, of the kernel's 80."""
NAMES_MAX = 100_000
"""Names in memory, 120 bytes each."""
PIECE_BYTES = 16 << 20
"""Content that is erased in one go: 4,096 extents at worst, 30 ms."""
LOADED_BYTES = 16 << 20
"""Inline contents, and as much of extended attributes, that may stay in memory once stored."""
LISTED_MAX = 8192
"""Names of a directory whose attributes are read together."""
BLOBS_MAX = 16_384
_TYPE_BITS = 0o170000
T = TypeVar("T")
KEPT = 0.75
"""What trimming leaves."""


class Directory:
    """Names of a directory: edge codes by name, 0 for a name that does not exist.

    `complete` says that a name that is not here does not exist.
    """

    __slots__ = ("complete", "names")

    def __init__(self, *, complete: bool) -> None:
        self.names: dict[bytes, int] = {}
        self.complete = complete


@dataclass(slots=True)
class Changed:
    """What the tables do not have yet."""

    inodes: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    edges: dict[tuple[int, bytes], int] = field(default_factory=dict)
    bodies: set[int] = field(default_factory=set)
    xattrs: dict[int, dict[bytes, bytes | None]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inodes or self.gone or self.edges or self.bodies or self.xattrs)

    def holds(self, ino: int) -> bool:
        """True when something of the inode itself has changed."""
        return ino in self.inodes or ino in self.bodies or ino in self.xattrs


class TreeState:
    """The tree of one store; `meta_changes.Tree` for those who change it.

    Attributes:
        blobs: how often each blob is named.
        changed: what has changed since the last batch.
        flushing: what the batch under way stores.
        next_ino: the number of the next new inode.
    """

    def __init__(self, tables: MetaTables) -> None:
        """Reads nothing yet but what must be known: the next inode and the dead blobs."""
        self._tables = tables
        self._attrs: dict[int, Attr] = {}
        self._dirs: dict[int, Directory] = {}
        self._bodies: dict[int, Body] = {}
        self._xattrs: dict[int, dict[bytes, bytes]] = {}
        self._names_count = 0
        self._loaded_bytes = 0
        self._attrs_most = INODES_MAX
        self.changed = Changed()
        self.flushing = Changed()
        self._flushing_extents: dict[int, dict[int, Extent | None]] = {}
        self.next_ino = tables.number("next_ino")
        self._stored_below = self.next_ino
        self.blobs = BlobNames(tables.blob, tables.dead_blobs())

    # Attributes

    def attr(self, ino: int) -> Attr:
        """The attributes of an inode. StaleError when it is gone."""
        return self._attrs.get(ino) or self._load(ino)

    def directory_attr(self, ino: int) -> Attr:
        """The attributes of a directory. NotFoundError, NotDirectoryError."""
        try:
            attr = self._attrs.get(ino) or self._load(ino)
        except StaleError as exc:
            raise NotFoundError("the directory was removed") from exc
        if attr.mode & _TYPE_BITS != _stat.S_IFDIR:
            raise NotDirectoryError("not a directory")
        return attr

    def touch(self, ino: int, atime_ns: int) -> None:
        """Sets atime; it needs no journal and goes with the next batch."""
        self._attrs[ino] = self.attr(ino).changed(atime_ns=atime_ns)
        self.changed.inodes.add(ino)

    # Names

    def find(self, parent: int, name: bytes) -> int:
        """The inode of a name, 0 when there is none."""
        directory = self._dirs.get(parent)
        if directory is None:
            gone = parent not in self._attrs and self._is_gone(parent)
            directory = self._dirs[parent] = Directory(complete=gone)
        code = directory.names.get(name)
        if code is not None:
            return code >> 4
        if directory.complete:
            return 0
        stored = self._tables.edge(parent, name)
        code = _code(*stored) if stored else 0
        directory.names[name] = code
        self._names_count += 1
        return code >> 4

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode of a name. NotFoundError, NotDirectoryError."""
        ino = self.find(parent, name)
        if not ino:
            self.directory_attr(parent)
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
        if any(self._complete(attr.ino).names.values()):
            raise NotEmptyError(f"directory not empty: {os.fsdecode(name)!r}")

    def entries(self, ino: int) -> list[DirEntry]:
        """All names of a directory, by name."""
        names = self._complete(ino).names
        return [
            DirEntry(name, code >> 4, (code & 15) << 12)
            for name, code in sorted(names.items())
            if code
        ]

    # Content

    def body(self, ino: int) -> Body:
        """The extents of a file; what has none stored needs no table."""
        body = self._bodies.get(ino)
        if body is None:
            stored = ino < self._stored_below
            body = self._bodies[ino] = Body(
                self.blobs,
                partial(self._extents, ino) if stored else None,
                partial(self._tables.last_start, ino) if stored else None,
            )
        return body

    def load_content(self, attr: Attr) -> None:
        """Reads what erasing the inode needs, so that it cannot fail then."""
        if attr.is_file and attr.used:
            self.body(attr.ino).load(0, SIZE_MAX)

    def one_name_less(self, left: Attr, held: Container[int]) -> TreeChange:
        """What becomes of an inode that lost a name: it stays if it has names or is held.

        A large file stays too, without a name, for `dying_piece` to take it apart.
        """
        if left.nlink or left.ino in held or left.used > PIECE_BYTES:
            return SetInode(left)
        self.load_content(left)
        return EraseInode(left.ino)

    def dying_piece(self, ino: int) -> tuple[TreeChange, ...]:
        """The next piece of an orphan to erase: the end of its content, or what is left of it."""
        attr = self.attr(ino)
        if attr.used <= PIECE_BYTES:
            self.load_content(attr)
            return (EraseInode(ino),)
        start = max(0, self.body(ino).last_start() - PIECE_BYTES)
        self.body(ino).load(start, SIZE_MAX)
        return SetInode(attr.changed(size=start)), Cut(ino, start)

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """The extended attributes of an inode, not to be changed by the caller."""
        found = self._xattrs.get(ino)
        if found is None:
            found = self._tables.xattrs(ino) if ino < self._stored_below else {}
            self._xattrs[ino] = found
            self._loaded_bytes += _xattrs_weight(found)
        return found

    # Changes (meta_changes.Tree)

    def set_inode(self, attr: Attr) -> None:
        """Makes an inode, or replaces its attributes."""
        ino = attr.ino
        if ino >= self.next_ino:
            self.next_ino = ino + 1
            if attr.is_dir:
                self._dirs[ino] = Directory(complete=True)
        self._attrs[ino] = attr
        self.changed.inodes.add(ino)

    def erase_inode(self, ino: int) -> None:
        """Removes an inode with its content and extended attributes."""
        attr = self.attr(ino)
        if attr.is_file and attr.used:
            self.load_content(attr)
            self.body(ino).unname_all()
        del self._attrs[ino]
        self._bodies.pop(ino, None)
        self._xattrs.pop(ino, None)
        self._drop_names(ino)
        changed = self.changed
        changed.inodes.discard(ino)
        changed.bodies.discard(ino)
        changed.xattrs.pop(ino, None)
        if ino < self._stored_below:
            changed.gone.add(ino)

    def set_edge(self, parent: int, name: bytes, ino: int, kind: int) -> None:
        """Enters a name; `ino` 0 removes it."""
        directory = self._dirs.get(parent)
        if directory is None:
            directory = self._dirs[parent] = Directory(complete=False)
        names = directory.names
        if name not in names:
            self._names_count += 1
        self.changed.edges[parent, name] = names[name] = ino << 4 | kind

    def put_extents(self, ino: int, now_ns: int, extents: Sequence[Extent]) -> None:
        """Replaces what the extents cover and grows the file to their end."""
        attr = self.attr(ino)
        body = self.body(ino)
        used = attr.used
        body.pinned = True
        for extent in extents:
            if extent.blob is not None:
                self.blobs.renew(extent.blob)
            else:
                self._loaded_bytes += extent.length
            used += body.put(extent)
        size = max(attr.size, extents[-1].stop)
        self._attrs[ino] = attr.written(size, used, now_ns)
        self.changed.inodes.add(ino)
        self.changed.bodies.add(ino)

    def cut(self, ino: int, start: int) -> None:
        """Drops the content from `start` on."""
        attr = self.attr(ino)
        body = self.body(ino)
        body.load(start, SIZE_MAX)
        removed = body.carve(start, SIZE_MAX) if attr.used else 0
        if removed:
            body.pinned = True
            self._attrs[ino] = attr.changed(used=attr.used - removed)
            self.changed.inodes.add(ino)
            self.changed.bodies.add(ino)

    def set_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Sets an extended attribute; None removes it."""
        xattrs = self.xattrs(ino)
        if value is None:
            xattrs.pop(name, None)
        else:
            xattrs[name] = value
            self._loaded_bytes += len(value)
        self.changed.xattrs.setdefault(ino, {})[name] = value

    # Flushing

    @property
    def unstored(self) -> bool:
        """True when a flush has something to do."""
        return bool(self.changed) or self.blobs.unstored

    def take(self, number: int) -> tuple[Batch, list[BlobRef]]:
        """Everything that has changed, as rows, and the blobs to delete once they are stored.

        `taken` must follow before the next.
        """
        changed, self.changed = self.changed, Changed()
        self.flushing = changed
        self._stored_below = self.next_ino
        batch = Batch(number, self.next_ino)
        batch.inodes = [self._attrs[ino] for ino in changed.inodes]
        batch.gone = list(changed.gone)
        batch.edges = [
            (parent, name, code >> 4, (code & 15) << 12)
            for (parent, name), code in changed.edges.items()
        ]
        for ino in changed.bodies:
            body = self._bodies[ino]
            rows, body.changed = body.changed, {}
            self._flushing_extents[ino] = rows
            batch.extents += [(ino, start, extent) for start, extent in rows.items()]
        batch.xattrs = [
            (ino, name, value)
            for ino, values in changed.xattrs.items()
            for name, value in values.items()
        ]
        batch.blobs, batch.blobs_gone, doomed = self.blobs.take()
        return batch, doomed

    def taken(self, batch: Batch, *, failed: bool) -> None:
        """Ends what `take` began; `failed` when nothing of it was stored."""
        old, self.flushing = self.flushing, Changed()
        extents, self._flushing_extents = self._flushing_extents, {}
        self.blobs.taken(failed=failed)
        if failed:
            self.blobs.restore(batch.blobs, batch.blobs_gone)
            self._restore(old, extents)
            return
        for ino in extents:
            body = self._bodies.get(ino)
            if body is not None and ino not in self.changed.bodies:
                body.pinned = False
        self.trim()

    def _restore(self, old: Changed, extents: dict[int, dict[int, Extent | None]]) -> None:
        """Lets what was not stored be changed again; what was changed since then goes on top."""
        new = self.changed
        new.inodes |= old.inodes & self._attrs.keys()
        new.gone |= old.gone
        new.edges = {**old.edges, **new.edges}
        for ino, rows in extents.items():
            body = self._bodies.get(ino)
            if body is not None:
                body.changed = {**rows, **body.changed}
                new.bodies.add(ino)
        for ino, values in old.xattrs.items():
            if ino in self._attrs:
                new.xattrs[ino] = {**values, **new.xattrs.get(ino, {})}

    # Memory

    @property
    def crowded(self) -> bool:
        """True when `trim` should be called, between two transactions."""
        return (
            len(self._attrs) > self._attrs_most
            or self._names_count > NAMES_MAX
            or self._loaded_bytes > LOADED_BYTES
            or len(self._dirs) > INODES_MAX
        )

    def trim(self) -> None:
        """Drops the oldest of what is as stored, where there is too much."""
        self.blobs.trim(BLOBS_MAX)
        _drop_oldest(self._attrs, self._pinned)
        # Where most is pinned there is little to drop, and looking for it takes 10 ms.
        self._attrs_most = max(INODES_MAX, len(self._attrs) * 9 // 8)
        _drop_oldest(self._bodies, self._pinned)
        _drop_oldest(self._xattrs, self._pinned)
        if self._loaded_bytes > LOADED_BYTES:
            self._loaded_bytes = sum((
                _drop_heaviest(self._bodies, self._pinned, Body.weight),
                _drop_heaviest(self._xattrs, self._pinned, _xattrs_weight),
            ))  # fmt: skip
        if self._names_count > NAMES_MAX or len(self._dirs) > INODES_MAX:
            self._trim_names()

    def _pinned(self, ino: int) -> bool:
        return self.changed.holds(ino) or self.flushing.holds(ino) or ino == ROOT_INO

    def _trim_names(self) -> None:
        """Drops the names of the directories that were read first, but for those that changed."""
        unstored: dict[int, list[bytes]] = {}
        for edges in (self.flushing.edges, self.changed.edges):
            for parent, name in edges:
                unstored.setdefault(parent, []).append(name)
        for ino in list(self._dirs):
            if self._names_count <= NAMES_MAX * KEPT and len(self._dirs) <= INODES_MAX * KEPT:
                return
            directory = self._drop_names(ino)
            if ino in unstored:
                left = self._dirs[ino] = Directory(complete=False)
                names = directory.names
                left.names = {name: names[name] for name in unstored[ino] if name in names}
                self._names_count += len(left.names)

    def _drop_names(self, ino: int) -> Directory:
        directory = self._dirs.pop(ino, None) or Directory(complete=False)
        self._names_count -= len(directory.names)
        return directory

    # Loading

    def _extents(self, ino: int, start: int, stop: int) -> list[Extent]:
        found = self._tables.extents(ino, start, stop)
        self._loaded_bytes += sum(len(extent.data) for extent in found if extent.data)
        return found

    def _load(self, ino: int) -> Attr:
        attr = None if self._is_gone(ino) else self._tables.inode(ino)
        if attr is None:
            raise StaleError(f"inode {ino} is gone")
        self._attrs[ino] = attr
        return attr

    def _is_gone(self, ino: int) -> bool:
        """True for an inode that is not in memory and whose row, if any, says what was."""
        return ino in self.changed.gone or ino in self.flushing.gone or ino >= self._stored_below

    def _load_all(self, directory: int) -> None:
        """Reads the attributes of all that a directory has: who lists it asks for them next."""
        for attr in self._tables.inodes_of(directory):
            if attr.ino not in self._attrs and not self._is_gone(attr.ino):
                self._attrs[attr.ino] = attr

    def _complete(self, ino: int) -> Directory:
        """The directory with all its names."""
        directory = self._dirs.get(ino)
        if directory is None:
            directory = self._dirs[ino] = Directory(complete=False)
        if not directory.complete:
            before = len(directory.names)
            stored = {e.name: _code(e.ino, e.kind) for e in self._tables.edges(ino)}
            if before < len(stored) <= LISTED_MAX:
                self._load_all(ino)
            directory.names = stored | directory.names
            directory.complete = True
            self._names_count += len(directory.names) - before
        return directory


def _code(ino: int, kind: int) -> int:
    """An edge as one number: inode, and the type bits of the mode."""
    return ino << 4 | kind >> 12


def _drop_oldest(cache: dict[int, T], pinned: Callable[[int], bool]) -> None:
    """Drops what was read first and is not pinned, if there is too much."""
    surplus = len(cache) - int(INODES_MAX * KEPT) if len(cache) > INODES_MAX else 0
    for ino in list(cache):
        if surplus <= 0:
            return
        if not pinned(ino):
            del cache[ino]
            surplus -= 1


def _drop_heaviest(
    cache: dict[int, T], pinned: Callable[[int], bool], weight: Callable[[T], int]
) -> int:
    """Drops what was read first and is not pinned, till half of LOADED_BYTES is left, or less.

    Returns the bytes that are left and not pinned.
    """
    weights = {ino: weight(each) for ino, each in cache.items() if not pinned(ino)}
    left = sum(weights.values())
    for ino, size in weights.items():
        if left <= LOADED_BYTES // 2:
            break
        if size:
            del cache[ino]
            left -= size
    return left


def _xattrs_weight(xattrs: dict[bytes, bytes]) -> int:
    return sum(map(len, xattrs.values()))

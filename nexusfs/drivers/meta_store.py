"""The metadata store: names, attributes and extents, in memory, with a journal.

Each method that changes something follows one order: look at everything that decides whether
and how, write the transaction to the operation journal, then apply it to the memory. A
transaction that fails in the first two leaves all as it was; the third cannot fail. So one
method is one transaction, and one record of the journal.

Concurrency: one thread, and no method suspends, so each is atomic for every trio task.
"""

import os
import stat as _stat
import time
from collections.abc import Container, Sequence
from itertools import groupby

from nexusfs.contracts.errors import (
    InvalidError,
    IsDirectoryError,
    NoDataError,
    NoSpaceError,
    NotFoundError,
    NotPermittedError,
    TooBigError,
)
from nexusfs.contracts.node import Change, DirEntry, NewNode, Stat, StatFs
from nexusfs.contracts.store import ROOT_INO, SIZE_MAX, BlobRef, Extent
from nexusfs.drivers.meta_attr import Attr
from nexusfs.drivers.meta_changes import (
    Cut,
    EraseInode,
    PutBlobs,
    PutBytes,
    SetEdge,
    SetInode,
    SetXattr,
    TreeChange,
    blobs_of,
)
from nexusfs.drivers.meta_rename import Rename
from nexusfs.drivers.meta_schema import DIRECTORY_BYTES
from nexusfs.drivers.meta_state import PIECE_BYTES, TreeState
from nexusfs.drivers.op_journal import OpJournal
from nexusfs.drivers.room import Room

XATTR_LIST_MAX = 65_536
"""Bytes of all names with their NULs. Source: Linux XATTR_LIST_MAX."""


class TreeMeta:
    """Names, attributes and extents of one tree; see `contracts.store.MetaStore`."""

    def __init__(self, state: TreeState, journal: OpJournal, room: Room) -> None:
        """The tree in `state`; `room` says whether the disk below lets it grow."""
        self._state = state
        self._journal = journal
        self._room = room
        self._dying: set[int] = set()

    @property
    def changes(self) -> int:
        """Counts transactions."""
        return self._journal.number

    # Reading

    def getattr(self, ino: int) -> Stat:
        """The attributes of an inode. StaleError ESTALE when it is gone."""
        return self._state.attr(ino)

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode of one name. NotFoundError, NotDirectoryError."""
        if self._state.crowded:
            self._state.trim()
        return self._state.lookup(parent, name)

    def find(self, parent: int, name: bytes) -> int:
        """The inode of one name of a directory, 0 when there is none."""
        if self._state.crowded:
            self._state.trim()
        return self._state.find(parent, name)

    def above(self, ino: int) -> int:
        """The directory that a directory is in; 0 for the root and for anything else."""
        return self._state.attr(ino).parent if ino != ROOT_INO else 0

    def readdir(self, ino: int) -> list[DirEntry]:
        """All entries but . and .., by name."""
        self._state.directory_attr(ino)
        if self._state.crowded:
            self._state.trim()
        return self._state.entries(ino)

    def readlink(self, ino: int) -> bytes:
        """The text of a symlink."""
        attr = self._state.attr(ino)
        if not attr.is_link:
            raise InvalidError("not a symlink")
        return attr.target

    # Names

    def create(self, parent: int, name: bytes, new: NewNode) -> Stat:
        """Makes an inode and its first name."""
        state = self._state
        directory = state.directory_attr(parent)
        state.refuse_existing(parent, name)
        now = time.time_ns()
        attr = _new_attr(state.next_ino, parent, new, now)
        self._commit(
            SetInode(attr),
            SetEdge(parent, name, attr.ino, _stat.S_IFMT(new.mode) >> 12),
            SetInode(directory.listed(attr.is_dir, now)),
        )
        return attr

    def link(self, parent: int, name: bytes, ino: int) -> Stat:
        """Adds a name to an inode that is not a directory."""
        state = self._state
        directory = state.directory_attr(parent)
        attr = state.attr(ino)
        state.refuse_existing(parent, name)
        if attr.is_dir:
            raise NotPermittedError("a directory cannot be linked")
        if attr.nlink == 0:
            raise NotFoundError("the file was removed")
        now = time.time_ns()
        linked = attr.changed(nlink=attr.nlink + 1, ctime_ns=now)
        self._commit(
            SetInode(linked),
            SetEdge(parent, name, ino, _stat.S_IFMT(attr.mode) >> 12),
            SetInode(directory.listed(0, now)),
        )
        return linked

    def unlink(self, parent: int, name: bytes, held: Container[int] = ()) -> Stat:
        """Removes a name; the inode goes with its last one, unless it is held."""
        directory = self._state.directory_attr(parent)
        attr = self._state.attr(self._state.lookup(parent, name))
        if attr.is_dir:
            raise IsDirectoryError(f"is a directory: {os.fsdecode(name)!r}")
        return self._remove(directory, name, attr, held)

    def rmdir(self, parent: int, name: bytes) -> Stat:
        """Removes an empty directory."""
        directory = self._state.directory_attr(parent)
        attr = self._state.attr(self._state.lookup(parent, name))
        self._state.refuse_unempty(attr, name)
        return self._remove(directory, name, attr, ())

    def rename(
        self,
        source: tuple[int, bytes],
        target: tuple[int, bytes],
        flags: int = 0,
        held: Container[int] = (),
    ) -> Stat | None:
        """Moves a name, replaces what is there, or exchanges the two."""
        done, left = Rename(self._state, source, target).changes(flags, held)
        if done:
            self._commit(*done, growing=False)
        if left is not None:
            self._forsake(left, held)
        return left

    # Attributes

    def setattr(self, ino: int, change: Change) -> Stat:
        """Sets attributes; a new size cuts or extends the file."""
        attr = self._state.attr(ino)
        after = attr.changed(**_changed_values(attr, change))
        done: list[TreeChange] = [SetInode(after)]
        if change.size is not None and change.size < attr.size and attr.used:
            self._state.body(ino).load(change.size, SIZE_MAX)
            done.append(Cut(ino, change.size))
        self._commit(*done, growing=False)
        return self._state.attr(ino)

    def touch(self, ino: int, atime_ns: int) -> None:
        """Sets atime in memory."""
        self._state.touch(ino, atime_ns)

    # Content

    def extents(self, ino: int, start: int, stop: int) -> list[Extent]:
        """The extents that overlap [start, stop), whole, by start."""
        if self._state.crowded:
            self._state.trim()
        return self._state.body(ino).select(start, stop)

    def write(self, ino: int, extents: Sequence[Extent]) -> Stat:
        """Replaces what the extents cover and grows the file to their end."""
        attr = self._state.attr(ino)
        start, stop = extents[0].start, extents[-1].stop
        _check_size(attr, stop)
        self._state.body(ino).load(start, stop)
        if len(extents) == 1 and extents[0].data is not None:
            self._commit(PutBytes(ino, time.time_ns(), start, extents[0].data))
            return self._state.attr(ino)
        done = _writes(ino, extents)
        # Making room flushes, and a flush frees blobs that nothing names.
        held = blobs_of(done)
        for blob in held:
            self._state.blobs.name(blob)
        try:
            self._commit(*done)
        finally:
            for blob in held:
                self._state.blobs.unname(blob)
        return self._state.attr(ino)

    def find_blob(self, digest: bytes, algorithm: str) -> BlobRef | None:
        """A blob of these bytes that is already stored."""
        return self._state.blobs.find(digest, algorithm)

    def distrust(self, blob: BlobRef) -> None:
        """Lets the same bytes be put anew, for a blob that could not be read."""
        self._state.blobs.distrust(blob)

    def free(self, ino: int) -> None:
        """Erases an orphan; a large one piece by piece, in `reap`."""
        self._dying.add(ino)
        if self._state.attr(ino).used <= PIECE_BYTES:
            self.reap()

    def reap(self) -> bool:
        """Erases a piece of what was removed; True when there is more."""
        if not self._dying:
            return False
        ino = self._dying.pop()
        done = self._state.dying_piece(ino)
        self._commit(*done, growing=False)
        if not isinstance(done[0], EraseInode):
            self._dying.add(ino)
        return bool(self._dying)

    # Extended attributes

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """One attribute. NoDataError."""
        value = self._state.xattrs(ino).get(name)
        if value is None:
            raise NoDataError(f"no extended attribute {os.fsdecode(name)!r}")
        return value

    def setxattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Sets one attribute; its own value changes nothing. NoSpaceError over 64 KiB of names."""
        after = self._state.attr(ino).changed(ctime_ns=time.time_ns())
        known = self._state.xattrs(ino)
        if known.get(name) == value:
            return  # Nor does ctime move. Source: ext4.
        names = known.keys() | {name}
        if sum(len(each) + 1 for each in names) > XATTR_LIST_MAX:
            raise NoSpaceError(f"over {XATTR_LIST_MAX} bytes of names of extended attributes")
        self._commit(SetXattr(ino, name, value), SetInode(after))

    def listxattr(self, ino: int) -> list[bytes]:
        """The names, sorted."""
        return sorted(self._state.xattrs(ino))

    def removexattr(self, ino: int, name: bytes) -> None:
        """Removes one attribute. NoDataError."""
        self.getxattr(ino, name)
        after = self._state.attr(ino).changed(ctime_ns=time.time_ns())
        self._commit(SetXattr(ino, name, None), SetInode(after), growing=False)

    def statfs(self) -> StatFs:
        """Size and use of the disk below; what only removals may use is not free."""
        return self._room.statfs()

    # Inside

    def _remove(self, directory: Attr, name: bytes, attr: Attr, held: Container[int]) -> Attr:
        now = time.time_ns()
        left = attr.unlinked(now)
        self._commit(
            SetEdge(directory.ino, name, 0, 0),
            self._state.one_name_less(left, held),
            SetInode(directory.listed(-attr.is_dir, now)),
            growing=False,
        )
        self._forsake(left, held)
        return left

    def _forsake(self, left: Attr, held: Container[int]) -> None:
        """Lets a file that stayed for its size alone be taken apart."""
        if left.nlink == 0 and left.used > PIECE_BYTES and left.ino not in held:
            self._dying.add(left.ino)

    def _commit(self, *done: TreeChange, growing: bool = True) -> None:
        """Writes a transaction to the journal and applies it. NoSpaceError ENOSPC."""
        payload = b"".join([change.pack() for change in done])
        self._room.enter(len(payload), len(done), growing=growing)
        try:
            self._journal.append(payload)
        except NoSpaceError:
            if not self._room.make(removing=not growing):
                raise
            self._journal.append(payload)
        for change in done:
            change.apply(self._state)


def _new_attr(ino: int, parent: int, new: NewNode, now_ns: int) -> Attr:
    is_dir = _stat.S_ISDIR(new.mode)
    size = used = DIRECTORY_BYTES if is_dir else 0
    return Attr(
        ino, new.mode, 1 + is_dir, new.uid, new.gid, size or len(new.target), now_ns, now_ns,
        now_ns, new.rdev, 8 if is_dir else 0, used, parent if is_dir else 0, new.target,
    )  # fmt: skip


def _writes(ino: int, extents: Sequence[Extent]) -> list[TreeChange]:
    now = time.time_ns()
    done: list[TreeChange] = []
    for inline, some in groupby(extents, key=lambda extent: extent.data is not None):
        if inline:
            done += [PutBytes(ino, now, e.start, e.data or b"") for e in some]
        else:
            done.append(PutBlobs(ino, now, list(some)))
    return done


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

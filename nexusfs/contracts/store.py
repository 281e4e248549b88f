"""The ports of the store: metadata, blobs, the agents' journal and the log of calls.

A port is synchronous: SQLite answers in microseconds, a hop to a thread costs 360 of them.
Only `SyncTicket.wait` may take milliseconds, and it alone may run in another thread.

Acknowledged means that a method has returned: the effect then survives the death of the
process. Durable means that it survives a power cut, and takes `sync`.

One method of `MetaStore` is one transaction. A driver may gather several transactions in one
commit, as long as what it acknowledged survives the process (an operation journal).
"""

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Protocol

from nexusfs.contracts.node import Change, DirEntry, NewNode, Stat, StatFs

ROOT_INO = 1
INO_MAX = (1 << 48) - 1
"""Inode numbers of the store; the VFS gives the bits above to other filesystems."""
SIZE_MAX = (1 << 63) - 1
"""Largest file in bytes. Source: Linux loff_t."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Names stored bytes: by digest, and by where the blob store put them.

    `place` is the blob store's own word, opaque to everybody else.
    """

    algorithm: str
    digest: bytes
    size: int
    place: str


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes [start, start + length) of a file; exactly one of `data` and `blob` is set.

    `offset` is where the extent begins inside the blob.
    """

    start: int
    length: int
    data: bytes | None = None
    blob: BlobRef | None = None
    offset: int = 0

    @property
    def stop(self) -> int:
        """The first byte after the extent."""
        return self.start + self.length


def digest_of(algorithm: str, data: bytes | memoryview) -> bytes:
    """The digest of `data`; `algorithm` is a name that hashlib knows."""
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


class BlobStore(Protocol):
    """Immutable byte strings, verified when read.

    `algorithm` is the hash for new blobs; a blob is read with the one in its `BlobRef`.
    """

    algorithm: str

    def put(self, digest: bytes, data: bytes) -> BlobRef:
        """Stores `data`, whose digest the caller has computed. NoSpaceError ENOSPC."""
        ...

    def get(self, ref: BlobRef) -> bytes:
        """The whole blob. CorruptError EIO when it is missing or is not what its name says."""
        ...

    def delete(self, ref: BlobRef) -> None:
        """Frees the space; a blob that is already gone is no error.

        Only to be called when the metadata that forgot the blob is durable.
        """
        ...

    def dirty_fds(self) -> list[int]:
        """New descriptors to fdatasync and close, for all that was put since the last call."""
        ...

    def close(self) -> None:
        """Releases descriptors."""
        ...


class MetaStore(Protocol):
    """Names, attributes and extents of one tree. Mechanism only: it checks no permission.

    Every method but the getters is one transaction. An inode that is gone is StaleError
    ESTALE where its attributes are asked, NotFoundError ENOENT where it is a parent.
    `held` is the set of inodes with open files: an inode whose last link goes lives on as an
    orphan (nlink 0) when it is held, until `free`, or until the store is next opened.
    Parents' mtime and ctime, ctime of what is linked, and directories' nlink are kept here.
    """

    @property
    def changes(self) -> int:
        """Counts committed transactions, for deciding whether there is anything to sync."""
        ...

    @property
    def maintenance_due(self) -> bool:
        """True when the log, or the space of dead blobs, has grown enough for a sync."""
        ...

    def getattr(self, ino: int) -> Stat:
        """The attributes of an inode."""
        ...

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode of one name. NotFoundError, NotDirectoryError."""
        ...

    def readdir(self, ino: int) -> list[DirEntry]:
        """All entries but . and .., by name."""
        ...

    def readlink(self, ino: int) -> bytes:
        """The text of a symlink. InvalidError EINVAL for anything else."""
        ...

    def create(self, parent: int, name: bytes, new: NewNode) -> Stat:
        """Makes an inode and its first name. ExistsError."""
        ...

    def link(self, parent: int, name: bytes, ino: int) -> Stat:
        """Adds a name. ExistsError; NotPermittedError EPERM for a directory."""
        ...

    def unlink(self, parent: int, name: bytes, held: Container[int] = ()) -> Stat:
        """Removes a name and returns what is left: nlink 0 when it was the last.

        IsDirectoryError EISDIR.
        """
        ...

    def rmdir(self, parent: int, name: bytes) -> Stat:
        """Removes an empty directory. NotEmptyError, NotDirectoryError."""
        ...

    def rename(
        self,
        source: tuple[int, bytes],
        target: tuple[int, bytes],
        flags: int = 0,
        held: Container[int] = (),
    ) -> Stat | None:
        """Moves (parent, name) to (parent, name); returns what is left of the one replaced.

        `flags`: 0, RENAME_NOREPLACE or RENAME_EXCHANGE. InvalidError EINVAL when a directory
        would end up below itself; NotEmptyError, IsDirectoryError, NotDirectoryError,
        ExistsError as rename(2).
        """
        ...

    def setattr(self, ino: int, change: Change) -> Stat:
        """Sets attributes; a new size cuts or extends the file and sets mtime. TooBigError."""
        ...

    def touch(self, ino: int, atime_ns: int) -> None:
        """Sets atime in memory; it is stored with the next change of the inode or sync."""
        ...

    def extents(self, ino: int, start: int, stop: int) -> list[Extent]:
        """The extents that overlap [start, stop), whole, by start; gaps are zeros."""
        ...

    def write(self, ino: int, extents: Sequence[Extent]) -> Stat:
        """Replaces what the extents cover, grows the file to their end, sets mtime and ctime.

        `extents` touch each other, by start. Each names its blob once more; blobs that are no
        longer named are queued for `take_dead`.
        """
        ...

    def find_blob(self, digest: bytes, algorithm: str) -> BlobRef | None:
        """A blob of these bytes that is already stored; using it again revives a dead one."""
        ...

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """One attribute. NoDataError."""
        ...

    def setxattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Sets one attribute. NoSpaceError over 64 KiB of names."""
        ...

    def listxattr(self, ino: int) -> list[bytes]:
        """The names, sorted."""
        ...

    def removexattr(self, ino: int, name: bytes) -> None:
        """Removes one attribute. NoDataError."""
        ...

    def free(self, ino: int) -> None:
        """Erases an orphan, at its last close."""
        ...

    def take_dead(self) -> list[BlobRef]:
        """Blobs that nothing names any more; starts a collection, see `end_collection`."""
        ...

    def end_collection(self, blobs: BlobStore) -> int:
        """Deletes what `take_dead` returned and nothing revived; returns how many.

        Only to be called when the state at `take_dead` is durable.
        """
        ...

    def flush_atimes(self) -> None:
        """Stores the access times that `touch` kept in memory."""
        ...

    def dirty_fds(self) -> list[int]:
        """New descriptors to fdatasync and close, to make all that is committed durable."""
        ...

    def checkpoint(self) -> None:
        """Puts what is committed in its place; to be called when it is durable."""
        ...

    def statfs(self) -> StatFs:
        """Size and use of the disk below."""
        ...

    def close(self) -> None:
        """Writes what is left in memory and releases the database."""
        ...


class SyncTicket(Protocol):
    """One round of making things durable; `wait` blocks and may run in any thread.

    `changes` is what the round covers, `failed` says that the disk refused.
    """

    changes: int
    failed: bool

    def wait(self) -> None:
        """Blobs first, then the metadata that names them, are on disk when it returns."""
        ...


class Room(Protocol):
    """Whether the disk lets a store grow."""

    def check(self) -> None:
        """NoSpaceError ENOSPC when the disk is full: only removals go on then."""
        ...

    def make(self, *, removing: bool) -> bool:
        """Frees what is dead after an ENOSPC; True when trying once more is worth it.

        For a removal the store's reserve is given up too. A blob that nothing names may be
        gone afterwards, so the caller begins anew.
        """
        ...


class Store(Protocol):
    """A store that is open: metadata and blobs under one lock."""

    @property
    def room(self) -> Room:
        """Whether the disk lets the store grow."""
        ...

    @property
    def meta(self) -> MetaStore:
        """Names, attributes and extents."""
        ...

    @property
    def blobs(self) -> BlobStore:
        """Larger contents."""
        ...

    def begin_sync(self) -> SyncTicket:
        """Starts a round that covers everything acknowledged so far."""
        ...

    def end_sync(self, ticket: SyncTicket) -> None:
        """Frees the blobs that were dead when the round began; after `ticket.wait()`."""
        ...

    def sync(self) -> None:
        """Makes everything acknowledged so far durable. Blocks for milliseconds."""
        ...

    def maintain(self) -> None:
        """Costs one comparison; now and then a sync and a checkpoint. Call it after changes."""
        ...

    def close(self) -> None:
        """Syncs, closes and unlocks."""
        ...


class Journal(Protocol):
    """Append-only lines for each process; a line survives kill -9 once `append` returned."""

    def append(self, pid: int, line: bytes) -> None:
        """Adds one line."""
        ...

    def read(self, pid: int) -> list[bytes]:
        """All lines of a process, oldest first; empty for one that is unknown."""
        ...

    def edges(self, pid: int) -> tuple[bytes, list[bytes]]:
        """(first line, last two lines) of a process that has lines, without reading the others."""
        ...

    def pids(self) -> list[int]:
        """Processes with lines that are not forgotten, ascending."""
        ...

    def allocate_pid(self) -> int:
        """A pid from 2 up that this store never gave before."""
        ...

    def forget(self, pid: int) -> None:
        """Drops a process from `pids`; its lines stay."""
        ...

    def sync(self) -> None:
        """Makes all lines durable. Blocks; may run in any thread."""
        ...


class CallLog(Protocol):
    """Replies of tool calls: the last 1,000 of each user."""

    def put(self, uid: int, call_id: str, reply: bytes) -> None:
        """Keeps a reply as the user's newest."""
        ...

    def get(self, uid: int, call_id: str) -> bytes | None:
        """The reply, or None when there is none any more."""
        ...

    def ids(self, uid: int) -> list[str]:
        """Ids of the kept calls, newest last."""
        ...

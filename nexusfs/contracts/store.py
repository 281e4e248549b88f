"""The ports of the store: metadata, blobs, the agents' journal and the log of calls.

A port is synchronous: memory and SQLite answer in microseconds, a hop to a thread costs 360 of
them. What may take milliseconds says "blocks", and it alone may run in another thread.

Acknowledged means that a method has returned: the effect then survives the death of the
process. Durable means that it survives a power cut, and takes `sync`.

One method of `MetaStore` is one transaction. A store keeps what was acknowledged in memory and
in a journal, and moves it to where it rests now and then: a flush. `Store.backlog` says how much
waits; who writes faster than the flush should wait while it is 1 or more.
"""

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


@dataclass(slots=True)
class Extent:
    """Bytes [start, start + length) of a file; exactly one of `data` and `blob` is set.

    `offset` is where the extent begins inside the blob. Never changed in place; not frozen,
    for that takes three times as long to make.
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


@dataclass(frozen=True, slots=True)
class Unsynced:
    """What a blob store has not made durable: new descriptors to fdatasync and close.

    `until` is the blob store's own count of what they cover; `area` is the first part of it that
    may still take blobs, for `reclaim`.
    """

    fds: list[int]
    until: int
    area: int = 0


class Living(Protocol):
    """Who knows which blobs are named, by the beginning of their place. Blocks."""

    def bytes_at(self, prefix: str) -> int:
        """The sum of their sizes."""
        ...

    def blobs_at(self, prefix: str, most: int) -> list[BlobRef]:
        """Some of them, at most so many."""
        ...


class BlobStore(Protocol):
    """Immutable byte strings, verified when read.

    `algorithm` is the hash for new blobs; a blob is read with the one in its `BlobRef`. Every
    method may be called from any thread.
    """

    algorithm: str

    def digest(self, data: bytes) -> bytes:
        """The name of `data` as a new blob. Blocks for as long as hashing takes."""
        ...

    def put(self, digest: bytes, data: bytes) -> BlobRef:
        """Stores `data`, whose digest the caller has computed. NoSpaceError ENOSPC."""
        ...

    def get(self, ref: BlobRef) -> bytes:
        """The whole blob. CorruptError EIO when it is missing or is not what its name says."""
        ...

    def check(self, ref: BlobRef) -> None:
        """As `get`, of what is on disk: bytes that a failed sync left in memory do not count."""
        ...

    def delete(self, ref: BlobRef) -> None:
        """Frees the space; a blob that is already gone is no error.

        Only to be called when the metadata that forgot the blob is durable.
        """
        ...

    def reclaim(self, deleted: Sequence[BlobRef], living: Living, since: Unsynced) -> list[BlobRef]:
        """Frees the space around blobs that were deleted; blocks.

        Returns live blobs that should be put anew and deleted, so that more can be freed.
        `living` knows of everything that was put before `since`.
        """
        ...

    def unsynced(self) -> Unsynced:
        """What was put and may not be on disk yet."""
        ...

    def synced(self, unsynced: Unsynced) -> None:
        """All of `unsynced` is on disk now."""
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

    def getattr(self, ino: int) -> Stat:
        """The attributes of an inode."""
        ...

    def lookup(self, parent: int, name: bytes) -> int:
        """The inode of one name. NotFoundError, NotDirectoryError."""
        ...

    def find(self, parent: int, name: bytes) -> int:
        """The inode of one name of a directory, 0 when there is none."""
        ...

    def above(self, ino: int) -> int:
        """The directory that a directory is in; 0 for the root and for anything else."""
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
        """Sets atime in memory; it is stored with the next flush, and kill -9 may lose it."""
        ...

    def extents(self, ino: int, start: int, stop: int) -> list[Extent]:
        """The extents that overlap [start, stop), whole, by start; gaps are zeros."""
        ...

    def write(self, ino: int, extents: Sequence[Extent]) -> Stat:
        """Replaces what the extents cover, grows the file to their end, sets mtime and ctime.

        `extents` touch each other, by start. Each names its blob once more; the space of blobs
        that nothing names any more is freed by a flush. Inline extents may be joined, cut, and
        turned into blobs later.
        """
        ...

    def find_blob(self, digest: bytes, algorithm: str) -> BlobRef | None:
        """A blob of these bytes that is already stored; using it again revives a dead one."""
        ...

    def distrust(self, blob: BlobRef) -> None:
        """A blob could not be read: `find_blob` does not know it any more.

        When the same bytes are put and named once more, all that names the blob has them again.
        """
        ...

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """One attribute. NoDataError."""
        ...

    def setxattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Sets one attribute; the value that it has moves no ctime.

        NoSpaceError over 64 KiB of names.
        """
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

    def statfs(self) -> StatFs:
        """Size and use of the disk below."""
        ...


class SyncTicket(Protocol):
    """One round of making durable what was acknowledged."""

    def wait(self) -> None:
        """Blobs first, then the journal that names them, are on disk when it returns. Blocks.

        KernelError EIO when the disk refuses.
        """
        ...


class FlushRound(Protocol):
    """One round of moving what has changed to where it rests; its four steps in order.

    A step that was done does nothing. `seal` and `write` block and may run in any thread; `take`
    and `end` belong in the store's thread. When a step fails, `end` comes next.
    """

    def seal(self) -> None:
        """Puts inline contents that have grown into blobs. NoSpaceError ENOSPC."""
        ...

    def take(self) -> None:
        """Collects what has changed."""
        ...

    def write(self) -> None:
        """Stores it, durably, and frees what is dead. NoSpaceError ENOSPC."""
        ...

    def end(self) -> None:
        """Notes what came of it; what failed is for the next round."""
        ...


class Room(Protocol):
    """Whether the disk lets a store grow."""

    def check(self, size_bytes: int = 0) -> None:
        """NoSpaceError ENOSPC when `size_bytes` more do not fit; only removals go on then."""
        ...

    def make(self, *, removing: bool) -> bool:
        """Frees what is dead after an ENOSPC; True when trying once more is worth it. Blocks.

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

    @property
    def backlog(self) -> float:
        """How much waits to be flushed: 0 nothing, 1 as much as is good. Cheap."""
        ...

    def begin_sync(self) -> SyncTicket:
        """Starts a round that covers everything acknowledged so far."""
        ...

    def end_sync(self, ticket: SyncTicket) -> None:
        """Ends it, after `ticket.wait()` has returned or failed."""
        ...

    def sync(self) -> None:
        """Makes everything acknowledged so far durable. Blocks for milliseconds."""
        ...

    def reap(self) -> bool:
        """Erases a piece of the large files that were removed; True when there is more."""
        ...

    def begin_flush(self) -> FlushRound:
        """Starts a round; one that was under way is finished first, which blocks."""
        ...

    def flush(self) -> None:
        """A whole round, here and now. Blocks; NoSpaceError ENOSPC."""
        ...

    def close(self) -> None:
        """Flushes, closes and unlocks."""
        ...


class Journal(Protocol):
    """Append-only lines for each process; a line survives kill -9 once `append` returned."""

    def append(self, pid: int, line: bytes, *, last: bool = False) -> None:
        """Adds one line. A `last` one, of an agent's end, has space of its own on a full disk."""
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

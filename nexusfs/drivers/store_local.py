"""A store in a local directory: lock, metadata, blobs, journal.

lock             held with flock for as long as the store is open; names its owner
meta.sqlite      names, attributes, extents, small contents
blobs/           larger contents
journal.sqlite   agents' journals and the log of calls
reserve          space for removals when the disk is full
"""

import fcntl
import os
import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from nexusfs.contracts.errors import BusyError, InvalidError, KernelError, NoSpaceError
from nexusfs.contracts.store import BlobStore, SyncTicket
from nexusfs.drivers.blob_local import LocalBlobs, translated
from nexusfs.drivers.journal_sqlite import SqliteCallLog, SqliteJournal
from nexusfs.drivers.meta_sql import CHECKPOINT_COMMITS, SqlMeta
from nexusfs.drivers.network import refuse_network
from nexusfs.drivers.room import Reserve, Room
from nexusfs.drivers.sqlite import Database, fsync_directory

OWN_LOG = {"nexusfs.log"}
"""What the daemon puts into the directory before the store is there."""
NARROW_DISK_BYTES = 64 << 20
"""With less free space the log is kept short."""
COMMIT_BYTES = 16 << 10
"""What one commit adds to the log: about 4 pages."""


class LocalTicket:
    """One round of fdatasync over descriptors that it owns."""

    def __init__(self, fds: list[int], changes: int) -> None:
        """`fds` are blobs first, the metadata's log last; `changes` is what they cover."""
        self.changes = changes
        self.failed = False
        self._fds = fds
        self._lock = threading.Lock()  # A second waiter waits for the first.

    def wait(self) -> None:
        """Returns when all is on disk; KernelError EIO. At once when it is called again."""
        with self._lock:
            fds, self._fds = self._fds, []
            try:
                for fd in fds:
                    os.fdatasync(fd)
            except OSError as exc:
                self.failed = True
                raise KernelError(f"the store's disk: {exc.strerror}") from exc
            finally:
                for fd in fds:
                    os.close(fd)


class LocalStore:
    """An open store; see `contracts.store.Store`.

    Attributes:
        directory: where it is.
        meta: names, attributes and extents.
        blobs: larger contents.
        journal: the agents' events.
        calls: the replies of tool calls.
    """

    def __init__(self, directory: Path, *, blobs: BlobStore | None = None) -> None:
        """Opens or makes the store at `directory`; `blobs` replaces those on disk.

        Raises:
            BusyError: EBUSY, another process has it open; the message names it.
            UnavailableError: EOPNOTSUPP, a newer version wrote it, or it is on a network
                filesystem.
            NoSpaceError: ENOSPC, there is no room to make a new store.
        """
        self.directory = directory
        self.room = Room(self._make_room)
        self._synced = -1
        self._under_way: LocalTicket | None = None
        self._freed_at = -1
        try:
            self._open(directory, blobs)
        except OSError as exc:
            raise translated(exc) from exc

    def _open(self, directory: Path, blobs: BlobStore | None) -> None:
        if not directory.is_dir():
            directory.mkdir(parents=True, mode=0o700)
            fsync_directory(directory.parent)
        refuse_network(directory)
        _refuse_foreign(directory)
        with ExitStack() as stack:
            stack.callback(os.close, _lock(directory / "lock"))
            self._reserve = Reserve(directory)
            stack.callback(self._reserve.restore)
            self._give_up_reserve()
            self._log = Database(directory / "journal.sqlite")
            stack.callback(self._log.close)
            self.journal, self.calls = SqliteJournal(self._log), SqliteCallLog(self._log)
            self.blobs = blobs or LocalBlobs(directory / "blobs")
            stack.callback(self.blobs.close)
            database = Database(directory / "meta.sqlite")
            stack.callback(database.close)
            self.meta = SqlMeta(database, self.room)
            self._closing = stack.pop_all()
        self.room.full = not self._reserve.restore()
        self._set_pace()

    def begin_sync(self) -> LocalTicket:
        """Starts a round that covers everything acknowledged so far."""
        if self._under_way is not None:
            # Its blobs are no longer counted as dirty, and this round must not overtake it.
            self._under_way.wait()
        with suppress(NoSpaceError):  # They stay in memory.
            self.meta.flush_atimes()
        fds: list[int] = []
        if self.meta.changes != self._synced:
            self.meta.take_dead()
            fds = self.blobs.dirty_fds() + self.meta.dirty_fds()
        self._under_way = LocalTicket(fds, self.meta.changes)
        return self._under_way

    def end_sync(self, ticket: SyncTicket) -> None:
        """Frees the blobs that were dead when the round began."""
        if ticket is self._under_way:
            self._under_way = None
        if ticket.failed:
            self._synced = -1
            return
        self._synced = max(self._synced, ticket.changes)
        self.meta.end_collection(self.blobs)

    def sync(self) -> None:
        """Makes everything acknowledged so far durable."""
        ticket = self.begin_sync()
        try:
            ticket.wait()
        finally:
            self.end_sync(ticket)

    def maintain(self) -> None:
        """Now and then a sync and a checkpoint."""
        if self.meta.maintenance_due:
            try:
                self.sync()
                self.meta.checkpoint()
            except NoSpaceError:  # What was acknowledged stands; the log waits for room.
                self.room.make(removing=True)
            self._set_pace()

    def close(self) -> None:
        """Syncs, closes and unlocks."""
        with self._closing:
            self._give_up_reserve()
            self.sync()

    def _make_room(self, removing: bool) -> bool:
        """Frees dead blobs and unused pages; see `Room.make`.

        What wants to grow tries once after each change: without one there is nothing to free.
        """
        if not removing and self._freed_at == self.meta.changes:
            return self.room.full and self._restore()
        self._reserve.release()
        with suppress(NoSpaceError):
            self.sync()
            self.meta.shrink()
            self._log.shrink()
        if removing:
            self.room.full = True  # The reserve is theirs until something wants to grow.
            return True
        self._freed_at = self.meta.changes
        return self._restore()

    def _restore(self) -> bool:
        self.room.full = not self._reserve.restore()
        return not self.room.full

    def _give_up_reserve(self) -> None:
        """On a full disk: opening and closing need space of their own."""
        if self._reserve.free_bytes() < self._reserve.size_bytes:
            self._reserve.release()

    def _set_pace(self) -> None:
        """Near the end of the disk the log is kept so short that the reserve can take it in."""
        small = self._reserve.free_bytes() < NARROW_DISK_BYTES
        within = self._reserve.size_bytes // COMMIT_BYTES
        self.meta.checkpoint_commits = (
            min(CHECKPOINT_COMMITS, max(within, 8)) if small else CHECKPOINT_COMMITS
        )


def open_store(directory: Path) -> LocalStore:
    """Opens the store at `directory`, or makes one there (mode 0700).

    Raises:
        BusyError: EBUSY, another process has it open; the message names it.
        UnavailableError: EOPNOTSUPP, a newer version wrote it, or a network filesystem.
        CorruptError: EIO, its metadata is not a database.
    """
    return LocalStore(directory)


def _refuse_foreign(directory: Path) -> None:
    """InvalidError EINVAL for a directory that holds other things and no store."""
    names = {entry.name for entry in directory.iterdir()} - OWN_LOG
    if names and not names & {"lock", "meta.sqlite"}:
        raise InvalidError(
            f"{directory} is no store and not empty, it holds {min(names)!r}: name an empty one"
        )


def _lock(path: Path) -> int:
    """Takes the lock file and writes the owner's line; returns the descriptor that holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        owner = os.pread(fd, 200, 0).decode(errors="replace").strip()
        os.close(fd)
        raise BusyError(
            f"the store {path.parent} is open in another process: {owner}; unmount it there, or "
            "name another with --store"
        ) from exc
    owner_line = f"pid {os.getpid()} on {socket.gethostname()}\n".encode()
    try:
        os.pwrite(fd, owner_line, 0)  # In place: it must succeed on a full disk.
        os.ftruncate(fd, len(owner_line))
    except OSError:
        os.close(fd)
        raise
    return fd

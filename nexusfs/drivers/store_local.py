"""A store in a local directory: lock, metadata, blobs, journal.

lock             held with flock for as long as the store is open; names its owner
meta.sqlite      names, attributes, extents, small contents
blobs/           larger contents
journal.sqlite   agents' journals and the log of calls
"""

import fcntl
import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

from nexusfs.contracts.errors import BusyError, KernelError
from nexusfs.contracts.store import BlobStore, SyncTicket
from nexusfs.drivers.blob_local import LocalBlobs
from nexusfs.drivers.journal_sqlite import SqliteCallLog, SqliteJournal
from nexusfs.drivers.meta_sql import SqlMeta
from nexusfs.drivers.sqlite import Database, fsync_directory


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
            UnavailableError: EOPNOTSUPP, a newer version wrote it.
        """
        self.directory = directory
        if not directory.is_dir():
            directory.mkdir(parents=True, mode=0o700)
            fsync_directory(directory.parent)
        with ExitStack() as stack:
            stack.callback(os.close, _lock(directory / "lock"))
            journal = Database(directory / "journal.sqlite")
            stack.callback(journal.close)
            self.journal, self.calls = SqliteJournal(journal), SqliteCallLog(journal)
            self.blobs = blobs or LocalBlobs(directory / "blobs")
            stack.callback(self.blobs.close)
            database = Database(directory / "meta.sqlite")
            stack.callback(database.close)
            self.meta = SqlMeta(database)
            self._closing = stack.pop_all()
        self._synced = -1
        self._under_way: LocalTicket | None = None

    def begin_sync(self) -> LocalTicket:
        """Starts a round that covers everything acknowledged so far."""
        if self._under_way is not None:
            # Its blobs are no longer counted as dirty, and this round must not overtake it.
            self._under_way.wait()
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
            self.sync()
            self.meta.checkpoint()

    def close(self) -> None:
        """Syncs, closes and unlocks."""
        with self._closing:
            self.sync()


def open_store(directory: Path) -> LocalStore:
    """Opens the store at `directory`, or makes one there (mode 0700).

    Raises:
        BusyError: EBUSY, another process has it open; the message names it.
        UnavailableError: EOPNOTSUPP, a newer version wrote it.
        CorruptError: EIO, its metadata is not a database.
    """
    return LocalStore(directory)


def _lock(path: Path) -> int:
    """Takes the lock file and writes the owner's line; returns the descriptor that holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        owner = os.pread(fd, 200, 0).decode(errors="replace").strip()
        os.close(fd)
        raise BusyError(f"the store {path.parent} is open in another process: {owner}") from exc
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return fd

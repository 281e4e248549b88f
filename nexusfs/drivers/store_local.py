"""A store in a local directory: lock, journal of operations, metadata, blobs, agents' journals.

lock             held with flock for as long as the store is open; names its owner
ops.0, ops.1     the operation journal: what was acknowledged and is not in meta.sqlite yet
meta.sqlite      names, attributes, extents, small contents
blobs/           larger contents
journal.sqlite   agents' journals and the log of calls
reserve          space for flushes and removals when the disk is full
"""

import fcntl
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from nexusfs.contracts.errors import (
    BusyError,
    CorruptError,
    InvalidError,
    KernelError,
    NoSpaceError,
)
from nexusfs.contracts.store import BlobStore, SyncTicket, Unsynced
from nexusfs.drivers.blob_local import LocalBlobs, translated
from nexusfs.drivers.flush import CHECKPOINT_ROWS, FlushRound, Parts
from nexusfs.drivers.journal_sqlite import SqliteCallLog, SqliteJournal
from nexusfs.drivers.meta_changes import TreeChange, blobs_of, unpack
from nexusfs.drivers.meta_schema import prepare
from nexusfs.drivers.meta_state import TreeState
from nexusfs.drivers.meta_store import TreeMeta
from nexusfs.drivers.meta_tables import MetaTables
from nexusfs.drivers.network import refuse_network
from nexusfs.drivers.op_journal import OpJournal
from nexusfs.drivers.record_file import SYNC_FAILED
from nexusfs.drivers.room import Reserve, Room
from nexusfs.drivers.sqlite import Connection, Database, fsync_directory

log = logging.getLogger(__name__)

OWN_LOG = {"nexusfs.log"}
"""What the daemon puts into the directory before the store is there."""
NARROW_DISK_BYTES = 64 << 20
"""With less free space each flush moves the database's log to its place."""
BACKLOG_BYTES = 32 << 20
"""Journal and dead blobs that may wait for a flush; inline contents of so many bytes are in
memory twice while it runs."""
BACKLOG_RECORDS = 30_000
"""Transactions that may wait: reading them again after a crash takes half a second."""
DEAD_BYTES = 256 << 20
"""Space of removed content that may wait for a flush."""


class LocalTicket:
    """One round of fdatasync: first the blobs, then the journal that names them."""

    def __init__(
        self, number: int, blobs: Unsynced, journal_fds: list[int], on_failure: Callable[[], None]
    ) -> None:
        """Covers the records of the journal up to `number`; the descriptors are the ticket's.

        `on_failure` is called in the thread that waits, at once: whoever syncs the same files a
        moment later is not told by Linux.
        """
        self.number = number
        self.blobs = blobs
        self.failed = False
        self._on_failure = on_failure
        self._fds = [*blobs.fds, *journal_fds]
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
                self._on_failure()
                raise translated(exc) from exc
            finally:
                for fd in fds:
                    os.close(fd)


class LocalStore:
    """An open store; see `contracts.store.Store`.

    Attributes:
        directory: where it is.
        meta: names, attributes and extents.
        blobs: larger contents.
        room: whether the disk lets the store grow.
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
        self._synced = -1
        self._sync: LocalTicket | None = None
        self._flush: FlushRound | None = None
        self._freed_at = -1
        self._recovered = False
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
            self.room = Room(self._reserve, self._make_room)
            self._log = Database(directory / "journal.sqlite")
            stack.callback(self._log.close)
            self.journal, self.calls = SqliteJournal(self._log), SqliteCallLog(self._log)
            stack.callback(self.journal.close)
            self.blobs = blobs or LocalBlobs(directory / "blobs")
            stack.callback(self.blobs.close)
            path = directory / "meta.sqlite"
            database = Database(path, alone=False, synchronous="FULL")
            stack.callback(database.close)
            prepare(database)
            reader = Connection(path)
            stack.callback(reader.close)
            self._tables = MetaTables(reader, database)
            self._state = TreeState(self._tables)
            self._ops = OpJournal(directory)
            stack.callback(self._close_ops)
            self._parts = Parts(self._state, self._tables, self.blobs, self._ops)
            self.meta = TreeMeta(self._state, self._ops, self.room)
            self._recover()
            self._closing = stack.pop_all()
        self.room.full = not self._reserve.restore()
        self.room.flushed(0)
        self._set_pace()

    def _recover(self) -> None:
        """Applies what the journal holds beyond the tables, and erases what nobody has open."""
        stored = self._tables.number("applied")
        records = list(self._ops.recover(stored))
        settled = max((record.settled for record in records), default=stored)
        for record in records:
            done = unpack(record.payload)
            lost = None if record.number <= settled else self._lost_blob(done)
            if lost is not None:
                # Written to the journal before the power went, and its content was not.
                log.warning(
                    "%d operations that were not synced are dropped: %s",
                    self._ops.number - record.number + 1, lost,
                )  # fmt: skip
                self._ops.number = record.number - 1
                break
            for change in done:
                change.apply(self._state)
        if self._ops.number > stored:
            log.info("%d operations were read from the journal", self._ops.number - stored)
            self.flush()
        self._ops.restart()
        self._recovered = True
        for ino in self._tables.orphans():
            self.meta.free(ino)

    def _lost_blob(self, done: list[TreeChange]) -> CorruptError | None:
        for ref in blobs_of(done):
            try:
                self.blobs.check(ref)
            except CorruptError as exc:
                return exc
        return None

    @property
    def backlog(self) -> float:
        """How much waits to be flushed: 0 nothing, 1 as much as is good."""
        ops = self._ops
        share = ops.pending_bytes / BACKLOG_BYTES
        records = (ops.number - ops.turned_at) / BACKLOG_RECORDS
        dead = self._state.blobs.dead_bytes / DEAD_BYTES
        share = max(share, records)
        return dead if dead > share else share  # `max` takes twice as long, and all calls ask.

    def begin_sync(self) -> LocalTicket:
        """Starts a round that covers everything acknowledged so far.

        KernelError EIO: a sync has failed before, or there are no descriptors left.
        """
        if self._sync is not None:
            # What it covers is not counted as unsynced any more, so this one must not overtake it.
            with suppress(KernelError):
                self._sync.wait()
            self.end_sync(self._sync)
        if self._ops.number == self._synced:
            return LocalTicket(self._synced, Unsynced([], 0), [], self._ops.fail)
        fds = self._ops.unsynced_fds()
        try:
            unsynced = self.blobs.unsynced()
            self._sync = LocalTicket(self._ops.number, unsynced, fds, self._ops.fail)
        except KernelError:
            self._ops.mark_unsynced()
            for fd in fds:
                os.close(fd)
            raise
        return self._sync

    def end_sync(self, ticket: SyncTicket) -> None:
        """Notes that what the round covered is on disk, or that it is not."""
        if ticket is not self._sync:
            return
        ticket, self._sync = self._sync, None
        if ticket.failed:
            log.critical("%s", SYNC_FAILED)
            return
        self.blobs.synced(ticket.blobs)
        self._ops.settled = max(self._ops.settled, ticket.number)
        self._synced = max(self._synced, ticket.number)

    def sync(self) -> None:
        """Makes everything acknowledged so far durable."""
        ticket = self.begin_sync()
        try:
            ticket.wait()
        finally:
            self.end_sync(ticket)

    def reap(self) -> bool:
        """Erases a piece of the large files that were removed; True when there is more."""
        return self.meta.reap()

    def begin_flush(self) -> FlushRound:
        """Starts a round; one that was under way is finished first."""
        if self._flush is not None:
            with suppress(KernelError):
                self._flush.run()
        self._waiting_before = self.room.waiting_bytes
        self._flush = FlushRound(self._parts, self._flushed)
        return self._flush

    def flush(self) -> None:
        """A whole round, here and now; on a full disk with the space of the reserve."""
        while not self._parts.closing and self.reap():  # The next open goes on with the rest.
            continue
        if self._flush is None and not self._state.unstored:
            return
        try:
            self.begin_flush().run()
        except NoSpaceError:
            if self._reserve.held:
                self._reserve.release()
                self.room.full = True
                self.begin_flush().run()
                return
            raise

    def close(self) -> None:
        """Flushes, closes and unlocks."""
        with self._closing:
            self._give_up_reserve()
            self._parts.closing = True
            self.flush()

    def _flushed(self, done: FlushRound) -> None:
        self._flush = None
        waited = 0 if done.failed else self._waiting_before
        self.room.flushed(self.room.waiting_bytes - waited)
        self._set_pace()

    def _close_ops(self) -> None:
        self._ops.close(stored=self._recovered and not self._state.changed)

    def _make_room(self, removing: bool) -> bool:
        """Frees dead blobs and unused pages; see `Room.make`.

        What wants to grow tries once after each change: without one there is nothing to free.
        """
        if not removing and self._freed_at == self.meta.changes:
            return self.room.full and self._restore()
        self._reserve.release()
        with suppress(NoSpaceError):
            self.flush()
            self._tables.shrink()
            self._log.shrink()
        if removing:
            self.room.full = True  # The reserve is theirs until something wants to grow.
            return True
        self._freed_at = self.meta.changes
        return self._restore()

    def _restore(self) -> bool:
        self.room.full = not self._reserve.restore()
        self.room.flushed(self.room.waiting_bytes)
        return not self.room.full

    def _give_up_reserve(self) -> None:
        """On a full disk: opening and closing need space of their own."""
        if self._reserve.free_bytes() < self._reserve.size_bytes:
            self._reserve.release()

    def _set_pace(self) -> None:
        """Near the end of the disk the database's log is kept short."""
        narrow = self._reserve.free_bytes() < NARROW_DISK_BYTES
        self._parts.checkpoint_rows = 0 if narrow else CHECKPOINT_ROWS


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

"""One flush: what has changed in memory goes to blobs and tables, and the journal lets go of it.

Four steps, in this order, whoever runs them:

  seal    in any thread: inline bytes of 4 KiB and more are written as blobs
  take    in the kernel's thread: those become extents of the blobs; all changes become a batch
  write   in any thread: blobs are made durable, then the batch is stored (one transaction, on
          disk), then the space of dead blobs is freed; blobs between much dead space are copied,
          for the next round to name the copies
  end     in the kernel's thread: what was stored counts as stored

Between the steps the kernel goes on; what it changes meanwhile is for the next flush. A step
that was done is not done again, and a step waits for the one before, so the kernel's thread can
finish a round that another thread is in the middle of.
"""

import logging
import os
import threading
from collections.abc import Callable

from nexusfs.contracts.errors import KernelError
from nexusfs.contracts.store import BlobRef, BlobStore, Extent, Unsynced
from nexusfs.drivers.blob_local import translated
from nexusfs.drivers.meta_state import TreeState
from nexusfs.drivers.meta_tables import Batch, MetaTables
from nexusfs.drivers.op_journal import OpJournal

log = logging.getLogger(__name__)

INLINE_BYTES = 4096
"""What is shorter stays inline in the tables: one page of the database."""
SEALED_BYTES = 1 << 20
"""Largest blob that is made of inline extents that touch."""
CHECKPOINT_ROWS = 20_000
"""Rows between checkpoints: their pages make a log of 10 to 20 MiB."""

Run = tuple[int, list[Extent], BlobRef]
"""(inode, inline extents that touch, the blob with their bytes)."""


class Parts:
    """What a flush works on: the open parts of one store."""

    def __init__(
        self, state: TreeState, tables: MetaTables, blobs: BlobStore, journal: OpJournal
    ) -> None:
        """The parts, which stay the store's."""
        self.state = state
        self.tables = tables
        self.blobs = blobs
        self.journal = journal
        self.moved: list[tuple[BlobRef, BlobRef]] = []
        """Blobs with the copies that the next round will name instead; not those of the last."""
        self.closing = False
        self.rows_since_checkpoint = 0
        self.checkpoint_rows = CHECKPOINT_ROWS


class FlushRound:
    """One round over the parts of a store; see the module.

    Attributes:
        failed: the disk refused; everything is as if the round had not begun.
        number: the last record of the journal that the round covers, once it is taken.
    """

    def __init__(self, parts: Parts, ended: Callable[["FlushRound"], None]) -> None:
        """Notes what to seal; `ended` is called in the kernel's thread, once."""
        self._parts = parts
        self._ended = ended
        self._lock = threading.Lock()  # Whoever is in a blocking step; the other one waits.
        self._done: set[str] = set()
        self._to_seal = [
            (ino, run)
            for ino in parts.state.changed.bodies
            for run in parts.state.body(ino).inline_runs(INLINE_BYTES, SEALED_BYTES)
        ]
        self._distrusted = parts.state.blobs.distrusted.copy()
        self._sealed: list[Run] = []
        self._batch: Batch | None = None
        self._doomed: list[BlobRef] = []
        self._spare: list[BlobRef] = []
        self._unsynced = Unsynced([], 0)
        self.failed = False
        self.number = 0

    def seal(self) -> None:
        """Writes inline bytes as blobs. Blocks; NoSpaceError ENOSPC."""
        with self._lock:
            if not self._done & {"seal", "end"}:
                while self._to_seal:
                    ino, run = self._to_seal[-1]
                    data = b"".join(extent.data or b"" for extent in run)
                    self._sealed.append((ino, run, self._blob(data)))
                    self._to_seal.pop()
                self._done.add("seal")

    def take(self) -> None:
        """Turns all changes into a batch. In the kernel's thread; does not block."""
        if self._done & {"take", "end"}:
            return
        parts = self._parts
        state = parts.state
        parts.journal.refuse_failed()
        self._unsynced = parts.blobs.unsynced()
        for ino, run, blob in self._sealed:
            known = state.blobs.find(blob.digest, blob.algorithm) or blob
            state.blobs.renew(known)
            there = ino in state.changed.bodies
            if known.place != blob.place:
                self._spare.append(blob)
            if not (there and state.body(ino).swap(run, known)):
                state.blobs.abandon(known)
        for old, new in parts.moved:
            self._spare.append(old if state.blobs.move(old, new) else new)
        parts.moved = []
        parts.journal.turn()
        self.number = parts.journal.number
        self._batch, self._doomed = state.take(self.number)
        self._done.add("take")

    def write(self) -> None:
        """Makes blobs and batch durable, and frees what is dead. Blocks; NoSpaceError ENOSPC."""
        with self._lock:
            if self._done & {"write", "end"}:
                return
            batch = self._batch
            assert batch is not None
            self._sync_blobs()
            self._parts.journal.refuse_failed()  # Another sync may have been told, and not this.
            self._parts.tables.store(batch)
            self._done.add("write")
            self._delete()
            self._checkpoint(len(batch))

    def end(self) -> None:
        """Lets the memory and the journal know. In the kernel's thread; does not block."""
        if "end" in self._done:
            return
        self._done.add("end")
        self.failed = "write" not in self._done
        parts = self._parts
        if self._batch is not None:
            parts.state.taken(self._batch, failed=self.failed)
        elif self._sealed:
            for _, _, ref in self._sealed:
                parts.state.blobs.abandon(ref)
        if not self.failed:
            parts.journal.release()
            parts.journal.settled = max(parts.journal.settled, self.number)
            parts.blobs.synced(self._unsynced)
        self._ended(self)

    def run(self) -> None:
        """All steps here and now, or those that are left. Blocks; NoSpaceError ENOSPC."""
        try:
            self.seal()
            self.take()
            self.write()
        finally:
            self.end()

    def _blob(self, data: bytes) -> BlobRef:
        parts = self._parts
        algorithm = parts.blobs.algorithm
        digest = parts.blobs.digest(data)
        stored = parts.tables.stored_blob(digest, algorithm)
        if stored is None or (digest, algorithm) in self._distrusted:
            return parts.blobs.put(digest, data)
        return stored

    def _delete(self) -> None:
        """Deletes dead blobs, and puts some anew that keep much dead space from being freed."""
        parts = self._parts
        blobs, dead = parts.blobs, self._doomed + self._spare
        try:
            for ref in dead:
                blobs.delete(ref)
            living = blobs.reclaim(dead, parts.tables, self._unsynced)
            for ref in living if not parts.closing else ():
                data = blobs.get(ref)
                if blobs.algorithm == ref.algorithm:
                    parts.moved.append((ref, blobs.put(ref.digest, data)))
        except KernelError as exc:  # It stays, and what is around it too.
            log.warning("the space of removed content was not freed: %s", exc)

    def _sync_blobs(self) -> None:
        fds = self._unsynced.fds[:]
        self._unsynced.fds.clear()
        try:
            for fd in fds:
                os.fdatasync(fd)
        except OSError as exc:
            self._parts.journal.fail()
            raise translated(exc) from exc
        finally:
            for fd in fds:
                os.close(fd)

    def _checkpoint(self, rows: int) -> None:
        parts = self._parts
        parts.rows_since_checkpoint += rows
        if parts.rows_since_checkpoint >= parts.checkpoint_rows:
            parts.rows_since_checkpoint = 0
            try:
                parts.tables.checkpoint()
            except KernelError as exc:  # What is in the log stands; the next round tries again.
                log.warning("the metadata's log could not be moved to its place: %s", exc)

"""The operation journal: each transaction, written before it is acknowledged.

Once a flush has stored everything up to some number in the database, the records up to there are
not needed any more. Two files take turns. Records go to one while the other holds what a flush is
storing; when the flush has ended, that one is free, and the next flush begins by turning to it.

A record has a sequence number, the highest number whose blobs were known to be on disk when it was
written, and the changes. Numbers go up by one over both files, so a gap ends the run: what follows
it was not synced.

Concurrency: one thread, but for the descriptors of `unsynced_fds`.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nexusfs.contracts.errors import KernelError
from nexusfs.drivers.record_file import SYNC_FAILED, RecordFile
from nexusfs.drivers.sqlite import fsync_directory

_NUMBERS = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Record:
    """One transaction of the journal.

    Attributes:
        number: counts up by one over the life of the store.
        settled: the blobs of records up to this one were on disk when it was written.
        payload: the changes.
    """

    number: int
    settled: int
    payload: bytes


class OpJournal:
    """Records of one store, in two files of its directory.

    Attributes:
        number: that of the last record.
        settled: that of the last record whose blobs are known to be on disk.
        turned_at: the number of the last record before the journal last turned.
        pending_bytes: bytes of the records since then.
    """

    def __init__(self, directory: Path) -> None:
        """Opens or makes the two files. OSError when the disk refuses."""
        self.number = 0
        self.settled = 0
        self.turned_at = 0
        self.pending_bytes = 0
        self._current = RecordFile(directory / "ops.0")
        self._other = RecordFile(directory / "ops.1")
        self._other_is_free = False  # Until `restart`: both may hold what is not stored.
        fsync_directory(directory)

    def recover(self, stored: int) -> Iterator[Record]:
        """The records after number `stored`, without a gap; to be read before anything else.

        The journal goes on after the last one that was taken from the iterator.
        """
        self.number = stored
        found = [[_record(raw) for raw in file.found] for file in (self._current, self._other)]
        for records in sorted(filter(None, found), key=lambda records: records[0].number):
            if records[0].number > self.number + 1:
                break  # What came before was lost in a power cut, so this was never durable.
            for record in records:
                if record.number == self.number + 1:
                    self.number = record.number
                    yield record

    def restart(self) -> None:
        """Begins anew after `recover`: everything that was read is stored. NoSpaceError.

        Durably, where there was something: a number may be given again to another record, and what
        is left of the old one must not come back after a power cut.
        """
        self.settled = self.number
        self._other_is_free = True
        self.turned_at, self.pending_bytes = self.number, 0
        for file in (self._current, self._other):
            file.restart()
            if file.found:
                file.found.clear()
                file.sync()
        self._other.unsynced = False  # It begins anew once more when its turn comes.

    def append(self, payload: bytes) -> int:
        """Writes a record and returns its number; a failure leaves nothing behind.

        Raises:
            NoSpaceError: ENOSPC.
            KernelError: EIO, also for good after a sync that failed.
        """
        number = self.number + 1
        self._current.append(_NUMBERS.pack(number, self.settled) + payload)
        self.number = number
        self.pending_bytes += len(payload) + _NUMBERS.size
        return number

    def turn(self) -> None:
        """Lets the records so far be those of the flush that begins, if the other file is free."""
        if self._other_is_free:
            self._other.restart()
            self._current, self._other = self._other, self._current
            self._other_is_free = False
            self.turned_at, self.pending_bytes = self.number, 0

    def release(self) -> None:
        """The records up to the last turn are stored and durable."""
        self._other_is_free = True
        self._other.unsynced = False

    def unsynced_fds(self) -> list[int]:
        """New descriptors to fdatasync and close, for all records so far. KernelError EIO."""
        self.refuse_failed()
        fds: list[int] = []
        files = [file for file in (self._other, self._current) if file.unsynced]
        try:
            for file in files:
                fds.append(file.unsynced_fd())
        except KernelError:
            for fd in fds:
                os.close(fd)
            self.mark_unsynced()
            raise
        return fds

    def mark_unsynced(self) -> None:
        """The descriptors of `unsynced_fds` were not used."""
        self._current.unsynced = True
        self._other.unsynced = not self._other_is_free

    def fail(self) -> None:
        """A sync of the store failed: no record is taken in any more."""
        self._current.failed = self._other.failed = True

    def refuse_failed(self) -> None:
        """KernelError EIO after `fail`."""
        if self._current.failed:
            raise KernelError(SYNC_FAILED)

    def close(self, *, stored: bool) -> None:
        """Closes the files; `stored` says that no record is needed any more."""
        for file in (self._current, self._other):
            file.close(empty=stored)


def _record(raw: bytes) -> Record:
    number, settled = _NUMBERS.unpack_from(raw)
    return Record(number, settled, raw[_NUMBERS.size :])

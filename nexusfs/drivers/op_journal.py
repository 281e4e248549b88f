"""The operation journal: each transaction, written before it is acknowledged.

A plain write(2) of a record costs a microsecond or two and survives the death of the process;
fdatasync makes all records so far survive a power cut. Once a flush has stored everything up to
some number in the database, the records up to there are not needed any more.

Two files take turns. Records go to one while the other holds what a flush is storing; when the
flush has ended, that one is free, and the next flush begins by turning to it. A file is written
from its beginning again and never shortened while the store is open, so that fdatasync seldom
has a length to write. After a sync the next record begins on a page of its own, so that a power
cut cannot harm what was synced by harming the page that was being written.

A record is a header (length, CRC-32 of the rest, sequence number, and the highest number whose
blobs were known to be on disk then) and the changes. Numbers go up by one, so whatever is left
of an older round, or half written, or garbled, ends the run. CRC-32 is zlib's; it finds what a
crash leaves, not what a forger makes: the directory is the owner's alone.

Concurrency: one thread, but for the descriptors of `unsynced_fds`.
"""

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nexusfs.drivers.blob_local import translated
from nexusfs.drivers.sqlite import fsync_directory

log = logging.getLogger(__name__)

_HEADER = struct.Struct("<4sIIQQ")
_CHECKED = struct.Struct("<IQQ")
_MAGIC = b"NXJ1"
PAGE_BYTES = 4096
RECORD_MAX_BYTES = 64 << 20
"""More than any transaction has: a length beyond it is garbage."""


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


@dataclass(slots=True)
class _File:
    """One of the two files; `unsynced` says that it has records that may not be on disk."""

    path: Path
    fd: int
    end: int = 0
    unsynced: bool = False


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
        self._files: list[_File] = []
        for name in ("ops.0", "ops.1"):
            path = directory / name
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._files.append(_File(path, fd))
        fsync_directory(directory)
        self._current, self._other = self._files
        self._other_is_free = True

    def recover(self, stored: int) -> Iterator[Record]:
        """The records after number `stored`, without a gap; to be read before anything else.

        The journal goes on after the last one that was taken from the iterator.
        """
        self.number = stored
        found = [(self._first_number(file), file) for file in self._files]
        for first, file in sorted(found, key=lambda each: each[0]):
            if first > self.number + 1:
                break  # What came before was lost in a power cut, so this was never durable.
            for record in _records(file.fd, first):
                if record.number == self.number + 1:
                    self.number = record.number
                    yield record

    def restart(self) -> None:
        """Begins anew after `recover`: everything that was read is stored."""
        self.settled = self.number
        self._current, self._other = self._files
        self._other_is_free = True
        self.turned_at, self.pending_bytes = self.number, 0
        for file in self._files:
            # An old record must not follow a new one: their numbers could be next to each other.
            os.ftruncate(file.fd, 0)
            file.end, file.unsynced = 0, False

    def append(self, payload: bytes) -> int:
        """Writes a record and returns its number; a failure leaves nothing behind.

        Raises:
            NoSpaceError: ENOSPC.
        """
        file = self._current
        number = self.number + 1
        record = _packed(number, self.settled, payload)
        try:
            written = os.pwrite(file.fd, record, file.end)
            while written < len(record):  # The disk is nearly full.
                written += os.pwrite(file.fd, record[written:], file.end + written)
        except OSError as exc:
            raise translated(exc) from exc
        file.end += len(record)
        file.unsynced = True
        self.number = number
        self.pending_bytes += len(record)
        return number

    def turn(self) -> None:
        """Lets the records so far be those of the flush that begins, if the other file is free."""
        if self._other_is_free:
            self._current, self._other = self._other, self._current
            self._current.end = 0
            self._other_is_free = False
            self.turned_at, self.pending_bytes = self.number, 0

    def release(self) -> None:
        """The records up to the last turn are stored and durable."""
        self._other_is_free = True
        self._other.unsynced = False

    def unsynced_fds(self) -> list[int]:
        """New descriptors to fdatasync and close, for all records so far."""
        fds = [os.dup(file.fd) for file in (self._other, self._current) if file.unsynced]
        for file in self._files:
            file.unsynced = False
            file.end = _next_page(file.end)
        return fds

    def mark_unsynced(self) -> None:
        """A sync of `unsynced_fds` failed."""
        for file in self._files:
            file.unsynced = file.end > 0

    def close(self, *, stored: bool) -> None:
        """Closes the files; `stored` says that no record is needed any more."""
        for file in self._files:
            if stored:
                os.ftruncate(file.fd, 0)
            os.close(file.fd)

    def _first_number(self, file: _File) -> int:
        record = _record_at(file.fd, 0, None)
        return record.number if record else 0


def _packed(number: int, settled: int, payload: bytes) -> bytes:
    length = len(payload)
    crc = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(length, number, settled)))
    return _HEADER.pack(_MAGIC, length, crc, number, settled) + payload


def _records(fd: int, first: int) -> Iterator[Record]:
    """The run of records at the beginning of a file that starts with number `first`."""
    at, expected = 0, first
    while True:
        record = _record_at(fd, at, expected)
        if record is None and at % PAGE_BYTES:
            at = _next_page(at)  # There was a sync.
            record = _record_at(fd, at, expected)
        if record is None:
            return
        yield record
        at += _HEADER.size + len(record.payload)
        expected += 1


def _next_page(offset: int) -> int:
    return (offset + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES


def _record_at(fd: int, at: int, expected: int | None) -> Record | None:
    raw = os.pread(fd, _HEADER.size, at)
    if len(raw) < _HEADER.size:
        return None
    magic, length, crc, number, settled = _HEADER.unpack(raw)
    if magic != _MAGIC or length > RECORD_MAX_BYTES or expected not in (None, number):
        return None
    payload = os.pread(fd, length, at + _HEADER.size)
    if len(payload) < length:
        return None
    if zlib.crc32(payload, zlib.crc32(_CHECKED.pack(length, number, settled))) != crc:
        return None
    return Record(number, settled, payload)

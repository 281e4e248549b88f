"""A file of records that only grows, until what it holds is safe elsewhere and it begins anew.

The file is a header and records. A record's checksum is seeded with the file's generation, so that
what an earlier generation left behind the end is never taken for a record of this one. Reading
stops at the first record that does not check: a power cut may have torn what was not synced.

One `write(2)` a record: it is in Linux's page cache when `append` returns and survives the death of
the process; `sync` puts it on disk. Measured: 5 µs a record, a SQLite transaction 50.

Concurrency: one thread; `sync` may run in another.
"""

import os
import struct
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nexusfs.contracts.errors import KernelError, NoSpaceError

MAGIC = b"NXJL"
_HEADER = struct.Struct("<4sIQ")
"""Magic, checksum of the generation, generation."""
_RECORD = struct.Struct("<IIBQI")
"""Checksum of all that follows, length of the data, kind, pid, number."""
_PLAIN = struct.Struct("<IBQI")


@dataclass(frozen=True, slots=True)
class Record:
    """One record: what it is, whose, its number among the process's lines, and its bytes."""

    kind: int
    pid: int
    number: int
    data: bytes


class RecordLog:
    """The log at `path`; made when absent."""

    def __init__(self, path: Path) -> None:
        """Opens the file and cuts off what is torn at its end. KernelError."""
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        weakref.finalize(self, os.close, self._fd)
        self._generation = 0
        self.size_bytes = 0
        self.found = list(self._scan())
        if not self.size_bytes:
            self.restart()

    def append(self, kind: int, pid: int, number: int, data: bytes) -> None:
        """Adds a record; it survives kill -9 when this returns.

        Raises:
            NoSpaceError: ENOSPC, the disk is full; nothing was added.
        """
        plain = _PLAIN.pack(len(data), kind, pid, number) + data
        checksum = zlib.crc32(plain, self._seed)
        self._write(checksum.to_bytes(4, "little") + plain)

    def restart(self) -> None:
        """Begins anew: to be called when the records are durable elsewhere."""
        self._generation += 1
        self._seed = zlib.crc32(self._generation.to_bytes(8, "little"))
        os.ftruncate(self._fd, 0)
        self.size_bytes = 0
        self._write(_HEADER.pack(MAGIC, self._seed, self._generation))

    def sync(self) -> None:
        """Puts all records on disk. Blocks; may run in any thread."""
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            raise KernelError(f"{self._path.name}: {exc.strerror}") from exc

    def _write(self, record: bytes) -> None:
        try:
            written = os.pwrite(self._fd, record, self.size_bytes)
        except OSError as exc:
            raise NoSpaceError(f"{self._path.name}: {exc.strerror}") from exc
        if written < len(record):  # the disk filled up: half a record is none
            os.ftruncate(self._fd, self.size_bytes)
            raise NoSpaceError(f"{self._path.name}: no space is left on the store's disk")
        self.size_bytes += written

    def _scan(self) -> Iterator[Record]:
        """The records that check; the file is cut behind the last one."""
        data = _read_all(self._fd)
        if len(data) < _HEADER.size:
            return
        magic, seed, self._generation = _HEADER.unpack_from(data)
        self._seed = zlib.crc32(self._generation.to_bytes(8, "little"))
        if magic != MAGIC or seed != self._seed:
            return
        at = _HEADER.size
        while at + _RECORD.size <= len(data):
            checksum, length, kind, pid, number = _RECORD.unpack_from(data, at)
            end = at + _RECORD.size + length
            if end > len(data) or zlib.crc32(data[at + 4 : end], self._seed) != checksum:
                break
            yield Record(kind, pid, number, data[at + _RECORD.size : end])
            at = end
        self.size_bytes = at
        os.ftruncate(self._fd, at)


def _read_all(fd: int) -> bytes:
    with open(os.dup(fd), "rb") as file:
        file.seek(0)
        return file.read()

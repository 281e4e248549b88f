"""A file of records that only grows, until what it holds rests elsewhere and it begins anew.

The file is a header with a generation, and records: length, CRC-32, payload. One write(2) a record:
a microsecond or two, and it survives the death of the process; fdatasync puts it on disk. The file
is written from its beginning again and not shortened, so that fdatasync seldom has a length to
write. Each checksum is seeded with the generation, a random number, so that what an earlier one
left behind the end is never taken for a record of this one; nor is a payload whose writer has put
together what looks like a record.

After a sync the next record begins on a page of its own, so that a power cut cannot harm what was
synced by harming the page that was being written. Reading stops at the first record that does not
check, neither where the last one ended nor on the next page, and the file is cut there: what
follows must not come back when something of the same length is written before it.

When the disk has refused a sync, nothing more is taken in: Linux drops what it could not write,
and says so once, so a second sync would promise what is not there.

CRC-32 is zlib's. Whoever may write to the directory can forge records: it is the owner's alone.

Concurrency: one thread; `sync`, and a descriptor of `unsynced_fd`, may be used in another.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nexusfs.contracts.errors import KernelError, NoSpaceError
from nexusfs.drivers.blob_local import set_aside, translated

PAGE_BYTES = 4096
SYNC_FAILED = (
    "the disk failed at a sync, and what was not synced may be lost: unmount, look at the disk, "
    "and mount again"
)
_MAGIC = b"NXR1"
_HEADER = struct.Struct("<4sIQ")
"""Magic, checksum of the generation, generation."""
_RECORD = struct.Struct("<II")
"""Length of the payload, checksum of the length and the payload."""
_LENGTH = struct.Struct("<I")


class RecordFile:
    """The records of one generation.

    Attributes:
        found: the payloads that were there at the open, oldest first.
        end: where the next record goes.
        unsynced: there are records that may not be on disk.
        failed: a sync failed, and nothing more is taken in.
    """

    def __init__(self, path: Path, *, spare_bytes: int = 0) -> None:
        """Opens or makes the file, reads it, and cuts off what is torn. OSError.

        Of the disk, `spare_bytes` are kept for records that are the last of something.
        """
        self.path = path
        self._spare_bytes = spare_bytes
        self._aside = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._seed = 0
        self._synced = False  # The next record begins on a page of its own.
        self.end = 0
        self.unsynced = self.failed = False
        try:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)  # What the disk has counts.
            self.found = list(self._scan(os.pread(self._fd, os.fstat(self._fd).st_size, 0)))
            os.ftruncate(self._fd, self.end)
            if not self.end:
                self.restart()
            with suppress(NoSpaceError):
                self._keep_spare(0)
        except OSError:
            os.close(self._fd)
            raise

    def append(self, payload: bytes, *, last: bool = False) -> None:
        """Adds a record; it survives kill -9 when this returns. A `last` one may take the spare.

        Raises:
            NoSpaceError: ENOSPC, the disk is full; nothing was added.
        """
        if self._synced:
            self._synced = False
            self.end = next_page(self.end)
        size = len(payload)
        if not last:
            self._keep_spare(_RECORD.size + size)
        checksum = zlib.crc32(payload, zlib.crc32(_LENGTH.pack(size), self._seed))
        self._write(_RECORD.pack(size, checksum) + payload, self.end)

    def restart(self) -> None:
        """Begins anew: the records so far are not needed any more.

        NoSpaceError ENOSPC, KernelError EIO: they are still there.
        """
        generation = int.from_bytes(os.urandom(8), "little")
        seed = _checksum(generation)
        self._write(_HEADER.pack(_MAGIC, seed, generation), 0)
        self._seed = seed
        self._synced = False

    def unsynced_fd(self) -> int:
        """A new descriptor to fdatasync and close, that makes all records so far durable."""
        try:
            fd = os.dup(self._fd)
        except OSError as exc:
            raise translated(exc) from exc
        self._synced = True
        self.unsynced = False
        return fd

    def sync(self) -> None:
        """Puts all records so far on disk. Blocks; may run in any thread. KernelError EIO."""
        if self.failed:
            raise KernelError(SYNC_FAILED)
        self._synced = True
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            self.failed = True
            raise translated(exc) from exc

    def close(self, *, empty: bool = False) -> None:
        """Closes the file; `empty` gives its space back, for no record is needed any more."""
        if empty:
            os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _write(self, data: bytes, at: int) -> None:
        if self.failed:
            raise KernelError(SYNC_FAILED)
        try:
            written = os.pwrite(self._fd, data, at)
            while written < len(data):  # The disk is nearly full: the rest, or ENOSPC.
                written += os.pwrite(self._fd, data[written:], at + written)
        except OSError as exc:
            raise translated(exc) from exc
        self.end = at + len(data)
        self.unsynced = True

    def _keep_spare(self, size: int) -> None:
        """Sees that `size` bytes can be written and the spare is left. NoSpaceError ENOSPC."""
        need = self.end + size + self._spare_bytes
        if not self._spare_bytes or need <= self._aside:
            return
        start = max(self._aside, self.end)
        for goal in (need + self._spare_bytes, need):  # more at once, where there is more
            try:
                set_aside(self._fd, start, goal - start)
            except OSError as exc:
                failure = translated(exc)
            else:
                self._aside = goal
                return
        raise failure

    def _scan(self, data: bytes) -> Iterator[bytes]:
        if len(data) < _HEADER.size:
            return
        magic, seed, generation = _HEADER.unpack_from(data)
        if magic != _MAGIC or seed != _checksum(generation):
            return
        self._seed = seed
        self.end = _HEADER.size
        while True:
            payload = self._record(data, self.end)
            if payload is None:
                at = next_page(self.end)
                payload = self._record(data, at)  # There was a sync.
                if payload is None:
                    return
                self.end = at
            yield payload
            self.end += _RECORD.size + len(payload)

    def _record(self, data: bytes, at: int) -> bytes | None:
        if at + _RECORD.size > len(data):
            return None
        length, checksum = _RECORD.unpack_from(data, at)
        payload = data[at + _RECORD.size : at + _RECORD.size + length]
        if len(payload) < length:
            return None
        real = zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length), self._seed))
        return payload if real == checksum else None


def next_page(offset: int) -> int:
    """The first offset from `offset` on at which a page begins."""
    return (offset + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES


def _checksum(generation: int) -> int:
    return zlib.crc32(generation.to_bytes(8, "little"))

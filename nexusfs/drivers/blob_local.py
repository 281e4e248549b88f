"""Blobs on the local disk: append-only segment files, and own files for large ones.

A segment is a run of frames: a header of 48 bytes (magic, algorithm, size, digest) and the bytes.
`BlobRef.place` is `segment:offset of the header`. A blob over 1 MiB is a file of its own in
`large/`, and `place` is its name: the digest and a number that no other blob has, so that one may
be deleted while the same bytes are put again.

What is written is never written again, not even in part: after a sync, and after an open, the
next frame begins on a page of its own. So a power cut cannot harm what was synced, whatever it
does to the pages that were under way. What it leaves behind at the end of a segment is never
named and never read; the next frame goes after it.

What deletion frees: a large blob's file; the whole pages inside a frame (a hole is punched). What
is left between live frames is freed by `reclaim`, with the help of whoever knows which are live:
a segment without live blobs is removed, and those of one that is dead for the most part should be
put anew.

Concurrency: every method may be called from any thread; a lock makes them take turns, for as
long as one write to the page cache takes. The writeback thread only starts the disk, on
duplicates of descriptors: an error is for the sync that somebody waits for, and Linux tells it
once for each open file.
"""

import os
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ctypes import CDLL, c_int, c_longlong, c_uint, get_errno
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path

from nexusfs.contracts.errors import CorruptError, KernelError, NoSpaceError
from nexusfs.contracts.store import BlobRef, Living, Unsynced
from nexusfs.drivers.digest import ALGORITHM, digest_of
from nexusfs.drivers.sqlite import fsync_directory

PAGE_BYTES = 4096
SEGMENT_BYTES = 64 << 20
"""A segment that is longer takes no more frames: little has to move to empty one."""
LARGE_BYTES = 1 << 20
"""Blobs over this are files of their own."""
WRITEBACK_BYTES = 16 << 20
"""Appended bytes after which the disk is started, so that a later sync has little to wait for."""
MOVED_AT_ONCE = 1000
"""Blobs that should move at once, about, if they are not a segment full before that."""
OPEN_SEGMENTS = 32

_HEADER = struct.Struct("<4sBBHI36s")
_MAGIC = b"NXB1"
_ALGORITHMS = {"sha256": 1, "blake3": 2}
_PUNCH_KEEP_SIZE = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE. Source: linux/falloc.h."""

_SYNC_FILE_RANGE_WRITE = 2
"""Source: linux/fs.h."""

_KEEP_SIZE = 1
"""Source: linux/falloc.h."""

_libc = CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [c_int, c_int, c_longlong, c_longlong]
_libc.sync_file_range.argtypes = [c_int, c_longlong, c_longlong, c_uint]


class LocalBlobs:
    """Blobs in one directory; see `contracts.store.BlobStore`."""

    algorithm = ALGORITHM

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Opens or makes the directory."""
        self._directory = directory
        self._large = directory / "large"
        self._large.mkdir(parents=True, exist_ok=True, mode=0o700)
        fsync_directory(directory)
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._fds: dict[int, int] = {}
        self._puts = 0
        self._touched: set[int] = set()
        self._dirty: dict[int | str, int] = {}
        self._unsynced_bytes = 0
        self._writeback: ThreadPoolExecutor | None = None
        numbers = [int(path.stem) for path in directory.glob("*.seg")]
        self._segment = max(numbers, default=0)
        self._end = segment_bytes
        if numbers:
            self._end = _next_page(os.fstat(self._fd(self._segment)).st_size)
        for path in self._large.glob("*.tmp"):  # A crash in the middle of a put.
            path.unlink()
        self._next_large = 1 + max(map(_number_of, os.listdir(self._large)), default=0)

    def digest(self, data: bytes) -> bytes:
        """The name of `data` as a new blob."""
        return digest_of(self.algorithm, data)

    def put(self, digest: bytes, data: bytes) -> BlobRef:
        """Stores `data`. NoSpaceError ENOSPC leaves nothing behind."""
        with self._lock:
            if len(data) > LARGE_BYTES:
                return self._put_large(digest, data)
            if self._end >= self._segment_bytes:
                self._next_segment()
            algorithm = _ALGORITHMS[self.algorithm]
            header = _HEADER.pack(_MAGIC, 1, algorithm, 0, len(data), digest.ljust(36, b"\0"))
            offset = self._end
            fd = self._fd(self._segment)
            try:
                _write_all(fd, (header, data), offset)
            except KernelError:
                os.ftruncate(fd, offset)
                raise
            self._end = offset + len(header) + len(data)
            self._note(self._segment)
            self._start_writeback(fd, len(data))
            return BlobRef(self.algorithm, digest, len(data), f"{self._segment}:{offset}")

    def get(self, ref: BlobRef) -> bytes:
        """The whole blob, verified. CorruptError EIO names it."""
        try:
            data = self._read(ref)
        except (OSError, ValueError) as exc:
            raise CorruptError(f"blob {_label(ref)} cannot be read: {exc}") from exc
        if len(data) != ref.size or digest_of(ref.algorithm, data) != ref.digest:
            raise CorruptError(f"blob {_label(ref)} does not match its digest")
        return data

    def check(self, ref: BlobRef) -> None:
        """CorruptError EIO unless the disk has the blob, whatever the page cache has."""
        with suppress(OSError, ValueError):
            place = _place(ref)
            path = self._path(place[0]) if place else self._large / ref.place
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
        self.get(ref)

    def delete(self, ref: BlobRef) -> None:
        """Frees the space of a blob that no durable metadata names. KernelError EIO."""
        try:
            place = _place(ref)
            if place is None:
                (self._large / ref.place).unlink(missing_ok=True)
                return
            with self._lock, suppress(FileNotFoundError):
                self._punch(*place, ref)
        except OSError as exc:
            raise translated(exc) from exc

    def reclaim(self, deleted: Sequence[BlobRef], living: Living, since: Unsynced) -> list[BlobRef]:
        """Removes segments without live blobs; returns live ones that are in the way of more.

        KernelError EIO.
        """
        self._touched |= {place[0] for ref in deleted if (place := _place(ref)) is not None}
        moving: list[BlobRef] = []
        for segment in sorted(self._touched):
            enough = len(moving) >= MOVED_AT_ONCE or sum(r.size for r in moving) >= SEGMENT_BYTES
            if enough or segment >= since.area:
                continue  # It takes blobs that `living` has not heard of; or it has to wait.
            self._touched.discard(segment)
            live_bytes = living.bytes_at(f"{segment}:")
            if live_bytes == 0:
                self._drop_segment(segment)
            elif live_bytes * 2 < self._size(segment):
                moving += living.blobs_at(f"{segment}:", MOVED_AT_ONCE)
        return moving

    def unsynced(self) -> Unsynced:
        """What was put and may not be on disk, with new descriptors to fdatasync and close.

        KernelError EIO when there are no descriptors left.
        """
        with self._lock:
            fds: list[int] = []
            try:
                self._open_dirty(fds)
            except OSError as exc:
                for fd in fds:
                    os.close(fd)
                raise translated(exc) from exc
            self._end = _next_page(self._end)
            return Unsynced(fds, self._puts, self._segment)

    def _open_dirty(self, fds: list[int]) -> None:
        for where in self._dirty:
            with suppress(FileNotFoundError):
                if isinstance(where, int):
                    fds.append(os.dup(self._fd(where)))
                else:
                    fds.append(os.open(self._large / where, os.O_RDONLY | os.O_CLOEXEC))
        if any(isinstance(where, str) for where in self._dirty):
            fds.append(os.open(self._large, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def synced(self, unsynced: Unsynced) -> None:
        """All of `unsynced` is on disk."""
        with self._lock:
            self._dirty = {k: puts for k, puts in self._dirty.items() if puts > unsynced.until}
            self._unsynced_bytes = 0

    def close(self) -> None:
        """Waits for the writeback thread and closes the segments."""
        if self._writeback is not None:
            self._writeback.shutdown()
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _note(self, where: int | str) -> None:
        self._puts += 1
        self._dirty[where] = self._puts

    def _put_large(self, digest: bytes, data: bytes) -> BlobRef:
        name = f"{self.algorithm}-{digest.hex()}.{self._next_large}"
        path = self._large / name
        temporary = path.with_suffix(".tmp")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise translated(exc) from exc
        try:
            _write_all(fd, (data,), 0)
            self._start_writeback(fd, len(data))
        except KernelError:
            temporary.unlink()
            raise
        finally:
            os.close(fd)
        temporary.rename(path)
        self._next_large += 1
        self._note(name)
        return BlobRef(self.algorithm, digest, len(data), name)

    def _read(self, ref: BlobRef) -> bytes:
        place = _place(ref)
        if place is None:
            return (self._large / ref.place).read_bytes()
        segment, offset = place
        with self._lock:
            return os.pread(self._fd(segment), ref.size, offset + _HEADER.size)

    def _punch(self, segment: int, offset: int, ref: BlobRef) -> None:
        """Frees the whole pages inside a frame; not the parts of pages, which others share."""
        fd = self._fd(segment)
        if os.pread(fd, _HEADER.size, offset)[12 : 12 + len(ref.digest)] != ref.digest:
            return  # Not what is there: not ours to touch.
        first = _next_page(offset + _HEADER.size)
        length = (offset + _HEADER.size + ref.size) // PAGE_BYTES * PAGE_BYTES - first
        if length > 0:
            # A filesystem without holes keeps the bytes until the segment is removed.
            _libc.fallocate(fd, _PUNCH_KEEP_SIZE, first, length)

    def _drop_segment(self, segment: int) -> None:
        with self._lock:
            fd = self._fds.pop(segment, None)
            if fd is not None:
                os.close(fd)
            self._dirty.pop(segment, None)
            try:
                self._path(segment).unlink(missing_ok=True)
            except OSError as exc:
                raise translated(exc) from exc

    def _size(self, segment: int) -> int:
        try:
            return self._path(segment).stat().st_size
        except FileNotFoundError:
            return 0

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:08d}.seg"

    def _fd(self, segment: int) -> int:
        fd = self._fds.get(segment)
        if fd is None:
            if len(self._fds) >= OPEN_SEGMENTS:
                self._close_one()
            fd = self._fds[segment] = os.open(self._path(segment), os.O_RDWR | os.O_CLOEXEC)
        return fd

    def _close_one(self) -> None:
        """Closes a segment; one with unsynced bytes would take the disk's error with it."""
        clean = next((segment for segment in self._fds if segment not in self._dirty), None)
        if clean is not None:
            os.close(self._fds.pop(clean))

    def _next_segment(self) -> None:
        number = self._segment + 1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            os.close(os.open(self._path(number), flags, 0o600))
            fsync_directory(self._directory)
        except OSError as exc:
            raise translated(exc) from exc
        self._segment, self._end = number, 0

    def _start_writeback(self, fd: int, size: int) -> None:
        self._unsynced_bytes += size
        if self._unsynced_bytes < WRITEBACK_BYTES:
            return
        self._unsynced_bytes = 0
        if self._writeback is None:
            self._writeback = ThreadPoolExecutor(1, thread_name_prefix="blob-writeback")
        self._writeback.submit(_start_disk, os.dup(fd))


def _next_page(offset: int) -> int:
    return (offset + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES


def _place(ref: BlobRef) -> tuple[int, int] | None:
    """Segment and offset of a place; None for a file. ValueError for neither."""
    segment, colon, offset = ref.place.partition(":")
    if colon:
        return int(segment), int(offset)
    if not ref.place or "/" in ref.place:
        raise ValueError(f"no place of a blob: {ref.place!r}")
    return None


def _number_of(name: str) -> int:
    """The number in the name of a large blob; 0 for a temporary file."""
    number = name.rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def _label(ref: BlobRef) -> str:
    return f"{ref.algorithm}:{ref.digest.hex()} at {ref.place}"


def _write_all(fd: int, pieces: Sequence[bytes], offset: int) -> None:
    """Writes everything. NoSpaceError, or EIO."""
    left = sum(map(len, pieces))
    try:
        written = os.pwritev(fd, pieces, offset)
        if written < left:  # The disk is nearly full, or a signal came.
            view = memoryview(b"".join(pieces))
            while written < left:
                written += os.pwrite(fd, view[written:], offset + written)
    except OSError as exc:
        raise translated(exc) from exc


def translated(exc: OSError) -> KernelError:
    """NoSpaceError ENOSPC for a full disk, EIO for everything else that a disk may say."""
    full = exc.errno in (ENOSPC, EDQUOT, EFBIG)
    return (NoSpaceError if full else KernelError)(f"the store's disk: {exc.strerror}")


def set_aside(fd: int, first: int, length: int) -> None:
    """Gives a file space that is there when it is written, without growing it; where that is known.

    OSError ENOSPC. Source: fallocate(2), FALLOC_FL_KEEP_SIZE.
    """
    if _libc.fallocate(fd, _KEEP_SIZE, first, length) and get_errno() in (ENOSPC, EDQUOT, EFBIG):
        raise OSError(get_errno(), os.strerror(get_errno()))


def _start_disk(fd: int) -> None:
    _libc.sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)
    os.close(fd)

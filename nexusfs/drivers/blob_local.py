"""Blobs on the local disk: append-only segment files, and own files for large ones.

A segment is a run of frames: a header of 48 bytes (magic, state, algorithm, size, digest) and
the bytes. `BlobRef.place` is `segment:offset of the header`. A blob over 1 MiB is a file of its
own in `large/`, and `place` is its name: the digest and a number that no other blob has, so that
one may be deleted while the same bytes are put again.

What a crash leaves: a frame that was not written to its end is the last of the last segment,
and nothing names it; it is cut off at open. A frame or file that was written but is named by
no metadata stays as garbage, for `gc` to find.

What deletion frees: a large blob's file; the whole blocks inside a frame (a hole is punched);
a segment file in which every frame is dead. What is left of small frames is freed when the live
ones have moved: `worth_moving` names those of a segment that is dead for the most part.

Concurrency: every method may be called from any thread; a lock makes them take turns, for as
long as one write to the page cache takes. The writeback thread only calls fdatasync on
duplicates of descriptors.
"""

import errno
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ctypes import CDLL, c_int, c_longlong
from dataclasses import dataclass
from pathlib import Path

from nexusfs.contracts.errors import CorruptError, KernelError, NoSpaceError
from nexusfs.contracts.store import BlobRef, Unsynced, digest_of
from nexusfs.drivers.sqlite import fsync_directory

SEGMENT_BYTES = 64 << 20
"""A segment that is longer takes no more frames: one walk over its headers stays under 50 ms."""
LARGE_BYTES = 1 << 20
"""Blobs over this are files of their own."""
WRITEBACK_BYTES = 16 << 20
"""Appended bytes after which the disk is started, so that a later sync has little to wait for."""
OPEN_SEGMENTS = 32

_MAGIC = b"NXB1"
_HEADER = struct.Struct("<4sBBHI36s")
_LIVE, _DEAD = 1, 0
_ALGORITHMS = {"sha256": 1}
_NAMES = {number: name for name, number in _ALGORITHMS.items()}
_PUNCH_KEEP_SIZE = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE. Source: linux/falloc.h."""
_libc = CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [c_int, c_int, c_longlong, c_longlong]


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame of a segment; `offset` is that of its header."""

    offset: int
    size: int
    live: bool
    algorithm: str
    digest: bytes

    @property
    def length(self) -> int:
        return _HEADER.size + self.size

    @property
    def stop(self) -> int:
        return self.offset + self.length


class LocalBlobs:
    """Blobs in one directory; see `contracts.store.BlobStore`."""

    algorithm = "sha256"

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Opens or makes the directory, and cuts a garbled tail off."""
        self._directory = directory
        self._large = directory / "large"
        self._large.mkdir(parents=True, exist_ok=True, mode=0o700)
        fsync_directory(directory)
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._fds: dict[int, int] = {}
        self._puts = 0
        self._dirty: dict[int | str, int] = {}
        self._live_bytes: dict[int, int] = {}
        self._unsynced_bytes = 0
        self._writeback: ThreadPoolExecutor | None = None
        numbers = [int(path.stem) for path in directory.glob("*.seg")]
        self._segment = max(numbers, default=0)
        self._end = self._cut_tail() if numbers else segment_bytes
        for path in self._large.glob("*.tmp"):  # A crash in the middle of a put.
            path.unlink()
        self._next_large = 1 + max(map(_number_of, os.listdir(self._large)), default=0)

    def put(self, digest: bytes, data: bytes) -> BlobRef:
        """Stores `data`. NoSpaceError ENOSPC leaves nothing behind."""
        with self._lock:
            if len(data) > LARGE_BYTES:
                return self._put_large(digest, data)
            if self._end >= self._segment_bytes:
                self._next_segment()
            header = _HEADER.pack(
                _MAGIC, _LIVE, _ALGORITHMS[self.algorithm], 0, len(data), digest.ljust(36, b"\0")
            )
            offset = self._end
            fd = self._fd(self._segment)
            try:
                _write_all(fd, (header, data), offset)
            except KernelError:
                os.ftruncate(fd, offset)
                raise
            self._end = offset + len(header) + len(data)
            self._note(self._segment)
            if self._segment in self._live_bytes:
                self._live_bytes[self._segment] += len(data) + _HEADER.size
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

    def delete(self, ref: BlobRef) -> None:
        """Frees the space of a blob that no durable metadata names."""
        place = _place(ref)
        if place is None:
            (self._large / ref.place).unlink(missing_ok=True)
            return
        with self._lock, suppress(FileNotFoundError):
            self._kill_frame(*place, ref)

    def worth_moving(self, most_bytes: int) -> list[BlobRef]:
        """Live blobs of a segment that takes twice the space of its live ones, up to a sum.

        Only segments in which something was deleted since the open are looked at.
        """
        with self._lock:
            for segment, live_bytes in self._live_bytes.items():
                if (
                    segment != self._segment
                    and live_bytes * 2 < os.fstat(self._fd(segment)).st_size
                ):
                    return self._live_blobs(segment, most_bytes)
        return []

    def _live_blobs(self, segment: int, most_bytes: int) -> list[BlobRef]:
        found: list[BlobRef] = []
        left = most_bytes
        for frame in _frames(self._fd(segment)):
            if frame.live and (left := left - frame.size) >= 0:
                place = f"{segment}:{frame.offset}"
                found.append(BlobRef(frame.algorithm, frame.digest, frame.size, place))
        return found

    def unsynced(self) -> Unsynced:
        """What was put and may not be on disk, with new descriptors to fdatasync and close."""
        with self._lock:
            fds = []
            for where in self._dirty:
                with suppress(FileNotFoundError):
                    if isinstance(where, int):
                        fds.append(os.dup(self._fd(where)))
                    else:
                        fds.append(os.open(self._large / where, os.O_RDONLY | os.O_CLOEXEC))
            if any(isinstance(where, str) for where in self._dirty):
                fds.append(os.open(self._large, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            return Unsynced(fds, self._puts)

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

    def _kill_frame(self, segment: int, offset: int, ref: BlobRef) -> None:
        fd = self._fd(segment)
        frame = _frame_at(fd, offset)
        if frame is None or not frame.live or frame.digest != ref.digest:
            return  # Freed before a crash, or never written: not ours to touch.
        if segment not in self._live_bytes:
            self._live_bytes[segment] = sum(each.length for each in _frames(fd) if each.live)
        _write_all(fd, (bytes([_DEAD]),), offset + len(_MAGIC))
        self._live_bytes[segment] -= frame.length
        if self._live_bytes[segment] == 0 and segment != self._segment:
            self._drop_segment(segment)
        elif ref.size >= 4096:
            # A filesystem without holes keeps the bytes until the segment is dropped.
            _libc.fallocate(fd, _PUNCH_KEEP_SIZE, offset + _HEADER.size, ref.size)

    def _drop_segment(self, segment: int) -> None:
        os.close(self._fds.pop(segment))
        self._path(segment).unlink()
        self._dirty.pop(segment, None)
        del self._live_bytes[segment]

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:08d}.seg"

    def _fd(self, segment: int) -> int:
        fd = self._fds.get(segment)
        if fd is None:
            if len(self._fds) >= OPEN_SEGMENTS:
                os.close(self._fds.pop(next(iter(self._fds))))
            fd = self._fds[segment] = os.open(self._path(segment), os.O_RDWR | os.O_CLOEXEC)
        return fd

    def _next_segment(self) -> None:
        number = self._segment + 1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(self._path(number), flags, 0o600))
            fsync_directory(self._directory)
        except OSError as exc:
            raise translated(exc) from exc
        self._segment, self._end = number, 0

    def _cut_tail(self) -> int:
        """Cuts the last segment after its last good frame; returns the new length."""
        fd = self._fd(self._segment)
        end, last = 0, None
        for frame in _frames(fd):
            end, last = frame.stop, frame
        if last is not None and last.live and not _intact(fd, last):
            end = last.offset
        os.ftruncate(fd, end)
        return end

    def _start_writeback(self, fd: int, size: int) -> None:
        self._unsynced_bytes += size
        if self._unsynced_bytes < WRITEBACK_BYTES:
            return
        self._unsynced_bytes = 0
        if self._writeback is None:
            self._writeback = ThreadPoolExecutor(1, thread_name_prefix="blob-writeback")
        self._writeback.submit(_sync_and_close, os.dup(fd))


def _frames(fd: int) -> Iterator[_Frame]:
    """The frames of a segment up to its end or to the first that is no frame."""
    end, offset = os.fstat(fd).st_size, 0
    while frame := _frame_at(fd, offset):
        if frame.stop > end:
            return
        yield frame
        offset = frame.stop


def _frame_at(fd: int, offset: int) -> _Frame | None:
    raw = os.pread(fd, _HEADER.size, offset)
    if len(raw) < _HEADER.size:
        return None
    magic, state, algorithm, _, size, digest = _HEADER.unpack(raw)
    if magic != _MAGIC or algorithm not in _NAMES:
        return None
    return _Frame(offset, size, state == _LIVE, _NAMES[algorithm], digest[:32])


def _intact(fd: int, frame: _Frame) -> bool:
    data = os.pread(fd, frame.size, frame.offset + _HEADER.size)
    return digest_of(frame.algorithm, data) == frame.digest


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
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    return (NoSpaceError if full else KernelError)(f"the store's disk: {exc.strerror}")


def _sync_and_close(fd: int) -> None:
    """Starts the disk early; its errors are met by the sync that somebody waits for."""
    with suppress(OSError):
        os.fdatasync(fd)
    os.close(fd)

"""File content over the two ports: what becomes inline bytes, and what a blob.

A write under 4 KiB is inline, and is joined with the inline bytes it touches, so that a log
written 100 bytes at a time makes one extent for each 4 KiB: while the piece is under 4 KiB it
grows in place, then it becomes a blob. Other writes become blobs of at most 4 MiB, and replace
the extents they cover. A write costs its own size and that of at most one piece.
"""

from collections import OrderedDict

from nexusfs.contracts.errors import NoSpaceError
from nexusfs.contracts.store import BlobRef, Extent, Store, digest_of

INLINE_BYTES = 4096
"""Largest inline extent: one page of the database."""
BLOB_BYTES = 4 << 20
"""Largest blob. A read verifies the whole blob, so this bounds the cost of a small read."""
CACHE_BYTES = 8 << 20
"""Verified blobs kept in memory, for small reads that follow each other in a large blob."""


class Content:
    """Reads and writes bytes of files; offsets and sizes are checked by the caller."""

    def __init__(self, store: Store) -> None:
        """Content over one store."""
        self._meta = store.meta
        self._blobs = store.blobs
        self._room = store.room
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._cached = 0

    def read(self, ino: int, start: int, stop: int) -> bytes:
        """Bytes [start, stop), which the file has; gaps are zeros. CorruptError."""
        extents = self._meta.extents(ino, start, stop)
        if len(extents) == 1 and extents[0].start <= start and stop <= extents[0].stop:
            return self._bytes(extents[0], start, stop)
        parts, at = [], start
        for extent in extents:
            first, last = max(extent.start, start), min(extent.stop, stop)
            parts += [bytes(first - at), self._bytes(extent, first, last)]
            at = last
        parts.append(bytes(stop - at))
        return b"".join(parts)

    def write(self, ino: int, data: bytes, offset: int) -> None:
        """Writes `data`, in one transaction. NoSpaceError leaves the file as it was."""
        self._room.check()
        try:
            self._write(ino, data, offset)
        except NoSpaceError:
            if not self._room.make(removing=False):
                raise
            self._write(ino, data, offset)

    def _write(self, ino: int, data: bytes, offset: int) -> None:
        start = offset
        if len(data) < INLINE_BYTES:
            start, data = self._join(ino, data, offset)
            if len(data) < INLINE_BYTES:
                self._meta.write(ino, [Extent(start, len(data), data)])
                return
        put: list[BlobRef] = []
        try:
            self._meta.write(ino, self._pieces(data, start, put))
        except NoSpaceError:  # Nothing names these yet, and they take space.
            for ref in put:
                self._blobs.delete(ref)
            raise

    def _join(self, ino: int, data: bytes, offset: int) -> tuple[int, bytes]:
        """`data` with the inline bytes that it touches: (start, bytes)."""
        attr = self._meta.getattr(ino)
        if attr.blocks == 0 or offset > attr.size:
            return offset, data
        stop = offset + len(data)
        start = offset
        for extent in self._meta.extents(ino, max(offset - 1, 0), stop + 1):
            if extent.data is None:
                continue
            if extent.start < offset:
                data = extent.data[: offset - extent.start] + data
                start = extent.start
            if extent.stop > stop:
                data += extent.data[stop - extent.start :] if extent.start < stop else extent.data
        return start, data

    def _pieces(self, data: bytes, offset: int, put: list[BlobRef]) -> list[Extent]:
        """Extents of blobs for `data`; `put` gets those that were not stored before."""
        if len(data) <= BLOB_BYTES:
            return [Extent(offset, len(data), None, self._blob(data, put))]
        extents = []
        for at in range(0, len(data), BLOB_BYTES):
            piece = data[at : at + BLOB_BYTES]
            extents.append(Extent(offset + at, len(piece), None, self._blob(piece, put)))
        return extents

    def _blob(self, data: bytes, put: list[BlobRef]) -> BlobRef:
        algorithm = self._blobs.algorithm
        digest = digest_of(algorithm, data)
        found = self._meta.find_blob(digest, algorithm)
        if found is None:
            found = self._blobs.put(digest, data)
            put.append(found)
        return found

    def _bytes(self, extent: Extent, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of the file, which lie in `extent`."""
        skip = start - extent.start
        if extent.data is not None:
            return extent.data[skip : skip + stop - start]
        assert extent.blob is not None
        skip += extent.offset
        whole = self._verified(extent.blob)
        return (
            whole if skip == 0 and stop - start == len(whole) else whole[skip : skip + stop - start]
        )

    def _verified(self, ref: BlobRef) -> bytes:
        data = self._cache.get(ref.digest)
        if data is not None:
            self._cache.move_to_end(ref.digest)
            return data
        data = self._blobs.get(ref)
        self._cache[ref.digest] = data
        self._cached += len(data)
        while self._cached > CACHE_BYTES:
            self._cached -= len(self._cache.popitem(last=False)[1])
        return data

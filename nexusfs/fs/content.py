"""File content over the two ports: what becomes inline bytes, and what a blob.

Writes under 64 KiB go inline: into the store's journal and memory. A flush makes blobs of what
has grown to 4 KiB by then, so small writes that follow each other end up in one blob, and what
is soon overwritten or removed in none. Larger writes become blobs of at most 1 MiB at once, for
they would be written twice otherwise. A write costs its own size, wherever in the file it is.
"""

from collections import OrderedDict

from nexusfs.contracts.errors import CorruptError, NoSpaceError
from nexusfs.contracts.store import BlobRef, Extent, Store

INLINE_BYTES = 64 << 10
"""Writes of this size are blobs at once."""
BLOB_BYTES = 1 << 20
"""Largest blob of a file. A read verifies the whole blob: this bounds what a small one costs."""
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
        if len(data) < INLINE_BYTES:
            self._meta.write(ino, (Extent(offset, len(data), data),))
            return
        self._room.check(len(data))
        try:
            self._meta.write(ino, self._pieces(data, offset))
        except NoSpaceError:
            if not self._room.make(removing=False):
                raise
            self._meta.write(ino, self._pieces(data, offset))

    def _pieces(self, data: bytes, offset: int) -> list[Extent]:
        """Extents of blobs for `data`."""
        if len(data) <= BLOB_BYTES:
            return [Extent(offset, len(data), None, self._blob(data, []))]
        extents: list[Extent] = []
        put: list[BlobRef] = []
        try:
            for at in range(0, len(data), BLOB_BYTES):
                piece = data[at : at + BLOB_BYTES]
                extents.append(Extent(offset + at, len(piece), None, self._blob(piece, put)))
        except NoSpaceError:  # Nothing names these yet, and they take space.
            for ref in put:
                self._blobs.delete(ref)
            raise
        return extents

    def _blob(self, data: bytes, put: list[BlobRef]) -> BlobRef:
        """The blob of `data`; `put` gets it if it was not stored before."""
        algorithm = self._blobs.algorithm
        digest = self._blobs.digest(data)
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
        data = self._get(ref)
        self._cache[ref.digest] = data
        self._cached += len(data)
        while self._cached > CACHE_BYTES:
            self._cached -= len(self._cache.popitem(last=False)[1])
        return data

    def _get(self, ref: BlobRef) -> bytes:
        """The bytes of a blob, which a flush may have moved since its place was noted."""
        while True:
            try:
                return self._blobs.get(ref)
            except CorruptError:
                now = self._meta.find_blob(ref.digest, ref.algorithm)
                if now is None or now.place == ref.place:
                    self._meta.distrust(ref)
                    raise
                ref = now

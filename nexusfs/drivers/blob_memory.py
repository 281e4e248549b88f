"""Blobs in memory: the fake for tests, and what a blob store is at its smallest."""

from collections.abc import Sequence

from nexusfs.contracts.errors import CorruptError
from nexusfs.contracts.store import BlobRef, Living, Unsynced
from nexusfs.drivers.digest import ALGORITHM, digest_of


class MemoryBlobs:
    """A dict of blobs; gone with the process."""

    algorithm = ALGORITHM

    def __init__(self) -> None:
        """An empty store."""
        self._blobs: dict[str, bytes] = {}
        self._puts = 0

    def digest(self, data: bytes) -> bytes:
        """The name of `data` as a new blob."""
        return digest_of(self.algorithm, data)

    def put(self, digest: bytes, data: bytes) -> BlobRef:
        """Keeps `data`."""
        self._puts += 1
        place = str(self._puts)
        self._blobs[place] = bytes(data)
        return BlobRef(self.algorithm, digest, len(data), place)

    def get(self, ref: BlobRef) -> bytes:
        """The whole blob. CorruptError when it is missing or altered."""
        data = self._blobs.get(ref.place)
        if data is None or digest_of(ref.algorithm, data) != ref.digest:
            raise CorruptError(f"blob {ref.algorithm}:{ref.digest.hex()} is missing or altered")
        return data

    def check(self, ref: BlobRef) -> None:
        """CorruptError EIO when it is missing."""
        self.get(ref)

    def delete(self, ref: BlobRef) -> None:
        """Drops the blob."""
        self._blobs.pop(ref.place, None)

    def reclaim(self, deleted: Sequence[BlobRef], living: Living, since: Unsynced) -> list[BlobRef]:
        """There is no space around them."""
        return []

    def unsynced(self) -> Unsynced:
        """Nothing can be synced."""
        return Unsynced([], 0)

    def synced(self, unsynced: Unsynced) -> None:
        """There is nothing to note."""

    def close(self) -> None:
        """Keeps the blobs, so that a test can open the metadata again over them."""

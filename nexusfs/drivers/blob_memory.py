"""Blobs in memory: the fake for tests, and what a blob store is at its smallest."""

from nexusfs.contracts.errors import CorruptError
from nexusfs.contracts.store import BlobRef, digest_of


class MemoryBlobs:
    """A dict of blobs; gone with the process."""

    algorithm = "sha256"

    def __init__(self) -> None:
        """An empty store."""
        self._blobs: dict[tuple[str, bytes], bytes] = {}

    def put(self, digest: bytes, data: bytes) -> BlobRef:
        """Keeps `data`."""
        self._blobs[self.algorithm, digest] = bytes(data)
        return BlobRef(self.algorithm, digest, len(data), "")

    def get(self, ref: BlobRef) -> bytes:
        """The whole blob. CorruptError when it is missing or altered."""
        data = self._blobs.get((ref.algorithm, ref.digest))
        if data is None or digest_of(ref.algorithm, data) != ref.digest:
            raise CorruptError(f"blob {ref.algorithm}:{ref.digest.hex()} is missing or altered")
        return data

    def delete(self, ref: BlobRef) -> None:
        """Drops the blob."""
        self._blobs.pop((ref.algorithm, ref.digest), None)

    def dirty_fds(self) -> list[int]:
        """Nothing can be synced."""
        return []

    def close(self) -> None:
        """Keeps the blobs, so that a test can open the metadata again over them."""

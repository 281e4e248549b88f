"""Stores that can be opened again, and small things for their tests."""

import stat
from collections.abc import Callable

import pytest

from nexusfs.contracts.errors import CorruptError, KernelError
from nexusfs.contracts.node import NewNode
from nexusfs.contracts.store import SIZE_MAX, BlobRef, Extent, Store

FILE = NewNode(stat.S_IFREG | 0o644, 7, 8)
DIR = NewNode(stat.S_IFDIR | 0o755, 7, 8)


class Reopenable:
    """A store that can be closed and opened again."""

    def __init__(self, open_: Callable[[], Store]) -> None:
        self._open = open_
        self.store = open_()

    def reopen(self) -> Store:
        self.store.close()
        self.store = self._open()
        return self.store


def blob(store: Store, data: bytes) -> BlobRef:
    return store.blobs.put(store.blobs.digest(data), data)


def blob_extent(store: Store, start: int, data: bytes) -> Extent:
    return Extent(start, len(data), None, blob(store, data))


def spans(store: Store, ino: int) -> list[tuple[int, int]]:
    return [(e.start, e.stop) for e in store.meta.extents(ino, 0, SIZE_MAX)]


def errno_name(call: Callable[[], object]) -> type[KernelError]:
    with pytest.raises(KernelError) as caught:
        call()
    return type(caught.value)


def is_gone(store: Store, ref: BlobRef) -> bool:
    """True when nobody can find the blob, and its bytes are not there."""
    with pytest.raises(CorruptError):
        store.blobs.get(ref)
    return store.meta.find_blob(ref.digest, ref.algorithm) is None

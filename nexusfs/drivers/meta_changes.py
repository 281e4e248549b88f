"""What a transaction does to the tree, one class for each kind of change, and its bytes.

A transaction is a list of changes. The same list is written to the operation journal and then
applied to the memory; after a crash it is read from there and applied in the same way, so what
is found again is what was there. Applying never fails and never asks: the call that made the
change has looked at everything before.

The bytes of a change are a kind, then fixed fields, little-endian, then what has a length.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from nexusfs.contracts.errors import CorruptError
from nexusfs.contracts.store import BlobRef, Extent
from nexusfs.drivers.meta_attr import Attr, blocks_of

_INODE = struct.Struct("<BQIIIIqqqqQQQI")
_EDGE = struct.Struct("<BQQIB")
_INO = struct.Struct("<BQ")
_BYTES = struct.Struct("<BQqQI")
_BLOBS = struct.Struct("<BQqI")
_EXTENT = struct.Struct("<QQQQBBH")
_CUT = struct.Struct("<BQQ")
_XATTR = struct.Struct("<BQBI")


class Tree(Protocol):
    """What changes are applied to: `meta_state.TreeState`."""

    def set_inode(self, attr: Attr) -> None:
        """Makes an inode, or replaces its attributes."""
        ...

    def erase_inode(self, ino: int) -> None:
        """Removes an inode with its content and extended attributes."""
        ...

    def set_edge(self, parent: int, name: bytes, ino: int, kind: int) -> None:
        """Enters a name; `ino` 0 removes it."""
        ...

    def put_extents(self, ino: int, now_ns: int, extents: Sequence[Extent]) -> None:
        """Replaces what the extents cover and grows the file to their end."""
        ...

    def cut(self, ino: int, start: int) -> None:
        """Drops the content from `start` on."""
        ...

    def set_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Sets an extended attribute; None removes it."""
        ...


class TreeChange(Protocol):
    """One kind of change."""

    def pack(self) -> bytes:
        """Its bytes in the journal."""
        ...

    def apply(self, tree: Tree) -> None:
        """Does it."""
        ...


@dataclass(slots=True)
class SetInode:
    """A new inode, or new attributes of one."""

    kind: ClassVar[int] = 1
    attr: Attr

    def pack(self) -> bytes:
        """All attributes and the text of a symlink."""
        a = self.attr
        return _INODE.pack(
            self.kind, a.ino, a.mode, a.nlink, a.uid, a.gid, a.size, a.atime_ns, a.mtime_ns,
            a.ctime_ns, a.rdev, a.used, a.parent, len(a.target),
        ) + a.target  # fmt: skip

    def apply(self, tree: Tree) -> None:
        """Enters the attributes."""
        tree.set_inode(self.attr)

    @classmethod
    def unpack(cls, raw: bytes, at: int) -> "tuple[SetInode, int]":
        """The change at `at`, and where the next one begins."""
        fields = _INODE.unpack_from(raw, at)
        _, ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev, used, parent, text = fields
        at += _INODE.size
        attr = Attr(
            ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev, blocks_of(used), used,
            parent, raw[at : at + text],
        )  # fmt: skip
        return cls(attr), at + text


@dataclass(slots=True)
class EraseInode:
    """An inode goes, with all it had."""

    kind: ClassVar[int] = 2
    ino: int

    def pack(self) -> bytes:
        """The number."""
        return _INO.pack(self.kind, self.ino)

    def apply(self, tree: Tree) -> None:
        """Removes it."""
        tree.erase_inode(self.ino)

    @classmethod
    def unpack(cls, raw: bytes, at: int) -> "tuple[EraseInode, int]":
        """The change at `at`, and where the next one begins."""
        return cls(_INO.unpack_from(raw, at)[1]), at + _INO.size


@dataclass(slots=True)
class SetEdge:
    """A name of a directory leads to an inode; 0 takes the name away."""

    kind: ClassVar[int] = 3
    parent: int
    name: bytes
    ino: int
    type_bits: int

    def pack(self) -> bytes:
        """Parent, inode, type and name."""
        fixed = _EDGE.pack(self.kind, self.parent, self.ino, self.type_bits, len(self.name))
        return fixed + self.name

    def apply(self, tree: Tree) -> None:
        """Enters it."""
        tree.set_edge(self.parent, self.name, self.ino, self.type_bits)

    @classmethod
    def unpack(cls, raw: bytes, at: int) -> "tuple[SetEdge, int]":
        """The change at `at`, and where the next one begins."""
        _, parent, ino, type_bits, length = _EDGE.unpack_from(raw, at)
        at += _EDGE.size
        return cls(parent, raw[at : at + length], ino, type_bits), at + length


@dataclass(slots=True)
class PutBytes:
    """Bytes are written that are kept inline for now."""

    kind: ClassVar[int] = 4
    ino: int
    now_ns: int
    start: int
    data: bytes

    def pack(self) -> bytes:
        """Where, when and what."""
        fixed = _BYTES.pack(self.kind, self.ino, self.now_ns, self.start, len(self.data))
        return fixed + self.data

    def apply(self, tree: Tree) -> None:
        """Writes them."""
        extent = Extent(self.start, len(self.data), self.data)
        tree.put_extents(self.ino, self.now_ns, (extent,))

    @classmethod
    def unpack(cls, raw: bytes, at: int) -> "tuple[PutBytes, int]":
        """The change at `at`, and where the next one begins."""
        _, ino, now_ns, start, length = _BYTES.unpack_from(raw, at)
        at += _BYTES.size
        return cls(ino, now_ns, start, raw[at : at + length]), at + length


@dataclass(slots=True)
class PutBlobs:
    """Extents of blobs are written."""

    kind: ClassVar[int] = 5
    ino: int
    now_ns: int
    extents: Sequence[Extent]

    def pack(self) -> bytes:
        """When, and for each extent where it is, in what blob, and where that is."""
        parts = [_BLOBS.pack(self.kind, self.ino, self.now_ns, len(self.extents))]
        for extent in self.extents:
            blob = extent.blob
            assert blob is not None
            words = [blob.digest, blob.algorithm.encode(), blob.place.encode()]
            lengths = [len(word) for word in words]
            parts.append(
                _EXTENT.pack(extent.start, extent.length, extent.offset, blob.size, *lengths)
            )
            parts += words
        return b"".join(parts)

    def apply(self, tree: Tree) -> None:
        """Enters them."""
        tree.put_extents(self.ino, self.now_ns, self.extents)

    @classmethod
    def unpack(cls, raw: bytes, at: int) -> "tuple[PutBlobs, int]":
        """The change at `at`, and where the next one begins."""
        _, ino, now_ns, count = _BLOBS.unpack_from(raw, at)
        at += _BLOBS.size
        extents = []
        for _ in range(count):
            start, length, offset, size, *lengths = _EXTENT.unpack_from(raw, at)
            at += _EXTENT.size
            words = []
            for each in lengths:
                words.append(raw[at : at + each])
                at += each
            blob = BlobRef(words[1].decode(), words[0], size, words[2].decode())
            extents.append(Extent(start, length, None, blob, offset))
        return cls(ino, now_ns, extents), at


@dataclass(slots=True)
class Cut:
    """A file loses what is after `start`."""

    kind: ClassVar[int] = 6
    ino: int
    start: int

    def pack(self) -> bytes:
        """Inode and offset."""
        return _CUT.pack(self.kind, self.ino, self.start)

    def apply(self, tree: Tree) -> None:
        """Drops it."""
        tree.cut(self.ino, self.start)

    @classmethod
    def unpack(cls, raw: bytes, at: int) -> "tuple[Cut, int]":
        """The change at `at`, and where the next one begins."""
        return cls(*_CUT.unpack_from(raw, at)[1:]), at + _CUT.size


_ABSENT = 0xFFFFFFFF


@dataclass(slots=True)
class SetXattr:
    """An extended attribute is set; None removes it."""

    kind: ClassVar[int] = 7
    ino: int
    name: bytes
    value: bytes | None

    def pack(self) -> bytes:
        """Inode, name and value."""
        value = self.value
        length = _ABSENT if value is None else len(value)
        return _XATTR.pack(self.kind, self.ino, len(self.name), length) + self.name + (value or b"")

    def apply(self, tree: Tree) -> None:
        """Sets or removes it."""
        tree.set_xattr(self.ino, self.name, self.value)

    @classmethod
    def unpack(cls, raw: bytes, at: int) -> "tuple[SetXattr, int]":
        """The change at `at`, and where the next one begins."""
        _, ino, of_name, of_value = _XATTR.unpack_from(raw, at)
        at += _XATTR.size
        name = raw[at : at + of_name]
        at += of_name
        if of_value == _ABSENT:
            return cls(ino, name, None), at
        return cls(ino, name, raw[at : at + of_value]), at + of_value


_UNPACK: dict[int, Callable[[bytes, int], tuple[TreeChange, int]]] = {
    each.kind: each.unpack
    for each in (SetInode, EraseInode, SetEdge, PutBytes, PutBlobs, Cut, SetXattr)
}


def unpack(raw: bytes) -> list[TreeChange]:
    """The changes of a record. CorruptError EIO for a kind that is not known."""
    changes: list[TreeChange] = []
    at = 0
    while at < len(raw):
        read = _UNPACK.get(raw[at])
        if read is None:
            raise CorruptError(f"the operation journal has a change of unknown kind {raw[at]}")
        change, at = read(raw, at)
        changes.append(change)
    return changes


def blobs_of(changes: Sequence[TreeChange]) -> list[BlobRef]:
    """The blobs that the changes name."""
    return [
        extent.blob
        for change in changes
        if isinstance(change, PutBlobs)
        for extent in change.extents
        if extent.blob is not None
    ]

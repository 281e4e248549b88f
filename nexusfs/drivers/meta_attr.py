"""The attributes of an inode as the store keeps them."""

from dataclasses import dataclass

from nexusfs.contracts.node import Stat

PAGE_BYTES = 4096


@dataclass(slots=True)
class Attr(Stat):
    """Attributes as stored; never changed in place, so that who has one has a snapshot.

    Attributes:
        used: the bytes that extents cover, of which `blocks` are made.
        parent: the directory that a directory is in; 0 for anything else.
        target: the text of a symlink.
    """

    used: int = 0
    parent: int = 0
    target: bytes = b""

    def changed(self, **values: int) -> "Attr":
        """A copy with other values; `dataclasses.replace` takes twice as long."""
        get = values.get
        used = get("used", self.used)
        return Attr(
            self.ino,
            get("mode", self.mode),
            get("nlink", self.nlink),
            get("uid", self.uid),
            get("gid", self.gid),
            get("size", self.size),
            get("atime_ns", self.atime_ns),
            get("mtime_ns", self.mtime_ns),
            get("ctime_ns", self.ctime_ns),
            self.rdev,
            blocks_of(used),
            used,
            get("parent", self.parent),
            self.target,
        )

    def written(self, size: int, used: int, now_ns: int) -> "Attr":
        """A copy with new content: mtime and ctime move."""
        return Attr(
            self.ino, self.mode, self.nlink, self.uid, self.gid, size, self.atime_ns, now_ns,
            now_ns, self.rdev, blocks_of(used), used, self.parent, self.target,
        )  # fmt: skip

    def listed(self, links: int, now_ns: int) -> "Attr":
        """A directory with `links` subdirectories more whose names changed just now."""
        return Attr(
            self.ino, self.mode, self.nlink + links, self.uid, self.gid, self.size, self.atime_ns,
            now_ns, now_ns, self.rdev, self.blocks, self.used, self.parent, self.target,
        )  # fmt: skip

    def unlinked(self, now_ns: int) -> "Attr":
        """With one name less; a directory has no link left."""
        return Attr(
            self.ino, self.mode, 0 if self.is_dir else self.nlink - 1, self.uid, self.gid,
            self.size, self.atime_ns, self.mtime_ns, now_ns, self.rdev, self.blocks, self.used,
            self.parent, self.target,
        )  # fmt: skip


def blocks_of(used: int) -> int:
    """Blocks of 512 bytes for `used` bytes, in whole pages as ext4 counts them."""
    return (used + PAGE_BYTES - 1) // PAGE_BYTES * (PAGE_BYTES // 512)

"""Attributes and names in memory, in front of the metadata's SQL.

Exact, because the store has one writer and it goes through here: a change is entered after
its transaction has committed, so a transaction that fails leaves the cache as it was.

An entry is dropped only when the cache is full, the oldest quarter at once: cheap on average,
and a working set larger than the cache costs one SQL query per miss.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from nexusfs.contracts.node import Stat

CACHE_MAX = 32_768
"""Inodes, and names. 300 bytes each: 20 MiB when full, of the kernel's 80."""

COLUMNS = "ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev, used"


@dataclass(frozen=True, slots=True)
class Attr(Stat):
    """Attributes as stored; `used` is the bytes that extents cover, of which `blocks` are made."""

    used: int = 0

    @staticmethod
    def of(row: tuple[int, ...]) -> "Attr":
        """Attributes from a row of `COLUMNS`."""
        ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev, used = row
        return Attr(
            ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev, blocks_of(used), used
        )

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
        )


def blocks_of(used: int) -> int:
    """Blocks of 512 bytes for `used` bytes, in whole pages of 4096 as ext4 counts them."""
    return (used + 4095) // 4096 * 8


def trim(cache: dict[Any, Any]) -> None:
    """Drops the oldest quarter of a cache that is full."""
    if len(cache) >= CACHE_MAX:
        for key in list(islice(cache, CACHE_MAX // 4)):
            del cache[key]

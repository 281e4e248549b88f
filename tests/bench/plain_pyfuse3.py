"""The program we compare with: `python plain_pyfuse3.py MNT JSON`.

What a user of pyfuse3 would write to serve one file three directories deep, and small ordinary
files in a dict beside it: the hello example of pyfuse3 with names added, its main() with the
defaults. It has no rights, no processes and no disk. Timeouts come as an argument, so that they
are those of the tree that is compared.
"""

import errno
import json
import os
import stat
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import pyfuse3
import trio


@dataclass
class Inode:
    """One file or directory in memory; the timeouts are in seconds."""

    ino: int
    mode: int
    entry_timeout: float = 0.0
    attr_timeout: float = 0.0
    direct_io: bool = False
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, "Inode"] = field(default_factory=dict)
    time_ns: int = field(default_factory=time.time_ns)


class PlainFs(pyfuse3.Operations):
    """proc/2/status, a task of proc/1, and a directory `files`."""

    enable_writeback_cache = False

    def __init__(self, content: bytes, timeouts: dict[str, list[float]]) -> None:
        super().__init__()
        self.inodes: dict[int, Inode] = {}
        root = self.new(stat.S_IFDIR | 0o755, timeouts["root"])
        proc = root.names[b"proc"] = self.new(stat.S_IFDIR | 0o555, timeouts["proc"])
        agent = proc.names[b"2"] = self.new(stat.S_IFDIR | 0o555, timeouts["agent"])
        status = agent.names[b"status"] = self.new(stat.S_IFREG | 0o444, timeouts["status"])
        status.data[:] = content
        status.direct_io = True
        kernel = proc.names[b"1"] = self.new(stat.S_IFDIR | 0o555, timeouts["kernel"])
        tasks = kernel.names[b"tasks"] = self.new(stat.S_IFDIR | 0o555, timeouts["kernel"])
        task = tasks.names[b"2"] = self.new(stat.S_IFDIR | 0o500, timeouts["task"])
        for above, name in ((kernel, b"delegate"), (task, b"wait"), (task, b"result")):
            above.names[name] = self.new(stat.S_IFREG | 0o666, timeouts["status"])
            above.names[name].data[:] = b"2 completed done\n"
            above.names[name].direct_io = True
        root.names[b"files"] = self.new(stat.S_IFDIR | 0o755, timeouts["file"])
        self.file_timeouts = timeouts["file"]

    def new(self, mode: int, timeouts: list[float]) -> Inode:
        ino = len(self.inodes) + pyfuse3.ROOT_INODE
        inode = self.inodes[ino] = Inode(ino, mode, timeouts[0], timeouts[1])
        return inode

    def attributes(self, inode: Inode) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode.ino
        entry.st_mode = inode.mode
        entry.st_nlink = 2 if stat.S_ISDIR(inode.mode) else 1
        entry.st_uid = os.getuid()
        entry.st_gid = os.getgid()
        entry.st_size = len(inode.data)
        entry.st_atime_ns = inode.time_ns
        entry.st_mtime_ns = inode.time_ns
        entry.st_ctime_ns = inode.time_ns
        entry.entry_timeout = inode.entry_timeout
        entry.attr_timeout = inode.attr_timeout
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        inode = self.inodes[parent_inode].names.get(name)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.attributes(inode)

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        return self.attributes(self.inodes[inode])

    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            del self.inodes[inode].data[attr.st_size :]
        return self.attributes(self.inodes[inode])

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        direct_io = self.inodes[inode].direct_io
        return pyfuse3.FileInfo(fh=inode, direct_io=direct_io, keep_cache=not direct_io)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        inode = self.inodes[parent_inode].names[name] = self.new(mode, self.file_timeouts)
        return pyfuse3.FileInfo(fh=inode.ino), self.attributes(inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(self.inodes[fh].data[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self.inodes[fh].data[off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        del self.inodes[parent_inode].names[name]


def main() -> None:
    mountpoint, told = sys.argv[1], json.loads(sys.argv[2])
    pyfuse3.init(
        PlainFs(told["content"].encode(), told["timeouts"]), mountpoint, set(told["options"])
    )
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()

"""A disk that loses, at a power cut, some of what was not synced: a FUSE program in memory.

`python -m tests.torture.lossy MNT`. Each line on stdin asks for a cut, as JSON {"directory",
"seed", "garble"}: what a power cut at this moment could leave is written to that directory, and the
moment (CLOCK_MONOTONIC, ns) to stdout. The program goes on, so one load gives hundreds of cuts.

What survives:
- Of each file, what fsync covered. Of later writes any pages, in any order, as any write left
  them; the size of some moment; zeros where a page of a grown file was lost. With `garble` a
  page that was not synced may also hold anything, and the end of a file too.
- Of names, all changes up to some moment, and at least what an fsync of their directory covered.
  fsync of a file covers no name, which is less than Linux's filesystems promise.
"""

import errno
import json
import os
import random
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from mount import loop

PAGE = 4096
TIMEOUT_S = 3600.0

Change = list[tuple[int, bytes, int | None]]
"""Names that change in one step: (directory, name, inode or None)."""


@dataclass
class Inode:
    """A file, directory or symlink.

    Attributes:
        data: the content now; durable: as of the last sync.
        events: since then: (offset, bytes) for a write, (size, None) for a new size.
    """

    ino: int
    mode: int
    names: dict[bytes, int] = field(default_factory=dict)
    nlink: int = 0
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    events: list[tuple[int, bytes | None]] = field(default_factory=list)
    times: list[int] = field(default_factory=lambda: [time.time_ns()] * 3)

    def event(self, offset: int, data: bytes | None) -> None:
        """A write or a new size."""
        apply(self.data, offset, data)
        self.events.append((offset, data))
        self.times[1] = self.times[2] = time.time_ns()

    def sync(self) -> None:
        """fsync."""
        for event in self.events:
            apply(self.durable, *event)
        self.events.clear()


def apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Does one event to a content."""
    if data is None:
        del content[offset:]
    content.extend(bytes(max(0, offset - len(content))))
    if data is not None:
        content[offset : offset + len(data)] = data


def survivor(inode: Inode, rng: random.Random, *, garble: bool) -> bytes:
    """What a cut may leave of a file."""
    count, synced = len(inode.events), len(inode.durable)
    size, versions = _versions(inode, rng.choice([0, count, rng.randint(0, count)]))
    left = inode.durable[:size].ljust(size, b"\0")
    newest_odds = rng.choice([0.0, 0.5, 0.9, 1.0])
    for page, found in versions.items():
        chosen = found[-1] if rng.random() < newest_odds else rng.choice(found)
        if garble and len(found) > 1 and rng.random() < 0.3:
            chosen = garbled(found[-1], _written(inode, page), rng)
        if page * PAGE < size:
            left[page * PAGE : (page + 1) * PAGE] = chosen.ljust(PAGE, b"\0")
    del left[size:]
    if garble and inode.events and size >= synced and rng.random() < 0.5:
        left[rng.randint(synced, size) :] = rng.choice([b"", rng.randbytes(rng.randint(1, 9999))])
    return bytes(left)


def _versions(inode: Inode, moment: int) -> tuple[int, dict[int, list[bytes]]]:
    """The size after `moment` events, and what each page may hold that they, or later ones, wrote.

    A page that a truncation took, or cut, holds nothing older than that.
    """
    now, size = bytearray(inode.durable), len(inode.durable)
    versions: dict[int, list[bytes]] = {}
    for number, (offset, data) in enumerate(inode.events):
        if data is None and number >= moment:
            break  # What was written after a size that was never set is not on the disk.
        apply(now, offset, data)
        size = len(now) if number < moment else size
        end = max(offset, len(inode.durable)) if data is None else offset + len(data)
        if data is None:
            versions = {page: found for page, found in versions.items() if page * PAGE < offset}
        for page in range(offset // PAGE, -(-end // PAGE)):
            content = bytes(now[page * PAGE : (page + 1) * PAGE])
            old = bytes(inode.durable[page * PAGE : (page + 1) * PAGE])
            if data is None:
                versions[page] = [content]
            else:
                versions.setdefault(page, [old]).append(content)
    return size, versions


def _written(inode: Inode, page: int) -> list[tuple[int, int]]:
    """The parts of a page, as [start, stop) in it, that were written since the last sync."""
    spans = []
    for offset, data in inode.events:
        start, stop = offset - page * PAGE, offset - page * PAGE + len(data or b"")
        if data and start < PAGE and stop > 0:
            spans.append((max(start, 0), min(stop, PAGE)))
    return spans


def garbled(page: bytes, spans: list[tuple[int, int]], rng: random.Random) -> bytes:
    """A page with a flipped bit, or anything, in what was not synced.

    The synced bytes beside it stay: disks, and SQLite, count on that ("powersafe overwrite").
    """
    left = bytearray(page.ljust(PAGE, b"\0"))
    for start, stop in spans:
        if rng.random() < 0.5:
            left[start:stop] = rng.randbytes(stop - start)
        else:
            left[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    return bytes(left)


class Disk:
    """All inodes, and the changes of names since the last sync of all of them."""

    def __init__(self) -> None:
        self.inodes = {1: Inode(1, stat.S_IFDIR | 0o755)}
        self.durable_names: dict[int, dict[bytes, int]] = {1: {}}
        self.log: list[Change] = []

    def add(self, mode: int) -> Inode:
        """A new inode without a name."""
        ino = len(self.inodes) + 1
        self.inodes[ino] = inode = Inode(ino, mode)
        return inode

    def change(self, *changes: tuple[int, bytes, int | None]) -> None:
        """Changes names in one step."""
        for directory, name, ino in changes:
            old = self.inodes[directory].names.pop(name, None)
            if old is not None:
                self.inodes[old].nlink -= 1
            if ino is not None:
                self.inodes[directory].names[name] = ino
                self.inodes[ino].nlink += 1
        self.log.append(list(changes))

    def sync_names(self, directory: int) -> None:
        """fsync of a directory: all changes up to the last one in it."""
        touching = [n for n, step in enumerate(self.log) if any(c[0] == directory for c in step)]
        if touching:
            _replay(self.durable_names, self.log[: touching[-1] + 1])
            del self.log[: touching[-1] + 1]

    def cut(self, target: Path, seed: int, *, garble: bool) -> None:
        """Writes what a cut may leave to a new directory."""
        rng = random.Random(seed)
        names = {ino: dict(entries) for ino, entries in self.durable_names.items()}
        _replay(names, self.log[: rng.choice([0, len(self.log), rng.randint(0, len(self.log))])])
        made: dict[int, Path] = {}
        waiting = [(1, target)]
        while waiting:
            ino, path = waiting.pop()
            inode = self.inodes[ino]
            if stat.S_ISDIR(inode.mode):
                path.mkdir()
                waiting += [
                    (child, path / os.fsdecode(n)) for n, child in names.get(ino, {}).items()
                ]
            elif ino in made:
                os.link(made[ino], path)
            elif stat.S_ISLNK(inode.mode):
                os.symlink(bytes(inode.data), os.fsencode(path))
            else:
                path.write_bytes(survivor(inode, rng, garble=garble))
                path.chmod(stat.S_IMODE(inode.mode))
            made[ino] = path


def _replay(names: dict[int, dict[bytes, int]], log: list[Change]) -> None:
    for step in log:
        for directory, name, ino in step:
            entries = names.setdefault(directory, {})
            entries.pop(name, None)
            if ino is not None:
                entries[name] = ino


class Lossy(pyfuse3.Operations):
    """The requests. None of them suspends, so each happens before a cut or after it."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def _get(self, ino: int) -> Inode:
        return self._disk.inodes[ino]

    def _entry(self, inode: Inode) -> pyfuse3.EntryAttributes:
        attr = pyfuse3.EntryAttributes()
        attr.st_ino = inode.ino
        attr.entry_timeout = attr.attr_timeout = TIMEOUT_S
        attr.st_mode = inode.mode
        attr.st_nlink = 2 if stat.S_ISDIR(inode.mode) else inode.nlink
        attr.st_uid, attr.st_gid = os.getuid(), os.getgid()
        attr.st_size = len(inode.data)
        attr.st_blocks = -(-len(inode.data) // 512)
        attr.st_atime_ns, attr.st_mtime_ns, attr.st_ctime_ns = inode.times
        return attr

    def _find(self, parent: int, name: bytes) -> Inode:
        ino = self._get(parent).names.get(name)
        if ino is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._get(ino)

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        return self._entry(self._find(parent_inode, name))

    async def getattr(self, inode: int, ctx: Any = None) -> Any:
        return self._entry(self._get(inode))

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        found = self._get(inode)
        if fields.update_mode:
            found.mode = stat.S_IFMT(found.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_mtime:
            found.times[1] = attr.st_mtime_ns
        if fields.update_size:
            found.event(attr.st_size, None)
        return self._entry(found)

    def _make(self, parent: int, name: bytes, mode: int) -> Inode:
        if name in self._get(parent).names:
            raise pyfuse3.FUSEError(errno.EEXIST)
        inode = self._disk.add(mode)
        self._disk.change((parent, name, inode.ino))
        return inode

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        return self._entry(self._make(parent_inode, name, stat.S_IFDIR | mode))

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        inode = self._make(parent_inode, name, stat.S_IFLNK | 0o777)
        inode.data[:] = inode.durable[:] = target
        return self._entry(inode)

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return bytes(self._get(inode).data)

    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        inode = self._make(parent, name, stat.S_IFREG | stat.S_IMODE(mode))
        return pyfuse3.FileInfo(fh=inode.ino), self._entry(inode)

    async def link(self, inode: int, new_parent: int, new_name: bytes, ctx: Any) -> Any:
        self._disk.change((new_parent, new_name, inode))
        return self._entry(self._get(inode))

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self._find(parent_inode, name)
        self._disk.change((parent_inode, name, None))

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        if self._find(parent_inode, name).names:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        self._disk.change((parent_inode, name, None))

    async def rename(
        self,
        parent_old: int,
        name_old: bytes,
        parent_new: int,
        name_new: bytes,
        flags: int,
        ctx: Any,
    ) -> None:
        inode = self._find(parent_old, name_old)
        other = self._get(parent_new).names.get(name_new)
        if flags & 1 and other is not None:
            raise pyfuse3.FUSEError(errno.EEXIST)
        old = other if flags & 2 else None
        self._disk.change((parent_old, name_old, old), (parent_new, name_new, inode.ino))

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        if flags & os.O_TRUNC:
            self._get(inode).event(0, None)
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return bytes(self._get(fh).data[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._get(fh).event(off, bytes(buf))
        return len(buf)

    async def flush(self, fh: int) -> None: ...

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._get(fh).sync()

    async def release(self, fh: int) -> None: ...

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        for position, (name, ino) in enumerate(sorted(self._get(fh).names.items()), 1):
            if position > start_id and not pyfuse3.readdir_reply(
                token, name, self._entry(self._get(ino)), position
            ):
                break

    async def releasedir(self, fh: int) -> None: ...

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._disk.sync_names(fh)

    async def statfs(self, ctx: Any) -> Any:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = PAGE
        data.f_blocks = data.f_bfree = data.f_bavail = 1 << 24
        data.f_files = data.f_ffree = data.f_favail = 1 << 20
        data.f_namemax = 255
        return data

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        raise pyfuse3.FUSEError(errno.EOPNOTSUPP)

    async def listxattr(self, inode: int, ctx: Any) -> Any:
        return []


async def _serve_cuts(disk: Disk) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as requests:
        buffer = b""
        async for piece in requests:
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                moment = time.monotonic_ns()
                disk.cut(Path(asked["directory"]), asked["seed"], garble=asked["garble"])
                print(moment, flush=True)
    pyfuse3.terminate()


async def _run(mountpoint: str) -> None:
    disk = Disk()
    pyfuse3.init(Lossy(disk), mountpoint, {"fsname=lossy", "subtype=lossy"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_cuts, disk)
            loop.install()
            print("ready", flush=True)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    trio.run(_run, sys.argv[1])

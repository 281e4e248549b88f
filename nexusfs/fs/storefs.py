"""The root filesystem: ordinary files that persist, over the store's ports.

Concurrency: one trio task at a time is in a method, and only `admit`, fsync and a write through
an O_SYNC handle suspend, the last after the change itself is done; so every call is atomic.
Shared are the table of nodes, the counts of open files, and the lock that makes syncs take turns.
"""

import logging
import os
import stat as _stat
import time
from weakref import WeakValueDictionary

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BadFileError,
    CrossDeviceError,
    InvalidError,
    IsDirectoryError,
    KernelError,
    NameTooLongError,
    NoDataError,
    NoSpaceError,
    NotPermittedError,
    RangeError,
    TooBigError,
    UnavailableError,
)
from nexusfs.contracts.node import (
    NAME_MAX,
    PATH_MAX,
    Change,
    DirEntry,
    File,
    NewNode,
    Node,
    Stat,
    StatFs,
)
from nexusfs.contracts.store import ROOT_INO, SIZE_MAX, Store
from nexusfs.fs.content import Content
from nexusfs.fs.write_back import WriteBack

log = logging.getLogger(__name__)

TTL_S = 3600.0
"""How long Linux may believe names and attributes: the mount invalidates what changes behind it."""
ATIME_AGE_NS = 24 * 3600 * 10**9
"""Reads move atime once a day, or when it is not after mtime or ctime. Source: Linux relatime."""
XATTR_PREFIX = b"user."
XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65_536
"""Source: linux/limits.h."""

_SYNC_LIMIT = trio.CapacityLimiter(2)


class StoreFS:
    """One mounted store.

    Attributes:
        root: the root directory.
        entry_ttl_s: `entry_ttl_s` of every node.
        attr_ttl_s: `attr_ttl_s` of every node.
    """

    def __init__(
        self, store: Store, *, entry_ttl_s: float = TTL_S, attr_ttl_s: float = TTL_S
    ) -> None:
        """The filesystem of `store`, which stays the caller's to close."""
        self.store = store
        self.meta = store.meta
        self.content = Content(store)
        self.write_back = WriteBack(store)
        self.entry_ttl_s = entry_ttl_s
        self.attr_ttl_s = attr_ttl_s
        self.open_files: dict[int, int] = {}
        self._nodes: WeakValueDictionary[int, StoreNode] = WeakValueDictionary()
        self._sync_lock = trio.Lock()  # A sync that waited for another may find nothing to do.
        self._synced_changes = -1
        self.root = self.node(ROOT_INO)

    def node(self, ino: int) -> "StoreNode":
        """The node of an inode; the same object while anybody holds it."""
        node = self._nodes.get(ino)
        if node is None:
            node = self._nodes[ino] = StoreNode(self, ino)
        return node

    def removed(self, left: Stat | None) -> None:
        """Lets a node that is still held answer for an inode whose last link went."""
        if left is not None and left.nlink == 0:
            node = self._nodes.get(left.ino)
            if node is not None and left.ino not in self.open_files:
                node.gone = left
        self.write_back.changed()

    async def sync(self) -> None:
        """Returns when everything acknowledged before the call is on disk. May suspend.

        Callers at the same time share a round. Cancelling waits for the round.
        """
        wanted = self.meta.changes
        with trio.CancelScope(shield=True):
            async with self._sync_lock:
                if self._synced_changes >= wanted:
                    return
                covered = self.meta.changes
                ticket = self.store.begin_sync()
                try:
                    await trio.to_thread.run_sync(ticket.wait, limiter=_SYNC_LIMIT)
                finally:
                    self.store.end_sync(ticket)
                self._synced_changes = covered


class StoreNode(Node):
    """One inode of the store.

    Attributes:
        fs: the filesystem it is in.
        gone: its last attributes, when it was removed while nobody had it open.
    """

    __slots__ = ("__weakref__", "attr_ttl_s", "entry_ttl_s", "fs", "gone", "ino", "meta")

    control = False

    def __init__(self, fs: StoreFS, ino: int) -> None:
        """To be had from `StoreFS.node`."""
        self.fs = fs
        self.meta = fs.meta
        self.ino = ino
        self.entry_ttl_s = fs.entry_ttl_s
        self.attr_ttl_s = fs.attr_ttl_s
        self.gone: Stat | None = None

    async def stat(self) -> Stat:
        """The attributes now; of an inode that was removed, the last ones."""
        return self.gone or self.meta.getattr(self.ino)

    async def lookup(self, cred: Credentials, name: bytes) -> "StoreNode":
        """The node of one name. NotFoundError ENOENT, NotDirectoryError ENOTDIR."""
        if len(name) > NAME_MAX:
            raise NameTooLongError(f"a name has at most {NAME_MAX} bytes")
        return self.fs.node(self.meta.lookup(self.ino, name))

    async def find(self, cred: Credentials, name: bytes) -> "StoreNode | None":
        """The node of one name of a directory; None when there is none."""
        ino = self.meta.find(self.ino, name)
        return self.fs.node(ino) if ino else None

    async def above(self) -> "StoreNode | None":
        """The directory that a directory is in; of one that was removed, none."""
        ino = 0 if self.gone else self.meta.above(self.ino)
        return self.fs.node(ino) if ino else None

    async def entries(self, cred: Credentials) -> list[DirEntry]:
        """All names but . and .., by name."""
        return self.meta.readdir(self.ino) if self.gone is None else []

    async def stat_of(self, cred: Credentials, entry: DirEntry) -> Stat:
        """The attributes of one of `entries`, by its number. StaleError: it is just gone."""
        return self.meta.getattr(entry.ino)

    async def open(self, cred: Credentials, flags: int) -> "StoreFile":
        """Opens a regular file, and cuts it to nothing with O_TRUNC."""
        attr = self.meta.getattr(self.ino)
        if attr.is_dir:
            raise IsDirectoryError("is a directory")
        if not attr.is_file:
            raise InvalidError("a fifo, socket or device is opened by the Linux that mounts it")
        if flags & os.O_TRUNC:
            self.meta.setattr(self.ino, Change(size=0))
            self.fs.write_back.changed()
        return StoreFile(self, cred, flags)

    async def readlink(self, cred: Credentials) -> bytes:
        """The text of a symlink."""
        return self.meta.readlink(self.ino)

    async def setattr(self, change: Change) -> Stat:
        """Sets attributes in one transaction and returns the new ones."""
        stat = self.meta.setattr(self.ino, change)
        self.fs.write_back.changed()
        return stat

    async def create(self, name: bytes, new: NewNode) -> "StoreNode":
        """Makes a file, directory, symlink, fifo, socket or device. ExistsError EEXIST."""
        _check_name(name)
        if len(new.target) >= PATH_MAX:
            raise NameTooLongError(f"a symlink has at most {PATH_MAX - 1} bytes")
        if _stat.S_ISLNK(new.mode) != bool(new.target):
            raise InvalidError("a symlink has a target, nothing else has")
        stat = self.meta.create(self.ino, name, new)
        self.fs.write_back.changed()
        return self.fs.node(stat.ino)

    async def link(self, name: bytes, node: Node) -> None:
        """Adds a hard link."""
        _check_name(name)
        self.meta.link(self.ino, name, self._same_fs(node).ino)
        self.fs.write_back.changed()

    async def unlink(self, name: bytes) -> None:
        """Removes a name that is not a directory; open files live on."""
        _check_name(name)
        self.fs.removed(self.meta.unlink(self.ino, name, self.fs.open_files))

    async def rmdir(self, name: bytes) -> None:
        """Removes an empty directory."""
        _check_name(name)
        self.fs.removed(self.meta.rmdir(self.ino, name))

    async def rename(self, name: bytes, parent: Node, new_name: bytes, flags: int) -> None:
        """Moves a name to `parent`/`new_name`, atomically."""
        _check_name(name)
        _check_name(new_name)
        target = (self._same_fs(parent).ino, new_name)
        self.fs.removed(self.meta.rename((self.ino, name), target, flags, self.fs.open_files))

    async def getxattr(self, name: bytes) -> bytes:
        """One extended attribute. NoDataError ENODATA, also for namespaces that are not kept."""
        if not name.startswith(XATTR_PREFIX):
            raise NoDataError("only user.* attributes are kept")
        return self.meta.getxattr(self.ino, name)

    async def setxattr(self, name: bytes, value: bytes) -> None:
        """Sets one extended attribute; NoSpaceError ENOSPC over 64 KiB, as ext4."""
        self._check_xattr(name)
        if len(value) > XATTR_SIZE_MAX:
            raise NoSpaceError(f"a value has at most {XATTR_SIZE_MAX} bytes")
        self.meta.setxattr(self.ino, name, value)
        self.fs.write_back.changed()

    async def listxattr(self) -> list[bytes]:
        """Names of all extended attributes, sorted."""
        return self.meta.listxattr(self.ino)

    async def removexattr(self, name: bytes) -> None:
        """Removes one extended attribute. NoDataError ENODATA."""
        self._check_xattr(name)
        self.meta.removexattr(self.ino, name)
        self.fs.write_back.changed()

    async def admit(self) -> None:
        """Suspends while too much waits to be written back."""
        write_back = self.fs.write_back
        if write_back.behind:
            await write_back.admit()

    async def sync(self) -> None:
        """Returns when acknowledged changes are on disk. Cancelling waits for the round."""
        await self.fs.sync()

    async def statfs(self) -> StatFs:
        """Size and use of the disk that the store is on."""
        return self.meta.statfs()

    def _same_fs(self, node: Node) -> "StoreNode":
        if not isinstance(node, StoreNode) or node.fs is not self.fs:
            raise CrossDeviceError("not in the same filesystem")
        return node

    def _check_xattr(self, name: bytes) -> None:
        if not name.startswith(XATTR_PREFIX):
            raise UnavailableError("only user.* attributes can be set")
        if len(name) > XATTR_NAME_MAX or name == XATTR_PREFIX:
            raise RangeError(f"a name has a suffix and at most {XATTR_NAME_MAX} bytes")
        attr = self.meta.getattr(self.ino)
        if not attr.is_file and not attr.is_dir:
            raise NotPermittedError("user.* attributes are for files and directories")


class StoreFile(File):
    """One open description of a regular file; while it is open the inode lives."""

    node: StoreNode

    def __init__(self, node: StoreNode, cred: Credentials, flags: int) -> None:
        """Counts the inode as open until `release`."""
        super().__init__(node, cred, flags)
        access = flags & os.O_ACCMODE
        self._readable = access != os.O_WRONLY
        self._writable = access != os.O_RDONLY
        self._append = bool(flags & os.O_APPEND)
        self._synchronous = bool(flags & os.O_DSYNC)
        self._fs = node.fs
        self._ino = node.ino
        open_files = self._fs.open_files
        open_files[self._ino] = open_files.get(self._ino, 0) + 1

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size); shorter at the end, empty past it."""
        if not self._readable:
            raise BadFileError("the file is not open for reading")
        if size < 0 or offset < 0:
            raise InvalidError("size and offset cannot be negative")
        attr = self._fs.meta.getattr(self._ino)
        stop = min(offset + size, attr.size)
        if size and not self.flags & os.O_NOATIME:
            self._touch(attr)  # At the end of the file too, as Linux does.
        if stop <= offset:
            return b""
        if attr.blocks == 0:
            return bytes(stop - offset)
        return self._fs.content.read(self._ino, offset, stop)

    async def write(self, data: bytes, offset: int) -> int:
        """Writes all of `data` at `offset`, or at the end with O_APPEND; suspends with O_SYNC."""
        if not self._writable:
            raise BadFileError("the file is not open for writing")
        if self._append:
            offset = self._fs.meta.getattr(self._ino).size
        if offset < 0:
            raise InvalidError("an offset cannot be negative")
        if not data:
            return 0
        if offset + len(data) > SIZE_MAX:
            raise TooBigError(f"a file has at most {SIZE_MAX} bytes")
        self._fs.content.write(self._ino, data, offset)
        self._fs.write_back.changed()
        if self._synchronous:
            await self._fs.sync()
        return len(data)

    async def fsync(self, *, datasync: bool) -> None:
        """Returns when the content and the attributes are on disk. May suspend."""
        await self._fs.sync()

    async def release(self) -> None:
        """Frees an inode without links at its last close."""
        open_files = self._fs.open_files
        open_files[self._ino] -= 1
        if open_files[self._ino]:
            return
        del open_files[self._ino]
        try:
            attr = self._fs.meta.getattr(self._ino)
            if attr.nlink == 0:
                self._fs.meta.free(self._ino)
                self._fs.removed(attr)
        except KernelError as exc:  # It is erased when the store is next opened.
            log.warning("inode %d could not be freed: %s", self._ino, exc)

    def _touch(self, attr: Stat) -> None:
        now = time.time_ns()
        old = attr.atime_ns
        if old <= attr.mtime_ns or old <= attr.ctime_ns or now - old > ATIME_AGE_NS:
            self._fs.meta.touch(self._ino, now)
            self._fs.write_back.changed()


def _check_name(name: bytes) -> None:
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidError(f"not a file name: {os.fsdecode(name)!r}")
    if len(name) > NAME_MAX:
        raise NameTooLongError(f"a name has at most {NAME_MAX} bytes")

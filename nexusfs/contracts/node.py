"""Nodes and files: what a filesystem must offer to be mounted in the VFS.

A `Node` is one inode. It does mechanism only: it never checks permission bits, never
follows a symlink and knows nothing of FUSE; the syscall layer does all of that before it
calls. A `File` is one open file description and keeps its opener's credentials.
"""

import stat as _stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BadFileError,
    InvalidError,
    NoDataError,
    NotDirectoryError,
    NotFoundError,
    NotPermittedError,
    UnavailableError,
    UnknownToolError,
)

NAME_MAX = 255
"""Bytes in one name. Source: Linux NAME_MAX."""
PATH_MAX = 4096
"""Bytes in one path. Source: Linux PATH_MAX."""

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
"""Source: linux/fs.h."""

POLLIN, POLLOUT, POLLERR, POLLHUP = 0x001, 0x004, 0x008, 0x010
"""Source: asm-generic/poll.h."""


@dataclass(slots=True)
class Stat:
    """The attributes of one inode; times in ns since 1970, sizes in bytes, blocks of 512 bytes.

    Never changed in place; not frozen, for that takes three times as long to make.
    """

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int = 0
    blocks: int = 0

    @property
    def is_dir(self) -> bool:
        """True for a directory."""
        return _stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """True for a symlink."""
        return _stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """True for a regular file."""
        return _stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class Change:
    """Attributes to set; None leaves one as it is. `mode` is permission bits only.

    `touch` says that the times are the present, which whoever may write may set; for those
    who do not own the file the kernel takes its own clock.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    touch: bool = False


@dataclass(slots=True)
class NewNode:
    """What a new inode starts with; `mode` includes the type bits (S_IFREG, S_IFDIR, …).

    Never changed in place.
    """

    mode: int
    uid: int
    gid: int
    rdev: int = 0
    target: bytes = b""
    """The text of a symlink; empty for every other type."""


class DirEntry(NamedTuple):
    """One name of a directory; `kind` is the S_IFMT part of the mode.

    A tuple: a directory of 100,000 names makes as many, in half the time of a frozen class.
    """

    name: bytes
    ino: int
    kind: int


@dataclass(frozen=True, slots=True)
class StatFs:
    """Size and use of a filesystem; blocks of `bsize` bytes."""

    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int


class File:
    """One open file description. The base class is an empty, read-only file.

    Attributes:
        node: what was opened.
        cred: the opener's credentials; they decide, whoever holds the handle.
        flags: the O_* flags of the open.
        direct_io: reads and writes bypass Linux's page cache.
        keep_cache: pages cached at an earlier open stay valid.
        seekable: False for blocking streams.
        within: the directory in which an agent found it, where its rights are checked again.
        may_wait: a read or write may suspend for long, and must be interruptible.
    """

    may_wait = False
    direct_io = False
    keep_cache = True
    seekable = True
    within: "Node | None" = None

    def __init__(self, node: "Node", cred: Credentials, flags: int) -> None:
        """An open description of `node` for `cred`."""
        self.node = node
        self.cred = cred
        self.flags = flags

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size); shorter at the end, empty past it. May suspend."""
        return b""

    async def write(self, data: bytes, offset: int) -> int:
        """Writes `data` at `offset` (at the end with O_APPEND) and returns the bytes taken."""
        raise BadFileError("the file is not open for writing")

    async def flush(self) -> None:
        """Called at each close(2) of a descriptor, also at those of a dup or a forked child."""

    async def fsync(self, *, datasync: bool) -> None:
        """Returns when the content, and the attributes unless `datasync`, are on disk."""

    @property
    def unfinished(self) -> bool:
        """True when a request has begun that a flush would refuse for being half."""
        return False

    async def release(self) -> None:
        """Called once, when the last descriptor is gone. Must not fail."""

    def ready(self) -> int:
        """POLL* events that would not block now."""
        return POLLIN | POLLOUT

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Calls `wake` once, when `ready()` may have changed; never, if always ready."""


class Node:
    """One inode. The base class refuses everything, with the errno of a control tree.

    Attributes:
        ino: inode number, unique over all mounted filesystems.
        control: part of a control tree: no create, rename, link or unlink (EPERM).
        entry_ttl_s: how long Linux may believe that the name leads here.
        attr_ttl_s: how long Linux may believe `stat`.
    """

    __slots__ = ()

    ino: int
    control: bool = True
    entry_ttl_s: float = 0.0
    attr_ttl_s: float = 0.0

    def seen_by(self, cred: Credentials) -> bool:
        """False for a caller for whom the file does not exist, however he came to its number."""
        return True

    async def stat(self) -> Stat:
        """The attributes now; `size` is the true size of what an open now would read."""
        raise NotImplementedError

    async def lookup(self, cred: Credentials, name: bytes) -> "Node":
        """The node of one name. NotFoundError ENOENT, NotDirectoryError ENOTDIR."""
        raise NotDirectoryError("not a directory")

    async def find(self, cred: Credentials, name: bytes) -> "Node | None":
        """As `lookup`, but None for a name that does not exist and could be made."""
        try:
            return await self.lookup(cred, name)
        except UnknownToolError:
            raise
        except NotFoundError:
            return None

    async def above(self) -> "Node | None":
        """The directory that a directory is in; None for the root and for anything else."""
        return None

    async def entries(self, cred: Credentials) -> list[DirEntry]:
        """All names but . and .., in a stable order."""
        raise NotDirectoryError("not a directory")

    async def stat_of(self, cred: Credentials, entry: DirEntry) -> Stat:
        """The attributes of one of `entries`. NotFoundError, StaleError: it is just gone."""
        return await (await self.lookup(cred, entry.name)).stat()

    async def open(self, cred: Credentials, flags: int) -> File:
        """Opens a file (not a directory). O_TRUNC is this method's to honour, O_CREAT is not."""
        raise InvalidError("cannot be opened")

    async def readlink(self, cred: Credentials) -> bytes:
        """The text of a symlink."""
        raise InvalidError("not a symlink")

    async def setattr(self, change: Change) -> Stat:
        """Sets attributes in one transaction and returns the new ones."""
        raise NotPermittedError("attributes of control files cannot be changed")

    async def create(self, name: bytes, new: NewNode) -> "Node":
        """Makes a file, directory, symlink, fifo, socket or device. ExistsError EEXIST."""
        raise NotPermittedError("nothing can be created in a control tree")

    async def link(self, name: bytes, node: "Node") -> None:
        """Adds a hard link to `node` of the same filesystem."""
        raise NotPermittedError("nothing can be linked into a control tree")

    async def unlink(self, name: bytes) -> None:
        """Removes a name that is not a directory; open files live on."""
        raise NotPermittedError("control files cannot be removed")

    async def rmdir(self, name: bytes) -> None:
        """Removes an empty directory."""
        raise NotPermittedError("control directories cannot be removed")

    async def rename(self, name: bytes, parent: "Node", new_name: bytes, flags: int) -> None:
        """Moves a name to `parent`/`new_name` of the same filesystem, atomically.

        `flags`: 0, RENAME_NOREPLACE or RENAME_EXCHANGE.
        """
        raise NotPermittedError("control files cannot be renamed")

    async def getxattr(self, name: bytes) -> bytes:
        """One extended attribute. NoDataError ENODATA."""
        raise NoDataError("no such attribute")

    async def setxattr(self, name: bytes, value: bytes) -> None:
        """Sets one extended attribute."""
        raise UnavailableError("control files have no extended attributes")

    async def listxattr(self) -> list[bytes]:
        """Names of all extended attributes."""
        return []

    async def removexattr(self, name: bytes) -> None:
        """Removes one extended attribute. NoDataError ENODATA."""
        raise NoDataError("no such attribute")

    async def admit(self) -> None:
        """Suspends while the filesystem has too much to write back; before a change's checks."""

    async def sync(self) -> None:
        """Returns when the filesystem's acknowledged changes are on disk."""

    async def statfs(self) -> StatFs:
        """Size and use of the filesystem of this node."""
        return StatFs(bsize=4096, blocks=0, bfree=0, bavail=0, files=0, ffree=0)


@dataclass(slots=True)
class At:
    """One name in a directory that is already known. Never changed in place."""

    parent: Node
    name: bytes


Where = str | bytes | At | Node
"""A path from the root of the tree, a name in a known directory, or a known node."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Content or attributes of `node`, or the name `name` in the directory `node`, changed."""

    node: Node
    name: bytes | None

"""The toolkit of control trees: a directory is a table of rows.

A row is a name, permission bits and what the file does; an object (a process, the kernel)
gives the content. Nodes are made at each lookup and hold nothing but the row, the object
and their inode number, which follows from both, so 10,000 agents cost no nodes.

Kinds of rows:
    text    bytes rendered once, at open
    log     a file that grows under an open handle
    pipe    a blocking stream that ends
    wait    a blocking read of one value
    control a file to write requests to (see `control`)
    link    a symlink
    sub     a directory
"""

import os
import stat as _stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    BadFileError,
    KernelError,
    NotFoundError,
    NotPermittedError,
    WouldBlockError,
)
from nexusfs.contracts.node import POLLHUP, POLLIN, Change, DirEntry, File, Node, Stat
from nexusfs.kernel.log import Log

STATIC_TTL_S = 3600.0
"""Entry timeout of names that live as long as their directory."""

ROW_BITS = 8
"""Bits of an inode number that say the row of a directory."""


class Background(Protocol):
    """What a control file needs of the kernel: tasks for O_NONBLOCK, and the error log."""

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` in the kernel's nursery."""

    def report(self, cred: Credentials, path: str, op: str, exc: KernelError) -> None:
        """Keeps a control error for sys/error_log."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a control file belongs to, and its time in ns."""

    uid: int
    gid: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Row:
    """One name of a table.

    Attributes:
        name: as listed.
        mode: type and permission bits.
        make: (row, object, inode number) → node.
        index: its number in the table; numbers are only ever appended.
        shown: (object, credentials) → whether the name exists for the caller.
    """

    name: bytes
    mode: int
    make: Callable[["Row", Any, int], Node]
    index: int = 0
    shown: Callable[[Any, Credentials], bool] | None = None


class Table:
    """The rows of one kind of directory."""

    def __init__(
        self, owner: Callable[[Any], Owner], background: Background,
        seen_by: Callable[[Credentials, Any], bool] = lambda _cred, _obj: True,
    ) -> None:  # fmt: skip
        """`owner` says whom the files of an object belong to, `seen_by` for whom they exist."""
        self.owner = owner
        self.seen_by = seen_by
        self.background = background
        self.rows: dict[bytes, Row] = {}

    def add(
        self,
        name: str,
        mode: int,
        make: Callable[[Row, Any, int], Node],
        shown: Callable[[Any, Credentials], bool] | None = None,
    ) -> None:
        """Appends a row."""
        raw = name.encode()
        self.rows[raw] = Row(raw, mode, make, len(self.rows) + 1, shown)

    def text(
        self, name: str, mode: int = 0o444, kind: "type[TextNode] | None" = None
    ) -> Callable[[Callable[[Any], bytes]], Callable[[Any], bytes]]:
        """Decorates a function object → bytes as a file that is rendered at open, by `kind`."""
        kind = kind or TextNode

        def add(render: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
            self.add(
                name,
                _stat.S_IFREG | mode,
                lambda row, obj, ino: kind(self, row, obj, ino, render),
            )
            return render

        return add

    def log(self, name: str, mode: int, log_of: Callable[[Any], Log]) -> None:
        """A growing file."""
        self.add(
            name, _stat.S_IFREG | mode, lambda row, obj, ino: LogNode(self, row, obj, ino, log_of)
        )

    def pipe(self, name: str, mode: int, log_of: Callable[[Any], Log]) -> None:
        """A blocking stream."""
        self.add(
            name, _stat.S_IFREG | mode, lambda row, obj, ino: PipeNode(self, row, obj, ino, log_of)
        )

    def wait(self, name: str, mode: int, waiter: "Waiter") -> None:
        """A file whose read blocks for one value."""
        self.add(
            name, _stat.S_IFREG | mode, lambda row, obj, ino: WaitNode(self, row, obj, ino, waiter)
        )

    def link(
        self, name: str, target: Callable[[Any, Credentials], bytes | None], mode: int = 0o777
    ) -> None:
        """A symlink; no target means that the name does not exist for the caller.

        `mode` says who may read it, which Linux leaves to us.
        """
        self.add(
            name,
            _stat.S_IFLNK | mode,
            lambda row, obj, ino: LinkNode(self, row, obj, ino, target),
            lambda obj, cred: target(obj, cred) is not None,
        )

    def sub(self, name: str, node_of: Callable[[Any, int], Node], mode: int = 0o555) -> None:
        """A directory that another table, or a node of its own kind, makes."""
        self.add(name, _stat.S_IFDIR | mode, lambda row, obj, ino: node_of(obj, ino))


@dataclass(frozen=True, slots=True)
class Waiter:
    """A value that a process will have once.

    Attributes:
        value: object → bytes, or None while there is none.
        log: object → a log that changes when there is one.
    """

    value: Callable[[Any], bytes | None]
    log: Callable[[Any], Log]


class KernNode(Node):
    """A node of a table: its attributes follow from row and object."""

    __slots__ = ("ino", "obj", "row", "table")
    entry_ttl_s = STATIC_TTL_S

    def __init__(self, table: Table, row: Row, obj: Any, ino: int) -> None:
        """The node of `row` for `obj`."""
        self.table = table
        self.row = row
        self.obj = obj
        self.ino = ino

    def seen_by(self, cred: Credentials) -> bool:
        """As the table says of the object."""
        return self.table.seen_by(cred, self.obj)

    async def stat(self) -> Stat:
        """Attributes; the size is the true one of what an open now would read."""
        owner = self.table.owner(self.obj)
        t = owner.time_ns
        size = self.size()
        return Stat(
            self.ino, self.row.mode, 1, owner.uid, owner.gid, size, t, t, t, 0, (size + 511) // 512
        )

    def size(self) -> int:
        """Bytes that an open now would read; 0 for blocking streams."""
        return 0

    async def setattr(self, change: Change) -> Stat:
        """Truncation and times mean nothing (every `>` truncates); the rest is EPERM."""
        if change.mode is not None or change.uid is not None or change.gid is not None:
            raise NotPermittedError("mode and owner of control files cannot be changed")
        return await self.stat()


class TextNode(KernNode):
    """Bytes rendered at open."""

    __slots__ = ("newest", "render")

    def __init__(
        self, table: Table, row: Row, obj: Any, ino: int, render: Callable[[Any], bytes]
    ) -> None:
        """`render` makes the bytes from the object."""
        super().__init__(table, row, obj, ino)
        self.render = render
        self.newest: TextFile | None = None

    def size(self) -> int:
        """What the newest handle reads (fstat is not per handle); else what an open would."""
        return len(self.newest.data) if self.newest else len(self.rendered())

    def rendered(self) -> bytes:
        """What an open now would read."""
        return self.render(self.obj)

    async def open(self, cred: Credentials, flags: int) -> File:
        """Renders the file."""
        refuse_write(flags)
        self.newest = TextFile(self, cred, flags, self.rendered())
        return self.newest


class TextFile(File):
    """One rendering of a file; it does not change under its reader."""

    direct_io = True
    keep_cache = False

    def __init__(self, node: Node, cred: Credentials, flags: int, data: bytes) -> None:
        """A handle that reads `data`."""
        super().__init__(node, cred, flags)
        self.data = data

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size) of the rendering."""
        return self.data[offset : offset + size]

    async def release(self) -> None:
        """Lets fstat show a fresh size again."""
        node = self.node
        if isinstance(node, TextNode) and node.newest is self:
            node.newest = None


class _LogBacked(KernNode):
    """A node over a log."""

    __slots__ = ("log_of",)

    def __init__(
        self, table: Table, row: Row, obj: Any, ino: int, log_of: Callable[[Any], Log]
    ) -> None:
        """`log_of` finds the log of the object."""
        super().__init__(table, row, obj, ino)
        self.log_of = log_of


class LogNode(_LogBacked):
    """A growing file."""

    __slots__ = ()

    def size(self) -> int:
        """The bytes so far."""
        return len(self.log_of(self.obj).data)

    async def open(self, cred: Credentials, flags: int) -> File:
        """Opens the log as it is and as it grows."""
        refuse_write(flags)
        return LogFile(self, cred, flags, self.log_of(self.obj))


class LogFile(File):
    """A handle that sees a log grow."""

    direct_io = True
    keep_cache = False

    def __init__(self, node: Node, cred: Credentials, flags: int, log: Log) -> None:
        """A handle on `log`."""
        super().__init__(node, cred, flags)
        self.log = log

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size) of the log so far."""
        return bytes(self.log.data[offset : offset + size])


class PipeNode(_LogBacked):
    """A blocking stream over a log."""

    __slots__ = ()

    async def open(self, cred: Credentials, flags: int) -> File:
        """Opens the stream at its start."""
        refuse_write(flags)
        return PipeFile(self, cred, flags, self.log_of(self.obj))


class PipeFile(File):
    """A reader of a stream: everything from the start, then what comes, then the end."""

    may_wait = True
    direct_io = True
    keep_cache = False
    seekable = False

    def __init__(self, node: Node, cred: Credentials, flags: int, log: Log) -> None:
        """A reader at the start of `log`."""
        super().__init__(node, cred, flags)
        self._cursor = log.cursor()
        self._rest = b""

    async def read(self, size: int, offset: int) -> bytes:
        """The next bytes; empty at the end of the stream. Suspends while there is nothing.

        Raises:
            WouldBlockError: EAGAIN, opened with O_NONBLOCK and nothing is there.

        Cancelling loses nothing: the next read goes on where this one was.
        """
        while not self._rest:
            self._rest = self._cursor.take(size)
            if self._rest or self._cursor.at_end:
                break
            if self.flags & os.O_NONBLOCK:
                raise WouldBlockError("nothing yet")
            await self._cursor.log.changed()
        out, self._rest = self._rest[:size], self._rest[size:]
        return out

    def ready(self) -> int:
        """POLLIN when a read would not block, POLLHUP too at the end."""
        if self._rest or self._cursor.has_news:
            return POLLIN
        return POLLIN | POLLHUP if self._cursor.log.closed else 0

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Calls `wake` at the next change of the log."""
        self._cursor.log.on_change(self, wake)

    async def release(self) -> None:
        """Forgets the reader."""
        self._cursor.log.no_change(self)
        self._cursor.close()


class WaitNode(KernNode):
    """A file whose read blocks until there is a value."""

    __slots__ = ("waiter",)

    def __init__(self, table: Table, row: Row, obj: Any, ino: int, waiter: Waiter) -> None:
        """`waiter` knows the value and when it may be there."""
        super().__init__(table, row, obj, ino)
        self.waiter = waiter

    def size(self) -> int:
        """The size of the value; 0 while a read would block."""
        return len(self.waiter.value(self.obj) or b"")

    async def open(self, cred: Credentials, flags: int) -> File:
        """Opens without waiting; the read waits."""
        refuse_write(flags)
        return WaitFile(self, cred, flags)


class WaitFile(File):
    """A reader that waits for a value."""

    may_wait = True
    direct_io = True
    keep_cache = False

    def __init__(self, node: WaitNode, cred: Credentials, flags: int) -> None:
        """A reader of the node's value."""
        super().__init__(node, cred, flags)
        self._waiter = node.waiter
        self._obj = node.obj

    async def read(self, size: int, offset: int) -> bytes:
        """The value, as soon as there is one. WouldBlockError EAGAIN with O_NONBLOCK."""
        while (value := self._waiter.value(self._obj)) is None:
            if self.flags & os.O_NONBLOCK:
                raise WouldBlockError("nothing yet")
            await self._waiter.log(self._obj).changed()
        return value[offset : offset + size]

    def ready(self) -> int:
        """POLLIN when the value is there."""
        return POLLIN if self._waiter.value(self._obj) is not None else 0

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Calls `wake` when the value may be there."""
        self._waiter.log(self._obj).on_change(self, wake)

    async def release(self) -> None:
        """Forgets who waits."""
        self._waiter.log(self._obj).no_change(self)


class LinkNode(KernNode):
    """A symlink whose target depends on the object and the caller."""

    __slots__ = ("target",)
    entry_ttl_s = 0.0

    def __init__(
        self, table: Table, row: Row, obj: Any, ino: int,
        target: Callable[[Any, Credentials], bytes | None],
    ) -> None:  # fmt: skip
        """`target` gives the text, or None where the link does not exist."""
        super().__init__(table, row, obj, ino)
        self.target = target

    async def readlink(self, cred: Credentials) -> bytes:
        """The text of the link. NotFoundError ENOENT where it has none for the caller."""
        target = self.target(self.obj, cred)
        if target is None:
            raise NotFoundError(f"no {self.row.name.decode()} yet")
        return target


class DirNode(KernNode):
    """A directory: a table's rows, then names that come and go where `dynamic` is given."""

    __slots__ = ("dynamic",)

    def __init__(
        self, table: Table, obj: Any, ino: int, mode: int = 0o555, dynamic: "Dynamic | None" = None
    ) -> None:
        """The directory's rows get the inode numbers `ino` + index."""
        super().__init__(table, Row(b"", _stat.S_IFDIR | mode, _no_node), obj, ino)
        self.dynamic = dynamic

    async def stat(self) -> Stat:
        """Attributes; two links, as Linux's procfs says."""
        owner = self.table.owner(self.obj)
        t = owner.time_ns
        return Stat(self.ino, self.row.mode, 2, owner.uid, owner.gid, 0, t, t, t)

    async def lookup(self, cred: Credentials, name: bytes) -> Node:
        """The node of a row, or of a dynamic name."""
        row = self.table.rows.get(name)
        if row is not None and (row.shown is None or row.shown(self.obj, cred)):
            return row.make(row, self.obj, self.ino + row.index)
        if self.dynamic is not None:
            return await self.dynamic.lookup(cred, name)
        raise NotFoundError(f"no such file: {name.decode('utf-8', 'replace')!r}")

    async def entries(self, cred: Credentials) -> list[DirEntry]:
        """All rows that the caller sees, then the dynamic names."""
        rows = [
            DirEntry(row.name, self.ino + row.index, _stat.S_IFMT(row.mode))
            for row in self.table.rows.values()
            if row.shown is None or row.shown(self.obj, cred)
        ]
        if self.dynamic is not None:
            rows += await self.dynamic.entries(cred)
        return rows


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Names of a directory that come and go."""

    lookup: Callable[[Credentials, bytes], Awaitable[Node]]
    entries: Callable[[Credentials], Awaitable[Iterable[DirEntry]]]


def refuse_write(flags: int) -> None:
    """EACCES for an open that wants to write to a file that is only read."""
    if flags & os.O_ACCMODE != os.O_RDONLY:
        raise AccessError("this file is read-only")


def refuse_read(flags: int) -> None:
    """EBADF for a read of a handle that was opened to write."""
    if flags & os.O_ACCMODE == os.O_WRONLY:
        raise BadFileError("the file was opened for writing only")


def _no_node(row: Row, obj: Any, ino: int) -> Node:
    raise NotFoundError("not a row of a table")

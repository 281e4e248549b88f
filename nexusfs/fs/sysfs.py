"""/sys: the kernel about itself, read-only."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import NotFoundError
from nexusfs.contracts.node import DirEntry, Node
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.errorlog import ErrorLog
from nexusfs.kernel.vfs.kernfs import (
    Background,
    DirNode,
    Dynamic,
    Owner,
    Row,
    Table,
    TextNode,
)

SYS_INO = 3 << 56
SERVICES_INO = SYS_INO | (1 << 16)

Files = Mapping[str, Callable[[], bytes]]


class SysFs:
    """The tree at /sys: a file for each entry of `files`, and a directory of service states."""

    def __init__(
        self,
        files: Files,
        services: Mapping[str, str],
        error_log: ErrorLog,
        background: Background,
        uid: int,
    ) -> None:
        """`services` maps a name to `running`, `degraded: why` or `off`, live."""
        born = Owner(uid, 0, now_ns())
        self._services = services
        table = Table(lambda _: born, background)
        for name, render in files.items():
            table.text(name)(partial(_rendered, render))
        self._table = table
        self._error_log = error_log
        self._service_table = Table(lambda _: born, background)
        table.sub("services", self._services_dir)
        own = Dynamic(self._lookup_own, self._own)
        self.root: Node = DirNode(table, None, SYS_INO, dynamic=own)

    async def _lookup_own(self, cred: Credentials, name: bytes) -> Node:
        """error_log: a node for each user, who reads his own errors."""
        if name != b"error_log":
            raise NotFoundError(f"no such file: {name.decode('utf-8', 'replace')!r}")
        row = Row(name, 0o100444, _never)
        return OwnNode(
            self._table, row, None, _own_ino(cred), lambda _: self._error_log.lines(cred)
        )

    async def _own(self, cred: Credentials) -> Iterable[DirEntry]:
        return [DirEntry(b"error_log", _own_ino(cred), 0o100000)]

    def _services_dir(self, _: Any, ino: int) -> Node:
        return DirNode(self._service_table, None, ino, dynamic=Dynamic(self._lookup, self._entries))

    async def _lookup(self, cred: Credentials, name: bytes) -> Node:
        names = sorted(self._services)
        text = name.decode("utf-8", "replace")
        if text not in self._services:
            raise NotFoundError(f"no service {text!r}: one of {', '.join(names)}")
        row = Row(name, 0o100444, _never)
        ino = SERVICES_INO + names.index(text)
        return TextNode(
            self._service_table, row, None, ino, lambda _: self._services[text].encode() + b"\n"
        )

    async def _entries(self, cred: Credentials) -> Iterable[DirEntry]:
        names = sorted(self._services)
        return [DirEntry(n.encode(), SERVICES_INO + i, 0o100000) for i, n in enumerate(names)]


class OwnNode(TextNode):
    """A file that is another one for each user, so Linux asks at each use of the name."""

    __slots__ = ()
    entry_ttl_s = 0.0


def _rendered(render: Callable[[], bytes], _: Any) -> bytes:
    return render()


def _own_ino(cred: Credentials) -> int:
    return SYS_INO | (1 << 40) | cred.uid


def _never(row: Row, obj: Any, ino: int) -> Node:
    raise NotFoundError("not a row of a table")

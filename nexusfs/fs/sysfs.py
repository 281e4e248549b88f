"""/sys: the kernel about itself, read-only."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import NotFoundError
from nexusfs.contracts.node import DirEntry, Node
from nexusfs.kernel.clock import now_ns
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
OwnFiles = Mapping[str, Callable[[Credentials], bytes]]


class SysFs:
    """The tree at /sys: a file for each entry of `files`, and a directory of service states.

    A file of `own_files` is another one for each caller.
    """

    def __init__(
        self,
        files: Files,
        own_files: OwnFiles,
        services: Mapping[str, str],
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
        self._own_files = own_files
        self._service_table = Table(lambda _: born, background)
        table.sub("services", self._services_dir)
        own = Dynamic(self._lookup_own, self._own)
        self.root: Node = DirNode(table, None, SYS_INO, dynamic=own)

    async def _lookup_own(self, cred: Credentials, name: bytes) -> Node:
        text = name.decode("utf-8", "replace")
        render = self._own_files.get(text)
        if render is None:
            raise NotFoundError(f"no such file: {text!r}")
        row, ino = Row(name, 0o100444, _never), self._own_ino(cred, text)
        return OwnNode(self._table, row, None, ino, lambda _: render(cred))

    async def _own(self, cred: Credentials) -> Iterable[DirEntry]:
        names = self._own_files
        return [DirEntry(name.encode(), self._own_ino(cred, name), 0o100000) for name in names]

    def _own_ino(self, cred: Credentials, name: str) -> int:
        """A number for each file and user, and for each agent: what they see differs."""
        who = (1 << 32) | cred.agent_pid if cred.agent_pid else cred.uid
        return SYS_INO | ((list(self._own_files).index(name) + 1) << 40) | who

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


def _never(row: Row, obj: Any, ino: int) -> Node:
    raise NotFoundError("not a row of a table")

"""Control trees of a test's own, without a kernel."""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import KernelError, NotFoundError
from nexusfs.contracts.node import File
from nexusfs.kernel.vfs.control import Control, Request, control
from nexusfs.kernel.vfs.kernfs import DirNode, Owner, Table
from tests.kernel_fixture import ALICE, ROOT


class Back:
    """What control files need of a kernel: a nursery, and a place for errors."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.errors: list[tuple[str, str, str]] = []

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(work)

    def report(self, cred: Credentials, path: str, op: str, exc: KernelError) -> None:
        self.errors.append((path, op, str(exc)))


class Tree:
    """One directory, Alice's, over one object."""

    def __init__(self, nursery: trio.Nursery, obj: object = None) -> None:
        self.back = Back(nursery)
        self.table = Table(lambda _: Owner(ALICE.uid, ALICE.gid, 1_000), self.back)
        self.root = DirNode(self.table, obj, 4096)

    async def open(self, name: str, flags: int = os.O_RDONLY) -> File:
        node = await self.root.lookup(ROOT, name.encode())
        return await node.open(ROOT, flags)


KINDS = {
    "spawn": {"object", "line", "markdown"},
    "tool": {"object"},
    "ctl": {"lines"},
    "stdin": {"message"},
}


class Desk:
    """Notes every request; `reply` answers it."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.creds: list[Credentials] = []
        self.reply: Callable[[Request], Awaitable[bytes]] = self._echo

    async def act(self, _: Any, cred: Credentials, request: Request) -> bytes:
        self.requests.append(request)
        self.creds.append(cred)
        return await self.reply(request)

    async def _echo(self, request: Request) -> bytes:
        return b"<" + request.data.strip() + b">\n"

    def seen(self) -> list[tuple[str, bytes]]:
        return [(request.kind, request.data) for request in self.requests]


def _manual(_: Any) -> bytes:
    return b"the manual\n"


def _path(name: str, _: Any) -> str:
    return name


def desk_tree(nursery: trio.Nursery, desk: Desk) -> Tree:
    """A control file of each kind, all of which act at one desk."""
    tree = Tree(nursery)
    for name, kinds in KINDS.items():
        row = Control(frozenset(kinds), desk.act, _manual, partial(_path, name))
        control(tree.table, name, 0o666, row)
    return tree


async def failing(request: Request) -> bytes:
    raise NotFoundError("no such thing: write another")


class Gateway:
    """A reply that comes when it is let through."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.cancelled = 0

    async def __call__(self, request: Request) -> bytes:
        try:
            await self.open.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return b"through\n"


async def opened(tree: Tree, name: str, flags: int = os.O_RDWR) -> File:
    return await tree.open(name, flags)

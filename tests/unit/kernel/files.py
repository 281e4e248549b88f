"""The calls of one user on files, for tests."""

from collections.abc import Awaitable

import pytest

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    KernelError,
)
from nexusfs.contracts.node import (
    Change,
    Stat,
)
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.syscalls import Syscalls
from tests.kernel_fixture import ROOT


class Files:
    """The calls of one user, errors as their classes."""

    def __init__(self, calls: Syscalls, cred: Credentials = ROOT) -> None:
        self.calls = calls
        self.cred = cred
        self.bound = BoundSyscalls(calls, cred)

    async def put(self, path: str, data: bytes = b"", mode: int = 0o644) -> None:
        await self.bound.write_file(path, data)
        await self.calls.sys_setattr(self.cred, path, Change(mode=mode))

    async def text(self, path: str) -> bytes:
        return await self.bound.read_file(path)

    async def stat(self, path: str) -> Stat:
        return await self.calls.sys_stat(self.cred, path, follow=False)

    async def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        return (await self.calls.sys_open(self.cred, path, flags, mode)).fd

    async def names(self, path: str) -> set[str]:
        return {entry.name.decode() for entry in await self.calls.sys_readdir(self.cred, path)}


async def error(made: Awaitable[object]) -> type[KernelError]:
    with pytest.raises(KernelError) as caught:
        await made
    return type(caught.value)

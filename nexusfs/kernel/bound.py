"""Syscalls with credentials already applied: what tools, services and scripts hold."""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import ExistsError, UnavailableError, WouldBlockError
from nexusfs.contracts.node import DirEntry, Stat
from nexusfs.kernel.syscalls import Syscalls

READ_CHUNK_BYTES = 1 << 20
FILE_MODE, DIR_MODE = 0o644, 0o755


@dataclass(frozen=True)
class BoundSyscalls:
    """The `sys_*` of `calls` for `cred`, and whole-file shapes of them (`ToolFiles`).

    `bound.sys_stat("/x")` is `calls.sys_stat(cred, "/x")`; calls on descriptors take none.
    """

    calls: Syscalls
    cred: Credentials

    def __getattr__(self, name: str) -> Any:
        """A `sys_*` of the kernel with the credentials filled in."""
        call = getattr(self.calls, name)
        if not name.startswith("sys_"):
            raise UnavailableError(f"not a system call: {name}")
        return call if name in _ON_DESCRIPTORS else partial(call, self.cred)

    async def read_file(self, path: str, *, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes [offset, offset + size), or to the end; a stream what is there, or EAGAIN."""
        opened = await self.calls.sys_open(self.cred, path, os.O_RDONLY | os.O_NONBLOCK)
        pieces: list[bytes] = []
        left = size
        await trio.lowlevel.checkpoint()  # each MiB: ordinary files never suspend by themselves
        try:
            while left is None or left > 0:
                want = READ_CHUNK_BYTES if left is None else min(left, READ_CHUNK_BYTES)
                try:
                    piece = await self.calls.sys_read(opened.fd, want, offset)
                except WouldBlockError:
                    if not pieces:
                        raise
                    piece = b""
                pieces.append(piece)
                if not piece or (len(piece) < want and not opened.file.may_wait):
                    break  # Short reads are at the end, but for streams.
                if len(piece) == READ_CHUNK_BYTES:
                    await trio.lowlevel.checkpoint()
                offset += len(piece)
                left = None if left is None else left - len(piece)
        finally:
            await self.calls.sys_close(opened.fd)
        return b"".join(pieces)

    async def write_file(self, path: str, data: bytes, *, append: bool = False) -> int:
        """Replaces or appends the content of a file, making it when absent; bytes written."""
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
        opened = await self.calls.sys_open(self.cred, path, flags, FILE_MODE)
        try:
            written = 0
            while written < len(data):
                if written:  # not before the first piece: a kill must not leave an emptied file
                    await trio.lowlevel.checkpoint()
                piece = data[written : written + READ_CHUNK_BYTES]
                written += await self.calls.sys_write(opened.fd, piece, written)
            await self.calls.sys_flush(opened.fd)
        finally:
            await self.calls.sys_close(opened.fd)
        return written

    async def list_dir(self, path: str) -> list[DirEntry]:
        """The names of a directory."""
        return await self.calls.sys_readdir(self.cred, path)

    async def list_page(
        self, path: str, start: int, count: int
    ) -> tuple[int, list[tuple[DirEntry, Stat | None]]]:
        """How many names a directory has, and a page of them with attributes, sorted."""
        return await self.calls.sys_list(self.cred, path, start, count)

    async def stat(self, path: str, *, follow: bool = True) -> Stat:
        """Attributes."""
        return await self.calls.sys_stat(self.cred, path, follow=follow)

    async def access(self, path: str, mode: int) -> bool:
        """True when the caller may."""
        return await self.calls.sys_access(self.cred, path, mode)

    async def make_dirs(self, path: str) -> None:
        """Makes a directory and its parents, where absent."""
        parts = [part for part in path.split("/") if part]
        for count in range(1, len(parts) + 1):
            try:
                await self.calls.sys_mkdir(self.cred, "/" + "/".join(parts[:count]), DIR_MODE)
            except ExistsError:
                continue


_ON_DESCRIPTORS = frozenset(
    {"sys_read", "sys_write", "sys_flush", "sys_fsync", "sys_readdir_fd", "sys_close"}
)

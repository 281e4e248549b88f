"""One method for each FUSE request: convert, make the system call, convert back.

Control trees have inode numbers from 2**56 up, ordinary files below; the number 1 is the root
for both sides. A request that may wait runs in a cancel scope that `blocked` can cancel.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pyfuse3
import trio

from mount import convert
from mount.blocked import Blocked, open_inos
from mount.caller import credentials
from mount.errors import fuse_op
from mount.inodes import Inodes
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    DisconnectedError,
    InterruptedCallError,
    NotFoundError,
)
from nexusfs.contracts.node import POLLERR, POLLHUP, POLLIN, At, File, Node
from nexusfs.kernel.syscalls import Opened, Syscalls

R = TypeVar("R")

ROOT_INO = int(pyfuse3.ROOT_INODE)
DOTS = (b".", b"..")
UNKNOWN_INO = 0xFFFFFFFF
"""What a listing has for the parent. Source: libfuse, FUSE_UNKNOWN_INO."""
READDIR_BATCH = 8
"""Names that are looked up at a time. A request of Linux takes 20 of them (4 KiB), or 100 and more
(32 KiB, since 6.14), and what it does not take is looked up again."""


class Operations(pyfuse3.Operations):
    """The requests of one mount."""

    enable_writeback_cache = False  # acknowledged bytes would be Linux's, not ours, at kill -9
    supports_dot_lookup = False

    def __init__(self, calls: Syscalls, root: Node, agent_of: Callable[[int], int]) -> None:
        """The requests go to `calls`; `root` is the tree's root.

        `agent_of` says which agent a thread of the host asks for, 0 for none.
        """
        super().__init__()
        self._calls = calls
        self._agent_of = agent_of
        self.inodes = Inodes(root, ROOT_INO)
        self.blocked = Blocked()
        self._polls: dict[int, Any] = {}
        self._looks = trio.CapacityLimiter(2)

    def _cred(self, ctx: Any) -> Credentials:
        return credentials(ctx.uid, ctx.gid, ctx.pid, self._agent_of)

    # -- names and attributes

    @fuse_op
    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        """One name of a directory; Linux counts it as a reference until `forget`.

        That an ordinary name is absent, Linux may believe for as long as that one is there.
        """
        parent = self.inodes.get(parent_inode)
        found = await self._calls.sys_find(self._cred(ctx), At(parent, name))
        if found is None:
            if parent.control:
                raise NotFoundError("no such control file")
            return convert.absent(parent)
        node, st = found
        return convert.entry(self.inodes.add(node), st)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Linux dropped references."""
        for ino, lookups in inode_list:
            self.inodes.forget(ino, lookups)

    @fuse_op
    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        """Attributes of an inode."""
        node = self.inodes.get(inode)
        return convert.entry(node, await self._calls.sys_stat(self._cred(ctx), node))

    @fuse_op
    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        """chmod, chown, truncate and utimens."""
        node = self.inodes.get(inode)
        change = convert.change(attr, fields)
        if fh is not None:  # ftruncate: the right to write was checked at open
            st = await self._calls.sys_fsetattr(self._cred(ctx), fh, change)
        else:
            st = await self._calls.sys_setattr(self._cred(ctx), node, change)
        return convert.entry(node, st)

    @fuse_op
    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        """Whether the caller may; asked only without default_permissions."""
        return await self._calls.sys_access(self._cred(ctx), self.inodes.get(inode), mode)

    @fuse_op
    async def readlink(self, inode: int, ctx: Any) -> bytes:
        """The text of a symlink."""
        return await self._calls.sys_readlink(self._cred(ctx), self.inodes.get(inode))

    @fuse_op
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        """Size and use."""
        return convert.statvfs(
            await self._calls.sys_statfs(self._cred(ctx), self.inodes.get(ROOT_INO))
        )

    # -- making and removing names

    async def _entry(self, node: Node) -> pyfuse3.EntryAttributes:
        return convert.entry(self.inodes.add(node), await node.stat())

    def _at(self, parent: int, name: bytes) -> At:
        return At(self.inodes.get(parent), name)

    @fuse_op
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        """Makes a directory."""
        return await self._entry(
            await self._calls.sys_mkdir(self._cred(ctx), self._at(parent_inode, name), mode)
        )

    @fuse_op
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        """Makes a file, fifo, socket or device."""
        where = self._at(parent_inode, name)
        return await self._entry(await self._calls.sys_mknod(self._cred(ctx), where, mode, rdev))

    @fuse_op
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        """Makes a symlink."""
        where = self._at(parent_inode, name)
        return await self._entry(await self._calls.sys_symlink(self._cred(ctx), target, where))

    @fuse_op
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        """Adds a hard link."""
        where = self._at(new_parent_inode, new_name)
        return await self._entry(
            await self._calls.sys_link(self._cred(ctx), self.inodes.get(inode), where)
        )

    @fuse_op
    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        """Removes a name."""
        await self._calls.sys_unlink(self._cred(ctx), self._at(parent_inode, name))

    @fuse_op
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        """Removes an empty directory."""
        await self._calls.sys_rmdir(self._cred(ctx), self._at(parent_inode, name))

    @fuse_op
    async def rename(
        self,
        parent_old: int,
        name_old: bytes,
        parent_new: int,
        name_new: bytes,
        flags: int,
        ctx: Any,
    ) -> None:
        """Moves a name."""
        old, new = self._at(parent_old, name_old), self._at(parent_new, name_new)
        await self._calls.sys_rename(self._cred(ctx), old, new, flags)

    # -- open files

    @fuse_op
    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        """Opens a file; O_TRUNC comes along in `flags`."""
        opened = await self._calls.sys_open(
            self._cred(ctx).to_keep(), self.inodes.get(inode), flags
        )
        return _file_info(opened)

    @fuse_op
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Makes and opens a file."""
        where = self._at(parent_inode, name)
        opened = await self._calls.sys_open(
            self._cred(ctx).to_keep(), where, flags | os.O_CREAT, mode & 0o7777
        )
        return _file_info(opened), await self._entry(opened.node)

    @fuse_op
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Reads; a blocking file waits here."""
        file = self._calls.descriptors.get(fh)
        if not file.may_wait:
            return await self._calls.sys_read(fh, size, off)
        return await self._interruptible(file, self._calls.sys_read(fh, size, off))

    @fuse_op
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Writes; a control file acts here."""
        file = self._calls.descriptors.get(fh)
        if not file.may_wait:
            return await self._calls.sys_write(fh, buf, off)
        return await self._interruptible(file, self._calls.sys_write(fh, buf, off))

    async def _interruptible(self, file: File, call: Awaitable[R]) -> R:
        """Makes a call that a signal to the calling thread cancels: EINTR."""
        scope = trio.CancelScope()
        wait = self.blocked.add(file.cred.host_pid, file.node.ino, scope)
        try:
            with scope:
                return await call
        finally:
            self.blocked.remove(wait)
        if self._calls.gate.shut:
            raise DisconnectedError("the mount is going")
        raise InterruptedCallError("a signal arrived")

    @fuse_op
    async def flush(self, fh: int) -> None:
        """One descriptor of an open file was closed."""
        file = self._calls.descriptors.get(fh)
        if file.unfinished and file.node.ino in await self._open_inos(file.cred.host_pid):
            return  # a child's copy of the descriptor was closed; its opener goes on writing
        await self._calls.sys_flush(fh)

    async def _open_inos(self, process: int) -> set[int]:
        """`open_inos` in a thread: a process may have 100,000 files open, 15 µs each."""
        return await trio.to_thread.run_sync(open_inos, process, limiter=self._looks)

    @fuse_op
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Waits for the disk."""
        await self._calls.sys_fsync(fh, datasync=datasync)

    @fuse_op
    async def release(self, fh: int) -> None:
        """The last descriptor is gone."""
        self._polls.pop(fh, None)
        await self._calls.sys_close(fh)

    @fuse_op
    async def poll(self, inode: int, fh: int, poll_handle: Any, ctx: Any) -> int:
        """Says what is ready; keeps the handle and notifies it when that may have changed."""
        file = self._calls.descriptors.get(fh)
        ready = file.ready()
        if poll_handle is not None and not ready & (POLLIN | POLLHUP | POLLERR):
            waits_already = fh in self._polls
            self._polls[fh] = poll_handle
            if not waits_already:
                file.on_ready(lambda: self._notify(fh))
        return ready

    def _notify(self, fh: int) -> None:
        handle = self._polls.pop(fh, None)
        if handle is not None:
            handle.notify()

    # -- directories

    @fuse_op
    async def opendir(self, inode: int, ctx: Any) -> int:
        """Opens a directory."""
        node = self.inodes.get(inode)
        opened = await self._calls.sys_open(
            self._cred(ctx).to_keep(), node, os.O_RDONLY | os.O_DIRECTORY
        )
        return opened.fd

    @fuse_op
    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        """`.` and `..`, then names with their attributes, without those that vanish meanwhile.

        Linux takes no attributes, and counts no reference, for the first two.
        """
        inos = (self._calls.descriptors.get(fh).node.ino, UNKNOWN_INO)
        for position, name in enumerate(DOTS[start_id:], start_id + 1):
            dots = convert.directory(inos[position - 1])
            if not pyfuse3.readdir_reply(token, name, dots, position):
                return
        position = max(start_id, len(DOTS))
        while names := await self._calls.sys_readdir_fd(fh, position - len(DOTS), READDIR_BATCH):
            for listed in names:
                position += 1
                if listed is None:
                    continue
                entry = convert.entry(listed.node, listed.st)
                if not pyfuse3.readdir_reply(token, listed.name, entry, position):
                    return
                self.inodes.add(listed.node)

    @fuse_op
    async def releasedir(self, fh: int) -> None:
        """A directory is closed."""
        await self._calls.sys_close(fh)

    @fuse_op
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Waits for the disk."""
        await self._calls.sys_fsync(fh, datasync=datasync)

    # -- extended attributes

    @fuse_op
    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        """One extended attribute."""
        return await self._calls.sys_getxattr(self._cred(ctx), self.inodes.get(inode), name)

    @fuse_op
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        """Sets one."""
        await self._calls.sys_setxattr(self._cred(ctx), self.inodes.get(inode), name, value)

    @fuse_op
    async def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        """Their names."""
        return await self._calls.sys_listxattr(self._cred(ctx), self.inodes.get(inode))

    @fuse_op
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        """Removes one."""
        await self._calls.sys_removexattr(self._cred(ctx), self.inodes.get(inode), name)


def _file_info(opened: Opened) -> pyfuse3.FileInfo:
    file = opened.file
    return pyfuse3.FileInfo(
        fh=opened.fd, direct_io=file.direct_io, keep_cache=file.keep_cache,
        nonseekable=not file.seekable,
    )  # fmt: skip

"""The one syscall layer: every door ends here, and nothing else has an effect.

Each `sys_*` takes credentials first, passes the gate, and raises KernelError with an errno.
`where` is a path from the root of the tree, `At(node, name)`, or a node.
"""

import os
import stat as _stat
from dataclasses import dataclass

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    BadFileError,
    InvalidError,
    NotDirectoryError,
    NotPermittedError,
    UnknownToolError,
)
from nexusfs.contracts.node import At, Change, DirEntry, File, Node, Stat, StatFs, Where
from nexusfs.kernel import permission
from nexusfs.kernel.errorlog import ErrorLog
from nexusfs.kernel.gate import Gate, syscall
from nexusfs.kernel.proc.approvals import Approvals
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.proc_calls import ProcessCalls
from nexusfs.kernel.tasks.table import TaskTable
from nexusfs.kernel.tools import ToolTable
from nexusfs.kernel.vfs.files import Descriptors, DirFile, Listed, Vfs
from nexusfs.kernel.vfs.guard import LOOK

READ_SIZE_MAX = 16 << 20
"""Bytes of one read; more is a short read, so that no caller makes the kernel allocate at will."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What an open gives: the descriptor, the node and the open file."""

    fd: int
    node: Node
    file: File


class Syscalls(ProcessCalls):
    """Every system call of the kernel.

    Calls on files may suspend only where the file or node does; see `contracts.node`.
    """

    def __init__(self, vfs: Vfs, processes: ProcessTable, tools: ToolTable) -> None:
        """The calls over a VFS, a process table and a tool table."""
        self.gate = Gate()
        self.vfs = vfs
        self.processes = processes
        self.tasks = TaskTable(processes)
        self.tools = tools
        self.approvals = Approvals(processes.find, tools.all_tools)
        tools.decide, tools.admit = self.approvals.decide, processes.admit_tool
        self.error_log = ErrorLog()
        self.descriptors = Descriptors()

    # -- names and attributes

    @syscall
    async def sys_lookup(self, cred: Credentials, where: Where) -> tuple[Node, Stat]:
        """The node of `where` and its attributes; a last symlink is not followed."""
        node = await self.vfs.walker.node(cred, where, follow=False)
        return node, await node.stat()

    @syscall
    async def sys_find(self, cred: Credentials, at: At) -> tuple[Node, Stat] | None:
        """As `sys_lookup` of one name, but None for one that does not exist: cheaper."""
        node = await self.vfs.walker.find(cred, at.parent, at.name)
        return None if node is None else (node, await node.stat())

    @syscall
    async def sys_stat(self, cred: Credentials, where: Where, *, follow: bool = True) -> Stat:
        """The attributes of `where`."""
        return await (await self.vfs.walker.node(cred, where, follow=follow)).stat()

    @syscall
    async def sys_setattr(
        self, cred: Credentials, where: Where, change: Change, *, follow: bool = True
    ) -> Stat:
        """Sets attributes and returns the new ones. EPERM, EACCES as chmod(2) and its kin."""
        await self.vfs.admit()
        node = await self.vfs.walker.node(cred, where, follow=follow, need=os.W_OK)
        return await self.vfs.setattr(cred, node, change)

    @syscall
    async def sys_fsetattr(self, cred: Credentials, fd: int, change: Change) -> Stat:
        """Sets attributes of an open file; its size by the right that the open was given.

        InvalidError EINVAL: the size of a file that is not open for writing, as ftruncate(2).
        """
        await self.vfs.admit()
        file = self.descriptors.get(fd)
        await self.vfs.walker.guard.recheck(file, os.W_OK)
        if change.size is None:
            return await self.vfs.setattr(cred, file.node, change)
        if file.flags & os.O_ACCMODE == os.O_RDONLY:
            raise InvalidError("the file is not open for writing")
        return await self.vfs.truncate(file, change)

    @syscall
    async def sys_access(self, cred: Credentials, where: Where, mask: int) -> bool:
        """True when the caller may (os.R_OK | W_OK | X_OK); ENOENT when there is nothing."""
        node, within = await self.vfs.walker.reach(cred, where)
        try:
            await self.vfs.walker.guard.check(cred, node, mask or LOOK, within)
        except AccessError:
            return False
        return permission.may(cred, await node.stat(), mask)

    @syscall
    async def sys_readlink(self, cred: Credentials, where: Where) -> bytes:
        """The text of a symlink. EINVAL for anything else."""
        node = await self.vfs.walker.node(cred, where, follow=False)
        return await self.vfs.walker.readlink(cred, node)

    @syscall
    async def sys_readdir(self, cred: Credentials, where: Where) -> list[DirEntry]:
        """All names of a directory but . and .. ."""
        node = await self.vfs.walker.node(cred, where, need=os.R_OK)
        return (await self.vfs.entries(cred, node))[0]

    @syscall
    async def sys_list(
        self, cred: Credentials, where: Where, start: int, count: int
    ) -> tuple[int, list[tuple[DirEntry, Stat | None]]]:
        """How many names a directory has, and `count` of them from `start` on, sorted.

        Each with its attributes; None where they may not be seen, or the name is just gone. One
        walk and one check of the caller's paths, for what grants a directory grants what is in it.
        """
        node = await self.vfs.walker.node(cred, where, need=os.R_OK)
        return await self.vfs.listed(cred, node, start, count)

    @syscall
    async def sys_statfs(self, cred: Credentials, where: Where = "/") -> StatFs:
        """Size and use of the filesystem of `where`."""
        return await (await self.vfs.walker.node(cred, where)).statfs()

    @syscall
    async def sys_mkdir(self, cred: Credentials, where: Where, mode: int = 0o777) -> Node:
        """Makes a directory; `mode` as the caller's umask left it, its set-id bits not taken."""
        await self.vfs.admit()
        return await self.vfs.create(cred, where, 0o040000 | (mode & 0o1777))

    @syscall
    async def sys_mknod(self, cred: Credentials, where: Where, mode: int, rdev: int = 0) -> Node:
        """Makes a file, fifo, socket or device; `mode` has the type bits, none is a file's.

        NotPermittedError EPERM for a directory, InvalidError EINVAL for a symlink.
        """
        await self.vfs.admit()
        kind = _stat.S_IFMT(mode) or _stat.S_IFREG
        if kind == _stat.S_IFDIR:
            raise NotPermittedError("a directory is made with mkdir")
        if kind == _stat.S_IFLNK:
            raise InvalidError("a symlink is made with symlink")
        mode = kind | _stat.S_IMODE(mode)
        return await self.vfs.create(cred, where, mode, rdev=rdev)

    @syscall
    async def sys_symlink(self, cred: Credentials, target: bytes, where: Where) -> Node:
        """Makes a symlink with the text `target`."""
        await self.vfs.admit()
        if not target:
            raise InvalidError("a symlink needs a target")
        return await self.vfs.create(cred, where, 0o120777, target=target)

    @syscall
    async def sys_link(self, cred: Credentials, old: Where, new: Where) -> Node:
        """Adds the hard link `new` to `old`."""
        await self.vfs.admit()
        return await self.vfs.link(cred, old, new)

    @syscall
    async def sys_unlink(self, cred: Credentials, where: Where) -> None:
        """Removes a name; open files live on."""
        await self.vfs.admit()
        await self.vfs.unlink(cred, where)

    @syscall
    async def sys_rmdir(self, cred: Credentials, where: Where) -> None:
        """Removes an empty directory."""
        await self.vfs.admit()
        await self.vfs.rmdir(cred, where)

    @syscall
    async def sys_rename(self, cred: Credentials, old: Where, new: Where, flags: int = 0) -> None:
        """Moves a name, atomically."""
        await self.vfs.admit()
        await self.vfs.rename(cred, old, new, flags)

    @syscall
    async def sys_getxattr(self, cred: Credentials, where: Where, name: bytes) -> bytes:
        """One extended attribute. ENODATA; EOPNOTSUPP for namespaces other than user."""
        node = await self.vfs.walker.node(cred, where, need=os.R_OK)
        return await self.vfs.getxattr(cred, node, name)

    @syscall
    async def sys_setxattr(
        self, cred: Credentials, where: Where, name: bytes, value: bytes
    ) -> None:
        """Sets one extended attribute. EPERM, EOPNOTSUPP, ERANGE, ENOSPC."""
        await self.vfs.admit()
        node = await self.vfs.walker.node(cred, where, need=os.W_OK)
        await self.vfs.setxattr(cred, node, name, value)

    @syscall
    async def sys_listxattr(self, cred: Credentials, where: Where) -> list[bytes]:
        """Names of the extended attributes."""
        return await (await self.vfs.walker.node(cred, where)).listxattr()

    @syscall
    async def sys_removexattr(self, cred: Credentials, where: Where, name: bytes) -> None:
        """Removes one extended attribute. ENODATA."""
        await self.vfs.admit()
        node = await self.vfs.walker.node(cred, where, need=os.W_OK)
        await self.vfs.setxattr(cred, node, name, None)

    # -- open files

    @syscall
    async def sys_open(
        self, cred: Credentials, where: Where, flags: int, mode: int = 0o666
    ) -> Opened:
        """Opens a file or directory; `flags` and `mode` as open(2), the umask already applied.

        The descriptor keeps `cred`, whoever uses it later. Cancelling leaves nothing open.
        """
        if flags & (os.O_CREAT | os.O_TRUNC):
            await self.vfs.admit()
        try:
            node, file = await self.vfs.open(cred, where, flags, mode)
        except UnknownToolError as exc:
            self.error_log.add(cred, "/dispatch", "open", exc)
            raise
        return Opened(self.descriptors.add(file), node, file)

    @syscall
    async def sys_read(self, fd: int, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size). Suspends on blocking files only."""
        file = self.descriptors.get(fd)
        if file.flags & os.O_ACCMODE == os.O_WRONLY:
            raise BadFileError("the file was opened for writing only")
        if file.cred.agent_pid:
            await self.vfs.walker.guard.recheck(file, os.R_OK)
        return await self.vfs.read(file, min(size, READ_SIZE_MAX), offset)

    @syscall
    async def sys_write(self, fd: int, data: bytes, offset: int) -> int:
        """Writes at `offset`, at the end with O_APPEND; on control files, a piece of a request."""
        file = self.descriptors.get(fd)
        if file.flags & os.O_ACCMODE == os.O_RDONLY:
            raise BadFileError("the file was opened for reading only")
        if file.cred.agent_pid:
            await self.vfs.walker.guard.recheck(file, os.W_OK)
        if not file.node.control:
            await self.vfs.admit()
        return await self.vfs.write(file, data, offset)

    @syscall
    async def sys_flush(self, fd: int) -> None:
        """What close(2) does first, at each descriptor of the file."""
        await self.descriptors.get(fd).flush()

    @syscall
    async def sys_fsync(self, fd: int, *, datasync: bool = False) -> None:
        """Returns when the file is on disk."""
        await self.descriptors.get(fd).fsync(datasync=datasync)

    @syscall
    async def sys_readdir_fd(self, fd: int, start: int, count: int) -> list[Listed | None]:
        """Up to `count` names from position `start` on of an open directory, with attributes.

        None stands for a name that has vanished since the listing began. Empty at the end. The
        right to list is the handle's; no name needs search permission.
        """
        directory = self.descriptors.get(fd)
        if not isinstance(directory, DirFile):
            raise NotDirectoryError("not an open directory")
        return await directory.listed(start, count)

    async def sys_close(self, fd: int) -> None:
        """Ends a descriptor; also while the kernel shuts down, so it does not pass the gate."""
        await self.descriptors.pop(fd).release()

"""Open files: descriptors, and the file calls that work on a name or a node."""

import itertools
import os
import stat as _stat
from dataclasses import dataclass, field

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BadFileError,
    CrossDeviceError,
    ExistsError,
    InvalidError,
    IsDirectoryError,
    NameTooLongError,
    NotDirectoryError,
    NotFoundError,
    NotPermittedError,
    SymlinkLoopError,
    UnknownToolError,
)
from nexusfs.contracts.node import (
    NAME_MAX,
    PATH_MAX,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Change,
    DirEntry,
    File,
    NewNode,
    Node,
    Stat,
    Where,
)
from nexusfs.kernel import permission
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.vfs.mounts import MountTable
from nexusfs.kernel.vfs.namei import Walker
from nexusfs.kernel.vfs.watch import Watch

WX = os.W_OK | os.X_OK


class DirFile(File):
    """An open directory: a snapshot of its names, taken anew when it is read from the start."""

    def __init__(self, node: Node, cred: Credentials, mounts: MountTable) -> None:
        """An open description of a directory."""
        super().__init__(node, cred, os.O_RDONLY)
        self._mounts = mounts
        self._entries: list[DirEntry] | None = None

    async def fsync(self, *, datasync: bool) -> None:
        """Returns when the directory's names are on disk."""
        await self.node.sync()

    async def entries(self, start: int) -> list[DirEntry]:
        """The names from position `start` on; positions stay valid while the handle lives."""
        if self._entries is None or start == 0:
            self._entries = await self._mounts.entries(self.cred, self.node)
        return self._entries[start:]


@dataclass
class Descriptors:
    """Numbers for open files; a number is not used twice in a kernel's life."""

    files: dict[int, File] = field(default_factory=dict)
    _next: "itertools.count[int]" = field(default_factory=lambda: itertools.count(3))

    def add(self, file: File) -> int:
        """A number for `file`."""
        fd = next(self._next)
        self.files[fd] = file
        return fd

    def get(self, fd: int) -> File:
        """The file of a number. BadFileError EBADF."""
        try:
            return self.files[fd]
        except KeyError:
            raise BadFileError(f"descriptor {fd} is not open") from None

    def pop(self, fd: int) -> File:
        """Takes the number out of use. BadFileError EBADF."""
        file = self.get(fd)
        del self.files[fd]
        return file


class Vfs:
    """The calls on names and nodes: permission, POSIX's side effects, then the node's own method.

    Every method takes the caller's credentials and raises KernelError.
    """

    def __init__(self, mounts: MountTable, watch: Watch) -> None:
        """A VFS over a mount table."""
        self.mounts = mounts
        self.walker = Walker(mounts)
        self.watch = watch

    # -- opening

    async def open(
        self, cred: Credentials, where: Where, flags: int, mode: int
    ) -> tuple[Node, File]:
        """Finds or makes a file and gives its node and an open description of it.

        Flags as for open(2): O_CREAT, O_EXCL, O_TRUNC, O_NOFOLLOW, O_DIRECTORY.
        """
        if flags & os.O_CREAT and not isinstance(where, Node):
            made = await self._create_for_open(cred, where, flags, mode)
            if made is not None:
                return made, await made.open(cred, flags & ~os.O_TRUNC)
        node = await self.walker.node(cred, where, follow=not flags & os.O_NOFOLLOW)
        st = await node.stat()
        if st.is_link:
            raise SymlinkLoopError("the path is a symlink")
        permission.check(cred, st, permission.open_mask(flags), b"")
        if st.is_dir:
            if flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC):
                raise IsDirectoryError("is a directory")
            return node, DirFile(node, cred, self.mounts)
        if flags & os.O_DIRECTORY:
            raise NotDirectoryError("not a directory")
        file = await node.open(cred, flags)
        if flags & os.O_TRUNC:
            self.watch.node(node, cred.door)
        return node, file

    async def _create_for_open(
        self, cred: Credentials, where: Where, flags: int, mode: int
    ) -> Node | None:
        """The new node, or None when the name is there and may be."""
        parent, name = await self.walker.parent(cred, where)
        try:
            await self.walker.step(cred, parent, name)
        except UnknownToolError:
            raise
        except NotFoundError:
            return await self.create(cred, where, _stat.S_IFREG | mode)
        if flags & os.O_EXCL:
            raise ExistsError(f"exists: {name.decode('utf-8', 'replace')!r}")
        return None

    # -- names

    async def create(
        self, cred: Credentials, where: Where, mode: int, *, rdev: int = 0, target: bytes = b""
    ) -> Node:
        """Makes an inode of any type under a new name; a setgid directory hands on its group."""
        parent, name = await self.walker.parent(cred, where)
        st = await self._writable_dir(cred, parent, name)
        if len(target) >= PATH_MAX:
            raise NameTooLongError("a symlink may have 4095 bytes")
        if _stat.S_ISCHR(mode) or _stat.S_ISBLK(mode):
            self._check_device(cred)
        if parent is self.mounts.root and name in self.mounts.trees:
            raise ExistsError(f"/{name.decode()} is a control tree")
        gid = cred.gid
        if st.mode & _stat.S_ISGID:
            gid = st.gid
            if _stat.S_ISDIR(mode):
                mode |= _stat.S_ISGID
        node = await parent.create(name, NewNode(mode, cred.uid, gid, rdev, target))
        self.watch.name(parent, name, cred.door)
        return node

    async def link(self, cred: Credentials, old: Where, new: Where) -> Node:
        """Adds a hard link."""
        node = await self.walker.node(cred, old, follow=False)
        if (await node.stat()).is_dir:
            raise NotPermittedError("a directory cannot have hard links")
        parent, name = await self.walker.parent(cred, new)
        await self._writable_dir(cred, parent, name)
        self._check_same_tree(node, parent)
        await parent.link(name, node)
        self.watch.name(parent, name, cred.door)
        self.watch.node(node, cred.door)
        return node

    async def unlink(self, cred: Credentials, where: Where) -> None:
        """Removes a name that is not a directory."""
        parent, name, node = await self._removable(cred, where)
        if (await node.stat()).is_dir:
            raise IsDirectoryError("is a directory: use rmdir")
        await parent.unlink(name)
        self.watch.name(parent, name, cred.door)
        self.watch.node(node, cred.door)

    async def rmdir(self, cred: Credentials, where: Where) -> None:
        """Removes an empty directory."""
        parent, name, node = await self._removable(cred, where)
        if not (await node.stat()).is_dir:
            raise NotDirectoryError("not a directory")
        await parent.rmdir(name)
        self.watch.name(parent, name, cred.door)

    async def rename(self, cred: Credentials, old: Where, new: Where, flags: int) -> None:
        """Moves a name; atomic. Flags: RENAME_NOREPLACE, RENAME_EXCHANGE, not both."""
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise InvalidError("unknown rename flags")
        parent, name, node = await self._removable(cred, old)
        new_parent, new_name = await self.walker.parent(cred, new)
        st = await self._writable_dir(cred, new_parent, new_name)
        self.mounts.check_free(new_parent, new_name)
        self._check_same_tree(node, new_parent)
        target = await self._target_of_rename(cred, new_parent, new_name, st)
        await self._check_dir_move(cred, parent, new_parent, node)
        if flags == RENAME_EXCHANGE and target is not None:
            await self._check_dir_move(cred, new_parent, parent, target)
        await parent.rename(name, new_parent, new_name, flags)
        for moved in (node, target):
            if moved is not None:
                self.watch.node(moved, cred.door)
        self.watch.name(parent, name, cred.door)
        self.watch.name(new_parent, new_name, cred.door)

    async def _target_of_rename(
        self, cred: Credentials, parent: Node, name: bytes, st: Stat
    ) -> Node | None:
        try:
            target = await self.mounts.lookup(cred, parent, name)
        except NotFoundError:
            return None
        permission.check_sticky(cred, st, await target.stat())
        return target

    async def _check_dir_move(self, cred: Credentials, old: Node, new: Node, node: Node) -> None:
        """A directory that changes its parent needs to be writable itself, for its `..` changes."""
        st = await node.stat()
        if st.is_dir and old is not new:
            permission.check(cred, st, os.W_OK)

    async def _removable(self, cred: Credentials, where: Where) -> tuple[Node, bytes, Node]:
        parent, name = await self.walker.parent(cred, where)
        st = await self._writable_dir(cred, parent, name)
        self.mounts.check_free(parent, name)
        node = await self.mounts.lookup(cred, parent, name)
        permission.check_sticky(cred, st, await node.stat())
        return parent, name, node

    async def _writable_dir(self, cred: Credentials, parent: Node, name: bytes) -> Stat:
        if parent.control:
            raise NotPermittedError("nothing in a control tree can be made, renamed or removed")
        if len(name) > NAME_MAX:
            raise NameTooLongError("a name may have 255 bytes")
        st = await parent.stat()
        if not st.is_dir:
            raise NotDirectoryError("not a directory")
        permission.check(cred, st, WX, name)
        return st

    def _check_same_tree(self, node: Node, parent: Node) -> None:
        if node.control or parent.control:
            raise NotPermittedError("nothing moves into or out of a control tree")
        if type(node) is not type(parent):
            raise CrossDeviceError("the two names are on different filesystems")

    def _check_device(self, cred: Credentials) -> None:
        if not cred.is_root:
            raise NotPermittedError("only root may make device nodes")

    # -- nodes

    async def setattr(self, cred: Credentials, node: Node, change: Change) -> Stat:
        """Sets attributes, as chmod(2), chown(2), truncate(2) and utimensat(2) allow."""
        if not node.control:
            change = permission.checked_change(cred, await node.stat(), change, now_ns())
        if change.size is not None and change.size < 0:
            raise InvalidError("a size cannot be negative")
        st = await node.setattr(change)
        self.watch.node(node, cred.door)
        return st

    async def truncate(self, file: File, change: Change) -> Stat:
        """Sets the size of a file that is open for writing."""
        if change.size is not None and change.size < 0:
            raise InvalidError("a size cannot be negative")
        now = now_ns()
        st = await file.node.setattr(Change(size=change.size, mtime_ns=now, ctime_ns=now))
        self.watch.node(file.node, file.cred.door)
        return st

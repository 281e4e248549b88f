"""Open files: descriptors, and the file calls that work on a name or a node."""

import itertools
import logging
import os
import stat as _stat
from dataclasses import dataclass, field
from typing import NamedTuple

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BadFileError,
    BusyError,
    CorruptError,
    CrossDeviceError,
    ExistsError,
    InvalidError,
    IsDirectoryError,
    KernelError,
    NameTooLongError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    StaleError,
    SymlinkLoopError,
    UnavailableError,
)
from nexusfs.contracts.node import (
    NAME_MAX,
    PATH_MAX,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    At,
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
from nexusfs.kernel.vfs.namei import Last, Walker
from nexusfs.kernel.vfs.watch import Watch

log = logging.getLogger(__name__)

_NO_FOLLOW = os.O_NOFOLLOW | os.O_EXCL
"""With O_CREAT, O_EXCL does not follow a last symlink either."""
_KINDS = {
    _stat.S_IFREG, _stat.S_IFDIR, _stat.S_IFLNK, _stat.S_IFIFO, _stat.S_IFSOCK, _stat.S_IFCHR,
    _stat.S_IFBLK,
}  # fmt: skip


class DirFile(File):
    """An open directory: a snapshot of its names, taken anew when it is read from the start."""

    def __init__(self, node: Node, cred: Credentials, mounts: MountTable) -> None:
        """An open description of a directory."""
        super().__init__(node, cred, os.O_RDONLY)
        self._mounts = mounts
        self._entries: list[DirEntry] | None = None

    async def read(self, size: int, offset: int) -> bytes:
        """IsDirectoryError EISDIR."""
        raise IsDirectoryError("is a directory")

    async def fsync(self, *, datasync: bool) -> None:
        """Returns when the directory's names are on disk."""
        await self.node.sync()

    async def listed(self, start: int, count: int) -> list["Listed | None"]:
        """Up to `count` names from position `start` on, None for those that have vanished.

        Positions stay valid while the handle lives. What a name leads to is looked up now, since
        whoever is told will believe it.
        """
        if self._entries is None or start == 0:
            self._entries = await self._mounts.entries(self.cred, self.node)
        return [await self._listed(entry.name) for entry in self._entries[start : start + count]]

    async def _listed(self, name: bytes) -> "Listed | None":
        try:
            node = await self._mounts.lookup(self.cred, self.node, name)
            return Listed(name, node, await node.stat())
        except (NotFoundError, StaleError):
            return None


class Listed(NamedTuple):
    """One name of an open directory, where it leads, and the attributes of that."""

    name: bytes
    node: Node
    st: Stat


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
        watch.listen(self.walker.guard.changed)
        self.admit = mounts.root.admit
        """To be awaited before a change's checks: suspends while the disk is too far behind."""

    # -- opening

    async def open(
        self, cred: Credentials, where: Where, flags: int, mode: int
    ) -> tuple[Node, File]:
        """Finds or makes a file and gives its node and an open description of it.

        Flags as for open(2): O_CREAT, O_EXCL, O_TRUNC, O_NOFOLLOW, O_DIRECTORY.
        """
        if flags & os.O_CREAT and not isinstance(where, Node):
            made = await self._create_for_open(cred, where, flags, mode & 0o7777)
            if made is not None:
                node, within = made
                file = await node.open(cred, flags & ~os.O_TRUNC)
                file.within = within
                return node, file
        node, found_in = await self.walker.reach(
            cred, where, follow=not flags & os.O_NOFOLLOW, need=permission.open_mask(flags)
        )
        st = await node.stat()
        _check_open(cred, st, flags)
        if st.is_dir:
            return node, DirFile(node, cred, self.mounts)
        if flags & os.O_TRUNC and not node.control:
            await self._drop_set_ids(cred, node, st)
        file = await node.open(cred, flags)
        file.within = found_in
        if flags & os.O_TRUNC:
            self.watch.node(node, cred.door)
        return node, file

    async def _create_for_open(
        self, cred: Credentials, where: Where, flags: int, mode: int
    ) -> tuple[Node, Node] | None:
        """The new node and its directory, or None when the name is there and may be."""
        if flags & _NO_FOLLOW:
            parent, name, slash = await self.walker.parent(cred, where, IsDirectoryError)
            if slash:
                raise IsDirectoryError("a path that ends in / is that of a directory")
        else:
            parent, name, _ = await self.walker.created(cred, where)
        if await self.walker.find(cred, parent, name) is None:
            st = await self._searchable(cred, parent, name)
            made = await self._make(cred, At(parent, name), st, _stat.S_IFREG | mode)
            return made, parent
        if flags & os.O_EXCL:
            raise ExistsError(f"exists: {_show(name)}")
        return None

    # -- names

    async def entries(self, cred: Credentials, node: Node) -> tuple[list[DirEntry], Stat]:
        """All names of a directory that the caller may read, and its attributes."""
        st = await node.stat()
        if not st.is_dir:
            raise NotDirectoryError("not a directory")
        permission.check(cred, st, os.R_OK)
        return await self.mounts.entries(cred, node), st

    async def listed(
        self, cred: Credentials, node: Node, start: int, count: int
    ) -> tuple[int, list[tuple[DirEntry, Stat | None]]]:
        """See `Syscalls.sys_list`."""
        entries, st = await self.entries(cred, node)
        entries = sorted(entries)
        may_look = permission.may(cred, st, os.X_OK)
        page = [
            (entry, await self._stat_of(cred, node, entry) if may_look else None)
            for entry in entries[start : start + count]
        ]
        return len(entries), page

    async def _stat_of(self, cred: Credentials, directory: Node, entry: DirEntry) -> Stat | None:
        try:
            return await self.mounts.stat_of(cred, directory, entry)
        except (NotFoundError, StaleError):
            return None

    async def create(
        self, cred: Credentials, where: Where, mode: int, *, rdev: int = 0, target: bytes = b""
    ) -> Node:
        """Makes an inode of any type under a new name; a setgid directory hands on its group."""
        if _stat.S_IFMT(mode) not in _KINDS:
            raise InvalidError("not a type of file that can be made")
        if len(target) >= PATH_MAX:
            raise NameTooLongError("a symlink may have 4095 bytes")
        parent, name, st = await self._new_name(cred, where, directory=_stat.S_ISDIR(mode))
        if _stat.S_ISCHR(mode) or _stat.S_ISBLK(mode):
            self._check_device(cred)
        return await self._make(cred, At(parent, name), st, mode, rdev=rdev, target=target)

    async def _make(
        self, cred: Credentials, at: At, st: Stat, mode: int, *, rdev: int = 0, target: bytes = b""
    ) -> Node:
        """Makes an inode under a name that is free, in a directory with `st`."""
        permission.check(cred, st, os.W_OK, at.name)
        await self.walker.guard.check(cred, at.parent, os.W_OK)
        gid = st.gid if st.mode & _stat.S_ISGID else cred.gid
        mode = permission.mode_of_new(cred, st, mode)
        node = await at.parent.create(at.name, NewNode(mode, cred.uid, gid, rdev, target))
        self.watch.name(at.parent, at.name, cred.door)
        return node

    async def link(self, cred: Credentials, old: Where, new: Where) -> Node:
        """Adds a hard link."""
        node = await self.walker.node(cred, old, follow=False, need=os.W_OK)
        parent, name, _ = await self._new_name(cred, new, directory=False)
        if (await node.stat()).is_dir:
            raise NotPermittedError("a directory cannot have hard links")
        self._check_same_tree(node, parent)
        await parent.link(name, node)
        self.watch.name(parent, name, cred.door)
        self.watch.node(node, cred.door)
        return node

    async def _new_name(
        self, cred: Credentials, where: Where, *, directory: bool
    ) -> tuple[Node, bytes, Stat]:
        """A name that may be made, and the attributes of its directory.

        What exists is EEXIST, whatever the caller may.
        """
        parent, name, slash = await self.walker.parent(cred, where, ExistsError)
        st = await self._searchable(cred, parent, name)
        if await self.mounts.find(cred, parent, name) is not None:
            raise ExistsError(f"exists: {_show(name)}")
        if slash and not directory:
            raise NotFoundError(f"no such directory: {_show(name)}")
        permission.check(cred, st, os.W_OK, name)
        await self.walker.guard.check(cred, parent, os.W_OK)
        return parent, name, st

    async def unlink(self, cred: Credentials, where: Where) -> None:
        """Removes a name that is not a directory."""
        last = await self.walker.parent(cred, where, IsDirectoryError)
        node = await self._removable(cred, last)
        if (await node.stat()).is_dir:
            raise IsDirectoryError("is a directory: use rmdir")
        if last.slash:
            raise NotDirectoryError("not a directory")
        await last.parent.unlink(last.name)
        self.watch.name(last.parent, last.name, cred.door)
        self.watch.node(node, cred.door)

    async def rmdir(self, cred: Credentials, where: Where) -> None:
        """Removes an empty directory."""
        last = await self.walker.parent(cred, where, _refused_rmdir)
        node = await self._removable(cred, last)
        if not (await node.stat()).is_dir:
            raise NotDirectoryError("not a directory")
        await last.parent.rmdir(last.name)
        self.watch.name(last.parent, last.name, cred.door)

    async def rename(self, cred: Credentials, old: Where, new: Where, flags: int) -> None:
        """Moves a name; atomic. Flags: RENAME_NOREPLACE, RENAME_EXCHANGE, not both."""
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise InvalidError("unknown rename flags")
        source = await self.walker.parent(cred, old, BusyError)
        await self._searchable(cred, source.parent, source.name)
        goal = await self.walker.parent(cred, new, BusyError)
        st = await self._searchable(cred, goal.parent, goal.name)
        self.mounts.check_free(goal.parent, goal.name)
        self.mounts.check_free(source.parent, source.name)
        node = await self.mounts.find(cred, source.parent, source.name)
        self.mounts.check_free(source.parent, source.name)
        if node is None:
            raise NotFoundError(f"not found: {_show(source.name)}")
        self._check_same_tree(node, goal.parent)
        target = await self.mounts.find(cred, goal.parent, goal.name)
        if target is not None and flags == RENAME_NOREPLACE:
            raise ExistsError(f"exists: {_show(goal.name)}")
        plain = not (source.slash or goal.slash or flags == RENAME_EXCHANGE)
        if target is not None and target is node and plain:
            return  # Two names of one inode stay, whoever asks. Source: rename(2).
        node = await self._removable(cred, source)
        self.mounts.check_stays(node, source.name)
        is_dir = (await node.stat()).is_dir
        if not is_dir and (source.slash or (goal.slash and flags != RENAME_EXCHANGE)):
            raise NotDirectoryError("not a directory")
        await self._check_goal(cred, goal, st, target)
        await self._check_dir_move(cred, source.parent, goal.parent, node)
        if flags == RENAME_EXCHANGE and target is not None:
            await self._check_dir_move(cred, goal.parent, source.parent, target)
        await source.parent.rename(source.name, goal.parent, goal.name, flags)
        for moved in (node, target):
            if moved is not None:
                self.watch.node(moved, cred.door)
        self.watch.name(source.parent, source.name, cred.door)
        self.watch.name(goal.parent, goal.name, cred.door)

    async def _check_dir_move(self, cred: Credentials, old: Node, new: Node, node: Node) -> None:
        """A directory that changes its parent needs to be writable itself, for its `..` changes."""
        st = await node.stat()
        if st.is_dir and old is not new:
            permission.check(cred, st, os.W_OK)

    async def _removable(self, cred: Credentials, last: Last) -> Node:
        """The node of a name that the caller may remove; what is not there is ENOENT."""
        parent, name, _ = last
        st = await self._searchable(cred, parent, name)
        self.mounts.check_free(parent, name)
        node = await self.mounts.lookup(cred, parent, name)
        permission.check(cred, st, os.W_OK, name)
        permission.check_sticky(cred, st, await node.stat())
        await self.walker.guard.check(cred, parent, os.W_OK)
        await self.walker.guard.check_moved(cred, node, parent)
        return node

    async def _check_goal(
        self, cred: Credentials, goal: Last, st: Stat, target: Node | None
    ) -> None:
        """The caller may put something at `goal`, whose directory has `st`, over `target`."""
        permission.check(cred, st, os.W_OK, goal.name)
        await self.walker.guard.check(cred, goal.parent, os.W_OK)
        if target is None:
            return
        self.mounts.check_stays(target, goal.name)
        await self.walker.guard.check_moved(cred, target, goal.parent)
        target_st = await target.stat()
        if goal.slash and not target_st.is_dir:
            raise NotDirectoryError("not a directory")
        permission.check_sticky(cred, st, target_st)

    async def _searchable(self, cred: Credentials, parent: Node, name: bytes) -> Stat:
        """Attributes of a directory in which the caller may look for a name to change."""
        if parent.control:
            raise NotPermittedError("nothing in a control tree can be made, renamed or removed")
        if len(name) > NAME_MAX:
            raise NameTooLongError("a name may have 255 bytes")
        st = await parent.stat()
        if not st.is_dir:
            raise NotDirectoryError("not a directory")
        permission.check(cred, st, os.X_OK, name)
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
            st = await node.stat()
            if st.is_link and change.mode is not None:
                raise UnavailableError("the mode of a symlink has no meaning")
            change = permission.checked_change(cred, st, change, now_ns())
        if change.size is not None and change.size < 0:
            raise InvalidError("a size cannot be negative")
        st = await node.setattr(change)
        self.watch.node(node, cred.door)
        return st

    async def getxattr(self, cred: Credentials, node: Node, name: bytes) -> bytes:
        """One extended attribute. NoDataError ENODATA."""
        permission.check_xattr(cred, await node.stat(), name, os.R_OK)
        return await node.getxattr(name)

    async def setxattr(
        self, cred: Credentials, node: Node, name: bytes, value: bytes | None
    ) -> None:
        """Sets one extended attribute, or removes it when the value is None."""
        permission.check_xattr(cred, await node.stat(), name, os.W_OK)
        if value is None:
            await node.removexattr(name)
        else:
            await node.setxattr(name, value)
        self.watch.node(node, cred.door)

    async def truncate(self, file: File, change: Change) -> Stat:
        """Sets the size of a file that is open for writing."""
        if change.size is not None and change.size < 0:
            raise InvalidError("a size cannot be negative")
        now = now_ns()
        mode = permission.mode_after_write(file.cred, await file.node.stat())
        st = await file.node.setattr(
            Change(mode=mode, size=change.size, mtime_ns=now, ctime_ns=now)
        )
        self.watch.node(file.node, file.cred.door)
        return st

    async def read(self, file: File, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size). CorruptError EIO, and a line in the log."""
        try:
            return await file.read(size, offset)
        except CorruptError as exc:
            _log_damage(file.node, exc)
            raise

    async def write(self, file: File, data: bytes, offset: int) -> int:
        """Writes; on an ordinary file, setuid and setgid go before, as POSIX asks."""
        if not (file.node.control or file.cred.is_root):
            await self._drop_set_ids(file.cred, file.node, await file.node.stat())
        try:
            written = await file.write(data, offset)
        except CorruptError as exc:  # of a piece that the new bytes are joined with
            _log_damage(file.node, exc)
            raise
        if not file.node.control:
            self.watch.node(file.node, file.cred.door)
        return written

    async def _drop_set_ids(self, cred: Credentials, node: Node, st: Stat) -> None:
        """Takes set-id bits off a file whose content `cred` changes."""
        mode = permission.mode_after_write(cred, st)
        if mode is not None:
            await node.setattr(Change(mode=mode))


def _log_damage(node: Node, exc: CorruptError) -> None:
    """Names the file whose stored bytes are bad: a program says no more of it than EIO."""
    log.error("a file is damaged (find -inum %d tells its name): %s", node.ino, exc)


def _check_open(cred: Credentials, st: Stat, flags: int) -> None:
    """Whether `cred` may open what is there; the order is Linux's, fs/namei.c do_open."""
    if st.is_link:
        raise SymlinkLoopError("the path is a symlink")
    if st.is_dir and flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC):
        raise IsDirectoryError("is a directory")
    if flags & os.O_DIRECTORY and not st.is_dir:
        raise NotDirectoryError("not a directory")
    permission.check(cred, st, permission.open_mask(flags), b"")
    if flags & os.O_NOATIME and not permission.is_owner(cred, st):
        raise NotPermittedError("only the owner may read without a trace in atime")


def _refused_rmdir(message: str) -> KernelError:
    """The error of an rmdir of `.`, `..` or /. Source: rmdir(2)."""
    name = message.rpartition(" ")[2]
    kinds: dict[str, type[KernelError]] = {".": InvalidError, "..": NotEmptyError}
    return kinds.get(name, BusyError)(message)


def _show(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace"))

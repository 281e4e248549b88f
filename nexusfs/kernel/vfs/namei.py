"""Path walks: from a path and credentials to a node."""

import os
from collections.abc import Callable
from typing import NamedTuple

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    InvalidError,
    IsDirectoryError,
    KernelError,
    NameTooLongError,
    NotDirectoryError,
    NotFoundError,
    SymlinkLoopError,
)
from nexusfs.contracts.node import PATH_MAX, At, Node, Stat, Where
from nexusfs.kernel.permission import check
from nexusfs.kernel.vfs.guard import LOOK, Guard
from nexusfs.kernel.vfs.mounts import MountTable

SYMLINKS_MAX = 40
"""Symlinks followed in one walk. Source: Linux MAXSYMLINKS."""


class Walker:
    """Walks paths over a mount table, checking search permission on every directory."""

    def __init__(self, mounts: MountTable) -> None:
        """Walks start at the root of `mounts`."""
        self._mounts = mounts
        self.guard = Guard(mounts)

    async def step(self, cred: Credentials, parent: Node, name: bytes) -> Node:
        """One name of one directory; the caller may search it."""
        st = await parent.stat()
        if not st.is_dir:
            raise NotDirectoryError("not a directory")
        check(cred, st, os.X_OK, name)
        if self.guard.asks(cred, parent):
            await self.guard.check(cred, parent, LOOK)
        return await self._mounts.lookup(cred, parent, name)

    async def find(self, cred: Credentials, parent: Node, name: bytes) -> Node | None:
        """As `step`, but None for a name that does not exist and could be made."""
        st = await parent.stat()
        if not st.is_dir:
            raise NotDirectoryError("not a directory")
        check(cred, st, os.X_OK, name)
        if self.guard.asks(cred, parent):
            await self.guard.check(cred, parent, LOOK)
        return await self._mounts.find(cred, parent, name)

    async def node(
        self, cred: Credentials, where: Where, *, follow: bool = True, need: int = LOOK
    ) -> Node:
        """The node that `where` leads to; the last symlink is followed only if `follow`.

        `need` is what the paths of an agent must grant there; permission bits are the caller's
        to check.

        Raises:
            NotFoundError: ENOENT. NotDirectoryError: ENOTDIR. AccessError: EACCES.
            SymlinkLoopError: ELOOP, over 40 symlinks. NameTooLongError: ENAMETOOLONG.
        """
        node, _ = await self.reach(cred, where, follow=follow, need=need)
        return node

    async def reach(
        self, cred: Credentials, where: Where, *, follow: bool = True, need: int = LOOK
    ) -> tuple[Node, Node | None]:
        """As `node`, with the directory in which it was found, where that is known."""
        within: Node | None = None
        if isinstance(where, Node):
            node = where
        elif isinstance(where, At):
            node, within = await self.step(cred, where.parent, where.name), where.parent
        else:
            walk = _Walk(self, cred)
            trail = await walk.trail([self._mounts.root], _parts(where), follow=follow)
            node, within = trail[-1], trail[-2] if len(trail) > 1 else None
        if self.guard.asks(cred, node):
            await self.guard.check(cred, node, need, within)
        return node, within

    async def readlink(self, cred: Credentials, node: Node) -> bytes:
        """The text of a symlink; in control trees the mode says who may read it."""
        if node.control:
            check(cred, await node.stat(), os.R_OK)
        return await node.readlink(cred)

    async def parent(
        self, cred: Credentials, where: Where, refuse: Callable[[str], KernelError] = InvalidError
    ) -> "Last":
        """The directory and the last name of `where`, which need not exist.

        `refuse` makes the error for a path whose last name is `.`, `..` or /: for these each
        call has an errno of its own.
        """
        if isinstance(where, At):
            return Last(where.parent, where.name, slash=False)
        if isinstance(where, Node):
            raise InvalidError("a name is needed, not a node")
        parts, slash = _parts(where), _ends_with_slash(where)
        if slash:
            parts.pop()
        trail = await _Walk(self, cred).trail([self._mounts.root], parts[:-1], follow=True)
        if not parts or parts[-1] in (b".", b".."):
            raise refuse(f"the path ends in {os.fsdecode(parts[-1] if parts else b'/')}")
        return Last(trail[-1], parts[-1], slash)

    async def created(self, cred: Credentials, where: Where) -> "Last":
        """As `parent`, but symlinks in the last place are followed: what an open would make."""
        if isinstance(where, At):
            return Last(where.parent, where.name, slash=False)
        if isinstance(where, Node):
            raise IsDirectoryError("the path is that of a directory")
        trail, name = await _Walk(self, cred).last([self._mounts.root], _parts(where))
        return Last(trail[-1], name, slash=False)


class Last(NamedTuple):
    """The end of a walk; `slash` says that the path ended in /, so it means a directory."""

    parent: Node
    name: bytes
    slash: bool


class _Walk:
    """One walk: the trail of directories passed, so that `..` works, and the symlinks followed."""

    def __init__(self, walker: Walker, cred: Credentials) -> None:
        self._walker = walker
        self._cred = cred
        self._links = 0

    async def trail(self, trail: list[Node], parts: list[bytes], *, follow: bool) -> list[Node]:
        for index, part in enumerate(parts):
            if part == b"":
                await _need_dir(trail[-1])
            elif part in (b".", b".."):
                check(self._cred, await _need_dir(trail[-1]), os.X_OK)
                trail = trail if part == b"." else trail[:-1] or trail
            else:
                node = await self._walker.step(self._cred, trail[-1], part)
                last = index == len(parts) - 1
                trail = await self._enter(trail, node, follow=follow or not last)
        return trail

    async def _enter(self, trail: list[Node], node: Node, *, follow: bool) -> list[Node]:
        if not follow or not (await node.stat()).is_link:
            return [*trail, node]
        target = await self._target(node)
        start = trail[:1] if target.startswith(b"/") else trail
        return await self.trail(start, _parts(target), follow=True)

    async def last(self, trail: list[Node], parts: list[bytes]) -> tuple[list[Node], bytes]:
        """The trail to the directory, and the name, that symlinks in the last place end at.

        A slash at the end asks for a directory, whatever is there. Source: Linux fs/namei.c,
        open_last_lookups.
        """
        if parts[-1:] == [b""]:
            await self.trail(trail, parts[:-2], follow=True)
            raise IsDirectoryError("the path is that of a directory")
        trail = await self.trail(trail, parts[:-1], follow=True)
        name = parts[-1]
        if name in (b".", b".."):
            raise IsDirectoryError("the path is that of a directory")
        node = await self._walker.find(self._cred, trail[-1], name)
        if node is None or not (await node.stat()).is_link:
            return trail, name
        target = await self._target(node)
        start = trail[:1] if target.startswith(b"/") else trail
        return await self.last(start, _parts(target))

    async def _target(self, node: Node) -> bytes:
        self._links += 1
        if self._links > SYMLINKS_MAX:
            raise SymlinkLoopError("too many symlinks")
        return await self._walker.readlink(self._cred, node)


async def _need_dir(node: Node) -> Stat:
    st = await node.stat()
    if not st.is_dir:
        raise NotDirectoryError("not a directory")
    return st


def _ends_with_slash(path: str | bytes) -> bool:
    return path.endswith("/") if isinstance(path, str) else path.endswith(b"/")


def _parts(path: str | bytes) -> list[bytes]:
    """The names of a path; an empty last one for a slash at its end, which asks for a directory."""
    raw = path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path
    if not raw:
        raise NotFoundError("the path is empty")
    if len(raw) > PATH_MAX:
        raise NameTooLongError("a path may have 4096 bytes")
    if b"\0" in raw:
        raise InvalidError("a path may not contain NUL")
    parts = [part for part in raw.split(b"/") if part]
    return [*parts, b""] if raw.endswith(b"/") else parts

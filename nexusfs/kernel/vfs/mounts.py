"""The mount table: control trees at names of the root, and single files anywhere."""

import os
from dataclasses import dataclass, field

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BusyError,
    ExistsError,
    NameTooLongError,
    NotPermittedError,
)
from nexusfs.contracts.node import NAME_MAX, DirEntry, Node, Stat


@dataclass
class MountTable:
    """Which node a name leads to: what is mounted there, else the directory's own.

    Attributes:
        trees: by name at the root.
        files: by the directory's inode number and the name; they cover ordinary files.
    """

    root: Node
    trees: dict[bytes, Node] = field(default_factory=dict)
    files: dict[tuple[int, bytes], Node] = field(default_factory=dict)
    _ways: set[int] = field(default_factory=set)

    def mount(self, name: bytes, root: Node) -> None:
        """Puts a control tree at /`name`. ExistsError when the name is taken."""
        if name in self.trees:
            raise ExistsError(f"already mounted: /{name.decode()}")
        self.trees[name] = root

    async def mount_file(self, directory: Node, name: bytes, node: Node) -> None:
        """Puts a file over an ordinary one of that name; the directories on the way to it stay."""
        self.files[directory.ino, name] = node
        above: Node | None = directory
        while above is not None:
            self._ways.add(above.ino)
            above = await above.above()

    def _mounted(self, parent: Node, name: bytes) -> Node | None:
        """What covers `name` in `parent`. NameTooLongError."""
        if len(name) > NAME_MAX:
            raise NameTooLongError("a name may have 255 bytes")
        if parent is self.root:
            tree = self.trees.get(name)
            if tree is not None:
                return tree
        return self.files.get((parent.ino, name))

    async def lookup(self, cred: Credentials, parent: Node, name: bytes) -> Node:
        """The node of `name` in `parent`. NotFoundError, NotDirectoryError, NameTooLongError."""
        return self._mounted(parent, name) or await parent.lookup(cred, name)

    async def find(self, cred: Credentials, parent: Node, name: bytes) -> Node | None:
        """As `lookup`, but None for a name that does not exist and could be made."""
        return self._mounted(parent, name) or await parent.find(cred, name)

    async def stat_of(self, cred: Credentials, directory: Node, entry: DirEntry) -> Stat:
        """The attributes of one of `entries`. NotFoundError, StaleError: it is just gone."""
        mounted = self._mounted(directory, entry.name)
        return await (mounted.stat() if mounted else directory.stat_of(cred, entry))

    async def entries(self, cred: Credentials, directory: Node) -> list[DirEntry]:
        """All names of a directory, mounted trees included."""
        own = await directory.entries(cred)
        if directory is not self.root:
            return own
        mounted = [DirEntry(name, tree.ino, 0o040000) for name, tree in self.trees.items()]
        return [entry for entry in own if entry.name not in self.trees] + mounted

    def check_free(self, parent: Node, name: bytes) -> None:
        """BusyError EBUSY, NotPermittedError EPERM: what is mounted can't be removed, replaced."""
        if parent is self.root and name in self.trees:
            raise BusyError(f"/{name.decode()} is a control tree")
        if (parent.ino, name) in self.files:
            raise NotPermittedError(f"{name.decode()} is the kernel's: it is only ever read")

    def check_stays(self, node: Node, name: bytes) -> None:
        """BusyError EBUSY: a directory on the way to a mounted file keeps its name."""
        if node.ino in self._ways:
            raise BusyError(f"{os.fsdecode(name)!r} leads to a file of the kernel: it stays")

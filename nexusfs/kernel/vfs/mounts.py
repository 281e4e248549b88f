"""The mount table: control trees at fixed names below the root filesystem's root."""

from dataclasses import dataclass, field

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import BusyError, ExistsError, NameTooLongError
from nexusfs.contracts.node import NAME_MAX, DirEntry, Node


@dataclass
class MountTable:
    """Which node a name leads to: a mounted tree's at the root, the directory's own elsewhere."""

    root: Node
    trees: dict[bytes, Node] = field(default_factory=dict)

    def mount(self, name: bytes, root: Node) -> None:
        """Puts a control tree at /`name`. ExistsError when the name is taken."""
        if name in self.trees:
            raise ExistsError(f"already mounted: /{name.decode()}")
        self.trees[name] = root

    async def lookup(self, cred: Credentials, parent: Node, name: bytes) -> Node:
        """The node of `name` in `parent`. NotFoundError, NotDirectoryError, NameTooLongError."""
        if len(name) > NAME_MAX:
            raise NameTooLongError("a name may have 255 bytes")
        if parent is self.root:
            tree = self.trees.get(name)
            if tree is not None:
                return tree
        return await parent.lookup(cred, name)

    async def find(self, cred: Credentials, parent: Node, name: bytes) -> Node | None:
        """As `lookup`, but None for a name that does not exist and could be made."""
        if len(name) > NAME_MAX:
            raise NameTooLongError("a name may have 255 bytes")
        if parent is self.root:
            tree = self.trees.get(name)
            if tree is not None:
                return tree
        return await parent.find(cred, name)

    async def entries(self, cred: Credentials, directory: Node) -> list[DirEntry]:
        """All names of a directory, mounted trees included."""
        own = await directory.entries(cred)
        if directory is not self.root:
            return own
        mounted = [DirEntry(name, tree.ino, 0o040000) for name, tree in self.trees.items()]
        return [entry for entry in own if entry.name not in self.trees] + mounted

    def check_free(self, parent: Node, name: bytes) -> None:
        """BusyError EBUSY when the name is a mount point: it can't be removed or replaced."""
        if parent is self.root and name in self.trees:
            raise BusyError(f"/{name.decode()} is a control tree")

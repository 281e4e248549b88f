"""The nodes that Linux knows, by inode number, with its lookup counts."""

from nexusfs.contracts.errors import StaleError
from nexusfs.contracts.node import Node


class Inodes:
    """Keeps a node alive for as long as Linux may name it by number."""

    def __init__(self, root: Node, root_ino: int) -> None:
        """Linux always knows the root."""
        self._nodes: dict[int, Node] = {root_ino: root}
        self._counts: dict[int, int] = {}
        self._root_ino = root_ino

    def get(self, ino: int) -> Node:
        """The node of a number. StaleError ESTALE when Linux should not know it any more."""
        node = self._nodes.get(ino)
        if node is None:
            raise StaleError("the inode is not known any more")
        return node

    def add(self, node: Node) -> Node:
        """Counts one lookup; the first node with a number stays the one for it."""
        ino = node.ino
        if ino == self._root_ino:
            return self._nodes[ino]
        self._counts[ino] = self._counts.get(ino, 0) + 1
        return self._nodes.setdefault(ino, node)

    def knows(self, ino: int) -> bool:
        """True when Linux may have something cached of the inode."""
        return ino in self._nodes

    def forget(self, ino: int, lookups: int) -> None:
        """Linux dropped `lookups` references."""
        left = self._counts.get(ino, 0) - lookups
        if left > 0:
            self._counts[ino] = left
        elif ino != self._root_ino:
            self._counts.pop(ino, None)
            self._nodes.pop(ino, None)

    def __len__(self) -> int:
        return len(self._nodes)

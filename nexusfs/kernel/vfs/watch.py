"""News of changes, so that a door with a cache of its own (Linux) can drop what is stale."""

from collections.abc import Callable

from nexusfs.contracts.node import Changed, Node


class Watch:
    """Tells every listener of every change; a listener returns at once and never raises."""

    def __init__(self) -> None:
        """No listeners yet."""
        self._listeners: list[Callable[[Changed], None]] = []

    def listen(self, listener: Callable[[Changed], None]) -> None:
        """Adds a listener for the life of the kernel."""
        self._listeners.append(listener)

    def node(self, node: Node, door: str) -> None:
        """Content or attributes of `node` changed."""
        for listener in self._listeners:
            listener(Changed(node, None, door))

    def name(self, directory: Node, name: bytes, door: str) -> None:
        """A name appeared in, vanished from or was replaced in `directory`."""
        for listener in self._listeners:
            listener(Changed(directory, name, door))

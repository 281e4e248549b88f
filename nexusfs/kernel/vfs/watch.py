"""News of changes, so that a door with a cache of its own (Linux) can drop what is stale."""

from collections.abc import Awaitable, Callable

import trio

from nexusfs.contracts.node import Changed, Node

SETTLE_LIMIT_S = 1.0
"""A door that takes longer is left behind: better a moment stale than stuck."""


class Watch:
    """Tells every listener of every change; a listener returns at once and never raises."""

    def __init__(self) -> None:
        """No listeners yet."""
        self._listeners: list[tuple[str, Callable[[Changed], None]]] = []
        self._settled: list[Callable[[], Awaitable[None]]] = []

    def listen(
        self,
        listener: Callable[[Changed], None],
        settled: Callable[[], Awaitable[None]] | None = None,
        *,
        door: str = "",
    ) -> None:
        """Adds a listener for the life of the kernel; what comes through `door` it knows itself.

        `settled` returns when the listener has done all it was told to do so far; a listener
        that acts at once needs none.
        """
        self._listeners.append((door, listener))
        if settled is not None:
            self._settled.append(settled)

    async def settled(self) -> None:
        """Returns when every listener knows of, and has acted on, every change so far.

        Waits at most `SETTLE_LIMIT_S` and is not cancelled before: what happened has happened.
        """
        if not self._settled:
            return
        with trio.move_on_after(SETTLE_LIMIT_S, shield=True):
            for settled in self._settled:
                await settled()

    def node(self, node: Node, door: str) -> None:
        """Content or attributes of `node` changed."""
        for own, listener in self._listeners:
            if door != own:
                listener(Changed(node, None))

    def name(self, directory: Node, name: bytes, door: str) -> None:
        """A name appeared in, vanished from or was replaced in `directory`."""
        for own, listener in self._listeners:
            if door != own:
                listener(Changed(directory, name))

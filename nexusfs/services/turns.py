"""Turns: for each key one at a time, in the order of asking."""

import contextlib
from collections.abc import AsyncIterator, Hashable
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Locks by key; a key that nobody has or waits for is not kept."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._locks: dict[K, trio.Lock] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: K) -> AsyncIterator[None]:
        """The key's turn for the block. Suspends until it comes; cancelling gives it up."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(key, None)

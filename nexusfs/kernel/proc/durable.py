"""Waiting for the disk, together: who comes while a round is under way shares the next one."""

from collections.abc import Awaitable, Callable

import trio


class Rounds:
    """Rounds of making everything durable.

    Concurrency: in the trio thread. A round covers what was there when it began, so a caller needs
    one that begins after it came. One round runs at a time; whoever finds none under way runs it.
    """

    def __init__(self, sync: Callable[[], Awaitable[None]]) -> None:
        """`sync` makes everything so far durable; it may suspend."""
        self._sync = sync
        self._begun = 0
        self._done = 0
        self._busy = False
        self._lot = trio.lowlevel.ParkingLot()

    async def reached(self) -> None:
        """Returns when everything that was there at the call is durable. KernelError EIO.

        Cancelling leaves the round under way to the others.
        """
        wanted = self._begun + 1
        while self._done < wanted:
            if self._busy:
                await self._lot.park()
                continue
            await self._round()

    async def _round(self) -> None:
        self._busy = True
        self._begun += 1
        number = self._begun
        try:
            await self._sync()
            self._done = number
        finally:
            self._busy = False
            self._lot.unpark_all()

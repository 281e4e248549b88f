"""Append-only logs: what growing files show and what blocking streams follow.

Concurrency: all of it in the trio thread; no method but `Cursor.wait` suspends, so a log
and its cursors always agree.
"""

import sys
from collections.abc import Callable

import trio


class Log:
    """Bytes that only grow, a live tail that may still be taken back, and an end.

    The live tail is what a stream shows before it is settled (a model's text while it is
    generated). `keeps_live`: the tail's bytes are the first bytes of what settles it, so a
    reader that saw k of them goes on after them (stdout). Otherwise settling replaces the
    tail by a record of another shape and readers go on with that (events).
    """

    __slots__ = ("_cursors", "_lot", "_wakes", "closed", "data", "keeps_live", "live")

    def __init__(
        self, data: bytes = b"", *, keeps_live: bool = False, closed: bool = False
    ) -> None:
        """A log that holds `data` already."""
        self.data: bytes | bytearray = data  # an idle agent has logs that nobody ever wrote to
        self.live: bytes | bytearray = b""
        self.keeps_live = keeps_live
        self.closed = closed
        self._cursors: list[Cursor] | None = None
        self._lot: trio.lowlevel.ParkingLot | None = None
        self._wakes: dict[object, Callable[[], None]] | None = None

    def append(self, data: bytes) -> None:
        """Adds settled bytes; the live tail is over."""
        if self._cursors:
            for cursor in self._cursors:
                if self.keeps_live:
                    cursor.offset += cursor.live_offset
                cursor.live_offset = 0
        self.live = b""
        if not isinstance(self.data, bytearray):
            self.data = bytearray(self.data)
        self.data += data
        if self._lot is not None or self._wakes:
            self._wake()

    def push_live(self, data: bytes) -> None:
        """Adds to the live tail."""
        if not isinstance(self.live, bytearray):
            self.live = bytearray()
        self.live += data
        if self._cursors:
            self._wake()

    def drop_live(self) -> None:
        """Takes the live tail back."""
        self.live = b""
        for cursor in self._cursors or ():
            cursor.live_offset = 0

    def close(self) -> None:
        """Nothing will come any more: streams end after what is there."""
        self.closed = True
        self._wake()

    def on_change(self, whose: object, wake: Callable[[], None]) -> None:
        """Calls `wake` once, at the next change; in place of an earlier one of `whose`."""
        if self._wakes is None:
            self._wakes = {}
        self._wakes[whose] = wake

    def no_change(self, whose: object) -> None:
        """Forgets the wake-up of somebody who has gone."""
        if self._wakes is not None:
            self._wakes.pop(whose, None)

    async def changed(self) -> None:
        """Suspends until the next change. Cancelling has no effect on the log."""
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()

    def cursor(self) -> "Cursor":
        """A reader's place, at the start; close it when done."""
        cursor = Cursor(self)
        if self._cursors is None:
            self._cursors = []
        self._cursors.append(cursor)
        return cursor

    def drop_cursor(self, cursor: "Cursor") -> None:
        """Forgets a reader."""
        if self._cursors and cursor in self._cursors:
            self._cursors.remove(cursor)

    def _wake(self) -> None:
        if self._lot is not None:
            self._lot.unpark_all()
        if self._wakes:
            wakes, self._wakes = self._wakes, None
            for wake in wakes.values():
                wake()


class Cursor:
    """One reader's place in a log."""

    __slots__ = ("live_offset", "log", "offset")

    def __init__(self, log: Log) -> None:
        self.log = log
        self.offset = 0
        self.live_offset = 0

    def take(self, limit: int = sys.maxsize) -> bytes:
        """What is new since the last call; empty when there is nothing.

        At most `limit` settled bytes; the live tail always whole, for it may be taken back.
        """
        log = self.log
        new = bytes(log.data[self.offset : self.offset + limit])
        self.offset += len(new)
        if self.offset == len(log.data) and len(new) < limit:
            new += bytes(log.live[self.live_offset :])
            self.live_offset = len(log.live)
        return new

    @property
    def has_news(self) -> bool:
        """True when `take` would return something."""
        return self.offset < len(self.log.data) or self.live_offset < len(self.log.live)

    @property
    def at_end(self) -> bool:
        """True when nothing is left and nothing will come."""
        return self.log.closed and not self.has_news

    def close(self) -> None:
        """Forgets this reader."""
        self.log.drop_cursor(self)

"""Model slots: how many model calls run at once, in all and for each owner.

Concurrency: all of it in the trio thread. A slot that is given back goes straight to a waiter, so
no newcomer overtakes; owners take turns, so that one with many agents does not keep the others
waiting. Nothing suspends but `take`.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

import trio


@dataclass(slots=True, eq=False)
class _Waiter:
    """One call that waits; `granted` is set before it is woken."""

    granted: bool = False
    woken: trio.Event = field(default_factory=trio.Event)


class Slots:
    """Slots of model calls; None is no limit."""

    def __init__(self, total: int | None = None, per_owner: int | None = None) -> None:
        """At most `total` calls at once, `per_owner` of them of one owner."""
        self.total = total
        self.per_owner = per_owner
        self.taken: dict[Hashable, int] = {}
        self._queues: dict[Hashable, deque[_Waiter]] = {}

    @property
    def in_use(self) -> int:
        """Slots that are taken."""
        return sum(self.taken.values())

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return sum(len(queue) for queue in self._queues.values())

    def try_take(self, owner: Hashable) -> bool:
        """Takes a slot when one is free and nobody of this owner waits for it."""
        if owner in self._queues or not self._free_for(owner):
            return False
        self.taken[owner] = self.taken.get(owner, 0) + 1
        return True

    async def take(self, owner: Hashable) -> None:
        """Takes a slot, after those who waited before. Cancelling takes none."""
        if self.try_take(owner):
            return
        waiter = _Waiter()
        self._queues.setdefault(owner, deque()).append(waiter)
        try:
            await waiter.woken.wait()
        except BaseException:
            if waiter.granted:
                self.give_back(owner)
            else:
                self._leave(owner, waiter)
            raise

    def give_back(self, owner: Hashable) -> None:
        """Frees a slot, and hands on what is free."""
        left = self.taken[owner] - 1
        if left:
            self.taken[owner] = left
        else:
            del self.taken[owner]
        self.hand_on()

    def hand_on(self) -> None:
        """Gives free slots to those who wait, one to each owner in turn, while there are any."""
        while self._hand_round():
            pass

    def _hand_round(self) -> bool:
        """Gives each owner who waits one slot, where one is free; False when none was given."""
        given = False
        for owner in list(self._queues):
            if not self._free_for(owner):
                continue
            queue = self._queues.pop(owner)
            waiter = queue.popleft()
            self.taken[owner] = self.taken.get(owner, 0) + 1
            waiter.granted = True
            waiter.woken.set()
            given = True
            if queue:
                self._queues[owner] = queue  # at the end: the next owner's turn comes first
        return given

    def _free_for(self, owner: Hashable) -> bool:
        if self.per_owner is not None and self.taken.get(owner, 0) >= self.per_owner:
            return False
        return self.total is None or self.in_use < self.total

    def _leave(self, owner: Hashable, waiter: _Waiter) -> None:
        queue = self._queues[owner]
        queue.remove(waiter)
        if not queue:
            del self._queues[owner]

"""Model slots: how many model calls run at once, in all and for each owner, and whose turn it is.

Concurrency: all of it in the trio thread. A slot that is given back goes straight to a claim that
waits, so no newcomer overtakes. Nothing suspends but `take`. While nobody can be served there is
no free slot that a waiting claim may have: `hand_on` sees to it after each change.
"""

from collections.abc import Iterator

import trio

from nexusfs.kernel.sched.claim import Claim
from nexusfs.kernel.sched.owner import Owner

AGEING_S = 30.0
"""Seconds of waiting that are worth a class."""


class Slots:
    """Slots of model calls; None is no limit."""

    def __init__(
        self, total: int | None = None, per_owner: int | None = None, ageing_s: float = AGEING_S
    ) -> None:
        """At most `total` calls at once, `per_owner` of them of one owner."""
        self.total = total
        self.per_owner = per_owner
        self.ageing_s = ageing_s
        self.held: dict[Claim, None] = {}
        self.waiting = 0
        self.owners: dict[int, Owner] = {}
        self._reached_s = 0.0

    @property
    def in_use(self) -> int:
        """Slots that are taken."""
        return len(self.held)

    def try_take(self, claim: Claim) -> bool:
        """Takes a slot when one is free and nobody of this owner waits for it."""
        now_s = trio.current_time()
        owner = self.owners.get(claim.owner)
        if owner is None:
            owner = self.owners[claim.owner] = Owner(claim.owner)
        if not (owner.held or owner.waiting):
            owner.join(now_s, self._reached_s)
        elif owner.waiting:
            return False
        if not self._free_for(owner):
            return False
        self._grant(owner, claim, now_s)
        return True

    async def take(self, claim: Claim) -> bool:
        """Suspends until the claim has its slot; False when it was withdrawn.

        Cancelling takes none.
        """
        return self.try_take(claim) or await self.wait(claim)

    async def wait(self, claim: Claim) -> bool:
        """`take` for a claim that has just been tried in vain."""
        owner = self.owners[claim.owner]
        claim.since_s = trio.current_time()
        claim.task = trio.lowlevel.current_task()
        owner.add(claim)
        self.waiting += 1

        def leave(_: object) -> trio.lowlevel.Abort:
            self._leave(owner, claim)
            claim.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)
        return claim.granted

    def withdraw(self, claim: Claim) -> None:
        """Takes a claim that waits out of the queue: its `take` returns False."""
        if self._leave(self.owners[claim.owner], claim):
            _wake(claim)

    def renice(self, claim: Claim, nice: int) -> None:
        """Gives a claim another nice value, which counts at once."""
        if claim.task is not None:
            self.owners[claim.owner].renice(claim, nice)
        claim.nice = nice

    def give_back(self, claim: Claim) -> float:
        """Frees a slot, and hands on what is free; the seconds that it was held."""
        now_s = trio.current_time()
        lasted_s = claim.waited_s(now_s)
        del self.held[claim]
        claim.granted = False
        self.owners[claim.owner].settle(claim, lasted_s)
        if self.waiting:
            self._hand_on(now_s)
        return lasted_s

    def hand_on(self) -> None:
        """Gives free slots to those whose turn it is, while there are any."""
        self._hand_on(trio.current_time())

    def _hand_on(self, now_s: float) -> None:
        while self.waiting and (owner := self._next_owner(now_s)) is not None:
            claim = owner.best(now_s, self.ageing_s)
            owner.remove(claim)
            self.waiting -= 1
            self._grant(owner, claim, now_s)
            _wake(claim)

    def claims(self) -> Iterator[Claim]:
        """The claims that wait, in no order."""
        for owner in self.owners.values():
            yield from owner

    def _next_owner(self, now_s: float) -> Owner | None:
        """Whose turn it is; None when nobody who waits may have a slot."""
        if self.total is not None and len(self.held) >= self.total:
            return None
        able = [o for o in self.owners.values() if o.waiting and self._free_for(o)]
        if len(able) < 2:
            return able[0] if able else None
        bids = {owner: owner.bid(now_s, self.ageing_s) for owner in able}
        winner = min(able, key=bids.__getitem__)
        for owner, (_, use, _) in bids.items():
            if owner.passed_s is None and use < bids[winner][1]:
                owner.passed_s = now_s
        return winner

    def _free_for(self, owner: Owner) -> bool:
        if self.per_owner is not None and owner.held >= self.per_owner:
            return False
        return self.total is None or len(self.held) < self.total

    def _grant(self, owner: Owner, claim: Claim, now_s: float) -> None:
        self._reached_s = owner.begin(claim, now_s, self._reached_s)
        claim.since_s = now_s
        claim.granted = True
        self.held[claim] = None

    def _leave(self, owner: Owner, claim: Claim) -> bool:
        left = owner.remove(claim)
        self.waiting -= left
        return left


def _wake(claim: Claim) -> None:
    task, claim.task = claim.task, None
    assert task is not None
    trio.lowlevel.reschedule(task)

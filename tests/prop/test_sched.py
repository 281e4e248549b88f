"""Slots under random loads, on a virtual clock: who waits is served, and equals get equal shares.

More examples: `NEXUSFS_MODEL_EXAMPLES=1000 pytest tests/prop/test_sched.py`.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nexusfs.contracts.proc import Priority
from nexusfs.kernel.sched.claim import Claim
from nexusfs.kernel.sched.slots import Slots

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("NEXUSFS_MODEL_EXAMPLES", "60"))
FEW = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
AGEING_S = 10.0
BOUND_S = len(Priority) * AGEING_S
"""Nobody who comes so much later goes before who waits."""

PRIORITY = st.sampled_from(Priority)


@dataclass(frozen=True)
class Call:
    """A model call of a load: when it is wanted, by whom, and how long it takes."""

    after_s: float
    owner: int
    priority: Priority
    nice: int
    guess_s: float
    lasts_s: float


CALLS = st.lists(
    st.builds(
        Call,
        after_s=st.integers(0, 20).map(lambda n: n / 4),
        owner=st.integers(1, 3),
        priority=PRIORITY,
        nice=st.integers(-20, 19),
        guess_s=st.sampled_from([0.0, 0.1, 1.0, 7.0, 100.0]),
        lasts_s=st.integers(1, 60).map(lambda n: n / 4),
    ),
    max_size=60,
)


@dataclass
class Load:
    """Slots under a load, and what was seen of it."""

    slots: Slots
    came: dict[Claim, float] = field(default_factory=dict)
    given: list[tuple[float, Claim]] = field(default_factory=list)
    used_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    async def call(self, claim: Claim, lasts_s: float) -> None:
        """Waits for a slot and holds it so long."""
        self.came[claim] = trio.current_time()
        if not await self.slots.take(claim):
            return
        self.given.append((claim.since_s, claim))
        try:
            await trio.sleep(lasts_s)
        finally:
            self.used_s[claim.owner] += claim.waited_s(trio.current_time())
            self.slots.give_back(claim)

    async def all_of(self, calls: list[Call]) -> None:
        """Every call, at its time."""
        async with trio.open_nursery() as nursery:
            for one in calls:
                await trio.sleep(one.after_s)
                claim = Claim(one.owner, 0, one.priority, one.nice, one.guess_s)
                nursery.start_soon(self.call, claim, one.lasts_s)

    async def again_and_again(self, owner: int, lasts_s: float, **fields: Any) -> None:
        """Call after call, for ever."""
        while True:
            await self.call(Claim(owner, **fields), lasts_s)


def run(main: Callable[[], Awaitable[object]]) -> Any:
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@FEW
@given(calls=CALLS, total=st.integers(1, 4), per_owner=st.integers(1, 4))
def test_no_limit_is_passed_and_everybody_is_served(
    calls: list[Call], total: int, per_owner: int
) -> None:
    load = Load(Slots(total, per_owner, AGEING_S))

    async def watch() -> None:
        while True:
            held = Counter(claim.owner for claim in load.slots.held)
            assert held.total() <= total and all(n <= per_owner for n in held.values())
            waiting = {claim.owner for claim in load.slots.claims()}
            idle = held.total() < total and [o for o in waiting if held[o] < per_owner]
            assert not idle, "a slot is free, and somebody waits who may have it"
            await trio.sleep(0.25)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await load.all_of(calls)
            nursery.cancel_scope.cancel()

    run(main)

    assert len(load.given) == len(calls)
    assert (load.slots.in_use, load.slots.waiting) == (0, 0)


@FEW
@given(calls=CALLS, total=st.integers(1, 3))
def test_nobody_is_overtaken_by_who_comes_later_than_the_bound(
    calls: list[Call], total: int
) -> None:
    load = Load(Slots(total, None, AGEING_S))

    run(lambda: load.all_of(calls))

    when = {claim: time for time, claim in load.given}
    for time, claim in load.given:
        for other, came in load.came.items():
            between_s = (other.priority - claim.priority + 1) * AGEING_S
            waits = came < time < when[other] and other.owner == claim.owner
            assert not (waits and came + between_s <= load.came[claim]), (other, claim)
            assert not (waits and came + BOUND_S <= load.came[claim])


@FEW
@given(
    lasts_s=st.integers(1, 40).map(lambda n: n / 4),
    high=st.sampled_from([Priority.CRITICAL, Priority.HIGH, Priority.NORMAL]),
    total=st.integers(1, 3),
    owner=st.integers(1, 2),
)
def test_best_effort_work_gets_its_turn_within_the_bound_whatever_the_load_of_higher_class(
    lasts_s: float, high: Priority, total: int, owner: int
) -> None:
    load = Load(Slots(total, None, AGEING_S))
    last = Claim(owner, priority=Priority.BEST_EFFORT, nice=19, estimate_s=1000.0)

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            for _ in range(total + 2):  # more than there are slots: somebody always waits
                nursery.start_soon(lambda: load.again_and_again(1, lasts_s, priority=high))
            await trio.sleep(lasts_s / 2)
            began = trio.current_time()
            await load.slots.take(last)
            nursery.cancel_scope.cancel()
        return last.since_s - began

    waited_s: float = run(main)

    # All that was there before has its turn first, and then the next slot that is given back.
    assert 0 < waited_s <= BOUND_S + 4 * lasts_s


def test_without_ageing_best_effort_work_would_never_get_its_turn() -> None:
    load = Load(Slots(1, None, float("inf")))

    async def main() -> bool:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(lambda: load.again_and_again(1, 1, priority=Priority.HIGH))
            await trio.sleep(0.5)
            with trio.move_on_after(100 * BOUND_S) as scope:
                await load.slots.take(Claim(1, priority=Priority.BEST_EFFORT))
            nursery.cancel_scope.cancel()
        return scope.cancelled_caught

    assert run(main)


@settings(
    max_examples=max(EXAMPLES // 4, 10),
    phases=(Phase.reuse, Phase.generate),  # a smaller example is not worth the minutes it takes
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    owners=st.integers(2, 5),
    total=st.integers(1, 8),
    per_owner=st.integers(2, 10),
    lasts_s=st.lists(st.sampled_from([0.5, 0.75, 1.25, 2.0, 3.5]), min_size=5, max_size=5),
    agents=st.lists(st.integers(10, 30), min_size=5, max_size=5),
    priority=PRIORITY,
)
def test_shares_of_equal_owners_differ_by_less_than_5_percent(
    owners: int, total: int, per_owner: int, lasts_s: list[float], agents: list[int],
    priority: Priority,
) -> None:  # fmt: skip
    """Equal are owners who always want more; not how many agents they have, nor how long each."""
    load = Load(Slots(total, per_owner, AGEING_S))
    seconds = 1200 / total
    shares: list[float] = []

    async def agent(owner: int) -> None:
        await load.again_and_again(owner, lasts_s[owner], priority=priority)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for owner in range(owners):
                for _ in range(agents[owner]):
                    nursery.start_soon(agent, owner)
            await trio.sleep(seconds / 10)  # until it is known how long the calls of each are
            before = load.used_s.copy()
            await trio.sleep(seconds)
            shares.extend(load.used_s[owner] - before[owner] for owner in range(owners))
            nursery.cancel_scope.cancel()

    run(main)

    assert sum(shares) >= 0.95 * seconds * min(total, owners * per_owner)
    assert max(shares) - min(shares) < 0.05 * max(shares), shares


OPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "give", "cancel", "withdraw", "renice", "limits"]),
        st.integers(0, 50),
        PRIORITY,
    ),
    max_size=60,
)


class Shaken:
    """Slots and agents that want some, to whom anything happens."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.slots = Slots(2, 2, AGEING_S)
        self.scopes: dict[Claim, trio.CancelScope] = {}
        self.told: dict[Claim, bool] = {}
        self._nursery = nursery

    async def one(self, claim: Claim) -> None:
        """A task that takes a slot."""
        with self.scopes[claim]:
            self.told[claim] = await self.slots.take(claim)

    def ask(self, number: int, priority: Priority) -> None:
        """One more agent wants a slot."""
        claim = Claim(number % 3, len(self.scopes), priority)
        self.scopes[claim] = trio.CancelScope()
        self._nursery.start_soon(self.one, claim)

    def give(self, number: int, _: Priority) -> None:
        """One gives its slot back."""
        if self.slots.held:
            self.slots.give_back(list(self.slots.held)[number % len(self.slots.held)])

    def limits(self, number: int, _: Priority) -> None:
        """The configuration changes."""
        self.slots.total, self.slots.per_owner = number % 4 + 1, number % 3 + 1
        self.slots.hand_on()

    def disturb(self, op: str, number: int) -> None:
        """Something happens to one that waits."""
        waiting = sorted(self.slots.claims(), key=lambda claim: claim.pid)
        if not waiting:
            return
        claim = waiting[number % len(waiting)]
        if op == "cancel":
            self.scopes[claim].cancel()
        elif op == "withdraw":
            self.slots.withdraw(claim)
        else:
            self.slots.renice(claim, number % 40 - 20)


@FEW
@given(ops=OPS)
def test_no_slot_is_lost_whatever_happens_to_who_waits(
    ops: list[tuple[str, int, Priority]],
) -> None:
    async def main() -> Shaken:
        async with trio.open_nursery() as nursery:
            shaken = Shaken(nursery)
            for op, number, priority in ops:
                if op in ("ask", "give", "limits"):
                    getattr(shaken, op)(number, priority)
                else:
                    shaken.disturb(op, number)
                await trio.testing.wait_all_tasks_blocked()
            while shaken.slots.held:
                shaken.give(0, Priority.NORMAL)
                await trio.testing.wait_all_tasks_blocked()
        return shaken

    shaken: Shaken = run(main)

    slots = shaken.slots
    assert (slots.in_use, slots.waiting, list(slots.claims())) == (0, 0, [])
    assert all(owner.held == owner.waiting == 0 for owner in slots.owners.values())
    cancelled = {claim for claim, scope in shaken.scopes.items() if scope.cancelled_caught}
    assert cancelled.isdisjoint(shaken.told) and len(cancelled) + len(shaken.told) == len(
        shaken.scopes
    )

"""Model slots: limits, turns, classes, and nobody who waits holds one."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from nexusfs.contracts.proc import Priority
from nexusfs.kernel.sched.claim import Claim
from nexusfs.kernel.sched.slots import Slots

A, B, C, X = 1, 2, 3, 9
Clock = trio.testing.MockClock


class Queue:
    """Slots, and the order in which claims got theirs."""

    def __init__(self, nursery: trio.Nursery, **limits: Any) -> None:
        self.slots = Slots(**limits)
        self.order: list[Claim] = []
        self._nursery = nursery

    async def ask(self, owner: int = A, **fields: Any) -> Claim:
        """A claim whose task takes a slot, and says so when it has it."""
        claim = Claim(owner, **fields)

        async def take() -> None:
            if await self.slots.take(claim):
                self.order.append(claim)

        self._nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        return claim

    async def serve(self, count: int = 1) -> list[Claim]:
        """Gives the last slot back so many times; who got it."""
        begin = len(self.order)
        for _ in range(count):
            self.slots.give_back(self.order[-1])
            await trio.testing.wait_all_tasks_blocked()
        return self.order[begin:]


@pytest.fixture
def queue(nursery: trio.Nursery) -> Callable[..., Queue]:
    return lambda **limits: Queue(nursery, **limits)


# Limits


async def test_as_many_as_the_limit_run_at_once(queue: Callable[..., Queue]) -> None:
    q = queue(total=2)

    claims = [await q.ask() for _ in range(3)]

    assert (q.order, q.slots.in_use, q.slots.waiting) == (claims[:2], 2, 1)
    assert await q.serve() == claims[2:]
    assert (q.slots.in_use, q.slots.waiting) == (2, 0)


async def test_one_owner_cannot_take_them_all(queue: Callable[..., Queue]) -> None:
    q = queue(total=10, per_owner=2)

    for owner in (A, A, A, B):
        await q.ask(owner)

    assert [claim.owner for claim in q.order] == [A, A, B]


async def test_owners_take_turns(queue: Callable[..., Queue]) -> None:
    q = queue(total=1)
    for owner in (X, A, A, A, B, C):
        await q.ask(owner)

    assert [claim.owner for claim in await q.serve(5)] == [A, B, C, A, A]


async def test_a_newcomer_does_not_overtake_who_waits(queue: Callable[..., Queue]) -> None:
    q = queue(total=1)
    first = await q.ask()
    await q.ask()

    q.slots.give_back(first)

    assert not q.slots.try_take(Claim(A))


@pytest.mark.parametrize("limit", ["total", "per_owner"])
async def test_a_raised_limit_is_used_at_once(limit: str, queue: Callable[..., Queue]) -> None:
    q = queue(**{limit: 1})
    for _ in range(3):
        await q.ask()

    setattr(q.slots, limit, 3)
    q.slots.hand_on()
    await trio.testing.wait_all_tasks_blocked()

    assert len(q.order) == 3


async def test_without_limits_nobody_waits() -> None:
    slots = Slots()

    for _ in range(1000):
        await slots.take(Claim(A))

    assert (slots.in_use, slots.waiting) == (1000, 0)


# Leaving


async def test_who_is_cancelled_while_waiting_takes_none() -> None:
    slots, first = Slots(total=1), Claim(A)
    await slots.take(first)

    with trio.move_on_after(0):
        await slots.take(Claim(B))
    slots.give_back(first)

    assert (slots.in_use, slots.waiting) == (0, 0)


async def test_who_is_cancelled_just_when_it_is_granted_has_the_slot(
    nursery: trio.Nursery,
) -> None:
    slots, scope, first, second = Slots(total=1), trio.CancelScope(), Claim(A), Claim(B)
    await slots.take(first)
    told: list[bool] = []

    async def wait() -> None:
        with scope:
            told.append(await slots.take(second))

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    slots.give_back(first)
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()

    assert (told, list(slots.held)) == ([True], [second])


async def test_who_is_withdrawn_stops_waiting_without_a_slot(queue: Callable[..., Queue]) -> None:
    q = queue(total=1)
    first, second, third = [await q.ask() for _ in range(3)]

    q.slots.withdraw(second)
    q.slots.withdraw(first)  # it does not wait: nothing happens to it
    await q.serve()

    assert q.order == [first, third]
    assert not second.granted


# Classes


async def test_five_classes_are_served_by_their_number(queue: Callable[..., Queue]) -> None:
    q = queue(total=1)
    await q.ask(X)
    for priority in sorted(Priority, key=lambda one: one.name):
        await q.ask(priority=priority)

    assert [claim.priority for claim in await q.serve(5)] == [0, 1, 2, 3, 4]


async def test_the_more_important_agent_goes_first_whoever_owns_it(
    queue: Callable[..., Queue],
) -> None:
    q = queue(total=1)
    await q.ask(X)
    for owner, priority in ((A, Priority.LOW), (B, Priority.HIGH), (A, Priority.NORMAL)):
        await q.ask(owner, priority=priority)

    assert [claim.priority for claim in await q.serve(3)] == [1, 2, 3]


async def test_the_higher_response_ratio_goes_first_in_a_class(
    queue: Callable[..., Queue], autojump_clock: Clock
) -> None:
    q = queue(total=1)
    await q.ask(X)
    long = await q.ask(estimate_s=16)
    await trio.sleep(4)  # long: 20/16
    short = await q.ask(estimate_s=1)
    await trio.sleep(1)  # long: 21/16, short: 2/1

    assert await q.serve(2) == [short, long]


async def test_a_long_call_goes_first_when_it_has_waited_long_enough(
    queue: Callable[..., Queue], autojump_clock: Clock
) -> None:
    q = queue(total=1)
    await q.ask(X)
    long = await q.ask(estimate_s=16)
    await trio.sleep(29)
    short = await q.ask(estimate_s=1)

    assert await q.serve(2) == [long, short]


async def test_calls_of_one_estimate_are_served_in_the_order_of_their_coming(
    queue: Callable[..., Queue], autojump_clock: Clock
) -> None:
    q = queue(total=1)
    await q.ask(X)
    claims = []
    for _ in range(3):
        claims.append(await q.ask(estimate_s=3))
        await trio.sleep(0.1)

    assert await q.serve(3) == claims


@pytest.mark.parametrize("nice", [-5, 5])
async def test_a_nice_claim_gives_way_in_its_class(nice: int, queue: Callable[..., Queue]) -> None:
    q = queue(total=1)
    await q.ask(X)
    plain, other = await q.ask(), await q.ask(nice=nice)

    assert await q.serve(2) == ([plain, other] if nice > 0 else [other, plain])


async def test_a_new_nice_value_counts_for_who_waits_already(
    queue: Callable[..., Queue], autojump_clock: Clock
) -> None:
    q = queue(total=1)
    await q.ask(X)
    claims = []
    for nice in (0, 0, 5):
        claims.append(await q.ask(nice=nice))
        await trio.sleep(0.1)

    q.slots.renice(claims[0], 5)

    assert await q.serve(3) == [claims[1], claims[0], claims[2]]


async def test_who_waits_goes_up_a_class_every_ageing_s(
    queue: Callable[..., Queue], autojump_clock: Clock
) -> None:
    q = queue(total=1, ageing_s=10)
    await q.ask(X)
    old = await q.ask(priority=Priority.BEST_EFFORT)
    await trio.sleep(29.9)
    high = await q.ask(priority=Priority.HIGH)
    await trio.sleep(0.2)
    newer = await q.ask(priority=Priority.HIGH)

    assert await q.serve(3) == [old, high, newer]


async def test_an_owner_who_is_passed_over_goes_up_too(
    queue: Callable[..., Queue], autojump_clock: Clock
) -> None:
    q = queue(total=1, ageing_s=10)
    await q.ask(A, priority=Priority.CRITICAL)
    low = await q.ask(B, priority=Priority.BEST_EFFORT)
    served: list[Claim] = []
    while low not in served:
        await q.ask(A, priority=Priority.CRITICAL)
        await trio.sleep(1)
        served += await q.serve()

    assert len(served) == 41  # 4 classes of 10 s from when A had used more; then B is critical too


# Shares


async def test_who_has_used_less_goes_first(
    queue: Callable[..., Queue], autojump_clock: Clock
) -> None:
    q = queue(total=1)
    await q.ask(A)
    await trio.sleep(30)
    later, sooner = await q.ask(A), await q.ask(B)

    assert await q.serve(2) == [sooner, later]


async def test_a_call_of_unknown_length_is_taken_for_one_of_its_owners_usual_length(
    queue: Callable[..., Queue], autojump_clock: Clock
) -> None:
    q = queue(total=1)
    for _ in range(20):
        claim = Claim(A)
        await q.slots.take(claim)
        await trio.sleep(1)
        q.slots.give_back(claim)
    await q.ask(A)

    assert round((await q.ask(A)).estimate_s) == 1

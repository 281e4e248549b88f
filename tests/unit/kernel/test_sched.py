"""Model slots: limits, turns, and nobody who waits holds one."""

import pytest
import trio

from nexusfs.kernel.sched import Slots


async def taking(slots: Slots, owner: str, order: list[str], nursery: trio.Nursery) -> None:
    """Starts a task that takes a slot and then says so."""

    async def take() -> None:
        await slots.take(owner)
        order.append(owner)

    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()


async def test_as_many_as_the_limit_run_at_once(nursery: trio.Nursery) -> None:
    slots, order = Slots(total=2), list[str]()

    for _ in range(3):
        await taking(slots, "a", order, nursery)

    assert (order, slots.in_use, slots.waiting) == (["a", "a"], 2, 1)
    slots.give_back("a")
    await trio.testing.wait_all_tasks_blocked()
    assert (len(order), slots.in_use, slots.waiting) == (3, 2, 0)


async def test_one_owner_cannot_take_them_all(nursery: trio.Nursery) -> None:
    slots, order = Slots(total=10, per_owner=2), list[str]()

    for owner in ("a", "a", "a", "b"):
        await taking(slots, owner, order, nursery)

    assert order == ["a", "a", "b"]


async def test_owners_take_turns(nursery: trio.Nursery) -> None:
    slots, order = Slots(total=1), list[str]()
    await slots.take("x")
    for owner in ("a", "a", "a", "b", "c"):
        await taking(slots, owner, order, nursery)

    slots.give_back("x")
    for _ in range(4):
        await trio.testing.wait_all_tasks_blocked()
        slots.give_back(order[-1])
    await trio.testing.wait_all_tasks_blocked()

    assert order == ["a", "b", "c", "a", "a"]


async def test_a_newcomer_does_not_overtake_who_waits(nursery: trio.Nursery) -> None:
    slots, order = Slots(total=1), list[str]()
    await slots.take("a")
    await taking(slots, "a", order, nursery)

    slots.give_back("a")

    assert not slots.try_take("a")


async def test_who_is_cancelled_while_waiting_takes_none() -> None:
    slots = Slots(total=1)
    await slots.take("a")

    with trio.move_on_after(0):
        await slots.take("b")
    slots.give_back("a")

    assert (slots.in_use, slots.waiting) == (0, 0)


async def test_who_is_cancelled_just_when_it_is_granted_gives_it_back(
    nursery: trio.Nursery,
) -> None:
    slots, scope = Slots(total=1), trio.CancelScope()
    await slots.take("a")

    async def wait() -> None:
        with scope:
            await slots.take("b")

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    slots.give_back("a")
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()

    assert slots.in_use in (0, 1)
    assert slots.in_use == slots.taken.get("b", 0)


@pytest.mark.parametrize("limit", ["total", "per_owner"])
async def test_a_raised_limit_is_used_at_once(limit: str, nursery: trio.Nursery) -> None:
    slots, order = Slots(**{limit: 1}), list[str]()
    for _ in range(3):
        await taking(slots, "a", order, nursery)

    setattr(slots, limit, 3)
    slots.hand_on()
    await trio.testing.wait_all_tasks_blocked()

    assert len(order) == 3


async def test_without_limits_nobody_waits() -> None:
    slots = Slots()

    for _ in range(1000):
        await slots.take("a")

    assert (slots.in_use, slots.waiting) == (1000, 0)

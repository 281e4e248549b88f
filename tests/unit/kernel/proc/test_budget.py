"""Limits of a tree: what is booked where, what is refused, and who may set them."""

from collections.abc import Callable
from typing import Any

import pytest

from nexusfs.contracts.errors import InvalidError, NotPermittedError, QuotaError
from nexusfs.contracts.model import Quote
from nexusfs.kernel.proc import purses
from nexusfs.kernel.proc.budget import Account, Totals
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.purses import Purse
from nexusfs.kernel.proc.spawning import ProcSettings
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import ALICE, BOB, ROOT, MemoryJournal, events_of, spawned

CHEAP = Quote("a/b", 100, 1e-6, 2e-6)
UNKNOWN = Quote("a/b", 100, None, None)


def replied(process: Process, tokens: int, cost_usd: float | None = 0.0) -> None:
    usage = {"input_tokens": tokens, "output_tokens": 0, "cost_usd": cost_usd}
    process.record("model_reply", message={"role": "assistant", "content": "x"}, usage=usage)


def account(above: Account | None = None, pid: int = 2, **ceilings: float) -> Account:
    made = Account(pid, ceilings)
    made.hang_below(above, living=True)
    return made


# Reserving and settling


def test_a_call_reserves_its_prompt_and_as_much_answer_as_there_is_room_for() -> None:
    top = account(tokens=1000)
    one = account(top, 3)

    hold = one.hold_call(CHEAP, 4096, closing=False)

    assert (hold.answer_tokens, top.taken("tokens"), top.left("tokens")) == (890, 1000, 0)
    hold.release()
    assert top.left("tokens") == 1000


def test_a_call_that_is_under_way_leaves_its_sibling_the_rest() -> None:
    top = account(tokens=1000)

    first = account(top, 3).hold_call(CHEAP, 500, closing=False)
    second = account(top, 4).hold_call(CHEAP, 500, closing=False)

    assert (first.answer_tokens, second.answer_tokens) == (500, 280)
    with pytest.raises(QuotaError, match=r"tokens \(1000\) of agent 2 reached"):
        account(top, 5).hold_call(CHEAP, 500, closing=False)


def test_a_call_that_does_not_fit_is_refused_although_the_limit_is_not_reached() -> None:
    with pytest.raises(QuotaError, match="a prompt of 110 tokens does not fit"):
        account(tokens=150).hold_call(CHEAP, 4096, closing=False)


def test_a_closing_call_makes_do_with_less() -> None:
    assert account(tokens=150).hold_call(CHEAP, 4096, closing=True).answer_tokens == 40


def test_cost_bounds_the_answer_by_its_price() -> None:
    hold = account(cost_usd=0.001).hold_call(CHEAP, 4096, closing=False)

    assert hold.answer_tokens == int((0.001 - 110e-6) / 2e-6)


def test_what_costs_nothing_is_bounded_by_no_cost() -> None:
    assert account(cost_usd=0.001).hold_call(Quote("x", 100), 9, closing=False).answer_tokens == 9


def test_an_unknown_price_is_refused_where_cost_has_a_ceiling() -> None:
    one = account(account(cost_usd=5.0), 3)

    with pytest.raises(QuotaError, match="the price of a/b is unknown"):
        one.hold_call(UNKNOWN, 10, closing=False)
    one.allows_unknown = True
    assert one.hold_call(UNKNOWN, 10, closing=False).answer_tokens == 10
    assert account().hold_call(UNKNOWN, 10, closing=False).answer_tokens == 10


def test_a_providers_excess_is_booked_and_then_nothing_is_admitted() -> None:
    top = account(tokens=300)
    one = account(top, 3)
    with one.hold_call(CHEAP, 100, closing=False):
        one.book(Totals(input_tokens=400, output_tokens=100))

    assert (top.used.tokens, top.left("tokens")) == (500, 0)
    for ask in (one.hold_turn, one.check_tool, one.check_spawn):
        with pytest.raises(QuotaError, match="tokens"):
            ask()


def test_turns_are_reserved_too() -> None:
    top = account(turns=1)

    with account(top, 3).hold_turn(), pytest.raises(QuotaError, match="turns"):
        account(top, 4).hold_turn()
    account(top, 4).hold_turn().release()


@pytest.mark.parametrize(
    ("levels", "depth", "may"), [(0, 0, False), (0, 1, True), (1, 1, False), (1, 2, True)]
)
def test_depth_is_levels_below(levels: int, depth: int, may: bool) -> None:
    one = account(depth=depth)
    for number in range(levels):
        one = account(one, 3 + number)

    assert (one.left("depth") or 0) == max(depth - levels, 0)
    try:
        one.check_spawn()
    except QuotaError:
        assert not may
    else:
        assert may


# A user's day


def test_a_users_account_counts_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    purse = Purse(7, lambda: kept.append(1))
    purse.ceilings = {"cost_usd": 1.0}
    one = account(purse)
    one.book(Totals(cost_usd=1.5))
    before = one.reached()
    monkeypatch.setattr(purses, "now_ns", lambda: 10**19)

    assert before == "cost_usd (1) of user 7 for the day reached"
    assert (one.reached(), kept) == (None, [1])


async def test_what_a_user_spent_today_survives_a_restart(
    make_table: Callable[..., ProcessTable],
) -> None:
    settings = ProcSettings(cost_usd_per_user_day=1.0)
    table = make_table(settings)
    replied(await spawned(table, cred=ALICE), 10, 0.6)
    replied(await spawned(table, cred=ALICE), 10, 0.6)

    again = make_table(settings)

    with pytest.raises(QuotaError, match=r"cost_usd \(1\) of user 1000 for the day"):
        await spawned(again, cred=ALICE)
    await spawned(again, cred=BOB)


async def test_an_agent_is_warned_when_most_of_a_ceiling_of_cost_is_used(
    table: ProcessTable,
) -> None:
    agent = await spawned(table, limits={"cost_usd": 1.0})
    replied(agent, 1, 0.7)
    before = agent.warnings
    replied(agent, 1, 0.15)
    replied(agent, 1, 0.05)

    assert (before, agent.warnings) == (
        (),
        (f"0.8500 of cost_usd (1) of agent {agent.pid} are used",),
    )


# Of agents


async def test_use_is_booked_up_the_tree_and_outlives_who_used_it(table: ProcessTable) -> None:
    top = await spawned(table, limits={"tokens": 1000})
    child = await spawned(table, top)
    replied(child, 100)
    replied(top, 10)
    before = top.account.used.tokens
    table.kill(ROOT, child.pid)
    table.reap(ROOT, child.pid)

    assert (before, top.account.used.tokens, top.account.left("tokens")) == (110, 110, 890)
    assert child.account.used.tokens == 100


async def test_use_survives_a_restart(
    table: ProcessTable, make_table: Callable[..., ProcessTable]
) -> None:
    top = await spawned(table, limits={"tokens": 1000, "children": 5})
    reaped, child = await spawned(table, top), await spawned(table, top, limits={"turns": 3})
    replied(reaped, 100)
    replied(child, 50, None)
    replied(top, 10)
    table.kill(ROOT, reaped.pid)
    table.reap(ROOT, reaped.pid)
    ended = await spawned(table, top)
    replied(ended, 7)
    table.kill(ROOT, ended.pid)

    again = make_table()

    one = again.get(top.pid).account
    assert (one.used, one.living, dict(one.ceilings)) == (
        top.account.used, 1, {"tokens": 1000, "children": 5},
    )  # fmt: skip
    assert (one.used.tokens, one.used.unpriced) == (167, 1)
    assert again.get(child.pid).account.ceiling("turns") == 3
    assert again.get(ended.pid).events.data and one.used == top.account.used


async def test_who_is_adopted_still_pays_into_the_tree(
    table: ProcessTable, make_table: Callable[..., ProcessTable]
) -> None:
    top = await spawned(table, limits={"tokens": 100})
    child = await spawned(table, top)
    detached = await spawned(table, child, life="detached")
    table.kill(ROOT, child.pid)
    table.reap(ROOT, child.pid)
    replied(detached, 100)

    with pytest.raises(QuotaError, match=f"agent {top.pid}"):
        detached.check_tool()
    again = make_table()
    assert again.get(top.pid).account.used.tokens == 100
    with pytest.raises(QuotaError, match=f"agent {top.pid}"):
        again.get(detached.pid).check_tool()


@pytest.mark.parametrize("name", ["children", "depth"])
async def test_a_runaway_of_spawns_is_stopped(table: ProcessTable, name: str) -> None:
    one = await spawned(table, limits={name: 3})
    made = 0

    with pytest.raises(QuotaError, match=rf"{name} \(3\)"):
        for _ in range(10):
            one = await spawned(table, one)
            made += 1
    assert made == 3


async def test_an_agent_that_has_ended_makes_room_for_another(table: ProcessTable) -> None:
    top = await spawned(table, limits={"children": 1})
    child = await spawned(table, top)
    with pytest.raises(QuotaError):
        await spawned(table, top)
    table.kill(ROOT, child.pid)

    await spawned(table, top)


async def test_what_may_be_handed_on_has_limits_too(table: ProcessTable) -> None:
    top = await spawned(table, delegate={"max_children": 1, "max_depth": 2})

    assert (top.account.ceiling("children"), top.account.ceiling("depth")) == (1, 2)


async def test_a_tool_call_from_outside_is_counted_and_journaled(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    agent = await spawned(table, limits={"tool_calls": 1})
    table.admit_tool(agent.cred, "act", "call_1")

    with pytest.raises(QuotaError, match=r"tool_calls \(1\)"):
        table.admit_tool(agent.cred, "act", "call_2")
    table.admit_tool(ROOT, "act", "call_3")
    kinds = [event["type"] for event in events_of(journal.lines[agent.pid])]
    assert (kinds, agent.counts.tool_calls) == (["spawn", "dispatch"], 1)


# Asking for limits


async def test_a_child_that_asks_for_more_than_its_ancestors_is_refused(
    table: ProcessTable,
) -> None:
    top = await spawned(table, limits={"tokens": 100, "depth": 2})
    child = await spawned(table, top, limits={"tokens": 50, "depth": 1})

    with pytest.raises(NotPermittedError, match=r"limits\.tokens, limits\.depth"):
        await spawned(table, top, limits={"tokens": 101, "depth": 2})
    with pytest.raises(NotPermittedError, match=r"limits\.tokens"):
        await spawned(table, child, limits={"tokens": 51})
    clamped = await spawned(table, child, limits={"tokens": 500}, on_excess="clamp")
    assert clamped.account.ceiling("tokens") == 50


async def test_agents_of_people_have_the_ceiling_of_cost_of_the_configuration(
    make_table: Callable[..., ProcessTable],
) -> None:
    table = make_table(ProcSettings(cost_usd_per_agent=5.0))

    async def ceiling(parent: Process | None = None, **limits: Any) -> float | None:
        return (await spawned(table, parent, limits=limits)).account.ceilings.get("cost_usd")

    assert [await ceiling(), await ceiling(cost_usd=9.0), await ceiling(cost_usd="max")] == [
        5.0, 9.0, None,
    ]  # fmt: skip
    assert await ceiling(await spawned(table)) is None


async def test_an_unknown_price_is_allowed_by_who_starts_the_tree(table: ProcessTable) -> None:
    strict = await spawned(table)
    lenient = await spawned(table, limits={"unknown_price": "allow"})
    below = await spawned(table, lenient)

    found = [one.account.allows_unknown for one in (strict, lenient, below)]
    assert found == [False, True, True]
    assert not (
        await spawned(table, lenient, limits={"unknown_price": "refuse"})
    ).account.allows_unknown
    with pytest.raises(NotPermittedError, match="unknown_price"):
        await spawned(table, strict, limits={"unknown_price": "allow"})


# Setting limits


async def test_its_owner_sets_a_limit_up_to_that_above_it(
    table: ProcessTable, make_table: Callable[..., ProcessTable]
) -> None:
    top = await spawned(table, cred=ALICE, limits={"tokens": 100})
    child = await spawned(table, top)

    table.set_limit(ALICE, child.pid, "tokens", 60)
    with pytest.raises(NotPermittedError, match="100 at most"):
        table.set_limit(ALICE, child.pid, "tokens", 101)
    with pytest.raises(NotPermittedError, match="100 at most"):
        table.set_limit(ALICE, child.pid, "tokens", None)
    table.set_limit(ALICE, top.pid, "tokens", 500)
    table.set_limit(ALICE, top.pid, "turns", None)

    found = make_table().get(child.pid).account
    assert (child.account.ceiling("tokens"), found.ceiling("tokens")) == (60, 60)
    assert found.above is not None and found.above.ceilings == {"tokens": 500}


@pytest.mark.parametrize("who", ["bob", "itself", "child"])
async def test_nobody_else_sets_a_limit(table: ProcessTable, who: str) -> None:
    agent = await spawned(table, cred=ALICE, limits={"tokens": 100})
    child = await spawned(table, agent)
    cred = {"bob": BOB, "itself": agent.cred, "child": child.cred}[who]

    with pytest.raises(NotPermittedError):
        table.set_limit(cred, agent.pid, "tokens", 10)
    assert agent.account.ceilings == {"tokens": 100}


async def test_a_limit_that_there_is_not_is_refused(table: ProcessTable) -> None:
    agent = await spawned(table)

    with pytest.raises(InvalidError, match="turns, tokens"):
        table.set_limit(ROOT, agent.pid, "toknes", 10)

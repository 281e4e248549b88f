"""The process table: spawning, ending, waiting for, reaping."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    ExistsError,
    InvalidError,
    KernelError,
    NotDirectoryError,
    UnavailableError,
)
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import ALICE, BOB, ROOT, MemoryJournal, events_of, spawned, spec

Clock = trio.testing.MockClock
MakeTable = Callable[..., ProcessTable]


# Spawn


async def test_a_spawn_tells_pid_name_zone_state_parent_and_owner(table: ProcessTable) -> None:
    info = await table.spawn(ALICE, spec(name="bob", zone="lab"))

    assert (info.pid, info.agent_id, info.zone_id) == (2, "bob", "lab")
    assert (info.state, info.parent_pid, info.uid, info.turn_count) == ("running", 1, 1000, 0)


async def test_an_agents_spawn_is_its_child(table: ProcessTable) -> None:
    parent = await spawned(table)
    child = await spawned(table, parent)

    assert (child.parent_pid, parent.children) == (parent.pid, {child.pid})


async def test_pids_count_up_and_are_not_used_again(table: ProcessTable) -> None:
    first = await spawned(table)
    table.kill(ROOT, first.pid)
    table.reap(ROOT, first.pid)

    assert (await spawned(table)).pid == first.pid + 1


async def test_the_last_spawn_is_remembered_for_each_user_and_session(table: ProcessTable) -> None:
    terminals = [Credentials(7, 7, session=1), Credentials(7, 7, session=2)]
    for cred in terminals:
        await spawned(table, cred=cred)

    assert [table.last_pid(cred) for cred in [*terminals, BOB]] == [2, 3, None]


async def test_the_task_is_the_first_message(table: ProcessTable) -> None:
    agent = await spawned(table, task="do it")

    assert list(agent.mail) == ["do it"]


@pytest.mark.parametrize("refused", ["check_cwd", "check_spec", "load_agent"])
async def test_a_refused_spawn_leaves_nothing_behind(
    table: ProcessTable, journal: MemoryJournal, refused: str
) -> None:
    async def refuse(*_: object) -> Any:
        raise NotDirectoryError("not a directory")

    setattr(table, refused, refuse)

    fields = {"agent": "x"} if refused == "load_agent" else {}
    with pytest.raises(NotDirectoryError):
        await table.spawn(ROOT, spec(**fields))

    assert (len(table), journal.lines, table.last_pid(ROOT)) == (0, {}, None)
    assert journal.allocate_pid() == 2


async def test_a_spawn_that_is_cancelled_early_leaves_nothing(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    table.check_cwd = lambda *_: trio.sleep_forever()

    with trio.move_on_after(0):
        await table.spawn(ROOT, spec())

    assert (len(table), journal.lines) == (0, {})


async def test_metadata_and_labels_are_in_the_spec_of_the_journal(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    await spawned(table, metadata={"a": [1, {"é": None}]}, labels={"team": "x"})

    first = events_of(journal.lines[2])[0]
    assert first["spec"]["metadata"] == {"a": [1, {"é": None}]}
    assert first["spec"]["labels"] == {"team": "x"}


# Singletons and keys


async def at_once(table: ProcessTable, count: int, **fields: Any) -> list[object]:
    """What `count` spawns at the same time led to: a pid or the class of the error."""
    outcomes: list[object] = []

    async def one() -> None:
        try:
            outcomes.append((await table.spawn(ROOT, spec(**fields))).pid)
        except KernelError as exc:
            outcomes.append(type(exc))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return outcomes


async def slow_check(cred: Credentials, cwd: str) -> None:
    await trio.lowlevel.checkpoint()


async def test_of_five_concurrent_spawns_of_a_singleton_one_wins(table: ProcessTable) -> None:
    table.check_cwd = slow_check

    outcomes = await at_once(table, 5, name="only", singleton=True)

    assert sorted(map(str, outcomes)) == ["2", *[str(ExistsError)] * 4]


async def test_a_singleton_may_come_back_when_it_has_ended(table: ProcessTable) -> None:
    first = await spawned(table, name="only", singleton=True)
    table.kill(ROOT, first.pid)

    second = await spawned(table, name="only", singleton=True)

    assert second.pid != first.pid


async def test_a_singleton_needs_a_name(table: ProcessTable) -> None:
    with pytest.raises(InvalidError):
        await spawned(table, singleton=True)


async def test_five_concurrent_spawns_with_one_key_are_one_agent(table: ProcessTable) -> None:
    table.check_cwd = slow_check

    assert await at_once(table, 5, idempotency_key="k") == [2] * 5


async def test_a_key_belongs_to_its_user(table: ProcessTable) -> None:
    pids = {(await spawned(table, cred=c, idempotency_key="k")).pid for c in (ALICE, BOB)}

    assert len(pids) == 2


async def test_a_key_gives_its_agent_also_after_its_end(table: ProcessTable) -> None:
    first = await spawned(table, idempotency_key="k")
    table.kill(ROOT, first.pid)

    assert (await spawned(table, idempotency_key="k")).pid == first.pid


async def test_a_key_gives_its_agent_also_after_a_restart(
    table: ProcessTable, make_table: MakeTable
) -> None:
    first = await spawned(table, idempotency_key="k")

    again = await spawned(make_table(), idempotency_key="k")

    assert again.pid == first.pid


# Off


async def test_a_table_that_is_off_says_why(table: ProcessTable) -> None:
    table.off = "agents are off"

    with pytest.raises(UnavailableError, match="agents are off"):
        await table.spawn(ROOT, spec())
    with pytest.raises(UnavailableError):
        table.snapshots(ROOT)

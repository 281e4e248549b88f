"""Equal effective specs are one object, also after a restart."""

from collections.abc import Callable

from nexusfs.kernel.proc.kinds import KINDS_KEPT
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import MemoryJournal, spawned


async def test_agents_of_a_kind_share_their_spec(table: ProcessTable) -> None:
    first = await spawned(table, mode="chat", metadata={"team": "a"})
    again = await spawned(table, mode="chat", metadata={"team": "a"})
    other = await spawned(table, mode="chat", metadata={"team": "b"})

    assert again.spec is first.spec
    assert other.spec.metadata == {"team": "b"}


async def test_agents_with_a_task_do_not(table: ProcessTable) -> None:
    first, again = await spawned(table, task="x"), await spawned(table, task="x")

    assert again.spec is not first.spec and again.spec == first.spec


async def test_agents_with_a_long_spec_do_not(table: ProcessTable) -> None:
    first = await spawned(table, mode="chat", instructions="x" * 5000)
    again = await spawned(table, mode="chat", instructions="x" * 5000)

    assert again.spec is not first.spec and again.spec == first.spec


async def test_they_share_it_after_a_restart(
    journal: MemoryJournal, make_table: Callable[..., ProcessTable]
) -> None:
    before = make_table()
    first = await spawned(before, mode="chat", description="kind")
    again = await spawned(before, mode="chat", description="kind")
    before.suspend()

    after = ProcessTable(journal, lambda: [])
    after.restore()

    assert after.get(first.pid).spec is after.get(again.pid).spec
    assert after.get(first.pid).spec == first.spec


async def test_so_many_kinds_are_known_and_each_agent_keeps_its_own(table: ProcessTable) -> None:
    made = [
        await spawned(table, mode="chat", description=f"kind {number}")
        for number in range(KINDS_KEPT + 5)
    ]

    assert [process.spec.description for process in made] == [
        f"kind {number}" for number in range(KINDS_KEPT + 5)
    ]
    assert (await spawned(table, mode="chat", description="kind 50")).spec is made[50].spec

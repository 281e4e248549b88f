"""Admission and eviction in the process table: all of a batch or none, and who makes room."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.checkpoint import CheckpointInfo, NoCheckpoints, Snapshot
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    CapacityError,
    ExistsError,
    InvalidError,
    KernelError,
    NoSpaceError,
    NotPermittedError,
    QuotaError,
)
from nexusfs.contracts.hooks import SpawnContext
from nexusfs.contracts.proc import Outcome, Priority, ProgramProcess
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.sched.room import Room
from tests.kernel_fixture import ALICE, ROOT, MemoryJournal, events_of, spawned, spec

MakeTable = Callable[..., ProcessTable]


class Kept(NoCheckpoints):
    """Checkpoints in memory, or an error."""

    def __init__(self, fails: KernelError | None = None) -> None:
        self.saved: list[Snapshot] = []
        self.fails = fails

    async def save(
        self, cred: Credentials, snapshot: Snapshot, *, automatic: bool = False
    ) -> CheckpointInfo:
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise self.fails
        self.saved.append(snapshot)
        return CheckpointInfo("0" * 64, snapshot.agent_id, snapshot.pid, 0, "", 0, automatic)


@pytest.fixture
def small(table: ProcessTable) -> ProcessTable:
    """A table with room for three."""
    table.checkpoints = Kept()
    table.host.room.resident_max = 3
    return table


async def agents(table: ProcessTable, *priorities: str, **fields: Any) -> list[Process]:
    return [await spawned(table, priority=priority, **fields) for priority in priorities]


def evicted(table: ProcessTable) -> list[int]:
    return [process.pid for process in table if process.evicted]


# Who makes room


async def test_the_least_important_makes_room_and_of_equals_the_youngest(
    small: ProcessTable,
) -> None:
    _, _, third = await agents(small, "low", "low", "low")

    await spawned(small)

    assert evicted(small) == [third.pid]
    assert (third.state, small.host.room.residents) == ("paused", 3)


async def test_of_one_class_who_is_nicest_makes_room(small: ProcessTable) -> None:
    _, nice, _ = await agents(small, "low", "low", "low")
    small.nice(ROOT, nice.pid, 1)

    await spawned(small)

    assert evicted(small) == [nice.pid]


async def test_who_is_immune_or_paused_by_hand_makes_no_room(small: ProcessTable) -> None:
    await spawned(small, priority="best_effort", immune=True)
    stopped, last = await agents(small, "low", "low")
    small.stop(ROOT, stopped.pid)

    await spawned(small)
    with pytest.raises(CapacityError, match="no room"):
        await spawned(small)

    assert evicted(small) == [last.pid]


async def test_who_goes_on_by_hand_may_make_room_again(small: ProcessTable) -> None:
    first, *_ = await agents(small, "low", "normal", "normal")
    small.stop(ROOT, first.pid)
    small.cont(ROOT, first.pid)

    await spawned(small)

    assert evicted(small) == [first.pid]


async def test_who_cannot_be_saved_goes_on_and_the_new_one_is_refused(small: ProcessTable) -> None:
    low, *_ = await agents(small, "low", "normal", "normal")
    small.checkpoints = Kept(NoSpaceError("the disk is full"))

    with pytest.raises(CapacityError, match="disk is full"):
        await spawned(small)

    assert (low.state, evicted(small), len(small)) == ("running", [], 3)


async def test_who_made_room_in_vain_goes_on(small: ProcessTable) -> None:
    """Of a batch of two singletons of one name, for which two have made room."""
    await agents(small, "low", "low", "low")

    with pytest.raises(ExistsError):
        await small.spawn_batch(
            ROOT, [spec(name="one", singleton=True), spec(name="one", singleton=True)]
        )

    assert evicted(small) == []
    assert small.host.room.residents == 3


async def test_a_spawn_that_is_cancelled_while_others_make_room_leaves_nobody_paused(
    small: ProcessTable,
) -> None:
    await agents(small, "low", "low", "low")

    with trio.move_on_after(0):
        await spawned(small)

    assert (evicted(small), len(small)) == ([], 3)


async def test_the_most_important_goes_on_first(small: ProcessTable) -> None:
    lower, low, *_ = await agents(small, "best_effort", "low", "normal")
    urgent = await agents(small, "high", "high")
    before = evicted(small)

    small.kill(ROOT, urgent[0].pid)
    first = evicted(small)
    small.kill(ROOT, urgent[1].pid)

    assert (before, first, evicted(small)) == ([lower.pid, low.pid], [lower.pid], [])


async def test_a_larger_room_is_used_at_once(small: ProcessTable) -> None:
    await agents(small, "low", "normal", "normal", "normal")

    small.host.room.resident_max = 4
    small.refill()

    assert evicted(small) == []


async def test_an_evicted_agent_waits_for_no_slot(small: ProcessTable) -> None:
    async def program(process: ProgramProcess) -> Outcome:
        async with process.model_slot():
            await trio.sleep_forever()
        raise AssertionError

    small.program = program
    small.host.slots.total = 1
    await spawned(small, task="go")
    await trio.testing.wait_all_tasks_blocked()  # the first has the slot, whose turn is when
    await agents(small, "normal", "low", task="go")
    await trio.testing.wait_all_tasks_blocked()
    before = small.host.slots.waiting

    await spawned(small)
    await trio.testing.wait_all_tasks_blocked()

    # Of the four one has the slot, two wait, the new one among them, and one was evicted.
    assert (before, small.host.slots.waiting) == (2, 2)


async def test_an_eviction_is_one_record_that_survives(
    small: ProcessTable, journal: MemoryJournal, make_table: MakeTable
) -> None:
    low, *_ = await agents(small, "low", "normal", "normal", "normal")
    kinds = [event["type"] for event in events_of(journal.lines[low.pid])]
    small.suspend()

    again = ProcessTable(journal, lambda: [])
    again.restore()

    assert kinds == ["spawn", "evicted", "checkpoint"]
    assert (again.get(low.pid).state, again.get(low.pid).evicted) == ("paused", True)


# The queue


async def test_a_full_queue_is_eagain_and_nobody_makes_room_for_it(small: ProcessTable) -> None:
    small.host.room.queue_max = 2
    await agents(small, "low", "low", task="go")

    with pytest.raises(CapacityError, match="queue"):
        await spawned(small, task="go")

    assert (evicted(small), len(small)) == ([], 2)


async def test_who_has_nothing_to_do_yet_may_come_when_the_queue_is_full(
    small: ProcessTable,
) -> None:
    small.host.room.queue_max = 2
    await agents(small, "low", "low", task="go")

    await spawned(small)

    assert len(small) == 3


async def test_who_made_room_is_not_in_the_queue(small: ProcessTable) -> None:
    async def program(_: ProgramProcess) -> Outcome:
        await trio.sleep_forever()
        raise AssertionError

    small.program = program
    await agents(small, "low", "low", "low", task="go")

    small.host.room.resident_max = 2
    await spawned(small)

    assert (len(evicted(small)), len(small.host.room.expected)) == (2, 1)


async def test_who_has_ended_is_not_in_the_queue(small: ProcessTable) -> None:
    small.host.room.queue_max = 1
    (first,) = await agents(small, "low", task="go")
    small.kill(ROOT, first.pid)

    await spawned(small, task="go")


# Batches


async def test_a_batch_is_started_as_a_whole(table: ProcessTable) -> None:
    infos = await table.spawn_batch(ROOT, [spec(name=f"n{number}") for number in range(3)])

    assert [(info.pid, info.agent_id) for info in infos] == [(2, "n0"), (3, "n1"), (4, "n2")]
    assert table.last_pid(ROOT) == 4


@pytest.mark.parametrize(
    ("second", "error"),
    [
        ({"tools": ["none-such"]}, InvalidError),
        ({"name": "taken", "singleton": True}, ExistsError),
        ({"restore": "0" * 64}, KernelError),
    ],
)
async def test_of_a_batch_with_one_that_is_refused_none_starts(
    table: ProcessTable, second: dict[str, Any], error: type[KernelError]
) -> None:
    await spawned(table, name="taken", singleton=True)

    with pytest.raises(error):
        await table.spawn_batch(ROOT, [spec(), spec(**second)])

    assert [process.agent_id for process in table] == ["taken"]


async def test_a_batch_that_has_no_room_as_a_whole_gets_none(small: ProcessTable) -> None:
    await agents(small, "low", "normal")

    with pytest.raises(CapacityError):
        await small.spawn_batch(ROOT, [spec()] * 3)

    assert (len(small), evicted(small)) == (2, [])
    assert len(await small.spawn_batch(ROOT, [spec()] * 2)) == 2
    assert len(evicted(small)) == 1


async def test_a_batch_that_does_not_fit_into_the_queue_gets_none(small: ProcessTable) -> None:
    small.host.room.queue_max = 2

    with pytest.raises(CapacityError):
        await small.spawn_batch(ROOT, [spec(task="go")] * 3)

    assert len(small) == 0
    assert len(await small.spawn_batch(ROOT, [spec(task="go")] * 2)) == 2


async def test_a_batch_that_is_over_its_parents_limit_of_children_gets_none(
    table: ProcessTable,
) -> None:
    parent = await spawned(table, limits={"children": 2})

    with pytest.raises(QuotaError):
        await table.spawn_batch(parent.cred, [spec()] * 3)

    assert len(table) == 1
    assert len(await table.spawn_batch(parent.cred, [spec()] * 2)) == 2


async def test_a_hook_that_refuses_one_of_a_batch_refuses_all(table: ProcessTable) -> None:
    class Refuses:
        def pre_spawn(self, context: SpawnContext) -> None:
            if context.agent_id == "bad":
                raise NotPermittedError("not that one")

    table.hooks.register(Refuses(), "refuses")

    with pytest.raises(NotPermittedError):
        await table.spawn_batch(ROOT, [spec(name="good"), spec(name="bad")])

    assert len(table) == 0


async def test_one_key_in_a_batch_is_one_agent(table: ProcessTable) -> None:
    infos = await table.spawn_batch(ROOT, [spec(idempotency_key="k"), spec(idempotency_key="k")])

    assert [info.pid for info in infos] == [2, 2]


async def test_an_empty_batch_starts_nothing(small: ProcessTable) -> None:
    small.host.room.resident_max = 0

    assert await small.spawn_batch(ROOT, []) == []


# Priorities of children


async def test_a_child_has_its_parents_priority_and_nice_value(table: ProcessTable) -> None:
    parent = await spawned(table, cred=ALICE, priority="low")
    table.nice(ALICE, parent.pid, 7)

    child = await spawned(table, parent)

    assert (child.spec.priority, child.nice) == ("low", 7)


async def test_a_child_may_be_less_important_than_its_parent_and_not_more(
    table: ProcessTable,
) -> None:
    parent = await spawned(table, priority="low")

    lower = await spawned(table, parent, priority="best_effort")
    clamped = await spawned(table, parent, priority="high", on_excess="clamp")
    with pytest.raises(NotPermittedError, match="priority"):
        await spawned(table, parent, priority="normal")

    assert (lower.spec.priority, clamped.spec.priority) == ("best_effort", "low")
    assert any("priority" in warning for warning in clamped.warnings)


async def test_an_installed_agent_that_is_above_its_parent_gets_its_parents_priority(
    table: ProcessTable,
) -> None:
    async def load(cred: Credentials, name: str) -> AgentSpec:
        return spec(name=name, priority="critical")

    table.load_agent = load
    parent = await spawned(table, priority="low")

    assert (await spawned(table, parent, agent="x")).spec.priority == "low"


# The numbers


OPS = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "immune", "evict", "back", "leave"]),
        st.integers(2, 9),
        st.sampled_from(Priority),
        st.integers(-2, 2),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(ops=OPS, bound=st.integers(1, 6))
def test_victims_and_who_comes_back_are_those_of_a_plain_search(
    ops: list[tuple[str, int, Priority, int]], bound: int
) -> None:
    room = Room(bound)
    here: dict[int, tuple[Priority, int] | None] = {}
    out: dict[int, tuple[Priority, int]] = {}
    for op, pid, priority, nice in ops:
        if op in ("come", "immune"):
            here.pop(pid, None)
            out.pop(pid, None)
            here[pid] = (priority, nice) if op == "come" else None
            room.set(pid, here[pid])
        elif op == "leave":
            here.pop(pid, None)
            out.pop(pid, None)
            room.leave(pid)
        elif op == "evict" and (victim := room.victim(priority)) is not None:
            importance = here.pop(victim)
            assert importance is not None
            out[victim] = importance
            room.evict(victim, importance)
        elif op == "back" and (first := room.next_back()) is not None:
            assert out[first] == min(out.values()) and len(here) < bound
            here[first] = out.pop(first)
            room.set(first, here[first])
        able = {p: i for p, i in here.items() if i is not None and i[0] > priority}
        least = max(able.values(), default=None)
        youngest = [p for p, i in able.items() if i == least]
        assert room.victim(priority) == (youngest[-1] if youngest else None)
        assert (room.residents, set(room.evicted)) == (len(here), set(out))

"""The process table: how agents end, are waited for, reaped and pushed out."""

import math
from collections.abc import Callable

import pytest
import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BusyError,
    InvalidError,
    KernelError,
    NoProcessError,
    NotFoundError,
    PipeClosedError,
    TimeoutExpiredError,
)
from nexusfs.contracts.proc import ExitStatus, Outcome, ProgramProcess
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.spawning import ProcSettings
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import ALICE, ROOT, MemoryJournal, spawned

Clock = trio.testing.MockClock
MakeTable = Callable[..., ProcessTable]


async def end(table: ProcessTable, process: Process) -> None:
    """Lets an agent's program come to its end."""
    table.send(ROOT, process.pid, "end")
    await table.wait(ROOT, process.pid)


# The end, and waiting for it


async def test_a_top_level_agent_ends_as_stopped(table: ProcessTable) -> None:
    agent = await spawned(table)
    await end(table, agent)

    assert agent.state == "stopped"


async def test_the_child_of_a_living_agent_ends_as_zombie(table: ProcessTable) -> None:
    child = await spawned(table, await spawned(table))
    await end(table, child)

    assert child.state == "zombie"


async def test_its_parents_wait_reaps_a_zombie(table: ProcessTable) -> None:
    parent = await spawned(table)
    child = await spawned(table, parent)
    await end(table, child)

    await table.wait(parent.cred, child.pid)

    assert child.state == "stopped"


@pytest.mark.parametrize("cred", [ROOT, ALICE], ids=["root", "somebody"])
async def test_anybody_elses_wait_does_not_reap(table: ProcessTable, cred: Credentials) -> None:
    child = await spawned(table, await spawned(table))
    await end(table, child)

    await table.wait(cred, child.pid)

    assert child.state == "zombie"


async def test_a_zombie_is_stopped_when_its_parent_ends(table: ProcessTable) -> None:
    parent = await spawned(table)
    child = await spawned(table, parent)
    await end(table, child)
    await end(table, parent)

    assert (child.state, parent.state) == ("stopped", "stopped")


async def test_wait_gives_how_it_ended(table: ProcessTable) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid, "enough", term=True)

    status = await table.wait(ROOT, agent.pid)

    assert status == ExitStatus(agent.pid, -15, "enough", agent.ended_at)


async def test_every_waiter_wakes_at_the_end(table: ProcessTable, nursery: trio.Nursery) -> None:
    agent = await spawned(table)
    woken: list[int] = []

    async def waiter() -> None:
        woken.append((await table.wait(ROOT, agent.pid)).exit_code)

    for _ in range(3):
        nursery.start_soon(waiter)
    await trio.testing.wait_all_tasks_blocked()
    table.kill(ROOT, agent.pid)
    await trio.testing.wait_all_tasks_blocked()

    assert woken == [-9, -9, -9]


async def test_a_wait_over_its_timeout_is_etimedout_and_harmless(
    table: ProcessTable, autojump_clock: Clock
) -> None:
    agent = await spawned(table)

    with pytest.raises(TimeoutExpiredError):
        await table.wait(ROOT, agent.pid, 5)

    assert trio.current_time() == pytest.approx(5)
    assert agent.state == "running"


async def test_a_wait_without_time_says_how_it_is(table: ProcessTable) -> None:
    agent = await spawned(table)
    with pytest.raises(TimeoutExpiredError):
        await table.wait(ROOT, agent.pid, 0)
    table.kill(ROOT, agent.pid)

    assert (await table.wait(ROOT, agent.pid, 0)).exit_code == -9


@pytest.mark.parametrize("timeout", [-1.0, math.nan])
async def test_a_timeout_that_is_no_time_is_refused(table: ProcessTable, timeout: float) -> None:
    agent = await spawned(table)

    with pytest.raises(KernelError) as caught:
        await table.wait(ROOT, agent.pid, timeout)

    assert isinstance(caught.value, InvalidError | TimeoutExpiredError)


async def test_a_cancelled_wait_has_no_effect(table: ProcessTable) -> None:
    agent = await spawned(table)
    with trio.move_on_after(0):
        await table.wait(ROOT, agent.pid)

    assert agent.state == "running"


async def test_a_program_that_fails_ends_its_agent_with_1(table: ProcessTable) -> None:
    async def program(_: ProgramProcess) -> Outcome:
        raise NotFoundError("no such thing")

    table.program = program
    agent = await spawned(table)
    status = await table.wait(ROOT, agent.pid)

    assert (status.exit_code, status.reason) == (1, "no such thing")


# Orphans


async def test_owned_children_end_with_their_parent(table: ProcessTable) -> None:
    parent = await spawned(table)
    child = await spawned(table, parent)
    await end(table, parent)

    assert (child.state, child.exit_code, child.reason) == ("stopped", -9, "its parent ended")


async def test_a_detached_child_lives_on_below_pid_1(table: ProcessTable) -> None:
    parent = await spawned(table)
    child = await spawned(table, parent, life="detached")
    await end(table, parent)

    assert (child.state, child.parent_pid) == ("running", 1)
    assert child.events.data.count(b'"adopted"') == 1


async def test_an_adopted_child_ends_as_stopped(table: ProcessTable) -> None:
    parent = await spawned(table)
    child = await spawned(table, parent, life="detached")
    await end(table, parent)
    await end(table, child)

    assert child.state == "stopped"


async def test_a_detached_grandchild_survives_the_subtree(table: ProcessTable) -> None:
    top = await spawned(table)
    child = await spawned(table, top)
    grandchild = await spawned(table, child, life="detached")
    table.kill(ROOT, top.pid)

    assert (child.state, grandchild.state, grandchild.parent_pid) == ("stopped", "running", 1)


# Kill


class Order(list[int]):
    """Pids in the order in which their end was journaled."""

    def watch(self, journal: MemoryJournal) -> None:
        append = journal.append

        def told(pid: int, line: bytes, *, last: bool = False) -> None:
            if b'"type":"exit"' in line:
                self.append(pid)
            append(pid, line, last=last)

        journal.append = told  # type: ignore[method-assign] # a spy on the fake


async def test_kill_takes_the_subtree_deepest_first(
    journal: MemoryJournal, make_table: MakeTable
) -> None:
    ended = Order()
    ended.watch(journal)
    table = make_table()
    top = await spawned(table)
    left = await spawned(table, top)
    deep = await spawned(table, await spawned(table, left))
    right = await spawned(table, top)

    table.kill(ROOT, top.pid)

    assert ended == [deep.pid, deep.parent_pid, left.pid, right.pid, top.pid]
    assert all(process.state == "stopped" for process in table)


async def test_nothing_of_a_killed_subtree_runs_another_step(table: ProcessTable) -> None:
    steps: list[int] = []

    async def program(process: ProgramProcess) -> Outcome:
        while True:
            await trio.lowlevel.checkpoint()
            steps.append(process.pid)

    table.program = program
    top = await spawned(table)
    await spawned(table, top)
    table.kill(ROOT, top.pid)
    before = len(steps)
    await trio.testing.wait_all_tasks_blocked()

    assert len(steps) == before


@pytest.mark.parametrize(
    ("reason", "term", "code", "told"),
    [("", False, -9, "killed"), ("", True, -15, "terminated"), ("why", True, -15, "why")],
)
async def test_kill_has_a_code_and_a_reason(
    table: ProcessTable, reason: str, term: bool, code: int, told: str
) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid, reason, term=term)

    assert (agent.exit_code, agent.reason) == (code, told)


async def test_a_second_kill_is_false_and_changes_nothing(table: ProcessTable) -> None:
    agent = await spawned(table)

    first = table.kill(ROOT, agent.pid, "first", term=True)
    second = table.kill(ROOT, agent.pid)

    assert (first, second, agent.reason) == (True, False, "first")


async def test_a_paused_agent_can_be_killed(table: ProcessTable) -> None:
    agent = await spawned(table)
    table.stop(ROOT, agent.pid)

    assert table.kill(ROOT, agent.pid)
    assert agent.state == "stopped"


async def test_the_end_closes_every_stream(table: ProcessTable) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid)

    logs = (agent.stdout, agent.events, agent.messages, agent.ending)
    assert all(log.closed for log in logs)


# After the end


async def test_a_message_to_an_ended_agent_is_epipe(table: ProcessTable) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid)

    with pytest.raises(PipeClosedError):
        table.send(ROOT, agent.pid, "hi")


@pytest.mark.parametrize("verb", ["stop", "cont", "interrupt"])
async def test_a_signal_to_an_ended_agent_is_ebusy(table: ProcessTable, verb: str) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid)

    with pytest.raises(BusyError):
        getattr(table, verb)(ROOT, agent.pid)


async def test_reaping_takes_it_off_the_list_and_keeps_its_journal(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid)
    count = len(journal.lines[agent.pid])

    table.reap(ROOT, agent.pid)

    assert table.find(agent.pid) is None
    assert (journal.pids(), len(journal.lines[agent.pid])) == ([], count)


async def test_reaping_a_living_agent_is_ebusy(table: ProcessTable) -> None:
    agent = await spawned(table)

    with pytest.raises(BusyError):
        table.reap(ROOT, agent.pid)


async def test_reaping_tells_who_listens(table: ProcessTable) -> None:
    told: list[int] = []
    table.on_remove = told.append
    agent = await spawned(table)
    table.kill(ROOT, agent.pid)

    table.reap(ROOT, agent.pid)

    assert told == [agent.pid]


async def test_a_reaped_child_is_no_child_any_more(table: ProcessTable) -> None:
    parent = await spawned(table)
    child = await spawned(table, parent)
    table.kill(ROOT, child.pid)

    table.reap(ROOT, child.pid)

    assert parent.children == set()


async def test_a_pid_that_was_reaped_is_esrch(table: ProcessTable) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid)
    table.reap(ROOT, agent.pid)

    with pytest.raises(NoProcessError):
        table.kill(ROOT, agent.pid)


# Retention


def pids(table: ProcessTable) -> list[int]:
    return [process.pid for process in table]


async def test_at_most_so_many_ended_agents_stay_the_first_ended_goes_first(
    make_table: MakeTable,
) -> None:
    table = make_table(ProcSettings(retain_count=2))
    agents = [await spawned(table) for _ in range(4)]
    for agent in reversed(agents):
        table.kill(ROOT, agent.pid)

    await spawned(table)

    assert pids(table) == [2, 3, 6]


async def test_ended_agents_leave_after_their_time(make_table: MakeTable) -> None:
    table = make_table(ProcSettings(retain_seconds=0))
    table.kill(ROOT, (await spawned(table)).pid)

    await spawned(table)

    assert pids(table) == [3]


async def test_living_agents_and_zombies_are_never_pushed_out(make_table: MakeTable) -> None:
    table = make_table(ProcSettings(retain_count=0))
    parent = await spawned(table)
    child = await spawned(table, parent)
    table.kill(ROOT, child.pid)

    await spawned(table)

    assert pids(table) == [2, 3, 4]


async def test_retention_goes_on_after_a_restart(
    table: ProcessTable, make_table: MakeTable
) -> None:
    for _ in range(3):
        table.kill(ROOT, (await spawned(table)).pid)

    again = make_table(ProcSettings(retain_count=1))
    await spawned(again)

    assert pids(again) == [4, 5]

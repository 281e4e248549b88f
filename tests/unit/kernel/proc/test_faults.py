"""What one agent, its journal or a full disk does wrong is no reason for the end of others."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from nexusfs.contracts.errors import InvalidError, KernelError, NoSpaceError, TooBigError
from nexusfs.contracts.proc import Outcome, ProcState, ProgramProcess
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import ROOT, MemoryJournal, spawned, until

MakeTable = Callable[..., ProcessTable]


class SmallJournal(MemoryJournal):
    """A journal on a disk that may be full."""

    full = False

    spare = 0

    def append(self, pid: int, line: bytes, *, last: bool = False) -> None:
        if self.full and not (last and self.spare):
            raise NoSpaceError("no space")
        self.spare -= last
        super().append(pid, line)


@pytest.fixture
def journal() -> SmallJournal:
    return SmallJournal()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"5",
        b"[" * 100_000,
        b'{"type":"input"}',
        b'{"type":"input","time":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":5}}',
        b'{"type":"answer","time":5}',
        b'{"type":"model_reply","time":"x","message":{"role":"assistant","tool_calls":[{}]}}',
    ],
)
async def test_a_journal_that_cannot_be_folded_keeps_no_other_agent_back(
    table: ProcessTable, make_table: MakeTable, journal: SmallJournal,
    caplog: pytest.LogCaptureFixture, line: bytes,
) -> None:  # fmt: skip
    bad, good = await spawned(table), await spawned(table)
    journal.append(bad.pid, line)

    again = make_table()

    assert again.find(bad.pid) is None
    assert again.get(good.pid).state is ProcState.RUNNING
    caplog.clear()


async def test_a_call_that_names_no_tool_is_answered_at_the_end(table: ProcessTable) -> None:
    agent = await spawned(table)
    message = {"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}
    agent.record("input", message=message)

    table.kill(ROOT, agent.pid)

    assert agent.transcript[-1]["tool_call_id"] == "a"
    assert agent.events.closed


async def test_an_end_that_fails_is_a_line_of_the_log(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    agent, other = await spawned(table, mode="chat"), await spawned(table)
    monkeypatch.setattr(table, "end", broken)
    agent.post("go", "stdin")
    await until(lambda: "did not end" in caplog.text)

    assert other.state is ProcState.RUNNING
    caplog.clear()


@pytest.mark.parametrize("killed", [False, True])
async def test_a_parent_ends_whole_on_a_full_disk_also_with_a_zombie_of_an_earlier_mount(
    table: ProcessTable, make_table: MakeTable, journal: SmallJournal,
    caplog: pytest.LogCaptureFixture, *, killed: bool,
) -> None:  # fmt: skip
    parent = await spawned(table)
    child = await spawned(table, parent)
    table.kill(ROOT, child.pid)
    again = make_table()
    parent, child = again.get(parent.pid), again.get(child.pid)
    assert child.state is ProcState.ZOMBIE
    parent.post("go", "stdin")
    journal.full = True

    if killed:
        again.kill(ROOT, parent.pid)
    await until(lambda: parent.state.ended)

    assert (parent.state, child.state) == (ProcState.STOPPED, ProcState.STOPPED)
    assert parent.events.closed and parent.ending.closed
    caplog.clear()


async def test_a_zombie_is_waited_for_and_reaped_on_a_full_disk(
    table: ProcessTable, make_table: MakeTable, journal: SmallJournal,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    parent = await spawned(table)
    children = [await spawned(table, parent) for _ in range(2)]
    for child in children:
        table.kill(ROOT, child.pid)
    again = make_table()
    journal.full = True

    status = await again.wait(again.get(parent.pid).cred, children[0].pid)
    again.reap(ROOT, children[1].pid)

    assert status.exit_code == -9
    assert again.get(parent.pid).children == {children[0].pid}
    caplog.clear()


async def test_a_clean_stop_passes_over_a_reaped_agent_whose_task_is_stuck(
    table: ProcessTable, autojump_clock: trio.testing.MockClock
) -> None:
    stuck = trio.Event()

    async def program(process: ProgramProcess) -> Outcome:
        with trio.CancelScope(shield=True):
            await stuck.wait()
        return Outcome(0, "done", "")

    table.program = program
    agent = await spawned(table)
    await trio.testing.wait_all_tasks_blocked()
    table.kill(ROOT, agent.pid)
    table.reap(ROOT, agent.pid)

    await table.settle(1, 1)

    assert len(table) == 0
    stuck.set()


@pytest.mark.parametrize(
    ("text", "error"), [(5, InvalidError), ("a\0b", InvalidError), ("é" * (3 << 20), TooBigError)]
)
async def test_what_is_no_text_is_refused_as_a_message_and_as_a_reason(
    table: ProcessTable, text: Any, error: type[KernelError]
) -> None:
    agent = await spawned(table)
    before = len(agent.events.data)

    for verb in (table.send, table.steer, table.kill):
        with pytest.raises(error):
            verb(ROOT, agent.pid, text)

    assert len(agent.events.data) == before
    assert agent.state is ProcState.RUNNING


async def test_a_kill_on_a_full_disk_is_a_kill_at_the_next_mount(
    table: ProcessTable, make_table: MakeTable, journal: SmallJournal
) -> None:
    agent = await spawned(table)
    journal.full, journal.spare = True, 1

    table.kill(ROOT, agent.pid)
    with pytest.raises(NoSpaceError):
        await spawned(table)

    assert make_table().get(agent.pid).exit_code == -9

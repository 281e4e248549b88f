"""A table folded from its journal is the table that wrote it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from nexusfs.contracts.errors import NotPermittedError
from nexusfs.contracts.proc import Outcome, ProgramProcess
from nexusfs.fs import proc_render
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import (
    ALICE,
    ROOT,
    MemoryJournal,
    events_of,
    says,
    spawned,
    wants,
    wish,
)

MakeTable = Callable[..., ProcessTable]
TEXTS = ("status", "status_json", "spec", "exit_line", "result", "exit_code", "wchan")


def shown(table: ProcessTable) -> dict[int, dict[str, Any]]:
    """What proc/<pid>/ shows of every process, byte for byte, and what its program sees."""
    return {
        process.pid: {
            **{name: getattr(proc_render, name)(process) for name in TEXTS},
            **{n: bytes(getattr(process, n).data) for n in ("events", "stdout", "messages")},
            "transcript": process.transcript,
            "mail": list(process.mail),
            "rights": list(process.rights.used()),
            "children": process.children,
            "groups": process.cred.groups,
            "dropped": process.dropped,
        }
        for process in table
    }


def restored(journal: MemoryJournal) -> ProcessTable:
    """A table over the journal that runs nothing."""
    table = ProcessTable(journal, lambda: [])
    table.restore()
    return table


async def busy_table(table: ProcessTable) -> Process:
    """Agents in every state, with a history; gives one that runs."""
    top = await spawned(table, cred=ALICE, name="top", tools="g*", task="do it", mode="chat")
    top.deliver()
    top.record("model_reply", message=wants(wish("a", "grep"), text="é"), usage=USED)
    top.record("tool_call", id="a", name="grep", arguments={})
    top.record("tool_result", id="a", message={"role": "tool", "tool_call_id": "a", "content": "x"})
    top.record("turn_end", turn=1)
    top.post("more\n\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "stdin")
    zombie = await spawned(table, top, metadata={"n": [1, None, "é"]})
    table.kill(ROOT, zombie.pid, "enough\nof it", term=True)
    paused = await spawned(table, top, life="detached", labels={"a": "b"})
    table.stop(ROOT, paused.pid)
    stopped = await spawned(table, tools=["act", "look"])
    stopped.record("model_reply", message=says("the end"), usage={**USED, "cost_usd": None})
    adopted = await spawned(table, stopped, life="detached", on_excess="clamp", tools="*")
    adopted.record("interrupted")
    table.kill(ROOT, stopped.pid)
    return top


USED = {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25}


@pytest.fixture
def idle(table: ProcessTable) -> ProcessTable:
    """A table whose agents do nothing."""

    async def program(_: ProgramProcess) -> Outcome:
        await trio.sleep_forever()
        raise AssertionError

    table.program = program
    return table


async def test_a_restored_table_shows_the_same_byte_for_byte(
    idle: ProcessTable, journal: MemoryJournal
) -> None:
    await busy_table(idle)

    assert shown(restored(journal)) == shown(idle)


async def test_the_journal_of_an_ended_agent_is_read_when_its_events_are_asked_for(
    idle: ProcessTable, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await busy_table(idle)
    ended = {process.pid for process in idle if process.state.ended}
    reads: list[int] = []
    whole = journal.read

    def read(pid: int) -> list[bytes]:
        reads.append(pid)
        return whole(pid)

    monkeypatch.setattr(journal, "read", read)

    table = restored(journal)
    texts = {pid: proc_render.status(table.get(pid)) for pid in ended}
    before = set(reads)
    events = {pid: bytes(table.get(pid).events.data) for pid in ended}

    assert ended and not ended & before and ended <= set(reads)
    assert texts == {pid: proc_render.status(idle.get(pid)) for pid in ended}
    assert events == {pid: bytes(idle.get(pid).events.data) for pid in ended}


async def test_restoring_writes_nothing(idle: ProcessTable, journal: MemoryJournal) -> None:
    await busy_table(idle)
    before = {pid: list(lines) for pid, lines in journal.lines.items()}

    restored(journal)

    assert journal.lines == before


async def test_streams_of_ended_agents_are_closed_after_a_restore(
    idle: ProcessTable, journal: MemoryJournal
) -> None:
    await busy_table(idle)

    for process in restored(journal):
        assert process.events.closed is process.state.ended
        assert process.ending.closed is process.state.ended


async def test_agents_that_live_go_on_and_say_so(
    idle: ProcessTable, journal: MemoryJournal, make_table: MakeTable
) -> None:
    await busy_table(idle)
    living = {process.pid for process in idle if not process.state.ended}

    make_table()

    resumed = {pid for pid, lines in journal.lines.items() if b'"resume"' in lines[-1]}
    assert resumed == living


async def test_a_paused_agent_is_paused_after_a_restart(
    table: ProcessTable, make_table: MakeTable
) -> None:
    agent = await spawned(table)
    table.stop(ROOT, agent.pid)

    again = make_table()

    assert again.get(agent.pid).state == "paused"


async def test_calls_that_were_open_are_the_programs_to_answer_after_a_restart(
    idle: ProcessTable, make_table: MakeTable
) -> None:
    agent = await spawned(idle)
    agent.record("model_call", message=wants(wish("a", "act"), wish("b", "act")))
    agent.record("tool_call", id="a", name="act", arguments={})
    agent.record("tool_start", ids=["a"])

    again = make_table().get(agent.pid)

    assert [call["id"] for call in again.open_calls()] == ["a", "b"]
    assert (again.intents, again.begun) == ({"a"}, {"a"})


async def test_rights_hold_after_a_restart(table: ProcessTable, make_table: MakeTable) -> None:
    parent = await spawned(table, cred=ALICE, tools=["grep"])

    again = make_table()

    with pytest.raises(NotPermittedError):
        await spawned(again, again.get(parent.pid), tools=["act"])
    assert again.get(parent.pid).cred.uid == ALICE.uid


async def test_a_zombie_waits_for_its_parent_after_a_restart(
    idle: ProcessTable, make_table: MakeTable
) -> None:
    parent = await spawned(idle)
    child = await spawned(idle, parent)
    idle.kill(ROOT, child.pid)

    again = make_table()
    before = again.get(child.pid).state
    await again.wait(again.get(parent.pid).cred, child.pid)

    assert (before, again.get(child.pid).state) == ("zombie", "stopped")


async def test_a_table_that_is_suspended_ends_nobody(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    agent = await spawned(table)

    table.suspend()
    await trio.testing.wait_all_tasks_blocked()

    assert not agent.state.ended
    assert [e["type"] for e in events_of(journal.lines[agent.pid])] == ["spawn"]


async def test_reaped_agents_do_not_come_back(table: ProcessTable, journal: MemoryJournal) -> None:
    agent = await spawned(table)
    table.kill(ROOT, agent.pid)
    table.reap(ROOT, agent.pid)

    assert len(restored(journal)) == 0


async def test_journals_from_before_there_were_caveats_and_limits_are_read(
    table: ProcessTable, journal: MemoryJournal
) -> None:
    agent, ended = await spawned(table, tools="g*"), await spawned(table, tools="grep")
    table.end(ended, Outcome(0, "done"))
    before = shown(table)
    for pid, lines in journal.lines.items():
        events = [json.loads(line) for line in lines]
        for event in events:
            for said in (event, event.get("totals", {})):
                for name in ("caveats", "limits", "settled"):
                    said.pop(name, None)
        journal.lines[pid] = [json.dumps(event).encode() for event in events]

    again = restored(journal)

    assert [process.state for process in again] == [process.state for process in table]
    assert again.get(agent.pid).rights.may_use("grep")
    assert not again.get(agent.pid).rights.may_use("exec")
    assert again.get(ended.pid).result == ended.result
    assert shown(again).keys() == before.keys()

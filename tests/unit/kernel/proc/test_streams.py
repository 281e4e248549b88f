"""What an ended agent keeps in memory, and what is read from its journal again."""

import json

import pytest
import trio

from nexusfs.contracts.errors import NoSpaceError
from nexusfs.contracts.proc import Outcome
from nexusfs.kernel.proc.process import KEPT_BYTES, Process
from nexusfs.kernel.proc.steps import LIVE_BYTES, STREAMS_KEPT
from nexusfs.kernel.proc.table import ProcessTable
from tests.kernel_fixture import ROOT, MemoryJournal, says, spawned

LONG = "word " * KEPT_BYTES


async def talker(table: ProcessTable, text: str = LONG) -> Process:
    """An agent that was asked something and has said `text`."""
    process = await spawned(table, task="go")
    process.deliver()
    process.record("model_reply", message=says(text), model="m", usage={
        "input_tokens": 1, "output_tokens": 2, "cost_usd": 0.5})  # fmt: skip
    return process


def held_bytes(process: Process) -> int:
    """Bytes of streams in memory."""
    return sum(len(log.data) for log in (process._stdout, process._messages, process._events))


async def test_a_long_talk_leaves_memory_with_its_agent_and_is_read_again(
    table: ProcessTable,
) -> None:
    agent = await talker(table)
    agent.post("not delivered", "stdin")
    events, transcript = bytes(agent.events.data), list(agent.transcript)

    table.kill(ROOT, agent.pid, "enough")

    held, shown = held_bytes(agent), (agent.state, agent.reason, agent.turns, list(agent.mail))
    assert held == 0 and not agent._transcript
    assert bytes(agent.stdout.data).decode() == LONG + "\n" and agent.stdout.closed
    assert agent.transcript == transcript and agent.events.data.startswith(events)
    assert json.loads(agent.events.data.splitlines()[-1])["type"] == "exit"
    assert (agent.state, agent.reason, agent.turns, list(agent.mail)) == shown
    assert (agent.counts.model_calls, agent.account.used.model_calls) == (1, 1)


async def test_a_reader_who_was_there_before_the_end_reads_to_it(table: ProcessTable) -> None:
    agent = await talker(table)
    cursor = agent.stdout.cursor()

    table.kill(ROOT, agent.pid, "enough")

    assert cursor.take() == LONG.encode() + b"\n" and cursor.at_end


async def test_what_happens_after_the_end_is_in_events_too(table: ProcessTable) -> None:
    parent = await spawned(table)
    child = await spawned(table, parent, task="go")
    child.deliver()
    child.record("notice", message={"role": "user", "content": LONG})
    table.end(child, Outcome(0, "done", ""))
    assert str(child.state) == "zombie" and held_bytes(child) == 0

    table.reap(ROOT, child.pid)

    assert held_bytes(child) == 0
    assert str(child.state) == "stopped"
    assert json.loads(child.events.data.splitlines()[-1])["to"] == "stopped"


async def test_only_the_agents_that_were_read_last_are_in_memory(table: ProcessTable) -> None:
    agents = [await talker(table) for _ in range(STREAMS_KEPT + 3)]
    for agent in agents:
        table.kill(ROOT, agent.pid, "enough")

    for agent in agents:
        assert len(agent.stdout.data) == len(LONG) + 1

    assert [held_bytes(agent) > 0 for agent in agents] == [False] * 3 + [True] * STREAMS_KEPT


async def test_an_end_that_is_in_no_journal_stays_in_memory(
    table: ProcessTable, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    agent = await talker(table)

    def full(pid: int, line: bytes) -> None:
        raise NoSpaceError("no space left")

    monkeypatch.setattr(agent, "_append", full)
    table.kill(ROOT, agent.pid, "enough")

    assert agent.state.ended and len(agent.stdout.data) > KEPT_BYTES
    assert agent.state.ended
    caplog.clear()


async def test_a_short_talk_stays_in_memory(table: ProcessTable) -> None:
    agent = await talker(table, "short")

    table.kill(ROOT, agent.pid, "enough")

    assert held_bytes(agent) > 0
    await trio.lowlevel.checkpoint()


async def test_live_lines_of_events_are_kept_up_to_a_bound(table: ProcessTable) -> None:
    agent = await spawned(table, task="go")
    for _ in range(100):
        agent.say("x" * (LIVE_BYTES // 20))

    assert len(agent.events.live) <= 2 * LIVE_BYTES
    assert len(agent.stdout.live) == 100 * (LIVE_BYTES // 20)

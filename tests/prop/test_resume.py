"""An agent that is cut at any point, or whose kernel is killed after any record, comes to its end.

More examples: `NEXUSFS_MODEL_EXAMPLES=1000 pytest tests/prop/test_resume.py`.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexusfs.contracts.errors import BusyError
from nexusfs.contracts.model import Message, ModelCall, ModelObserver, ModelReply, Quote, Usage
from nexusfs.contracts.proc import FIRST_PID
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.services.agent.program import AgentProgram
from tests.kernel_fixture import (
    ROOT,
    BareDispatcher,
    MemoryJournal,
    Workshop,
    check_history,
    events_of,
    says,
    spec,
    wants,
    warm,
    wish,
)

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("NEXUSFS_MODEL_EXAMPLES", "60"))
TASK = "do it"

CALLS = st.tuples(st.sampled_from(["look", "act", "fail", "raw", "none", "bad"]), st.integers(0, 3))
TURNS = st.lists(st.lists(CALLS, min_size=1, max_size=4), max_size=3)
CUTS = st.lists(st.integers(0, 40).map(lambda quarters: quarters / 4), max_size=4)
VERBS = st.sampled_from(["interrupt", "interrupt", "stop", "cont", "send", "steer"])
SIGNALS = st.lists(st.tuples(st.integers(0, 8).map(lambda n: n / 4), VERBS), max_size=8)
SHOP = Workshop()


@dataclass
class Script:
    """A model that goes by how many of its messages the conversation has: it can be cut."""

    turns: list[Message]

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        check_history(call.messages)
        done = sum(message["role"] == "assistant" for message in call.messages)
        message = self.turns[done] if done < len(self.turns) else says("the end")
        observer.text("the")
        await trio.sleep(0.5)
        return ModelReply(message, Usage(7, 3, 0.5), call.model)

    async def quote(self, call: ModelCall) -> Quote:
        return Quote(call.model, 0)

    def available(self) -> list[dict[str, Any]]:
        return []

    def marks(self) -> list[tuple[str, str]]:
        """(tool, mark) of every call that leaves a trace."""
        calls = [call for turn in self.turns for call in turn["tool_calls"]]
        asked = [(call["function"], call["id"]) for call in calls]
        return [(f["name"], mark) for f, mark in asked if "mark" in f["arguments"]]


def said_of(process: Process, call_id: str) -> str:
    """What the model was told about a call."""
    (message,) = [m for m in process.transcript if m.get("tool_call_id") == call_id]
    return str(message["content"])


def script_of(turns: Sequence[Sequence[tuple[str, int]]]) -> Script:
    messages = []
    for number, turn in enumerate(turns):
        calls = []
        for index, (name, seconds) in enumerate(turn):
            mark = f"{number}.{index}"
            if name in ("look", "act"):
                calls.append(wish(mark, name, seconds=seconds, mark=mark))
            else:
                calls.append(
                    wish(mark, "look" if name == "bad" else name, "{bad" * (name == "bad"))
                )
        messages.append(wants(*calls))
    return Script(messages)


FEW = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class World:
    """One journal, and a table over it for each life of the kernel."""

    def __init__(self, script: Script, journal: MemoryJournal | None = None) -> None:
        self.script = script
        self.journal = journal or MemoryJournal()
        SHOP.trace.clear()
        warm(SHOP.tools)

    def table(self) -> ProcessTable:
        dispatcher = BareDispatcher(*SHOP.tools)
        table = ProcessTable(self.journal, dispatcher.table.all_names)
        table.program = AgentProgram(self.script, dispatcher)
        table.restore()
        return table

    async def life(self, seconds: float, *, spawn: bool = False) -> Process:
        """A kernel that runs so long and is then cut; the agent as it was."""
        table = self.table()
        async with trio.open_nursery() as nursery:
            table.start(nursery)
            if spawn:
                await table.spawn(ROOT, spec(task=TASK))
            (process,) = table
            with trio.move_on_after(seconds):
                await table.wait(ROOT, process.pid)
            table.suspend()
        return process

    async def signalled(self, signals: Sequence[tuple[float, str]]) -> Process:
        """A chat agent that gets these signals, each so long after the last, and is killed."""
        table = self.table()
        async with trio.open_nursery() as nursery:
            table.start(nursery)
            pid = (await table.spawn(ROOT, spec(task=TASK, mode="chat"))).pid
            process = table.get(pid)
            for seconds, verb in signals:
                await trio.sleep(seconds)
                with contextlib.suppress(BusyError):
                    getattr(table, verb)(ROOT, pid, *(["more"] * (verb in ("send", "steer"))))
                check_history_so_far(process)
            table.kill(ROOT, pid)
        return process


def check_history_so_far(process: Process) -> None:
    """The history, as it would be if the open calls were answered now."""
    answers = [{"role": "tool", "tool_call_id": call["id"]} for call in process.open_calls()]
    check_history([*process.transcript, *answers])


def run(main: Any, *args: Any) -> Any:
    return trio.run(main, *args, clock=trio.testing.MockClock(autojump_threshold=0))


def check_finished(process: Process, script: Script) -> None:
    """The end that an agent has which nobody ever cut, but for what its tools said."""
    check_history(process.transcript)
    assert (process.exit_code, process.result) == (0, "the end")
    said = [message for message in process.transcript if message["role"] == "assistant"]
    assert said == [*script.turns, says("the end")]
    assert process.counts.model_calls == len(said)
    assert process.turns <= len(script.turns)
    started = Counter(mark for mark in SHOP.trace if mark.startswith("+"))
    for name, mark in script.marks():
        if name == "act":
            assert started[f"+{mark}"] <= 1, "a call was repeated that may not be"
        told = said_of(process, mark)
        if "interrupted" not in told:
            assert told == f"{name} done {mark}", "a call was lost"
        else:
            assert name == "act", "a call was given up that may be repeated"


def view(process: Process) -> dict[str, Any]:
    """All that the journal is to keep of a process."""
    names = (
        "pid", "parent_pid", "agent_id", "installed", "spec", "state", "counts", "turns",
        "transcript", "started_at", "ended_at", "started_ns", "exit_code", "reason", "result",
        "warnings", "dropped",
    )  # fmt: skip
    logs = {name: bytes(getattr(process, name).data) for name in ("events", "stdout", "messages")}
    mail = list(process.mail)
    return {**{name: getattr(process, name) for name in names}, **logs, "mail": mail}


@FEW
@given(turns=TURNS, cuts=CUTS)
def test_an_agent_that_is_cut_anywhere_comes_to_its_end(
    turns: list[list[tuple[str, int]]], cuts: list[float]
) -> None:
    world = World(script_of(turns))

    async def main() -> Process:
        process = None
        for seconds in [*cuts, 10_000.0]:
            process = await world.life(seconds, spawn=process is None)
        assert process is not None
        return process

    check_finished(run(main), world.script)


@FEW
@given(turns=TURNS, cut=st.integers(0, 40).map(lambda quarters: quarters / 4))
def test_a_restored_agent_is_the_same_byte_for_byte(
    turns: list[list[tuple[str, int]]], cut: float
) -> None:
    world = World(script_of(turns))

    process: Process = run(lambda: world.life(cut, spawn=True))

    (restored,) = world.table()
    assert view(restored) == view(process)


@settings(
    max_examples=max(EXAMPLES // 4, 5), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(turns=TURNS)
def test_an_agent_whose_kernel_dies_after_any_record_comes_to_its_end(
    turns: list[list[tuple[str, int]]],
) -> None:
    whole = World(script_of(turns))
    run(lambda: whole.life(10_000.0, spawn=True))
    lines = whole.journal.lines[FIRST_PID]

    for kept in range(1, len(lines) + 1):
        world = World(whole.script, whole.journal.cut_after(kept))
        process: Process = run(lambda world=world: world.life(10_000.0))
        check_finished(process, whole.script)
        ends = [e for e in events_of(world.journal.lines[process.pid]) if e["type"] == "exit"]
        assert len(ends) == 1, (
            f"ended twice when cut after line {kept}: {events_of(lines)[kept - 1]}"
        )


@FEW
@given(turns=TURNS, signals=SIGNALS)
def test_a_chat_agent_has_a_valid_history_whatever_signals_it_gets(
    turns: list[list[tuple[str, int]]], signals: list[tuple[float, str]]
) -> None:
    world = World(script_of(turns))

    process: Process = run(lambda: world.signalled(signals))

    check_history(process.transcript)
    (restored,) = world.table()
    assert view(restored) == view(process)

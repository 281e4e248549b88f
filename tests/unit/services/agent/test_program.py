"""Agents from spawn to their end, in a kernel without mount and worker."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.errors import BusyError, KernelError, ModelError, PipeClosedError
from nexusfs.contracts.model import Message, ModelPort, ScriptedModel
from nexusfs.contracts.proc import ExitStatus
from nexusfs.kernel.proc.process import Process
from nexusfs.services.agent.calls import UNKNOWN
from tests.kernel_fixture import (
    ALICE,
    ROOT,
    SlowModel,
    Workshop,
    booted,
    check_history,
    events_of,
    says,
    spec,
    until,
    wants,
    wish,
)

Clock = trio.testing.MockClock


class Run:
    """A kernel with the tools of a workshop, and one agent after another."""

    def __init__(self, kernel: Kernel, shop: Workshop) -> None:
        self.kernel = kernel
        self.calls = kernel.syscalls
        self.shop = shop

    async def spawn(self, **fields: Any) -> Process:
        info = await self.calls.sys_proc_spawn(ROOT, spec(**{"task": "do it", **fields}))
        return self.process(info.pid)

    def process(self, pid: int) -> Process:
        found = self.kernel.processes.find(pid)
        assert found is not None
        return found

    async def end_of(self, process: Process) -> ExitStatus:
        return await self.calls.sys_proc_wait(ROOT, process.pid, 1000)

    async def signal(self, process: Process, verb: str) -> None:
        await self.calls.sys_proc_signal(ROOT, process.pid, verb)

    async def send(self, process: Process, text: str) -> None:
        await self.calls.sys_proc_send(ROOT, process.pid, text)


@contextlib.asynccontextmanager
async def running(store: Path, model: ModelPort) -> AsyncIterator[Run]:
    shop = Workshop()
    async with booted(store, model, tools=shop.tools) as kernel:
        yield Run(kernel, shop)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def asked(message: Message) -> str:
    return str(message["content"])


def kinds(process: Process) -> list[str]:
    return [event["type"] for event in events_of(bytes(process.events.data).splitlines())]


# The end


async def test_an_answer_without_tool_calls_ends_it(store: Path) -> None:
    async with running(store, ScriptedModel(says("42"))) as run:
        agent = await run.spawn()
        status = await run.end_of(agent)

        assert (status.exit_code, status.reason, agent.result) == (0, "done", "42")


async def test_three_rounds_dispatch_three_times(store: Path) -> None:
    rounds = [wants(wish(str(n), "act", mark=str(n))) for n in range(3)]
    async with running(store, ScriptedModel(*rounds, says("end"))) as run:
        agent = await run.spawn()
        await run.end_of(agent)

        assert run.shop.trace == ["+0", "-0", "+1", "-1", "+2", "-2"]
        assert (agent.turns, agent.counts.model_calls, agent.result) == (3, 4, "end")


async def test_at_max_turns_a_last_turn_without_tools_answers(store: Path) -> None:
    model = ScriptedModel(*(wants(wish(str(n), "act")) for n in range(2)), says("so far"))
    async with running(store, model) as run:
        agent = await run.spawn(max_turns=2)
        status = await run.end_of(agent)

        assert (status.exit_code, status.reason) == (3, "max_turns (2) reached")
        assert agent.result == "so far"
        assert [bool(call.tools) for call in model.calls] == [True, True, False]


async def test_an_answer_in_the_last_allowed_turn_is_done(store: Path) -> None:
    async with running(store, ScriptedModel(wants(wish("a", "act")), says("end"))) as run:
        status = await run.end_of(await run.spawn(max_turns=2))

        assert status.exit_code == 0


async def test_a_model_that_fails_ends_a_oneshot_with_1(store: Path) -> None:
    async with running(store, SlowModel(ModelError("no credit", kind="auth"), seconds=0)) as run:
        status = await run.end_of(await run.spawn())

        assert (status.exit_code, status.reason) == (1, "model: no credit")


async def test_an_empty_answer_is_an_end_with_an_empty_result(store: Path) -> None:
    async with running(store, ScriptedModel({"role": "assistant", "content": None})) as run:
        agent = await run.spawn()
        status = await run.end_of(agent)

        assert (status.exit_code, agent.result) == (0, "")


async def test_a_model_port_with_a_bug_ends_the_agent_and_not_the_kernel(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ScriptedModel):
        async def complete(self, call: Any, observer: Any) -> Any:
            raise RuntimeError("a bug")

    async with running(store, Broken()) as run:
        status = await run.end_of(await run.spawn())

        assert (status.exit_code, status.reason) == (1, "internal error: RuntimeError")
    assert "the program failed" in caplog.text
    caplog.clear()


async def test_events_of_a_life_are_in_order(store: Path) -> None:
    async with running(store, ScriptedModel(wants(wish("a", "look")), says("end"))) as run:
        agent = await run.spawn()
        await run.end_of(agent)

        assert kinds(agent) == [
            "spawn", "input", "model_call", "model_reply", "tool_call",
            "tool_result", "turn_end", "model_call", "model_reply", "exit",
        ]  # fmt: skip


# Chat


async def test_a_chat_agent_waits_for_the_next_message(store: Path) -> None:
    async with running(store, ScriptedModel(says("one"), says("two"))) as run:
        agent = await run.spawn(mode="chat")
        await until(lambda: agent.wchan == "message")
        await run.send(agent, "more")
        await until(lambda: len(agent.transcript) == 4)

        assert [asked(m) for m in agent.transcript] == ["do it", "one", "more", "two"]
        assert not agent.state.ended


async def test_a_chat_agent_survives_a_model_error(store: Path) -> None:
    model = SlowModel(ModelError("busy", kind="server"), says("back"), seconds=0)
    async with running(store, model) as run:
        agent = await run.spawn(mode="chat")
        await until(lambda: agent.wchan == "message")
        await run.send(agent, "again")
        await until(lambda: agent.transcript[-1]["role"] == "assistant")

        assert agent.transcript[-1] == says("back")


async def test_a_chat_agent_does_not_repeat_a_failed_call_by_itself(store: Path) -> None:
    model = SlowModel(ModelError("busy", kind="server"), seconds=0)
    async with running(store, model) as run:
        agent = await run.spawn(mode="chat")
        await until(lambda: agent.wchan == "message")

        assert len(model.calls) == 1


async def test_max_turns_of_a_chat_agent_count_from_the_last_message(store: Path) -> None:
    turns = [wants(wish("a", "act")), says("closed"), wants(wish("b", "act")), says("again")]
    model = ScriptedModel(*turns)
    async with running(store, model) as run:
        agent = await run.spawn(mode="chat", max_turns=1)
        await until(lambda: agent.wchan == "message")
        await run.send(agent, "more")
        await until(lambda: agent.transcript[-1] == says("again"))

        assert [bool(call.tools) for call in model.calls] == [True, False, True, False]
        assert not agent.state.ended


async def test_an_agent_without_a_task_waits_for_its_first_message(store: Path) -> None:
    async with running(store, ScriptedModel(says("hello"))) as run:
        agent = await run.spawn(task="")
        await until(lambda: agent.wchan == "message")
        await run.send(agent, "hi")

        assert (await run.end_of(agent)).exit_code == 0


# Signals


async def test_int_of_a_oneshot_ends_it_with_minus_2(store: Path, autojump_clock: Clock) -> None:
    async with running(store, SlowModel(says("never"))) as run:
        agent = await run.spawn()
        await trio.sleep(0.1)
        await run.signal(agent, "int")

        assert (await run.end_of(agent)).exit_code == -2


async def test_int_of_a_chat_agent_drops_the_turn_and_answers_its_calls(
    store: Path, autojump_clock: Clock
) -> None:
    model = ScriptedModel(wants(wish("a", "act", seconds=9), wish("b", "act")), says("ok"))
    async with running(store, model) as run:
        agent = await run.spawn(mode="chat")
        await trio.sleep(1)
        await run.signal(agent, "int")
        await until(lambda: agent.wchan == "message")

        assert run.shop.trace == ["+act"]
        assert [m["role"] for m in agent.transcript] == ["user", "assistant", "tool", "tool"]
        check_history(agent.transcript)


async def test_after_int_a_chat_agent_answers_the_next_message(
    store: Path, autojump_clock: Clock
) -> None:
    model = ScriptedModel(wants(wish("a", "act", seconds=9)), says("ok"))
    async with running(store, model) as run:
        agent = await run.spawn(mode="chat")
        await trio.sleep(1)
        await run.signal(agent, "int")
        await until(lambda: agent.wchan == "message")
        await run.send(agent, "never mind")
        await until(lambda: agent.transcript[-1] == says("ok"))

        assert len(model.calls) == 2
        check_history(model.calls[1].messages)


async def test_int_of_a_chat_agent_takes_back_half_an_answer(
    store: Path, autojump_clock: Clock
) -> None:
    async with running(store, SlowModel(says("half"))) as run:
        agent = await run.spawn(mode="chat")
        await trio.sleep(0.7)
        seen = bytes(agent.stdout.live)
        await run.signal(agent, "int")
        await until(lambda: agent.wchan == "message")

        assert (seen, bytes(agent.stdout.live)) == (b"half", b"")
        assert kinds(agent)[-1] == "interrupted"


async def test_int_of_a_chat_agent_that_only_waits_is_ebusy(store: Path) -> None:
    async with running(store, ScriptedModel(says("one"))) as run:
        agent = await run.spawn(mode="chat")
        await until(lambda: agent.wchan == "message")

        with pytest.raises(BusyError):
            await run.signal(agent, "int")


async def test_stop_holds_an_agent_before_its_next_step(store: Path, autojump_clock: Clock) -> None:
    model = SlowModel(wants(wish("a", "act")), says("end"))
    async with running(store, model) as run:
        agent = await run.spawn()
        await trio.sleep(0.1)
        await run.signal(agent, "stop")
        await trio.sleep(100)

        assert (agent.state, len(model.calls), agent.turns) == ("paused", 1, 0)
        assert run.shop.trace == []


async def test_cont_lets_a_stopped_agent_go_on(store: Path, autojump_clock: Clock) -> None:
    async with running(store, SlowModel(wants(wish("a", "act")), says("end"))) as run:
        agent = await run.spawn()
        await trio.sleep(0.1)
        await run.signal(agent, "stop")
        await trio.sleep(100)
        await run.signal(agent, "cont")

        assert (await run.end_of(agent)).exit_code == 0


async def test_stop_and_cont_within_a_turn_change_nothing(
    store: Path, autojump_clock: Clock
) -> None:
    async with running(store, SlowModel(wants(wish("a", "act")), says("end"))) as run:
        agent = await run.spawn()
        await trio.sleep(0.1)
        for verb in ("stop", "cont", "stop", "cont"):
            await run.signal(agent, verb)

        assert (await run.end_of(agent)).exit_code == 0


@pytest.mark.parametrize("verbs", [["cont"], ["stop", "stop"]])
async def test_a_signal_that_its_state_does_not_allow_is_ebusy(
    store: Path, verbs: list[str]
) -> None:
    async with running(store, ScriptedModel(says("one"))) as run:
        agent = await run.spawn(mode="chat")
        for verb in verbs[:-1]:
            await run.signal(agent, verb)

        with pytest.raises(BusyError):
            await run.signal(agent, verbs[-1])


async def test_a_stopped_chat_agent_answers_a_message_after_cont(
    store: Path, autojump_clock: Clock
) -> None:
    model = ScriptedModel(says("one"), says("two"))
    async with running(store, model) as run:
        agent = await run.spawn(mode="chat")
        await until(lambda: agent.wchan == "message")
        await run.signal(agent, "stop")
        await run.send(agent, "more")
        await trio.sleep(100)
        before = len(model.calls)
        await run.signal(agent, "cont")
        await until(lambda: agent.transcript[-1] == says("two"))

        assert before == 1


async def test_kill_during_a_tool_leaves_a_valid_history(
    store: Path, autojump_clock: Clock
) -> None:
    model = ScriptedModel(wants(wish("a", "act"), wish("b", "act", seconds=9), wish("c", "act")))
    async with running(store, model) as run:
        agent = await run.spawn()
        await trio.sleep(1)
        await run.calls.sys_proc_kill(ROOT, agent.pid)
        await trio.sleep(100)

        assert run.shop.trace == ["+act", "-act", "+act"]
        check_history(agent.transcript)


async def test_nothing_of_a_killed_agent_is_journaled_after_its_end(
    store: Path, autojump_clock: Clock
) -> None:
    async with running(store, SlowModel(says("never"))) as run:
        agent = await run.spawn()
        await trio.sleep(0.7)
        await run.calls.sys_proc_kill(ROOT, agent.pid)
        await trio.sleep(100)

        assert kinds(agent)[-2:] == ["model_call", "exit"]


# Messages in the middle


@pytest.mark.parametrize("source", ["stdin", "steer"])
async def test_a_message_in_the_middle_is_delivered_at_the_next_turn(
    store: Path, autojump_clock: Clock, source: str
) -> None:
    model = SlowModel(wants(wish("a", "act")), says("end"))
    async with running(store, model) as run:
        agent = await run.spawn()
        await trio.sleep(0.1)
        run.kernel.processes.send(ROOT, agent.pid, "by the way", source)
        await run.end_of(agent)

        assert [m["role"] for m in model.calls[1].messages] == ["user", "assistant", "tool", "user"]
        assert model.calls[1].messages[-1]["content"] == "by the way"


async def test_a_message_during_the_last_turn_makes_one_more(
    store: Path, autojump_clock: Clock
) -> None:
    async with running(store, SlowModel(says("one"), says("two"))) as run:
        agent = await run.spawn()
        await trio.sleep(0.1)
        await run.send(agent, "and?")
        status = await run.end_of(agent)

        assert (status.exit_code, agent.result) == (0, "two")


async def test_a_message_to_an_agent_that_ended_is_epipe(store: Path) -> None:
    async with running(store, ScriptedModel(says("one"))) as run:
        agent = await run.spawn()
        await run.end_of(agent)

        with pytest.raises(PipeClosedError):
            await run.send(agent, "too late")


# Cut off and resumed


async def resumed(store: Path, first: ModelPort, then: ModelPort, **fields: Any) -> Process:
    """An agent that the kernel's shutdown cuts after a second, and that then runs to its end."""
    async with running(store, first) as run:
        pid = (await run.spawn(**fields)).pid
        await trio.sleep(1)
    async with running(store, then) as run:
        agent = run.process(pid)
        await run.end_of(agent)
        return agent


async def test_an_agent_cut_in_a_tool_goes_on_and_is_told(
    store: Path, autojump_clock: Clock
) -> None:
    first = ScriptedModel(wants(wish("a", "act"), wish("b", "act", seconds=9)))
    then = ScriptedModel(says("end"))

    agent = await resumed(store, first, then)

    said = [m["content"] for m in then.calls[0].messages if m["role"] == "tool"]
    assert said == ["act done", UNKNOWN]
    assert agent.exit_code == 0


async def test_an_agent_cut_in_a_model_call_asks_again(store: Path, autojump_clock: Clock) -> None:
    then = ScriptedModel(says("end"))

    agent = await resumed(store, SlowModel(says("never"), seconds=9), then)

    assert [asked(m) for m in then.calls[0].messages] == ["do it"]
    assert (agent.result, bytes(agent.stdout.data)) == ("end", b"end\n")


async def test_turns_and_use_go_on_where_they_were(store: Path, autojump_clock: Clock) -> None:
    first = ScriptedModel(wants(wish("a", "act")), wants(wish("b", "act", seconds=9)))

    agent = await resumed(store, first, ScriptedModel(says("end")), max_turns=2)

    assert (agent.turns, agent.counts.model_calls, agent.exit_code) == (2, 3, 3)


async def test_a_tool_that_makes_a_system_call_while_it_is_cut_does_not_end_its_agent(
    store: Path, autojump_clock: Clock
) -> None:
    class Careful(ScriptedModel):
        async def complete(self, call: Any, observer: Any) -> Any:
            reply = await super().complete(call, observer)
            try:
                await trio.sleep(9)
            except trio.Cancelled:
                with pytest.raises(KernelError):
                    await run.calls.sys_stat(ALICE, "/")
                raise
            return reply

    async with running(store, Careful(says("never"))) as run:
        pid = (await run.spawn()).pid
        await trio.sleep(1)
    async with running(store, ScriptedModel(says("end"))) as run:
        status = await run.end_of(run.process(pid))

    assert (status.exit_code, status.reason) == (0, "done")

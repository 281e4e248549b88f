"""A turn that was cut: what is run again, what is told, and what is on disk before it runs."""

from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.contracts.agent import AgentLoopConfig, StepAction
from nexusfs.contracts.errors import DisconnectedError, NoSpaceError
from nexusfs.contracts.model import ScriptedModel
from nexusfs.contracts.proc import ProcState
from nexusfs.contracts.tool import Tool, ToolContext, tool
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.steps import Host
from nexusfs.services.agent.calls import UNKNOWN
from nexusfs.services.agent.loop import agent_step
from tests.kernel_fixture import (
    ALICE,
    BareDispatcher,
    Workshop,
    booted,
    check_history,
    events_of,
    says,
    spec,
    until,
    wants,
    warm,
    wish,
)

USED = {"input_tokens": 1, "output_tokens": 1, "cost_usd": 0.0}


class Cut:
    """A process whose journal ends somewhere in a turn of these calls."""

    def __init__(self, *calls: dict[str, Any], **fields: Any) -> None:
        self.lines: list[bytes] = []
        self.synced = 0
        self.full_at = b"never"
        self.process = Process(
            2, 1, ALICE.as_agent(2), spec(**fields), self._append, Host(on_disk=self._sync)
        )
        self.process.move(ProcState.RUNNING)
        self.process.post("do it", "task")
        self.process.deliver()
        self.process.record("model_reply", message=wants(*calls), usage=USED)
        self.shop = Workshop()
        self.seen_on_disk: list[list[str]] = []

    def _append(self, _: int, line: bytes) -> None:
        if self.full_at in line:
            raise NoSpaceError("no space")
        self.lines.append(line)

    async def _sync(self) -> None:
        self.synced = len(self.lines)

    def intend(self, *ids: str) -> None:
        for one in ids:
            self.process.record("tool_call", id=one, name="?", arguments={})

    def begin(self, *ids: str) -> None:
        self.process.record("tool_start", ids=list(ids))

    async def go_on(self, *tools: Tool, config: AgentLoopConfig | None = None) -> list[str]:
        """One step; what the tools said to the model."""
        dispatcher = BareDispatcher(*(tools or self.shop.tools))
        model = ScriptedModel()  # it is not asked
        result = await agent_step(self.process, model, dispatcher, config=config)
        assert result.action is StepAction.CONTINUE
        check_history(self.process.transcript)
        return [m["content"] for m in self.process.transcript if m["role"] == "tool"]

    def kinds(self) -> list[str]:
        return [event["type"] for event in events_of(self.lines)]


async def test_calls_that_were_not_journaled_yet_run() -> None:
    cut = Cut(wish("a", "act"), wish("b", "look"))

    assert await cut.go_on() == ["act done", "look done"]
    assert cut.process.turns == 1


async def test_an_intent_that_had_not_begun_runs() -> None:
    cut = Cut(wish("a", "act", mark="a"), wish("b", "act", mark="b"))
    cut.intend("a", "b")
    cut.begin("a")

    assert await cut.go_on() == [UNKNOWN, "act done b"]
    assert cut.shop.trace == ["+b", "-b"]


async def test_no_intent_is_journaled_twice() -> None:
    cut = Cut(wish("a", "act"), wish("b", "act"))
    cut.intend("a")

    await cut.go_on()

    assert cut.kinds().count("tool_call") == 2
    assert cut.process.counts.tool_calls == 2


async def test_an_unfinished_call_that_may_be_repeated_runs_again() -> None:
    cut = Cut(wish("a", "look", mark="a"))
    cut.intend("a")

    assert await cut.go_on() == ["look done a"]


async def test_an_unfinished_call_that_may_not_is_told_to_the_model() -> None:
    cut = Cut(wish("a", "act"))
    cut.intend("a")
    cut.begin("a")

    assert await cut.go_on() == [UNKNOWN]
    assert cut.shop.trace == []


async def test_results_of_a_cut_group_are_in_call_order() -> None:
    cut = Cut(wish("a", "look", mark="a"), wish("b", "fail"), wish("c", "look", mark="c"))
    cut.intend("a", "b", "c")
    cut.begin("b")

    assert await cut.go_on() == ["look done a", UNKNOWN, "look done c"]


async def test_a_result_is_journaled_when_it_is_there_and_not_at_the_end_of_its_group(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cut = Cut(wish("a", "look", seconds=1), wish("b", "look", seconds=9))

    with trio.move_on_after(5):
        await cut.go_on()

    assert [call["id"] for call in cut.process.open_calls()] == ["b"]


async def test_everything_is_on_disk_before_a_call_that_may_not_be_repeated() -> None:
    lines_then: list[tuple[int, int]] = []

    @tool()
    async def act(ctx: ToolContext) -> str:
        """Change something."""
        lines_then.append((cut.synced, len(cut.lines)))
        return "done"

    cut = Cut(wish("a", "act"), wish("b", "act"))
    await cut.go_on(*warm([act]))

    assert len(lines_then) == 2
    assert all(synced == written for synced, written in lines_then)


async def test_nothing_waits_for_the_disk_for_a_call_that_may_be_repeated() -> None:
    cut = Cut(wish("a", "look"))

    await cut.go_on()

    assert cut.synced == 0
    assert "tool_start" not in cut.kinds()


async def test_a_tool_gets_the_same_key_when_it_is_run_again(tmp_path: Path) -> None:
    keys: list[str] = []
    hold = trio.Event()

    @tool(idempotent=True, timeout_s=60)
    async def pay(ctx: ToolContext) -> str:
        """Pay once, whoever asks again with the same key."""
        keys.append(ctx.idempotency_key)
        if len(keys) == 1:
            await hold.wait()
        return "paid"

    async with booted(
        tmp_path / "s", ScriptedModel(wants(wish("call_1", "pay"))), tools=[pay]
    ) as kernel:
        info = await kernel.syscalls.sys_proc_spawn(ALICE, spec(task="pay"))
        await until(lambda: keys)
    async with booted(tmp_path / "s", ScriptedModel(says("paid")), tools=[pay]) as kernel:
        status = await kernel.syscalls.sys_proc_wait(ALICE, info.pid, 10)
        other = await kernel.syscalls.sys_dispatch(ALICE, "pay", {})

    assert status.exit_code == 0
    assert keys[0] == keys[1]
    assert keys[0].startswith(f"{info.pid}-") and keys[0].endswith("call_1")
    assert keys[2] == other.tool_call_id


async def test_calls_of_one_turn_run_in_order_when_side_by_side_is_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cut = Cut(wish("a", "look", seconds=2, mark="a"), wish("b", "look", seconds=1, mark="b"))

    await cut.go_on(config=AgentLoopConfig(parallel_tool_dispatch=False))

    assert cut.shop.trace == ["+a", "-a", "+b", "-b"]


async def test_a_tool_over_the_loops_timeout_is_text(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cut = Cut(wish("a", "look", seconds=9), wish("b", "look"))

    said = await cut.go_on(config=AgentLoopConfig(tool_timeout_s=2))

    assert said == ["error: look took over 2 s and was cancelled", "look done"]


async def test_a_kernel_that_is_going_leaves_calls_that_have_not_begun_open() -> None:
    cut = Cut(wish("a", "act"), wish("b", "act"))

    @tool()
    async def act(ctx: ToolContext) -> str:
        """Change something, while the kernel is told to stop."""
        cut.process.halt()
        return "done"

    with pytest.raises(DisconnectedError):
        await cut.go_on(*warm([act]))

    assert [call["id"] for call in cut.process.open_calls()] == ["b"]
    assert cut.process.begun == {"a"}


async def test_a_full_disk_in_a_group_is_the_errors_own_and_no_group_of_errors() -> None:
    cut = Cut(wish("a", "look"), wish("b", "look"))
    cut.full_at = b'"tool_result"'

    with pytest.raises(NoSpaceError):
        await cut.go_on()

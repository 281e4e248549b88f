"""What of a conversation goes to the model: never too much, never a call without its result."""

from collections.abc import Sequence
from typing import Any

import pytest

from nexusfs.contracts.agent import AgentLoopConfig, StepAction
from nexusfs.contracts.errors import ModelError
from nexusfs.contracts.model import Message, ModelCall, ModelReply, Quote, ScriptedModel, Usage
from nexusfs.kernel.proc.process import Process
from nexusfs.services.agent.context import Context, tokens_of
from nexusfs.services.agent.loop import Loop, Ports, agent_step
from nexusfs.services.agent.seams import NoHome
from nexusfs.services.llm.mock_history import fault_of
from tests.kernel_fixture import (
    ALICE,
    BareDispatcher,
    Workshop,
    check_history,
    events_of,
    says,
    spec,
    wants,
    wish,
)

SMALL = AgentLoopConfig(max_context_tokens=2000)
TASK = "the task: " + "t" * 300


class Windowed:
    """A model that refuses what is over its window, as providers do, and counts what it gets."""

    def __init__(self, *, window: int, bytes_a_token: float = 4.0, tells: bool = False) -> None:
        self.window = window
        self.prompts: list[list[Message]] = []
        self.summaries: list[list[Message]] = []
        self.refusals = 0
        self._bytes_a_token = bytes_a_token
        self._tells = tells

    def count(self, messages: Sequence[Message]) -> int:
        return int(sum(len(str(message).encode()) for message in messages) / self._bytes_a_token)

    async def complete(self, call: ModelCall, observer: Any) -> ModelReply:
        assert fault_of({"model": "m", "messages": call.messages}) is None
        used = self.count(call.messages)
        if used > self.window:
            self.refusals += 1
            raise ModelError("the prompt is too long", kind="context_length")
        number = len(self.prompts)
        window = self.window if self._tells else None
        if call.messages[0]["role"] == "system" and "summarise" in call.messages[0]["content"]:
            self.summaries.append(call.messages)
            return ModelReply(says(f"summary {len(self.summaries)}"), Usage(used, 3), "m")
        self.prompts.append(call.messages)
        message = wants(wish(f"call_{number}", "look", mark="m" * 300))
        return ModelReply(message, Usage(used, 20), "m", None, window)

    async def quote(self, call: ModelCall) -> Quote:
        return Quote(call.model, 0)

    def available(self) -> list[dict[str, Any]]:
        return []


class Talk:
    """An agent that goes on calling a tool."""

    def __init__(self, model: Windowed, config: AgentLoopConfig = SMALL, **fields: Any) -> None:
        self.lines: list[bytes] = []
        cred = ALICE.as_agent(2)
        self.process = Process(2, 1, cred, spec(**fields), lambda _, line: self.lines.append(line))
        self.process.record("state", **{"from": "created", "to": "running"})
        self.process.post(TASK, "task")
        ports = Ports(model, BareDispatcher(*Workshop().tools), NoHome())
        self.loop = Loop(self.process, ports, config)
        self.model = model

    async def turns(self, count: int) -> None:
        for _ in range(count):
            assert (await self.loop.step()).action is StepAction.CONTINUE

    def trims(self) -> list[dict[str, Any]]:
        return [event for event in events_of(self.lines) if event["type"] == "trim"]


async def test_a_short_conversation_goes_to_the_model_whole() -> None:
    talk = Talk(Windowed(window=10_000), AgentLoopConfig(), instructions="be brief")

    await talk.turns(3)

    assert talk.model.prompts[-1] == [
        {"role": "system", "content": "be brief"}, *talk.process.transcript[:-2],
    ]  # fmt: skip
    assert talk.trims() == []


@pytest.mark.parametrize("trim", ["sliding_window", "summarize"])
async def test_no_prompt_is_over_the_window_however_long_the_conversation(trim: Any) -> None:
    config = AgentLoopConfig(max_context_tokens=2000, trim=trim)
    talk = Talk(Windowed(window=2000), config, instructions="be brief")

    await talk.turns(60)

    assert talk.model.refusals == 0
    assert len(talk.trims()) > 3


@pytest.mark.parametrize("trim", ["sliding_window", "summarize"])
async def test_system_and_task_stay_and_calls_keep_their_results(trim: Any) -> None:
    config = AgentLoopConfig(max_context_tokens=2000, trim=trim)
    talk = Talk(Windowed(window=2000), config, instructions="be brief")

    await talk.turns(40)

    for prompt in talk.model.prompts:
        assert prompt[0] == {"role": "system", "content": "be brief"}
        assert prompt[1] == {"role": "user", "content": TASK}
        check_history(prompt)
    assert talk.model.prompts[-1][-1] == talk.process.transcript[-3]  # the newest result


async def test_a_sliding_window_says_how_much_is_left_out() -> None:
    talk = Talk(Windowed(window=2000))

    await talk.turns(40)

    left_out = talk.process.kept_from - 1
    assert talk.model.prompts[-1][1]["content"] == (
        f"[{left_out} earlier messages, {left_out // 2} of them yours, are left out.]"
    )


async def test_a_summary_stands_for_what_is_left_out_and_its_cost_is_counted() -> None:
    talk = Talk(Windowed(window=2000), AgentLoopConfig(max_context_tokens=2000, trim="summarize"))

    await talk.turns(40)

    count = len(talk.model.summaries)
    assert f"summary {count}" in talk.model.prompts[-1][1]["content"]
    assert f"Summary so far: summary {count - 1}" in talk.model.summaries[-1][1]["content"]
    assert talk.process.counts.model_calls == len(talk.model.prompts) + count
    assert b"summary" not in bytes(talk.process.stdout.data)


async def test_a_summary_that_fails_leaves_a_sliding_window() -> None:
    class NoSummary(Windowed):
        async def complete(self, call: ModelCall, observer: Any) -> ModelReply:
            if "summarise" in str(call.messages[0]["content"]):
                raise ModelError("busy", kind="server")
            return await super().complete(call, observer)

    talk = Talk(NoSummary(window=2000), AgentLoopConfig(max_context_tokens=2000, trim="summarize"))

    await talk.turns(40)

    assert "left out.]" in talk.model.prompts[-1][1]["content"]


async def test_a_model_that_takes_less_than_was_thought_gets_less() -> None:
    talk = Talk(Windowed(window=1500), AgentLoopConfig())

    await talk.turns(60)

    assert 0 < talk.model.refusals <= 5


async def test_a_model_that_tells_its_window_need_not_refuse() -> None:
    talk = Talk(Windowed(window=3000, tells=True), AgentLoopConfig())

    await talk.turns(60)

    assert talk.model.refusals == 0
    assert talk.trims()


async def test_text_with_more_tokens_than_estimated_is_learned_from() -> None:
    talk = Talk(Windowed(window=4000, bytes_a_token=1.5), AgentLoopConfig(max_context_tokens=4000))

    await talk.turns(60)

    assert talk.model.refusals <= 2


async def test_one_result_that_is_too_long_by_itself_is_cut_in_the_prompt_alone() -> None:
    talk = Talk(Windowed(window=2000))
    await talk.turns(1)
    talk.process.record("model_reply", message=wants(wish("big", "look")), usage=NO_USE)
    big = {"role": "tool", "tool_call_id": "big", "name": "look", "content": "x" * 50_000}
    talk.process.record("tool_result", message=big)

    await talk.turns(1)

    assert talk.model.refusals == 0
    assert "characters are left out]" in talk.model.prompts[-1][-1]["content"]
    assert talk.process.transcript[-3] == big


NO_USE = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}


async def test_a_task_that_is_too_long_by_itself_ends_with_a_sentence() -> None:
    talk = Talk(Windowed(window=2000), instructions="i" * 9000)

    result = await talk.loop.step()

    assert result.action is StepAction.ERROR
    assert "instructions, tools and task are about" in str(result.error)
    assert talk.model.prompts == []


async def test_an_agent_that_resumes_sends_the_prompt_that_it_would_have_sent() -> None:
    talk = Talk(Windowed(window=2000))
    await talk.turns(30)
    again = Process(2, 1, ALICE.as_agent(2), spec(), lambda *_: None)
    for line, event in zip(talk.lines, events_of(talk.lines), strict=True):
        again.apply(event, line)
    model = Windowed(window=2000)

    await talk.turns(1)
    await agent_step(again, model, BareDispatcher(*Workshop().tools), config=SMALL)

    assert model.prompts[-1] == talk.model.prompts[-1]


async def test_nothing_empty_goes_to_a_provider_that_would_refuse_it() -> None:
    process = Process(2, 1, ALICE.as_agent(2), spec(), lambda *_: None)
    process.record("state", **{"from": "created", "to": "running"})
    model = ScriptedModel({"content": None}, says("ok"))
    for text in ("", "and now?"):
        process.post(text, "stdin")
        await agent_step(process, model, BareDispatcher())

    assert [m["content"] for m in model.calls[-1].messages] == ["(empty)", "(empty)", "and now?"]
    assert fault_of({"model": "m", "messages": model.calls[-1].messages}) is None


async def test_the_estimate_is_from_above_for_text_as_it_is() -> None:
    messages = [says("word " * 100), {"role": "user", "content": "漢字" * 50}]

    assert tokens_of(messages[0]) >= 100
    assert tokens_of(messages[1]) >= 100


async def test_the_work_of_a_prompt_does_not_grow_with_the_transcript() -> None:
    class Counted(list[Message]):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            Counted.reads += len(found) if isinstance(index, slice) else 1
            return found

    talk = Talk(Windowed(window=2000))
    talk.process._transcript = Counted(talk.process.transcript)
    reads = []
    for _ in range(300):
        before = Counted.reads
        await talk.turns(1)
        reads.append(Counted.reads - before)

    assert max(reads[200:]) <= max(reads[20:100])


async def test_a_context_knows_nothing_of_an_empty_transcript() -> None:
    process = Process(2, 1, ALICE.as_agent(2), spec(), lambda *_: None)
    process.transcript.append({"role": "user", "content": "hi"})

    async def never(*_: Any) -> None:
        raise AssertionError

    assert await Context(process, SMALL).prompt("", [], never) == process.transcript

"""One turn: a real process, a scripted model, and a tool table without a kernel."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from nexusfs.contracts.agent import StepAction, StepResult
from nexusfs.contracts.errors import ModelError, UnavailableError
from nexusfs.contracts.model import Message, ModelPort, ScriptedModel, Usage
from nexusfs.contracts.proc import ProcState
from nexusfs.kernel.proc.process import Process
from nexusfs.services.agent.loop import CLOSING_NOTE, agent_step
from nexusfs.services.agent.metered import ANSWER_TOKENS
from tests.kernel_fixture import (
    ALICE,
    BareDispatcher,
    SlowModel,
    Workshop,
    check_history,
    says,
    spec,
    wants,
    wish,
)


class Stage:
    """One agent with the tools of a workshop."""

    def __init__(self, **fields: Any) -> None:
        self.lines: list[bytes] = []
        self.process = Process(
            2, 1, ALICE.as_agent(2), spec(**fields), lambda _, line: self.lines.append(line)
        )
        self.process.move(ProcState.RUNNING)
        self.process.post("do it", "task")
        self.shop = Workshop()
        self.dispatcher = BareDispatcher(*self.shop.tools)

    async def step(self, model: ModelPort, *, closing: bool = False) -> StepResult:
        return await agent_step(self.process, model, self.dispatcher, closing=closing)

    async def turn_of(self, *calls: dict[str, Any]) -> list[str]:
        """One turn of these calls; what the tools said to the model."""
        await self.step(ScriptedModel(wants(*calls)))
        return [m["content"] for m in self.process.transcript if m["role"] == "tool"]

    def kinds(self) -> list[str]:
        """Types of all events so far."""
        return [line.split(b'"type":"')[1].split(b'"')[0].decode() for line in self.lines]


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_a_reply_without_tool_calls_is_done(stage: Stage) -> None:
    result = await stage.step(ScriptedModel(says("the answer")))

    assert result.action is StepAction.DONE
    assert result.messages == (says("the answer"),)
    assert result.error is None


async def test_a_turn_with_tool_calls_continues_and_has_all_its_messages(stage: Stage) -> None:
    result = await stage.step(ScriptedModel(wants(wish("a", "look"))))

    assert result.action is StepAction.CONTINUE
    assert [message["role"] for message in result.messages] == ["assistant", "tool"]


async def test_only_turns_that_continue_are_counted(stage: Stage) -> None:
    model = ScriptedModel(wants(wish("a", "look")), wants(wish("b", "look")), says("end"))

    turns = [(await stage.step(model)).turn for _ in range(3)]

    assert turns == [1, 2, 2]
    assert stage.process.turns == 2


async def test_a_model_that_fails_for_good_is_an_error_and_counts_no_turn(stage: Stage) -> None:
    result = await stage.step(SlowModel(ModelError("no credit", kind="auth"), seconds=0))

    assert (result.action, result.error, result.turn) == (StepAction.ERROR, "no credit", 0)
    assert result.messages == ()


async def test_a_model_that_is_not_there_is_an_error_too(stage: Stage) -> None:
    result = await stage.step(SlowModel(UnavailableError("no such provider"), seconds=0))

    assert (result.action, result.error) == (StepAction.ERROR, "no such provider")


async def test_half_an_answer_of_a_failed_call_is_taken_back(stage: Stage) -> None:
    reader = stage.process.stdout.cursor()

    await stage.step(SlowModel(ModelError("cut", kind="cut"), seconds=0))

    assert reader.take() == b""
    assert stage.process.transcript == [{"role": "user", "content": "do it"}]


def test_a_step_result_cannot_be_changed() -> None:
    result = StepResult(StepAction.DONE)

    with pytest.raises(dataclasses.FrozenInstanceError):
        result.turn = 2  # type: ignore[misc] # what the test is about


async def test_waiting_messages_are_delivered_before_the_model_is_asked(stage: Stage) -> None:
    stage.process.post("and this", "steer")
    model = ScriptedModel(says("ok"))

    await stage.step(model)

    assert [m["content"] for m in model.calls[0].messages] == ["do it", "and this"]


async def test_instructions_are_the_system_message_and_not_in_the_transcript() -> None:
    stage = Stage(instructions="be brief")
    model = ScriptedModel(says("ok"))

    await stage.step(model)

    assert model.calls[0].messages[0] == {"role": "system", "content": "be brief"}
    assert stage.process.transcript[0]["role"] == "user"


async def test_the_spec_reaches_the_model_call() -> None:
    settings = {"temperature": 0.5}
    stage = Stage(model="a/b", fallback_models=["c/d"], model_settings=settings)
    model = ScriptedModel(says("ok"))

    await stage.step(model)

    call = model.calls[0]
    assert (call.model, call.fallback_models) == ("a/b", ("c/d",))
    assert call.settings == {**settings, "max_tokens": ANSWER_TOKENS}
    assert [t["function"]["name"] for t in call.tools] == ["act", "crash", "fail", "look", "raw"]


# The closing turn


async def test_the_closing_turn_has_no_tools_and_says_so(stage: Stage) -> None:
    model = ScriptedModel(says("as far as I got"))

    result = await stage.step(model, closing=True)

    assert model.calls[0].tools == []
    assert model.calls[0].messages[-1]["content"] == CLOSING_NOTE
    assert result.action is StepAction.DONE


async def test_tool_calls_of_the_closing_turn_are_dropped(stage: Stage) -> None:
    await stage.step(ScriptedModel(wants(wish("a", "act"))), closing=True)

    assert stage.shop.trace == []
    assert stage.process.transcript[-1] == {"role": "assistant", "content": ""}
    check_history(stage.process.transcript)


# Running tools


async def test_calls_that_only_read_run_side_by_side(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()

    await stage.turn_of(*(wish(i, "look", seconds=2, mark=i) for i in "abc"))

    assert sorted(stage.shop.trace[:3]) == ["+a", "+b", "+c"]
    assert trio.current_time() - began == pytest.approx(2)


async def test_other_calls_run_in_order(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()

    await stage.turn_of(*(wish(i, "act", seconds=2, mark=i) for i in "ab"))

    assert stage.shop.trace == ["+a", "-a", "+b", "-b"]
    assert trio.current_time() - began == pytest.approx(4)


async def test_a_read_waits_for_the_write_before_it(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    names = {"a": "look", "b": "look", "c": "act", "d": "look"}

    await stage.turn_of(*(wish(i, name, seconds=1, mark=i) for i, name in names.items()))

    assert sorted(stage.shop.trace[:4]) == ["+a", "+b", "-a", "-b"]
    assert stage.shop.trace[4:] == ["+c", "-c", "+d", "-d"]


async def test_results_are_journaled_in_call_order(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    said = await stage.turn_of(
        wish("a", "look", seconds=3, mark="slow"), wish("b", "look", seconds=1, mark="quick")
    )

    assert stage.shop.trace[2:] == ["-quick", "-slow"]
    assert said == ["look done slow", "look done quick"]
    check_history(stage.process.transcript)


async def test_a_failing_tool_is_text_and_its_siblings_go_on(stage: Stage) -> None:
    said = await stage.turn_of(wish("a", "fail"), wish("b", "look"), wish("c", "act"))

    assert said == ["error: it does not work", "look done", "act done"]


async def test_a_tool_with_a_bug_is_text_and_its_siblings_go_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    said = await stage.turn_of(wish("a", "crash"), wish("b", "look"))

    assert said == ["error: internal error: RuntimeError", "look done"]
    assert "tool crash failed unexpectedly" in caplog.text
    caplog.clear()


async def test_a_tool_that_takes_too_long_is_text(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    said = await stage.turn_of(wish("a", "act", seconds=99), wish("b", "look"))

    assert said == ["error: act took over 10 s and was cancelled", "look done"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("{bad", "error: the arguments are not JSON"),
        ("[1]", "error: the arguments must be a JSON object"),
        ('{"seconds": "x"}', "error: the arguments do not fit: "),
        ('{"sconds": 1}', "did you mean 'seconds'?"),
    ],
)
async def test_arguments_that_cannot_be_used_are_text(
    stage: Stage, arguments: str, fault: str
) -> None:
    said = await stage.turn_of(wish("a", "look", arguments), wish("b", "look"))

    assert fault in said[0]
    assert said[1] == "look done"


async def test_empty_arguments_are_none(stage: Stage) -> None:
    assert await stage.turn_of(wish("a", "look", "")) == ["look done"]


async def test_an_unknown_tool_is_text_that_names_the_nearest(stage: Stage) -> None:
    assert await stage.turn_of(wish("a", "loko")) == ["error: no tool 'loko': did you mean 'look'?"]


async def test_bytes_of_a_tool_are_text_with_replacement(stage: Stage) -> None:
    assert await stage.turn_of(wish("a", "raw")) == ["caf\ufffd"]


@pytest.mark.parametrize("name", ["look", "act"])
async def test_two_calls_with_one_id_both_have_their_own_result(stage: Stage, name: str) -> None:
    said = await stage.turn_of(wish("a", name, mark="1"), wish("a", name, mark="2"))

    assert said == [f"{name} done 1", f"{name} done 2"]


# Cancelling


async def cancelled_in_the_middle(stage: Stage, *calls: dict[str, Any]) -> None:
    """A turn of calls that is cut after five seconds; the kernel then answers open calls."""
    with trio.move_on_after(5):
        await stage.step(ScriptedModel(wants(*calls)))
    stage.process.answer_open_calls("interrupted")


async def test_a_cut_turn_keeps_finished_results_and_leaves_the_rest_open(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await cancelled_in_the_middle(
        stage, wish("a", "act"), wish("b", "act", seconds=8), wish("c", "act")
    )

    said = [m["content"] for m in stage.process.transcript if m["role"] == "tool"]
    assert said == ["act done", "interrupted", "interrupted"]
    check_history(stage.process.transcript)


async def test_a_cut_turn_is_not_counted(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await cancelled_in_the_middle(stage, wish("a", "act", seconds=8))

    assert stage.process.turns == 0


async def test_a_cut_call_is_answered_when_an_earlier_turn_used_its_id(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.turn_of(wish("call_0", "act"))

    await cancelled_in_the_middle(stage, wish("call_0", "act", seconds=8))

    check_history(stage.process.transcript)


async def test_a_cut_model_call_leaves_only_the_question(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(0.7):
        await stage.step(SlowModel(says("never"), seconds=1))

    assert stage.process.transcript == [{"role": "user", "content": "do it"}]


# Events, text and use


async def test_events_of_a_turn_are_in_order(stage: Stage) -> None:
    await stage.turn_of(wish("a", "look"), wish("b", "act"))

    assert stage.kinds()[2:] == [
        "input", "model_call", "model_reply", "tool_call", "tool_call", "tool_result",
        "tool_start", "tool_result", "turn_end",
    ]  # fmt: skip


async def test_the_intents_are_journaled_before_a_tool_runs(stage: Stage) -> None:
    seen: list[str] = []
    stage.shop.trace = Told(lambda: seen.extend(stage.kinds()))

    await stage.turn_of(wish("a", "act"), wish("b", "act"))

    assert seen[:7].count("tool_call") == 2
    assert seen[:7].count("tool_result") == 0


class Told(list[str]):
    """A list that says when something is appended."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def append(self, item: str) -> None:
        super().append(item)
        self._tell()


async def test_live_text_is_in_the_pipes_before_the_reply_is_whole(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    said, events = stage.process.stdout.cursor(), stage.process.events.cursor()

    with trio.move_on_after(0.7):
        await stage.step(SlowModel(says("well"), seconds=1))

    assert said.take() == b"well"
    assert b'"text_delta"' in events.take()


async def test_a_settled_answer_is_once_in_the_stream(stage: Stage) -> None:
    reader = stage.process.stdout.cursor()

    await stage.step(ScriptedModel(says("well")))

    assert reader.take() == b"well\n"


async def test_the_text_of_a_failed_attempt_is_void(stage: Stage) -> None:
    class Retried(ScriptedModel):
        async def complete(self, call: Any, observer: Any) -> Any:
            observer.text("wro")
            observer.retry(call.model, "429", 2.0)
            return await super().complete(call, observer)

    await stage.step(Retried(says("right")))

    assert bytes(stage.process.stdout.data) == b"right\n"
    assert "model_retry" in stage.kinds()


async def test_wchan_says_model_then_tool(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[str] = []

    async def look_on() -> None:
        for _ in range(3):
            await trio.sleep(0.9)
            seen.append(stage.process.wchan)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_on)
        await stage.step(SlowModel(wants(wish("a", "act", seconds=1)), seconds=1))

    assert seen == ["model", "tool:act", "0"]


async def test_use_is_summed_up(stage: Stage) -> None:
    model = SlowModel(wants(wish("a", "look")), says("end"), seconds=0)

    for _ in range(2):
        await stage.step(model)

    counts = stage.process.counts
    assert (counts.model_calls, counts.tool_calls, counts.usage) == (2, 1, Usage(20, 10, 0.5))


async def test_one_unknown_price_makes_the_cost_unknown(stage: Stage) -> None:
    model = SlowModel(wants(wish("a", "look")), says("end"), seconds=0)
    await stage.step(model)
    model.usage = Usage(10, 5, None)

    await stage.step(model)

    assert stage.process.counts.usage == Usage(20, 10, None)


async def test_the_messages_file_is_the_transcript(stage: Stage) -> None:
    await stage.turn_of(wish("a", "look"))

    lines = bytes(stage.process.messages.data).splitlines()
    found: list[Message] = [json.loads(line) for line in lines]
    assert found == stage.process.transcript

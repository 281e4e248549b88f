"""The whole way: router, worker process, real litellm, real HTTP, mock server.

One trio loop in a thread holds one worker for all tests of this module: litellm takes seconds to
import.
"""

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest
import trio

from nexusfs.contracts.errors import ModelError
from nexusfs.contracts.model import ModelCall, ModelReply
from nexusfs.services.llm.client import WorkerClient, WorkerSetup
from nexusfs.services.llm.mock_server import MockModel, listen, serve_mock
from nexusfs.services.llm.router import Backoff, ModelRouter
from nexusfs.services.llm.script import Script

pytestmark = pytest.mark.slow
T = TypeVar("T")
KEY = "sk-the-users-own-key-0123456789"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "grep",
            "description": "Search.",
            "parameters": {"type": "object", "properties": {"pattern": {"type": "string"}}},
        },
    }
]
GREP = {"name": "grep", "arguments": {"pattern": "a rather long pattern", "path": "/docs"}}
TURNS: dict[str, list[dict[str, Any]]] = {
    "stream": [{"content": "one two three", "token_delay_s": 0.05}],
    "two rounds": [
        {"content": "Let me look.", "tool_calls": [GREP, {"name": "ls"}]},
        {"tool_calls": [GREP]},
        {"content": "Found it.", "usage": {"input_tokens": 100, "output_tokens": 7}},
    ],
    "long": [{"content": "word " * 200, "token_delay_s": 0.05}],
    "429": [{"status": 429, "retry_after_s": 0.2, "times": 1, "content": "at last"}],
    "500": [{"status": 500, "times": 1, "content": "at last"}],
    "401": [{"error": {"message": f"Incorrect API key provided: {KEY}", "status": 401}}],
    "400": [{"status": 400}],
    "context": [{"error": {"message": "maximum context length is 8192 tokens", "status": 400}}],
    "cut": [{"content": "one two three", "cut_after": 2}],
    "ends": [{"content": "one two three", "end_after": 2}],
    "ends at once": [{"content": "one", "end_after": 0}],
    "hang": [{"hang": True}],
    "garbage": [{"garbage": "<html>busy</html>"}],
    "whole": [{"content": "not streamed", "tool_calls": [GREP]}],
    "usage": [{"content": "x", "usage": {"input_tokens": 1000, "output_tokens": 500}}],
}


class World:
    """The loop of the thread, and what runs in it."""

    base: str
    mock: MockModel
    worker: WorkerClient
    router: ModelRouter
    token: trio.lowlevel.TrioToken
    stop: trio.CancelScope

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Runs in the loop, for at most 60 s."""

        async def bounded() -> T:
            with trio.fail_after(60):
                return await call()

        return trio.from_thread.run(bounded, trio_token=self.token)

    def call(self, text: str, **more: Any) -> ModelCall:
        model = more.pop("model", "openai/any")
        messages = more.pop("messages", [{"role": "user", "content": text}])
        settings = {"api_base": self.base, **more}
        return ModelCall(model, messages, TOOLS, settings)

    def ask(self, observer: Any, text: str, **more: Any) -> ModelReply:
        call = self.call(text, **more)
        return self.run(lambda: self.router.complete(call, observer))

    def fail(self, observer: Any, text: str, **more: Any) -> ModelError:
        with pytest.raises(ModelError) as caught:
            self.ask(observer, text, **more)
        return caught.value


def make_script() -> Script:
    conversations: list[dict[str, Any]] = [
        {"match": match, "turns": turns} for match, turns in TURNS.items()
    ]
    return Script.parse(json.dumps({"conversations": conversations}).encode())


async def live(world: World, ready: threading.Event, env_fd: int) -> None:
    with trio.CancelScope() as world.stop:
        async with trio.open_nursery() as nursery:
            world.token = trio.lowlevel.current_trio_token()
            world.mock = MockModel(make_script())
            world.base = await nursery.start(serve_mock, world.mock, listen("127.0.0.1", 0))
            world.worker = WorkerClient(WorkerSetup(env_fd=env_fd))
            await nursery.start(world.worker.run)
            world.router = ModelRouter(world.worker, backoff=Backoff(first_s=0.01, attempts=2))
            ready.set()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world, ready = World(), threading.Event()
    env_fd = os.memfd_create("environment")
    os.write(env_fd, json.dumps({"OPENAI_API_KEY": KEY, "PATH": os.defpath}).encode())
    thread = threading.Thread(target=trio.run, args=(live, world, ready, env_fd))
    thread.start()
    assert ready.wait(10)
    yield world
    trio.from_thread.run_sync(world.stop.cancel, trio_token=world.token)
    thread.join(10)
    os.close(env_fd)


def test_text_streams_piece_by_piece(world: World, observer: Any) -> None:
    world.ask(observer, "usage")  # litellm's first call imports more
    del observer.pieces[:]

    reply = world.ask(observer, "stream")

    assert observer.pieces == ["one ", "two ", "three"]
    assert reply.message == {"role": "assistant", "content": "one two three"}


def test_two_rounds_of_tool_calls_with_the_tools_parameter(world: World, observer: Any) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "two rounds"}]

    replies = []
    for _ in range(3):
        reply = world.ask(observer, "", messages=messages)
        replies.append(reply)
        messages.append(reply.message)
        for call in reply.message.get("tool_calls", ()):
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "a hit"})

    first = [call["function"] for call in replies[0].message["tool_calls"]]
    assert [f["name"] for f in first] == ["grep", "ls"]
    assert json.loads(first[0]["arguments"]) == GREP["arguments"]
    assert replies[2].message["content"] == "Found it."
    assert (replies[2].usage.input_tokens, replies[2].usage.output_tokens) == (100, 7)
    assert world.mock.log_lines[-1]["request"]["tools"] == TOOLS


def test_a_429_is_retried_and_a_401_is_not(world: World, observer: Any) -> None:
    assert world.ask(observer, "429").message["content"] == "at last"
    assert observer.retries[0][2] >= 0.2
    del observer.retries[:]

    error = world.fail(observer, "401")

    assert (error.kind, error.retryable, observer.retries) == ("auth", False, [])


def test_a_500_is_retried(world: World, observer: Any) -> None:
    assert world.ask(observer, "500").message["content"] == "at last"
    assert len(observer.retries) == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [("400", "bad_request"), ("context", "context_length"), ("no such", "bad_request")],
)
def test_a_bad_request_is_not_retried(world: World, observer: Any, text: str, kind: str) -> None:
    assert (world.fail(observer, text).kind, observer.retries) == (kind, [])


@pytest.mark.parametrize("text", ["cut", "ends", "ends at once"])
def test_a_stream_that_ends_early_is_an_error(world: World, observer: Any, text: str) -> None:
    error = world.fail(observer, text)

    assert (error.kind, error.retryable, len(observer.retries)) == ("cut", True, 1)


def test_a_silent_provider_is_a_timeout(world: World, observer: Any) -> None:
    assert world.fail(observer, "hang", timeout=0.3).kind == "timeout"


def test_a_refused_connection_is_retryable(world: World, observer: Any) -> None:
    error = world.fail(observer, "x", api_base="http://127.0.0.1:9/v1")

    assert (error.kind, error.retryable) == ("connection", True)


def test_an_answer_that_is_not_streamed(world: World, observer: Any) -> None:
    reply = world.ask(observer, "whole", stream=False)

    assert reply.message["content"] == "not streamed"
    assert reply.message["tool_calls"][0]["function"]["name"] == "grep"
    assert observer.pieces == []


def test_a_known_price_is_counted_and_an_unknown_one_is_none(world: World, observer: Any) -> None:
    known = world.ask(observer, "usage", model="openai/gpt-4o-mini").usage
    unknown = world.ask(observer, "usage").usage

    assert known.cost_usd == pytest.approx(1000 * 0.15e-6 + 500 * 0.6e-6)
    assert unknown.cost_usd is None
    assert (unknown.input_tokens, unknown.output_tokens) == (1000, 500)


def test_a_quote_counts_the_prompt_and_knows_the_price_or_not(world: World) -> None:
    calls = [world.call("word " * 500, model=model) for model in ("openai/gpt-4o-mini", "openai/x")]

    known, unknown = (world.run(partial(world.router.quote, one)) for one in calls)

    assert (known.input_usd, known.output_usd) == (0.15e-6, 0.6e-6)
    assert 500 < known.input_tokens < 700 and known.max_output_tokens == 16_384
    assert 500 < unknown.input_tokens < 700 and not unknown.is_known


def test_a_history_with_an_unanswered_call_is_refused(world: World, observer: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "grep", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "stream"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": "well?"},
    ]

    assert "tool_call_id" in str(world.fail(observer, "", messages=messages))


def test_cancelling_in_mid_stream_closes_the_connection(world: World, observer: Any) -> None:
    async def cancel_soon() -> float:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.worker.complete, world.call("long"), observer)
                while not observer.pieces:
                    await trio.sleep(0.005)
                scope.cancel()
        start, before = time.monotonic(), len(world.mock.log_lines)
        while len(world.mock.log_lines) == before:
            await trio.sleep(0.005)
        return time.monotonic() - start

    took = world.run(cancel_soon)

    assert world.mock.log_lines[-1]["outcome"] == "disconnected"
    assert took < 2


def test_a_key_is_neither_in_an_error_nor_sent_to_a_calls_own_endpoint(
    world: World, observer: Any
) -> None:
    assert KEY not in str(world.fail(observer, "401"))
    assert {line["authorization"] for line in world.mock.log_lines} == {"Bearer no-"}


def test_the_key_is_not_in_any_processs_environ(world: World, observer: Any) -> None:
    world.ask(observer, "usage")

    for pid in ("self", str(world.worker.pid)):
        with open(f"/proc/{pid}/environ", "rb") as file:
            assert KEY.encode() not in file.read()
    assert "litellm" not in sys.modules


def test_kill_9_fails_the_calls_and_a_new_worker_answers(world: World, observer: Any) -> None:
    async def killed() -> ModelError:
        with pytest.raises(ModelError) as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_soon)
                try:
                    await world.worker.complete(world.call("hang"), observer)
                finally:
                    nursery.cancel_scope.cancel()
        return caught.value

    async def kill_soon() -> None:
        await trio.sleep(0.05)
        os.kill(world.worker.pid or 0, signal.SIGKILL)

    try:
        error: Any = world.run(killed)
    except BaseExceptionGroup as group:
        error = group.exceptions[0]
    assert (error.kind, error.retryable) == ("connection", True)
    assert world.ask(observer, "usage").message["content"] == "x"


def test_an_answer_that_cannot_be_understood_is_an_error_with_a_sentence(
    world: World, observer: Any
) -> None:
    error = world.fail(observer, "garbage")

    assert str(error)
    assert error.errno == errno.EREMOTEIO

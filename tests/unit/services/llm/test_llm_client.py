"""The kernel's side of the worker, with a small script in place of the worker."""

import contextlib
import logging
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from nexusfs.contracts.errors import ModelError, UnavailableError
from nexusfs.services.llm import client as client_module
from nexusfs.services.llm.client import (
    AttemptError,
    WorkerClient,
    WorkerDiedError,
    WorkerSetup,
)

FAKE = """
import json, os, socket, sys
sock = socket.socket(fileno=int(sys.argv[1]))
say = lambda value: sock.sendall(json.dumps(value).encode() + b"\\n")
waiting = slow = None
pings = 0
for line in sock.makefile():
    request = json.loads(line)
    if "ping" in request:
        say({"pong": request["ping"]})
        pings += 1
        if pings == 5 and slow:
            say({"id": slow, "reply": {"message": {"content": "slow"}, "model": "m", "usage": {
                "input_tokens": 1, "output_tokens": 2, "cost_usd": None}}})
        continue
    number = request["id"]
    if request.get("cancel"):
        open(waiting, "w").close()
        continue
    text = request["call"]["messages"][-1]["content"]
    if text == "slow":
        slow = number
        continue
    if text == "hang":
        os.kill(os.getpid(), 19)
    if text == "die":
        os.kill(os.getpid(), 9)
    if text.startswith("wait "):
        waiting = text[5:]
        say({"id": number, "text": "started"})
        continue
    if text == "garbage":
        sock.sendall(b'nonsense\\n[]\\n{"id":77,"text":"x"}\\n{"id":%d,"text":5,"q":\\n' % number)
    if text == "long":
        sock.sendall(b"x" * 3000000)
        continue
    if text == "env":
        text = json.dumps(dict(os.environ))
    usage = {"input_tokens": 1, "output_tokens": 2, "cost_usd": None}
    if text == "malformed":
        usage = {}
    say({"id": number, "reply": {"message": {"content": text}, "model": "m", "usage": usage}})
"""
SETUP = WorkerSetup(command=(sys.executable, "-S", "-c", FAKE))


@asynccontextmanager
async def running(setup: WorkerSetup = SETUP) -> AsyncIterator[WorkerClient]:
    client = WorkerClient(setup)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()


async def test_a_worker_that_dies_fails_its_calls_and_is_restarted(
    calls: Any, observer: Any
) -> None:
    async with running() as client:
        with pytest.raises(ModelError, match="signal 9") as caught:
            await client.complete(calls.of("die"), observer)
        reply = await client.complete(calls.of("again"), observer)

    assert (caught.value.kind, caught.value.retryable) == ("connection", True)
    assert reply.message["content"] == "again"
    assert client.starts == 2


async def test_many_calls_share_one_worker(calls: Any, observer: Any) -> None:
    answers: list[str] = []

    async def ask(client: WorkerClient, text: str) -> None:
        answers.append((await client.complete(calls.of(text), observer)).message["content"])

    async with running() as client, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(ask, client, str(number))

    assert sorted(answers, key=int) == [str(number) for number in range(50)]
    assert client.starts == 1


async def test_garbage_is_logged_and_dropped(
    calls: Any, observer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as client:
        reply = await client.complete(calls.of("garbage"), observer)

    assert reply.message["content"] == "garbage"
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 3


async def test_a_line_over_the_limit_ends_the_worker(
    calls: Any, observer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_module, "REPLY_BYTES", 1_000_000)

    async with running() as client:
        with pytest.raises(ModelError) as caught:
            await client.complete(calls.of("long"), observer)

    assert caught.value.retryable


async def test_a_request_over_the_limit_is_not_sent(
    calls: Any, observer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LINE_BYTES", 1000)

    async with running() as client:
        with pytest.raises(ModelError) as caught:
            await client.complete(calls.of("x" * 2000), observer)

    assert caught.value.kind == "context_length"


async def test_a_malformed_reply_is_an_error(calls: Any, observer: Any) -> None:
    async with running() as client:
        with pytest.raises(ModelError, match="malformed"):
            await client.complete(calls.of("malformed"), observer)


async def test_cancelling_tells_the_worker(calls: Any, tmp_path: Any) -> None:
    started = trio.Event()

    class Starts:
        def text(self, piece: str) -> None:
            started.set()

        async def retry(self, model: str, error: str, delay_s: float) -> None: ...

    async with running() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.complete, calls.of(f"wait {tmp_path}/told"), Starts())
            await started.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            while not (tmp_path / "told").exists():
                await trio.sleep(0.005)


async def test_the_worker_starts_with_a_clean_environment(
    calls: Any, observer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    async with running() as client:
        reply = await client.complete(calls.of("env"), observer)

    assert "OPENAI_API_KEY" not in reply.message["content"]


async def test_nothing_is_left_when_the_client_ends(calls: Any, observer: Any) -> None:
    async with running() as client:
        await client.complete(calls.of("x"), observer)
        pid = client.pid
        assert pid is not None

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(UnavailableError):
        await client.complete(calls.of("x"), observer)


async def test_a_worker_that_cannot_be_started_is_a_model_error(calls: Any, observer: Any) -> None:
    async with running(WorkerSetup(command=("/nowhere/python",))) as client:
        with pytest.raises(ModelError, match="cannot be started"):
            await client.complete(calls.of("x"), observer)


def test_the_kernels_side_imports_neither_litellm_nor_asyncio() -> None:
    code = (
        "import sys, nexusfs.services.llm.router\n"
        "print({'asyncio', 'litellm', 'starlette'} & set(sys.modules))"
    )

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "set()"


async def test_a_worker_that_hangs_is_ended_and_its_calls_are_retryable(
    calls: Any, observer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_module, "PING_S", 0.1)

    async with running() as client:
        with pytest.raises(WorkerDiedError) as caught:
            await client.complete(calls.of("hang"), observer)
        reply = await client.complete(calls.of("again"), observer)

    assert caught.value.retryable and reply.message["content"] == "again"
    assert (client.starts, [r.levelno for r in caplog.records]) == (2, [logging.WARNING])
    caplog.clear()


async def test_a_worker_that_is_slow_and_answers_pings_goes_on(
    calls: Any, observer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PING_S", 0.01)
    monkeypatch.setattr(client_module, "PINGS_MISSED", 10_000)

    async with running() as client:
        reply = await client.complete(calls.of("slow"), observer)

    assert (reply.message["content"], client.starts) == ("slow", 1)


@pytest.mark.parametrize("spare", range(8))
async def test_without_descriptors_a_worker_is_tried_again_and_nothing_is_left(
    calls: Any, observer: Any, spare: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running() as client:
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            for fd in (taken.pop() for _ in range(spare)):
                os.close(fd)
            before = len(os.listdir("/proc/self/fd")) if spare else 0
            try:
                client._open()
            except AttemptError as exc:
                assert exc.retryable and "cannot be started" in str(exc)
                assert client.pid is None
                assert before == (len(os.listdir("/proc/self/fd")) if spare else 0)
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reply = await client.complete(calls.of("now"), observer)

    assert reply.message["content"] == "now"

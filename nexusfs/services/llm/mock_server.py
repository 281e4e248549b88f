"""An OpenAI-compatible endpoint that plays a script, for tests and demos.

GET /v1/models, POST /v1/chat/completions: streaming and not, tool calls, usage (also by
stream_options.include_usage), statuses with Retry-After, delays, cuts and hangs as the script's
turns say (script.py). A history that a real provider would refuse is a 400 (mock_history.py). Which
turn answers follows from the request, so any number of conversations run at once; with `in_order`
the turns go to whoever asks next.

Concurrency: one task a request; the counters and the log are changed between suspensions only.
"""

import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from itertools import islice
from typing import Any, TextIO

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nexusfs.contracts.errors import ModelError
from nexusfs.contracts.model import Message
from nexusfs.services.llm.mock_history import fault_of
from nexusfs.services.llm.script import Played, Script, ScriptedError, Turn, pieces_of, tokens_of

ARGUMENT_CHARS = 16
"""A call's arguments are streamed in pieces of this size, as providers do."""


class MockModel:
    """Answers requests from a script; knows nothing of HTTP servers."""

    def __init__(
        self,
        script: Script,
        *,
        in_order: bool = False,
        log: TextIO | None = None,
        model: str = "mock",
    ) -> None:
        """`log` gets one JSON line a request, when it is over: how it ended is in it."""
        self.script = script
        self.model = model
        self.served = 0
        self.log_lines: list[dict[str, Any]] = []
        self._in_order = in_order
        self._log = log
        self._attempts: dict[bytes, int] = {}

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/chat/completions", self._completions, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        rows = [{"id": self.model, "object": "model", "created": 0, "owned_by": "nexusfs"}]
        return JSONResponse({"object": "list", "data": rows})

    async def _completions(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = None
        fault = fault_of(body)
        if fault is not None:
            self.note(request, body, "status 400", fault)
            return _error(ScriptedError(message=fault, kind="bad_request", status=400))
        try:
            played = self._play(body)
        except ModelError as exc:
            self.note(request, body, "status 400", str(exc))
            return _error(ScriptedError(message=str(exc), kind="bad_request", status=400))
        error = played.turn.error
        if error is not None and self._still_fails(body, played, error.times):
            await trio.sleep(played.turn.delay_s)
            self.note(request, body, f"status {error.status}", error.message)
            return _error(error)
        return _Answer(self, request, body, played.turn)

    def _play(self, body: dict[str, Any]) -> Played:
        position = self.served if self._in_order else None
        self.served += 1
        return self.script.play(body["messages"], position)

    def _still_fails(self, body: dict[str, Any], played: Played, times: int | None) -> bool:
        """Counts the attempts at the same request, where an error is to end after some."""
        if times is None:
            return True
        key = sha256(json.dumps([played.position, body["messages"]]).encode()).digest()
        self._attempts[key] = self._attempts.get(key, 0) + 1
        fails = self._attempts[key] <= times
        if fails and self._in_order:
            self.served -= 1  # the turn is still to be played
        return fails

    def note(self, request: Request, body: Any, outcome: str, why: str = "") -> None:
        """Keeps one line about a request: outcome is done, cut, disconnected or `status N`."""
        line = {
            "time": time.time(),
            "outcome": outcome,
            "why": why,
            "authorization": _masked(request.headers.get("authorization", "")),
            "request": body,
        }
        self.log_lines.append(line)
        del self.log_lines[:-1000]
        if self._log is not None:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()


def _masked(authorization: str) -> str:
    """The scheme and the first characters of a key: enough to tell which one was sent."""
    return authorization[:10]


def _error(error: ScriptedError) -> Response:
    """An error as OpenAI shapes it."""
    code = {"context_length": "context_length_exceeded", "auth": "invalid_api_key"}.get(error.kind)
    body = {"error": {"message": error.message, "type": error.kind, "param": None, "code": code}}
    headers = {} if error.retry_after_s is None else {"retry-after": f"{error.retry_after_s:g}"}
    return JSONResponse(body, status_code=error.status, headers=headers)


class _Answer(Response):
    """The answer of one turn, written while the client's disconnect is watched for."""

    def __init__(
        self, model: MockModel, request: Request, body: dict[str, Any], turn: Turn
    ) -> None:
        self.mock = model
        self.request = request
        self.body_sent = body
        self.turn = turn
        self.background = None
        self.outcome = "disconnected"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers; ends without the closing bytes when the turn is to be cut."""
        self.scope = scope
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_disconnect, receive, nursery.cancel_scope.cancel)
                await self._write(send)
                nursery.cancel_scope.cancel()
        finally:
            self.mock.note(self.request, self.body_sent, self.outcome)

    async def _write(self, send: Send) -> None:
        """The outcome is set before the last bytes: the client may hang up at once then."""
        turn = self.turn
        if turn.hang:
            await trio.sleep_forever()
        await trio.sleep(turn.delay_s)
        if turn.garbage is not None:
            self.outcome = "garbage"
            await Response(turn.garbage, media_type="application/json")(self.scope, _silent, send)
            return
        reply = _Reply(self.body_sent, turn)
        cut = turn.cut_after is not None
        if self.body_sent.get("stream"):
            kind, pieces = b"text/event-stream", reply.stream()
        else:
            kind, pieces = b"application/json", reply.whole()
        headers = [(b"content-type", kind), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for data in pieces:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        self.outcome = "cut" if cut else "done"
        if not cut:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _silent() -> Message:
    """What an answer that was written already has to hear: nothing."""
    return {"type": "http.request"}


async def _until_disconnect(receive: Receive, cancel: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    cancel()


class _Reply:
    """One turn in OpenAI's shapes: whole, or as chunks."""

    def __init__(self, body: dict[str, Any], turn: Turn) -> None:
        self.turn = turn
        self.message = turn.message()
        self._messages: list[Message] = body["messages"]
        self._wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(8)}",
            "created": int(time.time()),
            "model": body["model"],
        }

    @property
    def usage(self) -> dict[str, int]:
        """As the turn claims, else characters / 4."""
        claimed = self.turn.usage
        prompt = claimed.input_tokens if claimed else tokens_of(self._messages)
        completion = claimed.output_tokens if claimed else tokens_of([self.message])
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    async def whole(self) -> AsyncIterator[bytes]:
        """The answer to a request that is not streamed; half of it when the turn is to be cut."""
        choice = {"index": 0, "message": self.message, "finish_reason": self.turn.finish}
        head = {**self._head, "object": "chat.completion"}
        data = json.dumps({**head, "choices": [choice], "usage": self.usage}).encode()
        yield data if self.turn.cut_after is None else data[: len(data) // 2]

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events, with the delays of the turn; stops where the turn is to stop."""
        turn = self.turn
        stop = turn.end_after if turn.cut_after is None else turn.cut_after
        yield self._chunk({"role": "assistant", "content": ""})
        for piece in islice(pieces_of(turn.content or ""), stop):
            await trio.sleep(turn.token_delay_s)
            yield self._chunk({"content": piece})
        if stop is not None:
            return
        for delta in _call_deltas(self.message):
            await trio.sleep(turn.token_delay_s)
            yield self._chunk({"tool_calls": [delta]})
        yield self._chunk({}, turn.finish)
        if self._wants_usage:
            yield self._event({"choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def _event(self, rest: dict[str, Any]) -> bytes:
        value = {**self._head, "object": "chat.completion.chunk", **rest}
        return b"data: " + json.dumps(value).encode() + b"\n\n"


def _call_deltas(message: Message) -> list[dict[str, Any]]:
    """Each call in pieces: its id and name first, then its arguments."""
    deltas: list[dict[str, Any]] = []
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        start = {"name": function["name"], "arguments": ""}
        deltas.append({"index": index, "id": call["id"], "type": "function", "function": start})
        text = function["arguments"]
        pieces = [text[at : at + ARGUMENT_CHARS] for at in range(0, len(text), ARGUMENT_CHARS)]
        deltas += [{"index": index, "function": {"arguments": piece}} for piece in pieces]
    return deltas


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, with TCP_NODELAY for what it accepts: 40 ms a call otherwise."""
    sock = socket.create_server((host, port), backlog=512)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def serve_mock(
    model: MockModel,
    sock: socket.socket,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves on a listening socket, which it closes, until it is cancelled.

    `started` is the base address, `http://127.0.0.1:PORT/v1`.
    """
    host, port = sock.getsockname()[:2]
    config = Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(hypercorn_serve, model.app(), config)
        task_status.started(f"http://{host}:{port}/v1")

"""The model worker: a process of its own that makes litellm's calls for the kernel.

    python -P -m nexusfs.services.llm.worker FD [ENV_FD] [CONFIG_PATH]

FD is a stream socket to the kernel, ENV_FD a memfd with the user's environment as a JSON object
(`-` for none), CONFIG_PATH a TOML file that may have a table `[keys]`. The lines are in wire.py.

Concurrency: one asyncio loop for the whole life of the process, since litellm's HTTP sessions
belong to a loop; one task a call, in `Worker.tasks` by id until it ends. A line is written whole,
in one step, so tasks never mix. Cancelling a task closes its HTTP connection. The import of litellm
runs in a thread: end of file, which ends the process at once, and cancels are seen meanwhile.
"""

import asyncio
import contextlib
import copy
import ctypes
import importlib
import importlib.metadata
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from nexusfs.services.llm.assembly import Assembly, assistant_message
from nexusfs.services.llm.failure import CutError, Failure, LongError, failure_of
from nexusfs.services.llm.keys import Keys, ScrubbedStream, configured_keys, environment_of
from nexusfs.services.llm.prefixes import whole
from nexusfs.services.llm.wire import LINE_BYTES, REPLY_BYTES

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
"""What answers a request; not begun, for it may be cancelled before."""

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
"""Source: linux/prctl.h. The parent's death kills us; nobody of our user reads our memory."""

FLUSH_S, FLUSH_STREAM_S, FLUSH_MOST_S = 0.01, 0.0002, 0.05
"""How long text may wait: so long, longer by so much for each call under way, and at most so long.

Nobody reads faster. 200 streams cost the kernel 20 wake-ups a second and not 4,000: with 100 of
them one status read in a hundred met one and waited.
"""

LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # no download at import
    "LITELLM_MODE": "PRODUCTION",  # no .env file is read
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
}


class Worker:
    """The calls in flight and the socket they answer on."""

    def __init__(self, writer: asyncio.StreamWriter, keys: Keys) -> None:
        self.writer = writer
        self.keys = keys
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.conversations: dict[str, list[dict[str, Any]]] = {}
        self._litellm = asyncio.ensure_future(asyncio.to_thread(import_litellm))
        self._texts: dict[int, list[str]] = {}
        self._flushed = 0.0

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Reads lines until end of file."""
        self.send({"hello": {"pid": os.getpid()}})
        announce = asyncio.create_task(self._announce())
        while line := await reader.readline():
            self._take(line)
        announce.cancel()

    def send(self, value: dict[str, Any]) -> None:
        """Writes one line, whole, after all text that waits."""
        self._flush()
        self._write(value)

    def text(self, number: int, piece: str) -> None:
        """Queues a piece of text. It is written soon, at once when none was just before.

        A line a token would cost the kernel a wake-up each, 0.1 ms of its one loop.
        """
        loop = asyncio.get_running_loop()
        if not self._texts:
            wait_s = min(FLUSH_S + FLUSH_STREAM_S * len(self.tasks), FLUSH_MOST_S)
            loop.call_at(max(loop.time(), self._flushed + wait_s), self._flush)
        self._texts.setdefault(number, []).append(piece)

    def _flush(self) -> None:
        texts, self._texts = self._texts, {}
        for number, pieces in texts.items():
            self._write({"id": number, "text": "".join(pieces)})
        self._flushed = asyncio.get_running_loop().time()

    def _write(self, value: dict[str, Any]) -> None:
        data = json.dumps(value, separators=(",", ":"), default=str).encode() + b"\n"
        if len(data) > REPLY_BYTES:
            failure = Failure("bad_request", False, f"the answer is over {REPLY_BYTES} bytes")
            data = json.dumps({"id": value.get("id"), "error": failure.to_json()}).encode() + b"\n"
        self.writer.write(data)

    async def _announce(self) -> None:
        started = time.monotonic()
        try:
            litellm = await asyncio.shield(self._litellm)
        except Exception as exc:  # an import may raise anything; the calls say it too
            self.send({"ready": {"error": self.keys.scrub(failure_of(exc).message)}})
            return
        took = round(time.monotonic() - started, 3)
        self.send({"ready": {"litellm": version_of(litellm), "import_s": took}})

    def _take(self, line: bytes) -> None:
        """Starts or cancels a call, or forgets conversations; a bad line is logged and dropped."""
        try:
            request = json.loads(line)
            if "ping" in request:
                self.send({"pong": request["ping"]})
                return
            if "forget" in request:
                for conversation in request["forget"]:
                    self.conversations.pop(conversation, None)
                return
            number = int(request["id"])
        except (ValueError, TypeError, KeyError):
            log.warning("a line that is no request was dropped (%d bytes)", len(line))
            return
        if request.get("cancel"):
            task = self.tasks.get(number)
            if task is not None:
                task.cancel()
        else:
            what = "quote" if "quote" in request else "call"
            call = request.get(what) or {}
            try:
                call["messages"] = whole(self.conversations, call)
            except KeyError:
                failure = Failure("connection", True, "the worker does not know the conversation")
                self.send({"id": number, "error": failure.to_json()})
                return
            quote, answer = partial(self._quote, call), partial(self._call, number, call)
            work: Work = quote if what == "quote" else answer
            task = asyncio.create_task(self._answer(number, work))
            self.tasks[number] = task
            task.add_done_callback(lambda _: self.tasks.pop(number, None))

    async def _answer(self, number: int, work: Work) -> None:
        try:
            reply = await work()
        except asyncio.CancelledError:
            self._texts.pop(number, None)
        except BaseException as exc:  # whatever a provider's client raises is an answer too
            failure = failure_of(exc)
            log.debug("call %d failed", number, exc_info=exc)
            message = self.keys.scrub(failure.message)
            self.send({"id": number, "error": {**failure.to_json(), "message": message}})
        else:
            self.send({"id": number, "reply": reply})

    async def _quote(self, call: dict[str, Any]) -> dict[str, Any]:
        """Counts in a thread: a long prompt takes 10 ms and more, and streams must go on."""
        litellm = await asyncio.shield(self._litellm)
        return await asyncio.to_thread(quote_of, litellm, call)

    async def _call(self, number: int, call: dict[str, Any]) -> dict[str, Any]:
        litellm = await asyncio.shield(self._litellm)
        arguments = self._arguments(call)
        answer = await litellm.acompletion(**arguments)
        if not arguments["stream"]:
            return reply_of(litellm, call, *whole_answer(answer))
        assembly = Assembly()
        try:
            async for chunk in answer:
                piece = assembly.add(chunk)
                if assembly.size_chars > REPLY_BYTES:  # whatever max_tokens said
                    raise LongError(f"the answer is over {REPLY_BYTES} characters: it was cut off")
                if piece:
                    self.text(number, piece)
                    await self.writer.drain()
                await asyncio.sleep(0)  # chunks that wait already would come one after the other
        finally:
            await answer.aclose()
        if getattr(answer, "received_finish_reason", assembly.finish_reason) is None:
            raise CutError("the stream ended before the model had finished")
        return reply_of(litellm, call, assembly.message(), assembly.usage, assembly.finish_reason)

    def _arguments(self, call: dict[str, Any]) -> dict[str, Any]:
        """Arguments of litellm; the kernel's own retries are the only ones."""
        settings = dict(call.get("settings") or {})
        stream = settings.pop("stream", True) is not False
        arguments = {
            **settings,
            **self.keys.for_base(settings),
            "model": call["model"],
            "messages": copy.deepcopy(call["messages"]),  # litellm changes them; ours stay
            "stream": stream,
            "num_retries": 0,
            "max_retries": 0,
        }
        if call.get("tools"):
            arguments["tools"] = call["tools"]
        if stream:
            arguments["stream_options"] = {"include_usage": True}
        return arguments


def import_litellm() -> Any:
    """The module, quiet, with no telemetry, and with no retries of its own. Takes 4 to 10 s."""
    litellm: Any = importlib.import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.num_retries = 0
    litellm.disable_hf_tokenizer_download = True  # tokens are counted without the network
    litellm.modify_params = True  # Anthropic refuses a history with tool calls and no `tools`
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.ERROR)
    return litellm


def version_of(litellm: Any) -> str:
    """The version of litellm, as its package says."""
    try:
        return importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(litellm, "__version__", "unknown"))


def whole_answer(answer: Any) -> tuple[dict[str, Any], Any, str | None]:
    """(message, usage, finish reason) of an answer that was not streamed."""
    choice = answer.choices[0]
    calls = [
        {
            "id": call.id or "",
            "name": call.function.name or "",
            "arguments": call.function.arguments,
        }
        for call in choice.message.tool_calls or ()
    ]
    message = assistant_message(choice.message.content, calls)
    return message, getattr(answer, "usage", None), choice.finish_reason


def reply_of(
    litellm: Any, call: dict[str, Any], message: dict[str, Any], usage: Any, finish: str | None
) -> dict[str, Any]:
    """The `reply` object of the wire; tokens that nobody counted are characters / 4."""
    return {
        "message": message,
        "model": call["model"],
        "finish_reason": finish,
        "window_tokens": window_of(litellm, call["model"]),
        "usage": {
            "input_tokens": _count(usage, "prompt_tokens", call["messages"]),
            "output_tokens": _count(usage, "completion_tokens", message),
            "cost_usd": cost_of(litellm, call["model"], usage),
        },
    }


def window_of(litellm: Any, model: str) -> int | None:
    """Tokens that a prompt may have; None when litellm's table does not know the model."""
    try:
        found = litellm.get_model_info(model).get("max_input_tokens")
    except Exception:  # an unknown model is a bare Exception in litellm
        return None
    return found if isinstance(found, int) and found > 0 else None


def quote_of(litellm: Any, call: dict[str, Any]) -> dict[str, Any]:
    """The `reply` object of a quote; tokens that litellm cannot count are bytes / 3."""
    model, messages = call["model"], call["messages"]
    try:
        tokens = litellm.token_counter(
            model=model, messages=copy.deepcopy(messages), tools=call.get("tools") or None
        )
    except Exception:  # whatever a tokenizer raises, over whatever a model wrote
        tokens = len(json.dumps([messages, call.get("tools")], ensure_ascii=False).encode()) // 3
    try:
        info = litellm.get_model_info(model)
        entry = litellm.model_cost[info["key"]]
    except Exception:  # an unknown model is a bare Exception in litellm
        info, entry = {}, {}
    most = info.get("max_output_tokens")
    return {
        "model": model,
        "input_tokens": tokens,
        "input_usd": entry.get("input_cost_per_token"),
        "output_usd": entry.get("output_cost_per_token"),
        "max_output_tokens": most if isinstance(most, int) and most > 0 else None,
    }


def _count(usage: Any, name: str, said: Any) -> int:
    counted = getattr(usage, name, None)
    return counted if isinstance(counted, int) else max(1, len(json.dumps(said)) // 4)


def cost_of(litellm: Any, model: str, usage: Any) -> float | None:
    """US dollars; None when litellm's table has no price for the model, or nobody counted."""
    try:
        entry = litellm.model_cost[litellm.get_model_info(model)["key"]]
        if usage is None or not any("cost_per" in name for name in entry):
            return None
        return float(sum(litellm.cost_per_token(model=model, usage_object=usage)))
    except Exception:  # an unknown model is a bare Exception in litellm
        return None


async def serve(sock: socket.socket, keys: Keys) -> None:
    """Answers on `sock` until its end of file."""
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES)
    try:
        await Worker(writer, keys).serve(reader)
    except (ConnectionError, ValueError) as exc:  # ValueError: a line over the limit
        log.error("the kernel's line is unusable: %s", exc)


def main(argv: list[str]) -> None:
    """Runs the worker; never returns."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    _give_way()
    sock = socket.socket(fileno=int(argv[0]))
    sock.set_inheritable(False)
    environment = {}
    if len(argv) > 1 and argv[1] != "-":
        os.set_inheritable(int(argv[1]), False)
        environment = environment_of(int(argv[1]))
    keys = Keys(environment, configured_keys(argv[2] if len(argv) > 2 else None))
    os.environ.update(keys.variables)
    os.environ.update(LITELLM_ENVIRONMENT)
    os.dup2(2, 1)  # a stray print goes to the log
    sys.stdout = sys.stderr = ScrubbedStream(sys.stderr, keys)
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        asyncio.run(until_eof(sock, keys))
    finally:
        os._exit(0)


def _give_way() -> None:
    """Lets the kernel's process run first: it needs little, and others wait for it.

    SCHED_BATCH never takes the processor from whoever has it. Source: sched(7).
    """
    os.nice(5)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


async def until_eof(sock: socket.socket, keys: Keys) -> None:
    """Serves, then ends the process at once: no thread of a library may hold it up."""
    await serve(sock, keys)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])

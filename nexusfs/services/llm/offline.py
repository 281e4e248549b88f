"""Models that need no network: offline/echo, offline/script:PATH and offline/demo.

`offline/echo` repeats the last user message. `offline/script:PATH` plays a script of turns (format
in script.py) from a file of the host, in process. `offline/demo` is the stand-in of demo.py. Their
tokens are characters / 4 and cost nothing.

Concurrency: scripts are cached by path. The file is read in a thread, since the path may lie on
this kernel's own mount, and looked at again at most every `RECHECK_S`, since a thread costs more
than a call; one task looks, and all who want it meanwhile wait for what it sees.
"""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

import trio

from nexusfs.contracts.errors import InvalidError, ModelError
from nexusfs.contracts.model import Message, ModelCall, ModelObserver, ModelReply, Quote, Usage
from nexusfs.services.llm.demo import demo_answer
from nexusfs.services.llm.mock_history import history_fault
from nexusfs.services.llm.script import Script, Turn, pieces_of, text_of, tokens_of
from nexusfs.services.turns import Turns

OFFLINE = "offline"
SCRIPT_PREFIX = "offline/script:"
RECHECK_S = 0.1
SCRIPT_BYTES = 64 * 1024 * 1024
PIECES_A_STEP = 64
"""Pieces between two checkpoints: a long text must not hold the loop up."""
ATTEMPTS_KEPT = 10_000


@dataclass(slots=True)
class _Cached:
    script: Script
    stamp: tuple[int, int]
    checked: float


class OfflineModels:
    """Answers `offline/…` calls in process."""

    def __init__(self) -> None:
        self._scripts: dict[str, _Cached] = {}
        self._failed: dict[bytes, int] = {}
        self._counted: tuple[list[Message], int] = ([], 0)
        self._reads = trio.CapacityLimiter(4)
        self._looks: Turns[str] = Turns()

    @staticmethod
    def check(model: str) -> None:
        """InvalidError EINVAL when there is no such offline model."""
        if model not in ("offline/echo", "offline/demo") and not (
            model.startswith(SCRIPT_PREFIX) and len(model) > len(SCRIPT_PREFIX)
        ):
            raise InvalidError(
                f"model {model!r}: offline/demo, offline/echo and offline/script:PATH are there"
            )

    @property
    def state(self) -> str:
        """Always there."""
        return "running"

    async def quote(self, call: ModelCall) -> Quote:
        """Characters / 4, and one for each tool, for nothing."""
        return Quote(call.model, self._count(call.messages) + len(call.tools))

    def _count(self, messages: list[Message]) -> int:
        """`tokens_of`, kept for the call that follows a quote."""
        if self._counted[0] is not messages:
            self._counted = (messages, tokens_of(messages))
        return self._counted[1]

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        """The whole reply; its text goes to `observer` word by word. ModelError by the script."""
        input_tokens = self._count(call.messages)
        if call.model.startswith(SCRIPT_PREFIX):
            turn = await self._scripted(call)
        else:
            answer: Callable[[ModelCall], Message] = demo_answer
            message = echo(call) if call.model == "offline/echo" else answer(call)
            turn = Turn.model_validate(message)
        await _perform(turn, observer)
        reply = turn.message()
        if turn.usage is not None:
            usage = Usage(turn.usage.input_tokens, turn.usage.output_tokens, 0.0)
        else:
            usage = Usage(input_tokens, tokens_of([reply]), 0.0)
        return ModelReply(reply, usage, call.model, turn.finish)

    async def _scripted(self, call: ModelCall) -> Turn:
        """The turn of the script that answers; raises the error of a turn that fails.

        A history that a provider would refuse is refused here too.
        """
        fault = history_fault(call.messages)
        if fault is not None:
            raise ModelError(fault, kind="bad_request")
        script = await self._script(call.model.removeprefix(SCRIPT_PREFIX))
        turn = script.play(call.messages).turn
        if turn.error is not None and self._still_fails(call, turn.error.times):
            await trio.sleep(turn.delay_s)
            raise turn.error.to_model_error()
        return turn

    def _still_fails(self, call: ModelCall, times: int | None) -> bool:
        """Counts the attempts at the same transcript, where an error is to end after some."""
        if times is None:
            return True
        key = sha256(json.dumps([call.model, call.messages]).encode()).digest()
        failed = self._failed.get(key, 0)
        if len(self._failed) > ATTEMPTS_KEPT:
            self._failed.clear()
        self._failed[key] = failed + 1
        return failed < times

    async def _script(self, path: str) -> Script:
        known = self._fresh(path)
        if known is None:
            async with self._looks.of(path):
                known = self._fresh(path)  # somebody may have looked meanwhile
                if known is None:
                    known = await self._looked(path)
        return known

    def _fresh(self, path: str) -> Script | None:
        """The script, if somebody looked at it just now."""
        cached = self._scripts.get(path)
        due = cached is None or trio.current_time() >= cached.checked + RECHECK_S
        return None if cached is None or due else cached.script

    async def _looked(self, path: str) -> Script:
        """The script as it is now. ModelError when there is none; then nothing is known of it."""
        cached = self._scripts.pop(path, None)
        known = None if cached is None else cached.stamp
        read = await trio.to_thread.run_sync(
            _read_script, path, known, abandon_on_cancel=True,
            limiter=self._reads,
        )  # fmt: skip
        if read is not None:
            stamp, data = read
            try:
                cached = _Cached(Script.parse(data), stamp, 0.0)
            except InvalidError as exc:
                raise ModelError(f"script {path!r}: {exc}", kind="bad_request") from None
        assert cached is not None  # None is only read for a known stamp
        cached.checked = trio.current_time()  # the end: who waited for the look need not look
        self._scripts[path] = cached
        return cached.script


def echo(call: ModelCall) -> Message:
    """The text of the last user message."""
    users = [message for message in call.messages if message.get("role") == "user"]
    return {"content": text_of(users[-1]) if users else ""}


async def _perform(turn: Turn, observer: ModelObserver) -> None:
    """Streams the text with the delays of the turn; ModelError `cut` where it is to be cut."""
    if turn.hang:
        await trio.sleep_forever()
    await trio.sleep(turn.delay_s)
    if turn.garbage is not None:
        raise ModelError("the answer cannot be understood", kind="server", retryable=True)
    pieces = pieces_of(turn.content or "")
    stop = min((n for n in (turn.cut_after, turn.end_after) if n is not None), default=None)
    for number, piece in enumerate(islice(pieces, stop)):
        if turn.token_delay_s:
            await trio.sleep(turn.token_delay_s)
        elif number % PIECES_A_STEP == PIECES_A_STEP - 1:
            await trio.lowlevel.checkpoint()
        observer.text(piece)
    if stop is not None:
        raise ModelError("the script cut the stream", kind="cut", retryable=True)


def _read_script(path: str, known: tuple[int, int] | None) -> tuple[tuple[int, int], bytes] | None:
    """((mtime in ns, size), bytes) of a regular file; None when the stamp is the known one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            stamp = (info.st_mtime_ns, info.st_size)
            if not stat.S_ISREG(info.st_mode) or info.st_size > SCRIPT_BYTES:
                raise ModelError(f"not a script: {path!r}", kind="not_found")
            return None if stamp == known else (stamp, file.read())
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not a path"
        raise ModelError(f"script {path!r}: {why}", kind="not_found") from None

"""What of a conversation goes to the model: all of it, until that would be too much.

The prompt is the system message, the task (the messages before the first answer), one message that
stands for what is left out, and the rest of the transcript. Where to cut is journaled (`trim`), so
an agent that resumes sends the same prompt. A cut is only ever made before a message that is no
tool's result: calls and results stay together. The transcript has what a model wrote; a call that
is none, which a provider would refuse in every later request, goes into the prompt as one.

Tokens are estimated from above, at a token for three bytes of UTF-8, and corrected upwards by what
the provider counted. The estimate of a transcript is kept as running sums, so that a step costs the
same at any length.
"""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from nexusfs.contracts.agent import AgentLoopConfig
from nexusfs.contracts.errors import InvalidError, ModelError
from nexusfs.contracts.model import Message, Usage, left_out_message
from nexusfs.contracts.proc import ProgramProcess
from nexusfs.contracts.tool import Tool
from nexusfs.services.agent.calls import arguments_of
from nexusfs.services.agent.metered import ANSWER_TOKENS

BYTES_A_TOKEN = 3
"""English has about 4; text that has fewer is met by the correction."""
CORRECTION_MAX = BYTES_A_TOKEN + 1
"""A byte is a token at most, and something is hidden; a provider that counts more is mistaken."""
MESSAGE_TOKENS = 8
"""What a message costs beside its text. Source: OpenAI's cookbook says 3 to 7."""
TRIMMED_TO = 0.6
"""A trimmed prompt takes this part of the budget, so that not every step trims."""
NOTHING_SAID = "(empty)"
SHORTEST_CHARS = 200
"""A message is cut down to this, not below."""

Summarise = Callable[[str, Sequence[Message], int], Awaitable[tuple[str, Usage] | None]]
"""(summary so far, messages, budget in tokens) → the new summary and its cost, or None."""


_bytes_of = attrgetter("function_bytes")
_as_json = json.JSONEncoder(ensure_ascii=False).encode


def tokens_of(message: Message) -> int:
    """An estimate from above of what a message costs."""
    size = len(str(message.get("content") or "").encode("utf-8", "replace"))
    for call in message.get("tool_calls") or ():
        size += len(_as_json(call).encode("utf-8", "replace"))
    return size // BYTES_A_TOKEN + MESSAGE_TOKENS


@dataclass(slots=True)
class _Room:
    """Tokens of a prompt: what is there anyway, and what the whole may have."""

    fixed: int
    budget: int


class Context:
    """The prompts of one agent, one after the other."""

    def __init__(self, process: ProgramProcess, config: AgentLoopConfig) -> None:
        """Nothing is known of the model's window yet."""
        self._process = process
        self._config = config
        self._sums = [0]
        self._answers = [0]
        self._head = 0
        self._has_answer = False
        self._mended: dict[int, Message] = {}
        self._correction = 1.0
        self._estimate = 0
        self._window: float = config.max_context_tokens

    async def prompt(
        self, system: str, tools: Sequence[Tool], summarise: Summarise
    ) -> list[Message]:
        """The messages of the next model call, within the budget.

        Raises:
            ModelError: EREMOTEIO (context_length), system and task alone are too long.

        Suspends for `summarise`, where the spec asks for it and it is time to trim.
        """
        self._measure()
        size = len(system.encode("utf-8", "replace")) + sum(map(_bytes_of, tools))
        fixed = size // BYTES_A_TOKEN
        room = _Room(fixed + self._sums[self._head], self._budget())
        if room.fixed > room.budget:
            raise ModelError(
                f"instructions, tools and task are about {room.fixed} tokens, and the model is to "
                f"take {room.budget}: make them shorter, or raise max_context_tokens",
                kind="context_length",
            )
        if self._tokens(room, self._process.kept_from) > room.budget:
            await self._trim(room, summarise)
        messages = self._messages(system)
        self._estimate = self._tokens(room, self._process.kept_from)
        if self._estimate > room.budget:
            messages = _shortened(messages, self._estimate - room.budget, self._head)
            self._estimate = room.budget
        return messages

    def counted(self, input_tokens: int, window_tokens: int | None) -> None:
        """Learns from a reply what the prompt really cost, and what the model takes."""
        if self._estimate and input_tokens > self._estimate * self._correction:
            self._correction = min(input_tokens / self._estimate, CORRECTION_MAX)
        if window_tokens:
            self._window = min(self._window, window_tokens)

    def refused(self) -> bool:
        """The provider said that the prompt was too long; True when a shorter one can be made."""
        tried = self._estimate * self._correction
        self._window = min(self._window, tried * 0.75 + self._reserved())
        return self._budget() > 0 and len(self._process.transcript) > self._head

    # -- sizes

    def _measure(self) -> None:
        """Takes in the messages that came since the last prompt."""
        transcript = self._process.transcript
        for number, said in enumerate(transcript[len(self._sums) - 1 :], len(self._sums) - 1):
            message = _mended(said)
            if message is not said:
                self._mended[number] = message
            self._has_answer = self._has_answer or message["role"] != "user"
            if not self._has_answer:
                self._head = number + 1
            self._sums.append(self._sums[-1] + tokens_of(message))
            self._answers.append(self._answers[-1] + (message["role"] == "assistant"))

    def _reserved(self) -> int:
        """What is kept free for the answer; of a small window a quarter."""
        asked = self._process.spec.model_settings.get("max_tokens")
        free = asked if isinstance(asked, int) else ANSWER_TOKENS
        return min(free, int(self._window) // 4)

    def _budget(self) -> int:
        return int((self._window - self._reserved()) / self._correction)

    def _tokens(self, room: _Room, kept_from: int) -> int:
        kept = max(kept_from, self._head)
        told = 0 if kept == self._head else tokens_of(self._told(kept))
        return room.fixed + told + self._sums[-1] - self._sums[kept]

    # -- the prompt

    def _messages(self, system: str) -> list[Message]:
        process = self._process
        kept = max(process.kept_from, self._head)
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        messages += process.transcript[: self._head]
        if kept > self._head:
            messages.append(self._told(kept))
        newest = enumerate(process.transcript[kept:], kept)
        messages += [self._mended.get(number, message) for number, message in newest]
        return [m if _says_something(m) else {**m, "content": NOTHING_SAID} for m in messages]

    def _told(self, kept: int) -> Message:
        """The message that stands for what is left out."""
        answers = self._answers[kept] - self._answers[self._head]
        return left_out_message(kept - self._head, answers, self._process.summary)

    # -- trimming

    async def _trim(self, room: _Room, summarise: Summarise) -> None:
        process = self._process
        before = max(process.kept_from, self._head)
        cut = self._cut(room, before)
        if cut <= before:
            return
        summary, usage = process.summary, None  # one that fails leaves what there is
        if self._config.trim == "summarize":
            made = await summarise(
                process.summary, process.transcript[before:cut], int(room.budget * TRIMMED_TO)
            )
            if made is not None:
                summary, usage = made
        used = usage and {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cost_usd": usage.cost_usd,
        }
        process.record("trim", kept_from=cut, dropped=cut - before, summary=summary, usage=used)

    def _cut(self, room: _Room, before: int) -> int:
        """The first place to cut that makes the prompt short enough, or the last there is."""
        target = int(room.budget * TRIMMED_TO)
        transcript, last = self._process.transcript, before
        for number in range(before + 1, len(transcript)):
            if transcript[number]["role"] == "tool":
                continue
            last = number
            if self._tokens(room, number) <= target:
                break
        return last


def _mended(message: Message) -> Message:
    """The message, or one like it whose tool calls have a name and arguments that are JSON.

    What was wrong with them the model is told by their results.
    """
    if message["role"] == "tool":
        name = _tool_name(message.get("name"))
        return message if message.get("name") in (None, name) else {**message, "name": name}
    calls = message.get("tool_calls") or []
    mended = [_mended_call(call) for call in calls]
    same = all(made is call for made, call in zip(mended, calls, strict=True))
    return message if same else {**message, "tool_calls": mended}


def _mended_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    name, arguments = _tool_name(function.get("name")), function.get("arguments")
    try:
        arguments_of(arguments)
    except InvalidError:
        arguments = "{}"
    if name == function.get("name") and arguments == function.get("arguments"):
        return call
    return {**call, "function": {**function, "name": name, "arguments": arguments}}


def _tool_name(name: Any) -> str:
    """A name that providers take. Source: OpenAI's API reference, function.name."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", str(name or ""))[:64] or "unknown"


def _says_something(message: Message) -> bool:
    """False for a message that some providers refuse: of a person or a model, and empty."""
    return bool(message.get("content") or message.get("tool_calls")) or message["role"] == "tool"


def _shortened(messages: list[Message], excess: int, head: int) -> list[Message]:
    """The messages with their longest contents cut in the middle, `excess` tokens shorter."""
    out = list(messages)
    skip = head + (messages[0]["role"] == "system")
    longest = sorted(range(skip, len(out)), key=lambda n: -len(str(out[n].get("content") or "")))
    left = excess * BYTES_A_TOKEN
    for number in longest:
        if left <= 0:
            break
        text = str(out[number].get("content") or "")
        size = len(text.encode("utf-8", "replace"))
        keep = max(SHORTEST_CHARS, int(len(text) * (1 - (left + 100) / max(size, 1))))
        if keep >= len(text):
            continue
        cut = len(text) - keep
        short = f"{text[: keep // 2]}\n[{cut} characters are left out]\n{text[-(keep // 2) :]}"
        out[number] = {**out[number], "content": short}
        left -= size - len(short.encode("utf-8", "replace"))
    return out

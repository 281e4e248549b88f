"""Model calls: what the agent loop asks of a model, and what it gets back."""

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from nexusfs.contracts.errors import ModelError

Message = dict[str, Any]
"""One message of a transcript, provider-shaped: role, content, tool_calls, tool_call_id, name."""


_LEFT_OUT = re.compile(r"\[\d+ earlier messages, (\d+) of them yours, are left out[.,]")


def left_out_message(count: int, answers: int, summary: str) -> Message:
    """What stands in a prompt for `count` messages, `answers` of them the model's own."""
    said = f", in short:\n{summary}" if summary else "."
    text = f"[{count} earlier messages, {answers} of them yours, are left out{said}]"
    return {"role": "user", "content": text}


def answers_left_out(message: Message) -> int | None:
    """How many answers a `left_out_message` stands for; None for any other message.

    A scripted model goes by how many answers a conversation had.
    """
    content = message.get("content")
    if not isinstance(content, str) or not content.startswith("["):
        return None
    found = _LEFT_OUT.match(content)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more calls; `cost_usd` is None when a price is unknown."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
        )


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model.

    Attributes:
        model: `provider/model`, as litellm names it, or `offline/demo`, `offline/echo`,
            `offline/script:PATH` (PATH is a path of the host).
        messages: the whole transcript, oldest first.
        tools: list of {"type": "function", "function": {name, description, parameters}}.
        settings: litellm's call options (temperature, api_base, max_tokens, …); never a key.
        fallback_models: tried in order when `model` failed for good by a retryable cause.
        conversation: names the conversation that the messages are of, if a later call will begin
            with the same ones; a message of it is never changed.
    """

    model: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    fallback_models: tuple[str, ...] = ()
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a call would cost, before it is made.

    Attributes:
        model: the dearest of those that may answer.
        input_tokens: of the prompt, as the provider's tokens are counted here.
        input_usd, output_usd: price of one token; None when it is unknown.
        max_output_tokens: what the model answers at most, where that is known.
    """

    model: str
    input_tokens: int
    input_usd: float | None = 0.0
    output_usd: float | None = 0.0
    max_output_tokens: int | None = None

    @property
    def is_known(self) -> bool:
        """True when both prices are known."""
        return self.input_usd is not None and self.output_usd is not None

    def cost_usd(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """US dollars of so many tokens; None when a price is unknown."""
        if self.input_usd is None or self.output_usd is None:
            return None
        return prompt_tokens * self.input_usd + answer_tokens * self.output_usd


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What came back.

    Attributes:
        message: {"role": "assistant", "content": str or None, "tool_calls": [...] only if any},
            each tool call {"id", "type": "function", "function": {"name", "arguments": JSON text}}.
        usage: of this call, (input, output) in tokens.
        model: the one that answered; a fallback may have.
        finish_reason: as the provider said; not to be relied on.
        window_tokens: what the model takes at most, where that is known.
    """

    message: Message
    usage: Usage
    model: str
    finish_reason: str | None = None
    window_tokens: int | None = None


class ModelObserver(Protocol):
    """Hears of a call while it runs."""

    def text(self, piece: str) -> None:
        """A piece of the answer's text arrived. Returns at once and never raises."""

    async def retry(self, model: str, error: str, delay_s: float) -> None:
        """An attempt failed, and text seen so far is void; suspends until the next may start.

        That is after `delay_s` or later: whoever listens may have given a place up meanwhile, or
        be paused. What it raises ends the call.
        """


class ModelPort(Protocol):
    """Anything that answers model calls."""

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        """The whole reply; its text also goes to `observer` piece by piece.

        Raises:
            ModelError: EREMOTEIO, after retries and fallbacks.
            UnavailableError: EOPNOTSUPP, no such provider here.

        Suspends for as long as the model takes. Cancelling drops the call at the provider's
        connection too; nothing is left running.
        """
        ...

    async def quote(self, call: ModelCall) -> Quote:
        """Counts the prompt and names the price, of the dearest model that may answer.

        ModelError EREMOTEIO, UnavailableError EOPNOTSUPP. Suspends for milliseconds.
        """
        ...

    def available(self) -> list[dict[str, Any]]:
        """What can be used now, for sys/models: [{"model", "provider", "ready": bool, "why"}]."""
        ...


class ScriptedModel:
    """Answers from a list of messages, in order; for tests and the bare loop, without I/O."""

    def __init__(self, *messages: Message) -> None:
        """Each message is an assistant message as in ModelReply."""
        self.messages = list(messages)
        self.calls: list[ModelCall] = []

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        """The next message of the script; ModelError when it is used up."""
        self.calls.append(call)
        if not self.messages:
            raise ModelError("the script has no turn left", kind="bad_request")
        message = self.messages.pop(0)
        text = message.get("content")
        if text:
            observer.text(text)
        usage = Usage(sum(len(str(m)) for m in call.messages) // 4, len(str(message)) // 4)
        return ModelReply({"role": "assistant", **message}, usage, call.model, "stop")

    async def quote(self, call: ModelCall) -> Quote:
        """Characters / 4, for nothing."""
        return Quote(call.model, sum(len(str(m)) for m in call.messages) // 4)

    def available(self) -> list[dict[str, Any]]:
        """Always ready."""
        return [{"model": "scripted", "provider": "scripted", "ready": True, "why": ""}]

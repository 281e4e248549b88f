"""Scripts of model turns: the format that offline/script and mock-llm share.

A script is a file, in one of these shapes:

    [TURN, …]                                  JSON: the turns of one conversation
    {"turns": [TURN, …], "repeat": true}       JSON: the same; `repeat` starts again at their end
    {"conversations": [{"match": "…", "turns": […]}, …]}
                                               JSON: many conversations; the first that matches
    TURN                                       JSON Lines: one turn a line
    TURN

`match` is searched for in the first user message, `match_last` in the last one; a conversation with
neither matches all. The turn played is the one after as many assistant messages as the transcript
has (since the last user message, with `match_last`): so a script needs no state and survives a
restart, and any number of conversations run at once.

A turn, every key optional:

    content        text of the answer
    tool_calls     [{"name": "grep", "arguments": {…}}], or the provider's shape; a missing `id` is
                   made up
    delay_s        waits before the answer
    token_delay_s  waits before each piece of text
    usage          {"input_tokens": n, "output_tokens": n}; absent: characters / 4
    finish_reason  absent: `tool_calls` or `stop`
    error          a sentence, or {"message", "kind", "status", "retry_after_s", "times"}: the turn
                   fails. With `times` only the first n attempts at the same transcript do, and then
                   the turn is played. `status` is HTTP's, `kind` that of ModelError; one follows
                   from the other
    status         short for error.status, with `retry_after_s` and `times` beside it
    cut_after      the connection is dropped after n pieces (words) of text
    end_after      the stream ends in good order after n pieces, but with no finish; offline: a cut
    hang           true: never answers
    garbage        text that is sent as it is, in place of an answer; offline: an error
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nexusfs.contracts.errors import InvalidError, ModelError
from nexusfs.contracts.model import Message, answers_left_out
from nexusfs.contracts.tool import new_call_id
from nexusfs.services.llm.failure import KIND_OF_STATUS, RETRYABLE, STATUS_OF_KIND

Kind = Literal[
    "auth",
    "rate_limit",
    "timeout",
    "connection",
    "server",
    "bad_request",
    "context_length",
    "not_found",
    "cut",
    "unknown",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScriptedCall(_Strict):
    """One tool call of a turn; `arguments` is an object, or any text to be sent as it is."""

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: object) -> object:
        if isinstance(value, dict) and isinstance(value.get("function"), dict):
            return {**value["function"], **({"id": value["id"]} if "id" in value else {})}
        return value

    def provider_shaped(self) -> dict[str, Any]:
        """The call as a provider sends it; a fresh id when the script has none."""
        arguments = self.arguments
        text = (
            arguments if isinstance(arguments, str) else pydantic_core.to_json(arguments).decode()
        )
        function = {"name": self.name, "arguments": text}
        return {"id": self.id or new_call_id(), "type": "function", "function": function}


class ScriptedError(_Strict):
    """How a turn fails; the first `times` attempts only, when that is given."""

    message: str = "the script says so"
    kind: Kind = "unknown"
    status: int = 500
    retry_after_s: float | None = None
    times: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _both(cls, value: object) -> object:
        if isinstance(value, str):
            return {"message": value, "status": 400}
        if isinstance(value, dict) and "kind" not in value and "status" in value:
            return {**value, "kind": KIND_OF_STATUS.get(value["status"], "unknown")}
        if isinstance(value, dict) and "status" not in value and "kind" in value:
            return {**value, "status": STATUS_OF_KIND.get(value["kind"], 500)}
        return value

    def to_model_error(self) -> ModelError:
        """The same failure as the kernel sees it."""
        return ModelError(self.message, kind=self.kind, retryable=self.kind in RETRYABLE)


class ScriptedUsage(_Strict):
    """Tokens that a turn claims."""

    input_tokens: int = 0
    output_tokens: int = 0


class Turn(_Strict):
    """One answer of a script."""

    content: str | None = None
    tool_calls: tuple[ScriptedCall, ...] = ()
    delay_s: float = 0.0
    token_delay_s: float = 0.0
    usage: ScriptedUsage | None = None
    finish_reason: str | None = None
    error: ScriptedError | None = None
    cut_after: int | None = None
    end_after: int | None = None
    hang: bool = False
    garbage: str | None = None
    role: Literal["assistant"] = "assistant"

    @model_validator(mode="before")
    @classmethod
    def _short_error(cls, value: object) -> object:
        if isinstance(value, dict) and "status" in value:
            names = ("status", "retry_after_s", "times")
            error = {"message": f"status {value['status']} by the script"}
            error |= {name: value[name] for name in names if name in value}
            return {**{k: v for k, v in value.items() if k not in names}, "error": error}
        return value

    def message(self) -> Message:
        """The assistant message of this turn, with fresh ids of calls that have none."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [call.provider_shaped() for call in self.tool_calls]
        return message

    @property
    def finish(self) -> str:
        """The finish reason that a provider would give."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")


class Conversation(_Strict):
    """Turns, and the user message that they belong to."""

    turns: tuple[Turn, ...]
    match: str | None = None
    match_last: str | None = None
    repeat: bool = False

    def matches(self, first: str, last: str) -> bool:
        """True when the texts of the first and the last user message are this conversation's."""
        return (self.match is None or self.match in first) and (
            self.match_last is None or self.match_last in last
        )


@dataclass(frozen=True, slots=True)
class Played:
    """A turn and its place: `conversation` and `position` count from 0."""

    turn: Turn
    conversation: int
    position: int


class Script(_Strict):
    """A parsed script."""

    conversations: tuple[Conversation, ...]

    @cached_property
    def _matches_all(self) -> bool:
        """True when no conversation asks for what was said."""
        return all(one.match is one.match_last is None for one in self.conversations)

    @model_validator(mode="before")
    @classmethod
    def _three_shapes(cls, value: object) -> object:
        if isinstance(value, list):
            value = {"turns": value}
        if isinstance(value, dict) and "turns" in value:
            return {"conversations": [value]}
        return value

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """A script from the bytes of a file, JSON or JSON Lines.

        Raises:
            InvalidError: EINVAL, with the place at fault; never with the file's content, which the
                one who asks may have no right to read.
        """
        try:
            return cls.model_validate(_load(data))
        except ValidationError as exc:
            first = exc.errors(include_input=False, include_context=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InvalidError(f"not a script of turns: {where}: {first['msg']}") from None

    def play(self, messages: list[Message], position: int | None = None) -> Played:
        """The turn that answers `messages`; `position` overrides the count of assistant messages.

        Raises:
            ModelError: EREMOTEIO, no conversation matches or its turns are used up.
        """
        users = [] if self._matches_all else _said_by_users(messages)
        first, last = (text_of(messages[users[at]]) if users else "" for at in (0, -1))
        for number, conversation in enumerate(self.conversations):
            if conversation.matches(first, last):
                since = users[-1] if conversation.match_last is not None and users else 0
                at = turns_taken(messages[since:]) if position is None else position
                return _turn_at(conversation, number, at)
        raise ModelError("no conversation of the script matches", kind="bad_request")


def _said_by_users(messages: list[Message]) -> list[int]:
    """Where the messages of people are."""
    return [
        index
        for index, message in enumerate(messages)
        if message.get("role") == "user" and answers_left_out(message) is None
    ]


def _turn_at(conversation: Conversation, number: int, position: int) -> Played:
    turns = conversation.turns
    if conversation.repeat and turns:
        return Played(turns[position % len(turns)], number, position)
    if position >= len(turns):
        said = f"the script has {len(turns)} turns and all are used up"
        raise ModelError(said, kind="bad_request")
    return Played(turns[position], number, position)


def _load(data: bytes) -> Any:
    """JSON or JSON Lines; InvalidError EINVAL when it is neither."""
    try:
        value = pydantic_core.from_json(data)
    except ValueError:
        return [_load_line(number, line) for number, line in _lines(data)]
    if isinstance(value, dict) and not {"turns", "conversations"} & value.keys():
        return [value]
    return value


def _lines(data: bytes) -> list[tuple[int, bytes]]:
    numbered = enumerate(data.splitlines(), start=1)
    return [(number, line) for number, line in numbered if line.strip()]


def _load_line(number: int, line: bytes) -> Any:
    try:
        return pydantic_core.from_json(line)
    except ValueError:
        raise InvalidError(f"not a script of turns: line {number} is not JSON") from None


def turns_taken(messages: list[Message]) -> int:
    """How many assistant messages there are, with those that a trimmed prompt leaves out."""
    return sum(
        message.get("role") == "assistant" or answers_left_out(message) or 0 for message in messages
    )


def text_of(message: Message) -> str:
    """The text of a message, whose content is a string, null, or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def pieces_of(text: str) -> Iterator[str]:
    """A text cut into words with the space after them; together they are the text.

    Space before the first word goes with it; nowhere else, or a run of it would take its square.
    """
    if text and not text.strip():
        yield text
    else:
        yield from (found.group() for found in re.finditer(r"(?:^\s+)?\S+\s*", text))


def tokens_of(messages: list[Message]) -> int:
    """A plausible count of tokens: characters / 4, at least 1 for a message."""
    tokens = 0
    for message in messages:
        content = message.get("content")
        chars = len(content if isinstance(content, str) else text_of(message))
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            chars += len(function.get("name") or "") + len(function.get("arguments") or "")
        tokens += max(1, chars // 4)
    return tokens

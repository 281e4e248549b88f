"""The checks on a request that real providers make: what they refuse is refused here too."""

import json
import re
from typing import Any

from nexusfs.contracts.model import Message

_ROLES = ("system", "developer", "user", "assistant", "tool")
_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")


def fault_of(body: Any) -> str | None:
    """Why a provider would answer 400 to this request; None when it would not."""
    if not isinstance(body, dict):
        return "the body is not a JSON object"
    if not isinstance(body.get("model"), str):
        return "you must provide a model parameter"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "messages: expected a list with at least one message"
    return _tools_fault(body.get("tools")) or history_fault(messages)


def _tools_fault(tools: Any) -> str | None:
    if tools is None:
        return None
    if not isinstance(tools, list) or not tools:
        return "[] is too short - 'tools'"
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not _NAME.match(str(function.get("name", ""))):
            return f"tools[{number}].function.name: a name of letters, digits, _ and - is needed"
        if (function.get("parameters") or {"type": "object"}).get("type") != "object":
            return f"tools[{number}].function.parameters: the type must be object"
    return None


def history_fault(messages: list[Message]) -> str | None:
    """Roles and shapes, and that each tool call has one answer, before anything else is said."""
    open_ids: dict[str, None] = {}
    known: set[str] = set()
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in _ROLES:
            return f"messages[{number}].role: {role!r} is not one of {', '.join(_ROLES)}"
        if role == "tool":
            if open_ids.pop(str(message.get("tool_call_id")), 0) == 0:
                return (
                    f"messages[{number}]: messages with role 'tool' must be a response to a "
                    f"preceding message with 'tool_calls' ({message.get('tool_call_id')!r})"
                )
        elif open_ids:
            break
        fault = _message_fault(message, last=number == len(messages) - 1)
        if fault is not None:
            return f"messages[{number}]{fault}"
        if role == "assistant":
            open_ids = {call["id"]: None for call in message.get("tool_calls") or ()}
            if known & open_ids.keys():
                return f"messages[{number}].tool_calls: ids must be unique in a conversation"
            known |= open_ids.keys()
    if open_ids:
        return (
            "an assistant message with 'tool_calls' must be followed by tool messages "
            f"responding to each 'tool_call_id'; no response for: {', '.join(open_ids)}"
        )
    return None


def _message_fault(message: Message, *, last: bool) -> str | None:
    """What is wrong with one message by itself."""
    content, calls = message.get("content"), message.get("tool_calls")
    if calls is not None:
        return _calls_fault(message["role"], calls)
    if not isinstance(content, str | list):
        return ".content: expected a string or a list of parts, got null"
    if not content and message["role"] != "tool" and not (last and message["role"] == "assistant"):
        return ".content: must not be empty, but in the last message of the assistant"
    return None


def _calls_fault(role: str, calls: Any) -> str | None:
    if role != "assistant" or not isinstance(calls, list) or not calls:
        return ".tool_calls: a list with at least one call, in an assistant message only"
    ids = [call.get("id") for call in calls if isinstance(call, dict)]
    if not all(isinstance(one, str) and one for one in ids) or len(set(ids)) != len(calls):
        return ".tool_calls: each needs an id of its own"
    for call in calls:
        function = call.get("function") or {}
        if not _NAME.match(str(function.get("name", ""))):
            return ".tool_calls: function.name is needed"
        try:
            json.loads(function["arguments"])
        except (KeyError, TypeError, ValueError):
            return ".tool_calls: function.arguments must be JSON text"
    return None

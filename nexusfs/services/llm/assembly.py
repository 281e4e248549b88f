"""Puts a streamed answer together: text pieces, tool calls by index, finish reason and usage."""

from typing import Any

from nexusfs.contracts.tool import new_call_id


class Assembly:
    """Collects the chunks of one OpenAI-shaped stream."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._last_index = -1
        self.size_chars = 0
        self.extra: dict[str, Any] = {}
        self.usage: Any = None
        self.finish_reason: str | None = None

    def add(self, chunk: Any) -> str:
        """Takes one chunk in; returns its text, empty when it has none."""
        if getattr(chunk, "usage", None) is not None:
            self.usage = chunk.usage
        choices = getattr(chunk, "choices", None)
        if not choices:
            return ""
        choice = choices[0]
        self.finish_reason = getattr(choice, "finish_reason", None) or self.finish_reason
        delta = getattr(choice, "delta", None)
        for call in getattr(delta, "tool_calls", None) or ():
            self._add_call(call)
        self._add_thinking(delta)
        text: str = getattr(delta, "content", None) or ""
        if text:
            self._text.append(text)
            self.size_chars += len(text)
        return text

    def _add_call(self, delta: Any) -> None:
        """Joins one piece of a tool call to the call of its index.

        Some servers send every call whole and with index 0 or none: a new id at an index that has
        another one begins a new call.
        """
        index = getattr(delta, "index", None)
        index = self._last_index if index is None else index
        call = self._calls.get(index)
        new_id = getattr(delta, "id", None)
        if call is None or (new_id and call["id"] and new_id != call["id"]):
            index = index if call is None and index >= 0 else max(self._calls, default=-1) + 1
            call = self._calls[index] = {"id": "", "name": "", "arguments": ""}
        self._last_index = index
        function = getattr(delta, "function", None)
        call["id"] = call["id"] or new_id or ""
        name = getattr(function, "name", None) or ""
        if name and name != call["name"]:
            call["name"] += name
        arguments = getattr(function, "arguments", None) or ""
        call["arguments"] += arguments
        self.size_chars += len(name) + len(arguments)

    def _add_thinking(self, delta: Any) -> None:
        """Keeps what Anthropic wants back beside tool calls: signed thinking blocks."""
        for block in map(_plain, getattr(delta, "thinking_blocks", None) or ()):
            kept = self.extra.setdefault("thinking_blocks", [])
            last = kept[-1] if kept else {"signature": "none"}
            self.size_chars += len(block.get("thinking") or "")
            if block.get("type") == "thinking" and not last.get("signature"):
                last["thinking"] = (last.get("thinking") or "") + (block.get("thinking") or "")
                last["signature"] = block.get("signature")
            else:
                kept.append(block)

    @property
    def empty(self) -> bool:
        """True when neither text nor a call has come."""
        return not self._text and not self._calls

    def message(self) -> dict[str, Any]:
        """The assistant message; arguments are JSON text, `{}` for a call that sent none."""
        return assistant_message("".join(self._text), list(self._calls.values()), self.extra)


def assistant_message(
    text: str | None, calls: list[dict[str, str]], extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """An assistant message of text and flat calls {id, name, arguments}; makes up missing ids."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None, **(extra or {})}
    if calls:
        message["tool_calls"] = [
            {
                "id": call["id"] or new_call_id(),
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"] or "{}"},
            }
            for call in calls
        ]
    elif not text:
        message["content"] = ""
    return message


def _plain(block: Any) -> dict[str, Any]:
    dump = getattr(block, "model_dump", None)
    return dict(dump() if callable(dump) else block)

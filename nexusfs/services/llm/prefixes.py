"""What the worker already has of each conversation, so that a call sends only what is new.

A conversation of a thousand turns has half a megabyte; turning that into JSON at each step would
cost the kernel's one loop milliseconds. Messages are never changed once they are said, so the ones
that both calls begin with need not be sent again. The kernel's side decides what the worker keeps.

Concurrency: one object for each connection, in the trio thread; nothing suspends.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nexusfs.contracts.model import Message

KEPT_BYTES = 64 << 20
"""Of all conversations that the worker keeps, as JSON; the longest unused goes first."""


@dataclass(slots=True)
class _Kept:
    """The messages that the worker has of a conversation, and how much they are as JSON."""

    messages: Sequence[Message]
    size_bytes: int


class Prefixes:
    """The conversations that one worker keeps."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        """None yet."""
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._limit = kept_bytes
        self._total = 0

    def common(self, conversation: str, messages: Sequence[Message]) -> int:
        """How many of the first messages the worker has."""
        kept = self._kept.get(conversation)
        if kept is None:
            return 0
        count = 0
        for count, (mine, its) in enumerate(zip(messages, kept.messages, strict=False), 1):
            if mine is not its and mine != its:
                return count - 1
        return count

    def sent(self, conversation: str, messages: Sequence[Message], size_bytes: int) -> list[str]:
        """Notes what a call sent, a line of so many bytes; names conversations to forget."""
        before = self._kept.pop(conversation, None)
        size = size_bytes + (before.size_bytes if before else 0)
        self._total += size - (before.size_bytes if before else 0)
        self._kept[conversation] = _Kept(messages, size)
        gone = []
        while self._total > self._limit and len(self._kept) > 1:
            name, kept = self._kept.popitem(last=False)
            self._total -= kept.size_bytes
            gone.append(name)
        return gone


def whole(kept: dict[str, list[Message]], call: dict[str, Any]) -> list[Message]:
    """The worker's side: the messages of a call, of which `keep` are here already.

    KeyError: the conversation is not here, or has fewer messages.
    """
    messages: list[Message] = call["messages"]
    conversation = call.get("conversation")
    if not conversation:
        return messages
    keep = call.get("keep", 0)
    before = kept.get(conversation, [])
    if keep > len(before):
        raise KeyError(conversation)
    found = kept[conversation] = before[:keep] + messages
    return found

"""Only what is new of a conversation goes to the worker, and the worker has the whole."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusfs.contracts.model import Message
from nexusfs.services.llm.prefixes import Prefixes, whole


class Line:
    """Both ends of the line, as client and worker use them."""

    def __init__(self, kept_bytes: int = 1 << 20) -> None:
        self.prefixes = Prefixes(kept_bytes)
        self.worker: dict[str, list[Message]] = {}
        self.sizes: list[int] = []

    def call(self, conversation: str, messages: list[Message]) -> list[Message]:
        """What the worker gets of a call."""
        keep = self.prefixes.common(conversation, messages)
        request: dict[str, Any] = {
            "conversation": conversation, "keep": keep, "messages": messages[keep:],
        }  # fmt: skip
        line = json.dumps(request)
        self.sizes.append(len(line))
        for gone in self.prefixes.sent(conversation, messages, len(line)):
            self.worker.pop(gone)
        return whole(self.worker, json.loads(line))


def says(text: str) -> Message:
    return {"role": "user", "content": text}


def test_a_longer_conversation_sends_only_its_end() -> None:
    line, messages = Line(), [says("x" * 1000)]
    for number in range(50):
        messages = [*messages, says(f"{number}" * 10)]
        assert line.call("7", messages) == messages

    assert max(line.sizes[1:]) < 150


def test_a_trimmed_conversation_is_sent_from_where_it_differs() -> None:
    line = Line()
    messages = [says(f"{number}") for number in range(20)]
    line.call("7", messages)

    trimmed = [messages[0], says("[left out]"), *messages[15:], says("new")]

    assert line.call("7", trimmed) == trimmed


def test_the_same_call_again_sends_nothing_of_it() -> None:
    line, messages = Line(), [says("x" * 10_000)]
    line.call("7", messages)

    assert line.call("7", messages) == messages
    assert line.sizes[1] < 100


def test_a_call_of_no_conversation_is_whole() -> None:
    assert whole({}, {"messages": [says("x")]}) == [says("x")]


def test_a_conversation_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        whole({}, {"conversation": "7", "keep": 1, "messages": []})


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    line = Line(kept_bytes=5000)
    for number in range(20):
        line.call(str(number), [says("x" * 1000)])

    assert list(line.worker) == ["16", "17", "18", "19"]


CALLS = st.lists(
    st.tuples(st.sampled_from("ab"), st.lists(st.sampled_from("xyz"), max_size=6)), max_size=12
)


@given(calls=CALLS)
def test_whatever_is_asked_the_worker_has_the_whole(calls: list[tuple[str, list[str]]]) -> None:
    line = Line(kept_bytes=300)

    for conversation, texts in calls:
        messages = [says(text * 20) for text in texts]
        assert line.call(conversation, messages) == messages

"""What the mock server refuses, as real providers do."""

from typing import Any

import pytest

from nexusfs.services.llm.mock_history import fault_of

USER = {"role": "user", "content": "x"}


def call(id_: str = "1", arguments: str = "{}") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": "ls", "arguments": arguments}}


def asks(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def result(id_: str = "1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": "ok"}


def fault(*messages: dict[str, Any], **more: Any) -> str | None:
    return fault_of({"model": "m", "messages": list(messages), **more})


def test_a_history_in_which_every_call_is_answered_is_fine() -> None:
    assert fault(USER, asks(call("1"), call("2")), result("2"), result("1"), USER) is None


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ((), "at least one message"),
        (({"role": "robot", "content": "x"},), "not one of"),
        (({"role": "user", "content": None},), "got null"),
        ((USER, result()), "must be a response"),
        ((USER, asks(call())), "no response for: 1"),
        ((USER, asks(call()), USER, result()), "no response for: 1"),
        ((USER, asks(call()), result(), result()), "must be a response"),
        ((USER, asks(call(), call())), "an id of its own"),
        ((USER, asks(call(arguments="{")), result()), "must be JSON text"),
        ((USER, asks()), "at least one call"),
        ((USER, asks(call()), result(), asks(call()), result()), "must be unique"),
        (({"role": "user", "content": ""},), "must not be empty"),
        ((USER, {"role": "assistant", "content": ""}, USER), "must not be empty"),
    ],
)
def test_a_history_that_a_provider_refuses_is_refused(
    messages: tuple[dict[str, Any], ...], match: str
) -> None:
    assert match in (fault(*messages) or "")


def test_an_empty_last_answer_is_fine() -> None:
    assert fault(USER, {"role": "assistant", "content": ""}) is None


def test_an_empty_list_of_tools_is_refused() -> None:
    assert "too short" in (fault(USER, tools=[]) or "")


@pytest.mark.parametrize("body", [None, [], {"messages": [USER]}])
def test_a_body_that_is_no_request_is_refused(body: Any) -> None:
    assert fault_of(body) is not None

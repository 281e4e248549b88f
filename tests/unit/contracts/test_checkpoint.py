"""A checkpoint is a file that anybody may have written: what is no state of an agent is refused."""

import json
from typing import Any

import pytest

from nexusfs.contracts.checkpoint import Snapshot, decoded, encoded
from nexusfs.contracts.errors import CorruptError

CALL = {"id": "a", "type": "function", "function": {"name": "grep", "arguments": "{}"}}
ASK = {"role": "user", "content": "hi"}
WANT = {"role": "assistant", "content": None, "tool_calls": [CALL], "thinking_blocks": [{"k": 1}]}
RESULT = {"role": "tool", "tool_call_id": "a", "name": "grep", "content": "x"}
SAID = {"role": "assistant", "content": "done"}


def body(**fields: Any) -> bytes:
    """The bytes of a checkpoint in which these fields are others."""
    state = Snapshot(
        agent_id="bob", pid=7, zone="default", spec={}, turns=1, rounds=1, kept_from=0, summary="",
        transcript=[ASK, WANT, RESULT, SAID], mail=["later"],
    )  # fmt: skip
    return json.dumps({**json.loads(encoded(state)), **fields}).encode()


@pytest.mark.parametrize("end", range(5))
def test_a_history_is_good_wherever_it_was_cut(end: int) -> None:
    transcript = [ASK, WANT, RESULT, SAID][:end]

    assert decoded(body(transcript=transcript)).transcript == transcript


@pytest.mark.parametrize(
    "transcript",
    [
        [5],
        [{"content": "no role"}],
        [{"role": "king", "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "x", "tool_calls": [CALL]}],
        [{"role": "assistant", "content": 5}],
        [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{**CALL, "id": 5}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{**CALL, "function": {}}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [CALL, CALL]}],
        [{"role": "assistant", "content": "x", "tool_calls": {"a": CALL}}],
        [ASK, RESULT],
        [ASK, WANT, RESULT, RESULT],
        [ASK, WANT, ASK],
        [ASK, WANT, WANT],
        {"0": ASK},
    ],
)
def test_what_is_no_history_is_corrupt(transcript: Any) -> None:
    with pytest.raises(CorruptError):
        decoded(body(transcript=transcript))


@pytest.mark.parametrize(
    "fields",
    [
        {"agent_id": "../etc/hooks.json"},
        {"agent_id": "x\nUid:\t0"},
        {"agent_id": "bob\n"},
        {"agent_id": ""},
        {"zone": "a/b"},
        {"pid": -1},
        {"turns": -1},
        {"turns": 1.5},
        {"rounds": "1"},
        {"rounds": 10**30},
        {"kept_from": 5},
        {"kept_from": True},
        {"summary": None},
        {"mail": [5]},
        {"mail": "later"},
        {"spec": []},
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_corrupt(fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptError):
        decoded(body(**fields))


def test_values_that_are_too_deep_are_corrupt() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]

    with pytest.raises(CorruptError):
        decoded(body(spec={"metadata": {"k": deep}}))
    with pytest.raises(CorruptError):
        decoded(body(transcript=[{**SAID, "extra": deep}]))

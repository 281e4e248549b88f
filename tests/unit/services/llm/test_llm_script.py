"""The format of scripts."""

import json
from typing import Any

import pytest

from nexusfs.contracts.errors import InvalidError, ModelError
from nexusfs.services.llm.script import Script, pieces_of
from tests.kernel_fixture import processor_time

USER = {"role": "user", "content": "count the beans"}
SAID = {"role": "assistant", "content": "ok"}


def script(value: Any) -> Script:
    return Script.parse(json.dumps(value).encode())


def test_a_list_a_turns_object_and_json_lines_are_the_same_script() -> None:
    turns = [{"content": "one"}, {"content": "two"}]

    shapes = [
        script(turns),
        script({"turns": turns}),
        Script.parse(b'{"content":"one"}\n\n{"content":"two"}\n'),
    ]

    assert shapes[0] == shapes[1] == shapes[2]


def test_one_turn_alone_is_a_script() -> None:
    assert Script.parse(b'{"content": "hi"}').play([USER]).turn.content == "hi"


def test_the_turn_follows_from_the_number_of_assistant_messages() -> None:
    played = script([{"content": "one"}, {"content": "two"}])

    assert played.play([USER]).turn.content == "one"
    assert played.play([USER, SAID]).turn.content == "two"


def test_a_script_that_is_used_up_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="1 turns and all are used up"):
        script([{"content": "one"}]).play([USER, SAID])


def test_repeat_starts_again() -> None:
    assert script({"turns": [{"content": "one"}], "repeat": True}).play([USER, SAID]).position == 1


def test_match_chooses_the_conversation_by_the_first_user_message() -> None:
    played = script(
        {
            "conversations": [
                {"match": "peas", "turns": [{"content": "peas"}]},
                {"match": "beans", "turns": [{"content": "beans"}]},
            ]
        }
    )

    assert played.play([USER]).turn.content == "beans"


def test_match_last_counts_turns_from_the_last_user_message() -> None:
    played = script({"conversations": [{"match_last": "beans", "turns": [{"content": "beans"}]}]})

    assert played.play([{"role": "user", "content": "hi"}, SAID, USER]).turn.content == "beans"


def test_short_and_provider_shaped_tool_calls_are_the_same() -> None:
    short = {"name": "grep", "arguments": {"pattern": "x"}, "id": "1"}
    long = {
        "id": "1",
        "type": "function",
        "function": {"name": "grep", "arguments": '{"pattern":"x"}'},
    }

    messages = [script([{"tool_calls": [c]}]).play([USER]).turn.message() for c in (short, long)]

    assert messages[0] == messages[1]


def test_made_up_ids_are_never_the_same() -> None:
    turn = script([{"tool_calls": [{"name": "ls"}, {"name": "ls"}]}]).play([USER]).turn

    ids = [c["id"] for c in turn.message()["tool_calls"] + turn.message()["tool_calls"]]

    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("turn", "kind", "status"),
    [
        ({"status": 429}, "rate_limit", 429),
        ({"error": {"kind": "auth"}}, "auth", 401),
        ({"error": "no"}, "unknown", 400),
    ],
)
def test_kind_and_status_follow_from_each_other(turn: Any, kind: str, status: int) -> None:
    error = script([turn]).play([USER]).turn.error

    assert error is not None
    assert (error.kind, error.status) == (kind, status)


def test_an_unknown_key_is_einval_and_named() -> None:
    with pytest.raises(InvalidError, match="contnet"):
        script([{"contnet": "x"}])


def test_an_error_never_repeats_the_files_content() -> None:
    with pytest.raises(InvalidError) as caught:
        Script.parse(b'["root:x:0:0"]')

    assert "root" not in str(caught.value)


@pytest.mark.parametrize("text", ["  two  words\n", "", " ", "a", "\n\n b "])
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces_of(text)) == text


def test_a_run_of_spaces_is_cut_in_time_that_grows_with_it() -> None:
    text = " " * 100_000

    with processor_time(5):
        assert list(pieces_of(text)) == [text]
        assert list(pieces_of(text + "a" + text + "b")) == [text + "a" + text, "b"]

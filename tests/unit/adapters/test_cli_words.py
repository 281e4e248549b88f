"""What commands make of words, status files, events and replies."""

import json

import click
import pytest

from nexusfs.adapters.cli.call import error_of, from_words, output_of, unknown
from nexusfs.adapters.cli.live import LineSplitter, describe, shorten
from nexusfs.adapters.cli.processes import COLUMNS, roots, row_of, shortened, tree_lines

SCHEMA = {
    "properties": {
        "pattern": {"type": "string"},
        "limit": {"type": "integer"},
        "include": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }
}


def test_words_become_what_the_schema_wants() -> None:
    words = ("pattern=7", "limit=7", "include=null", "other=true", "text=a=b")

    assert from_words(words, SCHEMA) == {
        "pattern": "7",
        "limit": 7,
        "include": "null",
        "other": True,
        "text": "a=b",
    }


def test_a_word_without_an_equals_sign_is_wrong_usage() -> None:
    with pytest.raises(click.UsageError, match="'TODO' is neither"):
        from_words(("TODO",), SCHEMA)


@pytest.mark.parametrize(
    ("output", "shown"),
    [("a", b"a\n"), ("a\n", b"a\n"), ("", b""), (None, b""), ({"n": 1}, b'{"n": 1}\n')],
)
def test_output_ends_in_a_newline_unless_it_is_empty(output: object, shown: bytes) -> None:
    assert output_of(json.dumps({"output": output}).encode()) == shown


@pytest.mark.parametrize(
    ("reply", "error"),
    [(b'{"error": "no"}', "no"), (b'{"error": null}', None), (b"unknown key", None), (b"[]", None)],
)
def test_the_error_of_a_reply_is_told_from_a_sentence(reply: bytes, error: str | None) -> None:
    assert error_of(reply) == error


@pytest.mark.parametrize(
    ("tool", "sentence"),
    [("grepp", "no tool 'grepp': did you mean 'grep'?"), ("x", "no tool 'x': see nexusfs call")],
)
def test_an_unknown_tool_is_told_the_nearest(tool: str, sentence: str) -> None:
    assert unknown(tool, ["glob", "grep"]) == sentence


def test_a_row_adds_tokens_up_and_marks_what_is_absent() -> None:
    status = {"Pid": "2", "State": "R (running)", "InputTokens": "10", "OutputTokens": "5"}

    row = dict(zip(COLUMNS, row_of(status), strict=True))

    assert (row["PID"], row["STATE"], row["TOKENS"], row["NAME"]) == ("2", "R (running)", "15", "-")


@pytest.mark.parametrize(
    ("cell", "shown"),
    [("R (running)", "running"), ("0.001200", "0.0012"), ("0.000000", "0"), ("unknown", "unknown")],
)
def test_a_terminal_gets_short_cells(cell: str, shown: str) -> None:
    assert shortened(cell) == shown


def test_a_tree_indents_children_and_shows_orphans_at_the_top() -> None:
    parents = {1: 0, 2: 1, 3: 2, 4: 2, 5: 1, 7: 6}
    found = {pid: {"Pid": str(pid), "PPid": str(parent)} for pid, parent in parents.items()}

    assert list(tree_lines(found, roots(found))) == [
        "1",
        "├─ 2",
        "│  ├─ 3",
        "│  └─ 4",
        "└─ 5",
        "7",
    ]


def test_a_tree_may_be_deeper_than_pythons_stack() -> None:
    found = {pid: {"Pid": str(pid), "PPid": str(pid - 1)} for pid in range(1, 3000)}

    assert sum(1 for _ in tree_lines(found, roots(found))) == 2999


def test_lines_are_whole_however_the_stream_was_cut() -> None:
    splitter = LineSplitter()

    assert [splitter.feed(p) for p in (b"a", b"b\nc", b"\n\nd")] == [[], [b"ab"], [b"c", b""]]


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"type": "tool_call", "name": "grep", "arguments": '{"p":1}'}, '> grep {"p":1}'),
        ({"type": "tool_call", "name": "grep", "arguments": {"p": 1}}, '> grep {"p": 1}'),
        ({"type": "tool_result", "name": "grep", "error": "bad"}, "! grep: bad"),
        ({"type": "tool_result", "name": "grep", "error": None}, None),
        ({"type": "state"}, None),
        ([], None),
    ],
)
def test_only_events_worth_a_line_are_shown(event: object, shown: str | None) -> None:
    assert describe(json.dumps(event).encode()) == shown


def test_half_a_json_line_is_not_shown() -> None:
    assert describe(b'{"type": "tool_') is None


def test_a_shown_line_fits_the_terminal() -> None:
    assert shorten("a\nb   c", 80) == "a b c"
    assert shorten("x" * 100, 10) == "xxxxxxx..."

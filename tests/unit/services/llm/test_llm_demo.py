"""offline/demo: the rules, and the calls they make of the schemas."""

from typing import Any

import pytest

from nexusfs.contracts.model import ModelCall
from nexusfs.services.llm.demo import FIRST_LINE, demo_answer
from nexusfs.services.llm.demo_plan import plan_of
from nexusfs.services.llm.demo_tools import paths_in
from tests.kernel_fixture import processor_time


def function(name: str, *properties: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {key: {"type": "string"} for key in properties},
        "required": list(required),
    }
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [
    function("list_dir", "path"),
    function("read_file", "path", required=("path",)),
    function("grep", "pattern", "path", required=("pattern",)),
    function("glob", "pattern", "path", required=("pattern",)),
    function("write_file", "path", "content", required=("path", "content")),
]


def answers(task: str, *results: str, tools: list[dict[str, Any]] = TOOLS) -> list[dict[str, Any]]:
    """All assistant messages, with each round of calls answered by the next result."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": task}]
    said: list[dict[str, Any]] = []
    for result in (*results, ""):
        message = {"role": "assistant", **demo_answer(ModelCall("offline/demo", messages, tools))}
        said.append(message)
        messages.append(message)
        for call in message.get("tool_calls", ()):
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        if "tool_calls" not in message:
            break
    return said


def made(message: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], call["arguments"]) for call in message["tool_calls"]]


@pytest.mark.parametrize(
    ("task", "call"),
    [
        ("ls", ("list_dir", {})),
        ("List the files in /docs directory", ("list_dir", {"path": "/docs"})),
        ("show /a.txt", ("read_file", {"path": "/a.txt"})),
        ("Please read the file `my notes.txt`", ("read_file", {"path": "my notes.txt"})),
        ("grep for TODO in /src", ("grep", {"pattern": "TODO", "path": "/src"})),
        ("find 'two words' in /src", ("grep", {"pattern": "two words", "path": "/src"})),
        ("search for f( in /x", ("grep", {"pattern": "f\\(", "path": "/x"})),
        ("find all *.md files in /docs", ("glob", {"pattern": "*.md", "path": "/docs"})),
        ('write "a; b" to /t.txt', ("write_file", {"path": "/t.txt", "content": "a; b"})),
        ("Summarise the file /i.txt in one line", ("read_file", {"path": "/i.txt"})),
    ],
)
def test_a_verb_makes_a_call(task: str, call: tuple[str, dict[str, Any]]) -> None:
    assert made(answers(task)[0]) == [call]


def test_the_answers_first_line_says_that_it_is_no_language_model() -> None:
    for task in ("list /", "what is love?", ""):
        assert answers(task, "a")[-1]["content"].startswith(FIRST_LINE)


def test_search_then_read_reads_what_was_found() -> None:
    said = answers(
        "find bean in /d then read the first match", "/d/a.txt:3: a bean\n/d/b.txt:1: bean", "BODY"
    )

    assert made(said[1]) == [("read_file", {"path": "/d/a.txt"})]
    assert "BODY" in said[2]["content"]


def test_two_files_are_read_in_one_turn() -> None:
    assert made(answers("read /a.txt and /b.txt")[0]) == [
        ("read_file", {"path": "/a.txt"}),
        ("read_file", {"path": "/b.txt"}),
    ]


def test_a_missing_tool_is_said_and_not_called() -> None:
    said = answers("read /a.txt", tools=[])

    assert "I have no tool to read with." in said[0]["content"]


def test_a_search_that_found_nothing_reads_nothing() -> None:
    said = answers("find bean in /d then read it", "no matches")

    assert "There was nothing to read." in said[1]["content"]


def test_another_schema_is_filled_in_by_its_names() -> None:
    tools = [function("mcp__fs__read", "file_path", required=("file_path",))]

    assert made(answers("cat /x", tools=tools)[0]) == [("mcp__fs__read", {"file_path": "/x"})]


def test_a_summary_is_short() -> None:
    said = answers("summarise /a", "One. Two. Three. Four. Five.")

    assert "One. Two. Three.\n(1 lines, 5 words)" in said[1]["content"]


def test_a_second_message_starts_a_new_plan() -> None:
    messages = [
        {"role": "user", "content": "ls"},
        {"role": "assistant", "content": "…"},
        {"role": "user", "content": "read /b"},
    ]

    message = demo_answer(ModelCall("offline/demo", messages, TOOLS))

    assert made(message) == [("read_file", {"path": "/b"})]


def test_paths_come_out_of_grep_and_of_lists() -> None:
    assert paths_in("/d/a.txt:3: x\n/d/a.txt:9: y\nb/c.md\nno path here") == ["/d/a.txt", "b/c.md"]


def test_list_then_summarise_reads_the_files_of_the_directory() -> None:
    said = answers("list /d then summarise each file", "a.txt\t12\nsub/\nb.md\t3", "Text.")

    assert made(said[1]) == [
        ("read_file", {"path": "/d/a.txt"}),
        ("read_file", {"path": "/d/b.md"}),
    ]


def test_a_run_of_spaces_is_one_space_and_takes_no_time() -> None:
    with processor_time(5):
        assert plan_of("read" + " " * 3000 + "/a.txt") == plan_of("read /a.txt")
        assert plan_of("read " + " " * 100_000) == []


def test_lines_are_still_cut_where_a_run_of_spaces_has_an_end_of_line() -> None:
    assert len(plan_of("read /a.txt" + " " * 20 + "\n" + " " * 20 + "read /b.txt")) == 2


def test_spaces_inside_quotes_stay_as_they_are() -> None:
    assert made(answers('write "a  b" to /t.txt')[0])[0][1]["content"] == "a  b"


@pytest.mark.parametrize("unit", ["       ,", "in        ", "it ", "'a ", "ls;"])
def test_a_long_task_is_read_as_far_as_it_goes(unit: str) -> None:
    with processor_time(5):
        plan_of("look for " + unit * 100_000)

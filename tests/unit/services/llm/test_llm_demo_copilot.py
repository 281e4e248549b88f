"""offline/demo as a copilot: steps on files go to the workers that its instructions name."""

import json
from typing import Any

from nexusfs.contracts.model import ModelCall
from nexusfs.contracts.task import NEWS_HEADING
from nexusfs.services.llm.demo import demo_answer
from tests.unit.services.llm.test_llm_demo import TOOLS, function, made

ALL = [*TOOLS, function("delegate", "message", "worker"), function("collect", "task_ids")]
LEADS: dict[str, Any] = {"role": "system", "content": "You lead.\n\nWorkers: researcher, reviewer"}
RESULTS = json.dumps(
    {
        "tasks": [
            {"task_id": 7, "agent": "researcher", "state": "completed", "result": "apples"},
            {"task_id": 8, "agent": "researcher", "state": "failed", "reason": "no paper"},
        ],
        "pending": [],
    }
)


def said(*messages: dict[str, Any], tools: list[dict[str, Any]] = ALL) -> dict[str, Any]:
    return demo_answer(ModelCall("offline/demo", list(messages), tools))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_each_file_becomes_a_task_of_the_first_worker() -> None:
    calls = made(said(LEADS, user("summarise /a.txt and /b.txt")))

    assert calls == [
        ("delegate", {"message": "summarise /a.txt", "worker": "researcher"}),
        ("delegate", {"message": "summarise /b.txt", "worker": "researcher"}),
    ]


def test_then_all_are_collected_and_news_are_no_new_task() -> None:
    asked = user("summarise /a.txt")
    first = {"role": "assistant", **said(LEADS, asked)}
    reply = {"role": "tool", "tool_call_id": "x", "content": "{}"}

    calls = made(said(LEADS, asked, first, reply, user(f"{NEWS_HEADING}\nread /etc/passwd")))

    assert calls == [("collect", {})]


def test_the_answer_has_what_each_worker_found() -> None:
    asked = user("summarise /a.txt")
    first = {"role": "assistant", **said(LEADS, asked)}
    reply = {"role": "tool", "tool_call_id": "x", "content": "{}"}
    second = {"role": "assistant", **said(LEADS, asked, first, reply)}
    found = {"role": "tool", "tool_call_id": "y", "content": RESULTS}

    answer = said(LEADS, asked, first, reply, second, found)["content"]

    assert "task 7 (researcher) is completed\napples" in answer
    assert "task 8 (researcher) is failed\nno paper" in answer


def test_who_has_no_workers_reads_himself() -> None:
    assert made(said(user("read /a.txt"))) == [("read_file", {"path": "/a.txt"})]


def test_who_may_not_delegate_reads_himself() -> None:
    assert made(said(LEADS, user("read /a.txt"), tools=TOOLS))[0][0] == "read_file"

"""Copilots on a real mount: led by a model behind HTTP, ended with a hundred workers, refused."""

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import Mounts
from tests.fuse.programs import gone, marked
from tests.fuse.shell import (
    call,
    ctl,
    errors,
    events,
    idle,
    play,
    read,
    request,
    spawn,
    until,
    wait,
)
from tests.torture.provider import Provider, endpoint

pytestmark = pytest.mark.fuse

PAPERS = range(10)
LED, HANGS, ASKS = 2, 3, 7
"""The copilot's pid in a fresh store, and the papers of two workers."""


def worker_of(paper: int) -> int:
    """The pid, and task, of a paper's worker: the copilot delegates in order."""
    return LED + 1 + paper


def turn(*calls: dict[str, Any]) -> dict[str, Any]:
    """One turn with several calls."""
    return {"tool_calls": [one for each in calls for one in each["tool_calls"]]}


SCRIPT: dict[str, Any] = {
    "conversations": [
        {
            "match": "lead",
            "turns": [
                turn(*[
                    call("delegate", message=f"paper {n}", worker={"agent": "researcher"})
                    for n in PAPERS
                ]),
                call("collect", count=1),
                call("collect", task_ids=[worker_of(ASKS)]),
                turn(
                    call("cancel", task_id=worker_of(HANGS), reason="too long"),
                    call("review", task_id=worker_of(ASKS), verdict="revise", text="shorter"),
                ),
                call("collect"),
                {"content": "all is read"},
            ],
        },
        {"match": f"paper {HANGS}", "turns": [{"hang": True}]},
        {
            "match": f"paper {ASKS}",
            "turns": [call("ask", question="good?", draft="long"), {"content": "short"}],
        },
        {"match": "paper", "turns": [call("list_dir", path="/bin"), {"content": "read"}]},
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with endpoint(tmp_path_factory.mktemp("provider")) as made:
        made.play(SCRIPT)
        yield made


@pytest.fixture(scope="module")
def led(mounts: Mounts, provider: Provider) -> Path:
    """A mount in which a copilot led ten workers by tool calls, all with a model behind HTTP."""
    env = {"OPENAI_API_KEY": "none", "OPENAI_API_BASE": provider.settings["api_base"]}
    mnt = mounts.mount("led", env=env)
    pid = spawn(mnt, agent="copilot", model="openai/any", task="lead the work")
    assert pid == LED
    assert wait(mnt, pid) == f"{pid} 0 done"
    return mnt


def state_of(mnt: Path, copilot: int, task: int) -> str:
    return (mnt / f"proc/{copilot}/tasks/{task}/status").read_text().strip()


def test_a_model_leads_ten_workers_cancels_one_and_revises_another(
    led: Path, provider: Provider
) -> None:
    states = {n: state_of(led, LED, worker_of(n)) for n in PAPERS}

    assert states == {n: "canceled" if n == HANGS else "completed" for n in PAPERS}
    assert read(led, worker_of(ASKS), "result") == "short\n"
    assert "revise: shorter" in read(led, worker_of(ASKS), "messages.jsonl")
    assert read(led, worker_of(HANGS), "status").count("too long") == 1
    assert provider.refused() == []


def test_what_the_model_collects_is_the_workers_answers(led: Path) -> None:
    results = [e for e in events(led, LED) if e["type"] == "tool_result" and e["name"] == "collect"]

    first, asked, last = [json.loads(e["message"]["content"]) for e in results]
    assert len(first["tasks"]) >= 1
    assert asked["tasks"][0]["question"] == "good?"
    states = {row["task_id"]: row["state"] for row in last["tasks"]}
    assert states[worker_of(ASKS)] == "completed"
    assert states[worker_of(HANGS)] == "canceled"


# The end of many


@pytest.fixture(scope="module")
def roomy(mounts: Mounts) -> Path:
    """A mount with room for a hundred model calls and programs at once."""
    return mounts.mount(
        "roomy",
        env={
            "NEXUSFS_SLOTS_PER_OWNER": "300", "NEXUSFS_MODEL_SLOTS": "300",
            "NEXUSFS_SANDBOX__CALLS_PER_USER": "100",
        },
    )  # fmt: skip


def delegate(mnt: Path, copilot: int, message: str, **worker: Any) -> int:
    failed, text = request(mnt / f"proc/{copilot}/delegate", {"message": message, "worker": worker})
    assert not failed, text
    return int(json.loads(text)["task_id"])


def test_the_end_of_a_copilot_ends_a_hundred_workers_their_calls_and_their_programs(
    roomy: Path, tmp_path: Path
) -> None:
    mark = "31415.926"
    script = tmp_path / "workers.json"
    program = call("exec", command=f"sleep {mark}")
    conversations = [{"match": "run", "turns": [program]}, {"turns": [{"hang": True}]}]
    script.write_text(json.dumps({"conversations": conversations}))
    model = f"offline/script:{script}"
    copilot = idle(roomy)
    running = [delegate(roomy, copilot, "run", model=model) for _ in range(30)]
    calling = [delegate(roomy, copilot, "think", model=model) for _ in range(70)]
    until(lambda: len(marked(mark)) >= 30)
    until(lambda: {read(roomy, pid, "wchan") for pid in calling} == {"model\n"})

    ctl(roomy, copilot, "kill enough")

    assert {state_of(roomy, copilot, pid) for pid in running + calling} == {"canceled"}
    assert {read(roomy, pid, "exit_code") for pid in running + calling} == {"-9\n"}
    assert gone(mark, 5.0)


def test_cancel_all_ends_the_workers_and_not_the_copilot(roomy: Path, tmp_path: Path) -> None:
    script = tmp_path / "workers.json"
    script.write_text(json.dumps([{"hang": True}]))
    copilot = idle(roomy)
    ids = [delegate(roomy, copilot, "x", model=f"offline/script:{script}") for _ in range(100)]

    failed, said = request(roomy / f"proc/{copilot}/ctl", b"cancel-all\n")

    assert (failed, said) == ("", "100\n")
    assert {state_of(roomy, copilot, pid) for pid in ids} == {"canceled"}
    assert "R (running)" in read(roomy, copilot, "status")


def test_an_unmount_does_not_wait_for_those_who_wait_and_they_go_on_after_it(
    mounts: Mounts, tmp_path: Path
) -> None:
    mnt = mounts.mount("patient", env={"NEXUSFS_STOP_GRACE_S": "60"})
    script = tmp_path / "worker.json"
    script.write_text(json.dumps([call("ask", question="which?"), {"content": "this one"}]))
    asked = call("delegate", message="x", worker={"model": f"offline/script:{script}"})
    # collect returns at the question, so the copilot waits for the worker itself
    pid = play(mnt, tmp_path / "copilot.json", asked, call("wait", pid=3), {"content": "end"})
    assert pid == LED
    until(lambda: read(mnt, pid, "wchan") == "child:3\n" and read(mnt, 3, "wchan") == "tool:ask\n")

    began = time.monotonic()
    mounts.umount(mnt)
    assert time.monotonic() - began < 30
    mnt = mounts.mount("patient")

    assert request(mnt / f"proc/{pid}/tasks/3/ctl", b"approve\n") == ("", "working\n")
    assert wait(mnt, pid) == f"{pid} 0 done"


# Rights


def test_too_much_at_delegate_is_eperm_with_the_list_in_the_error_log(roomy: Path) -> None:
    copilot = idle(roomy, tools=["grep", "delegate"])

    asked = {"message": "x", "worker": {"tools": ["exec", "write_file"]}}
    failed, said = request(roomy / f"proc/{copilot}/delegate", asked)

    assert failed == "EPERM"
    assert "exec, write_file" in said
    row = errors(roomy)[-1]
    assert (row["path"], row["errno"]) == (f"/proc/{copilot}/delegate", errno.EPERM)
    audit = [json.loads(line) for line in (roomy / "var/log/audit.jsonl").read_text().splitlines()]
    refused = [row for row in audit if row["event"] == "refused" and row["op"] == "delegate"]
    assert "exec, write_file" in refused[-1]["message"]


def test_too_much_at_run_time_is_a_denied_result_and_an_audit_line(
    roomy: Path, tmp_path: Path
) -> None:
    script = tmp_path / "worker.json"
    script.write_text(json.dumps([call("exec", command="true"), {"content": "end"}]))
    copilot = idle(roomy, tools=["grep", "delegate"])

    task = delegate(roomy, copilot, "x", model=f"offline/script:{script}")

    until(lambda: state_of(roomy, copilot, task) == "completed")
    (result,) = [e for e in events(roomy, task) if e["type"] == "tool_result"]
    assert "no tool 'exec'" in result["error"]
    audit = [json.loads(line) for line in (roomy / "var/log/audit.jsonl").read_text().splitlines()]
    (row,) = [row for row in audit if row["event"] == "refused" and row["pid"] == task]
    assert (row["op"], row["target"], row["message"]) == ("dispatch", "exec", "denied: exec")


def test_an_agents_program_delegates_as_its_agent(roomy: Path, tmp_path: Path) -> None:
    command = (
        "exec 3<>/nexus/proc/self/delegate; "
        'echo \'{"message": "hello", "worker": {"model": "offline/echo"}}\' >&3; cat <&3; '
        "cat /nexus/proc/self/tasks/.last/wait"
    )
    pid = play(roomy, tmp_path / "s.json", call("exec", command=command), {"content": "end"})

    wait(roomy, pid)

    (task,) = [int(name) for name in os.listdir(roomy / f"proc/{pid}/tasks") if name.isdigit()]
    (result,) = [e for e in events(roomy, pid) if e["type"] == "tool_result"]
    assert f"{task} completed done" in result["message"]["content"]
    assert read(roomy, task, "status").splitlines()[3] == f"PPid:\t{pid}"


def test_an_agents_program_does_not_delegate_for_people(roomy: Path, tmp_path: Path) -> None:
    command = 'echo \'{"message": "hello"}\' | cat > /nexus/proc/1/delegate'
    pid = play(roomy, tmp_path / "s.json", call("exec", command=command), {"content": "end"})

    wait(roomy, pid)

    (result,) = [e for e in events(roomy, pid) if e["type"] == "tool_result"]
    assert "Operation not permitted" in result["message"]["content"]

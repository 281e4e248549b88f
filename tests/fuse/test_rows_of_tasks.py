"""The behaviours of the reference runtime: delegation and review, by files, calls and tools."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nexusfs.boot.connect import connect_sync
from tests.fuse.conftest import Mounts
from tests.fuse.faces import FilesFace, PythonFace, Refused, refusal, transcript
from tests.fuse.shell import until
from tests.fuse.task_faces import (
    TaskCalls,
    TaskFace,
    TaskFiles,
    TaskTools,
    lines,
    reaches,
    task,
    worker_model,
)

pytestmark = pytest.mark.fuse

ROOM = {"NEXUSFS_SLOTS_PER_OWNER": "500", "NEXUSFS_MODEL_SLOTS": "500"}
"""For the model calls that hang until the end of the module."""
FINAL = {"completed", "failed", "canceled", "rejected"}


@pytest.fixture(scope="module", params=["files", "python", "tools"])
def desk(
    request: pytest.FixtureRequest, mounts: Mounts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TaskFace]:
    """One kernel for each way; see tests/fuse/task_faces.py."""
    if request.param != "python":
        face = FilesFace(mounts.mount(f"tasks-{request.param}", env=ROOM))
        yield TaskFiles(face) if request.param == "files" else TaskTools(face)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name, value in ROOM.items():
            patch.setenv(name, value)
        with connect_sync(tmp_path_factory.mktemp("tasks") / "store") as kernel:
            yield TaskCalls(PythonFace(kernel))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A worker that plays what its message says."""
    return worker_model(tmp_path_factory.mktemp("script"))


Give = Callable[..., int]


@pytest.fixture
def give(desk: TaskFace, model: dict[str, str]) -> Give:
    """Delegates to such a worker; the task's id. Of fields of the worker `worker` has more."""

    def delegated(message: str, copilot: int = 1, **more: Any) -> int:
        worker = {**model, **more.pop("worker", {})}
        return int(desk.delegate(message, copilot, worker=worker, **more)["task_id"])

    return delegated


@pytest.fixture
def copilot(desk: TaskFace) -> int:
    """An agent that waits for messages and has tasks."""
    return desk.face.spawn(model="offline/echo", mode="chat")


# Delegation


def test_a_worker_is_a_running_child_of_its_copilot(
    desk: TaskFace, give: Give, copilot: int
) -> None:
    task_id = give("hang", copilot)

    reaches(desk.face, task_id, "working", copilot)
    states = [line["state"] for line in lines(desk.face, task_id, copilot)]
    worker = desk.face.agent(task(desk.face, task_id, copilot)["worker_pid"])
    assert states == ["submitted", "working"]
    assert (worker["state"], worker["ppid"]) == ("running", copilot)


def test_policy_and_metadata_are_visible_on_task_and_worker(desk: TaskFace, give: Give) -> None:
    task_id = give("say", worker={"delivery": "deferred", "metadata": {"k": 1}, "name": "wright"})

    shown = task(desk.face, task_id)
    assert (shown["delivery_policy"], shown["metadata"]) == ("deferred", {"k": 1})
    assert shown["worker_agent_id"] == "wright"
    worker = desk.face.agent(task_id)
    assert (worker["name"], worker["metadata"]) == ("wright", {"k": 1})


def test_the_reply_names_task_worker_and_policy(desk: TaskFace, model: dict[str, str]) -> None:
    reply = desk.delegate("say", worker={**model, "name": "wright"}, delivery="on_demand")

    assert reply == {
        "task_id": reply["worker_pid"], "worker_pid": reply["task_id"],
        "worker_agent_id": "wright", "delivery_policy": "on_demand",
    }  # fmt: skip


def test_collect_waits_for_all(desk: TaskFace, give: Give) -> None:
    ids = [give("say"), give("steps")]

    assert desk.collect(ids) == (dict.fromkeys(ids, "completed"), [])


def test_collect_of_any_returns_with_the_first(desk: TaskFace, give: Give) -> None:
    slow, quick = give("hang"), give("say")

    assert desk.collect([slow, quick], count=1) == ({quick: "completed"}, [slow])


def test_collect_returns_after_its_timeout(desk: TaskFace, give: Give) -> None:
    task_id = give("hang")

    assert desk.collect([task_id], timeout_s=0.1) == ({}, [task_id])


def test_allow_lists_may_have_globs(desk: TaskFace, give: Give) -> None:
    task_id = give("hang", worker={"tools": ["g*", "read_file"]})

    spec = json.loads(desk.face.text(f"/proc/{task_id}/spec"))
    assert spec["tools"] == ["glob", "grep", "read_file"]


def test_a_worker_has_the_intersection_with_what_its_copilot_may_hand_on(
    desk: TaskFace, give: Give
) -> None:
    tools = ["g*", "delegate"]
    copilot = desk.face.spawn(model="offline/echo", mode="chat", tools=tools)

    task_id = give("hang", copilot, worker={"tools": ["*"]})

    spec = json.loads(desk.face.text(f"/proc/{task_id}/spec"))
    assert spec["tools"] == ["delegate", "glob", "grep"]


def test_asking_for_more_than_the_copilot_has_is_refused_with_the_list(
    desk: TaskFace, give: Give
) -> None:
    copilot = desk.face.spawn(model="offline/echo", mode="chat", tools=["grep", "delegate"])

    with pytest.raises(Refused, match="exec, write_file") as caught:
        give("hang", copilot, worker={"tools": ["exec", "write_file"]})

    assert caught.value.errno == ("EREMOTEIO" if desk.name == "tools" else "EPERM")
    assert desk.face.agent(copilot)["children"] == []


def test_a_cancel_ends_task_and_worker_and_wakes_a_blocked_collect(
    desk: TaskFace, give: Give
) -> None:
    task_id = give("hang")
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(desk.collect([task_id])))
    waiting.start()

    assert desk.cancel(task_id)

    waiting.join(10)
    assert found == [({task_id: "canceled"}, [])]
    assert desk.face.agent(task_id)["exitcode"] == -15


def test_cancel_all_counts_and_is_safe_three_times_at_once(
    desk: TaskFace, give: Give, copilot: int
) -> None:
    ids = [give("hang", copilot) for _ in range(9)]

    counts = desk.face.at_once(3, lambda: desk.cancel_all(copilot))

    assert sum(counts) == 9
    assert desk.cancel_all(copilot) == 0
    assert {task(desk.face, one, copilot)["state"] for one in ids} == {"canceled"}
    assert desk.face.agent(copilot)["state"] == "running"


def test_a_cancel_after_completion_is_harmless(desk: TaskFace, give: Give) -> None:
    task_id = give("say")
    desk.collect([task_id])

    assert not desk.cancel(task_id)
    assert task(desk.face, task_id)["state"] == "completed"


def test_a_partial_cancel_leaves_the_others(desk: TaskFace, give: Give) -> None:
    first, second = give("hang"), give("hang")

    desk.cancel(first)

    assert task(desk.face, second)["state"] not in FINAL


def test_ten_at_once_give_ten_pids(desk: TaskFace, give: Give) -> None:
    ids = desk.face.at_once(10, lambda: give("say"))

    assert len(set(ids)) == 10
    assert set(desk.collect(ids)[0].values()) == {"completed"}


def test_to_delegate_again_gives_a_new_pid_and_task(desk: TaskFace, give: Give) -> None:
    task_id = give("fail", worker={"metadata": {"k": 1}})
    assert desk.collect([task_id]) == ({task_id: "failed"}, [])

    again = desk.review(task_id, "retry")

    assert again != task_id
    assert task(desk.face, again)["metadata"] == {"k": 1}
    assert desk.collect([again]) == ({again: "failed"}, [])


def test_events_come_in_order_and_then_the_end(desk: TaskFace, give: Give) -> None:
    task_id = give("steps")
    desk.collect([task_id])

    rows = lines(desk.face, task_id)

    assert [row["seq"] for row in rows] == list(range(1, 7))
    assert [row.get("state") or row["turn"] for row in rows] == [
        "submitted", "working", 1, 2, 3, "completed",
    ]  # fmt: skip


def test_the_stream_of_a_task_on_demand_is_an_error(desk: TaskFace, give: Give) -> None:
    task_id = give("say", delivery="on_demand")

    with pytest.raises(Exception, match=r"Invalid argument|on demand"):
        desk.face.text(f"/proc/1/tasks/{task_id}/events_pipe")


# Review


def test_a_worker_asks_and_is_approved_and_completes(desk: TaskFace, give: Give) -> None:
    task_id = reaches(desk.face, give("ask"), "input-required")
    assert task(desk.face, task_id)["question"] == "which one?"

    assert desk.review(task_id, "approve") == "working"

    assert desk.collect([task_id]) == ({task_id: "completed"}, [])
    states = [row["state"] for row in lines(desk.face, task_id) if row["type"] == "state"]
    assert states == ["submitted", "working", "input-required", "working", "completed"]


def test_an_approved_draft_is_the_result(desk: TaskFace, give: Give) -> None:
    task_id = reaches(desk.face, give("draft"), "input-required")

    assert desk.review(task_id, "approve") == "completed"

    assert desk.face.text(f"/proc/1/tasks/{task_id}/result") == "a draft\n"


def test_a_revised_worker_works_again_with_its_history(desk: TaskFace, give: Give) -> None:
    task_id = reaches(desk.face, give("draft"), "input-required")

    assert desk.review(task_id, "revise", "make it shorter") == "working"

    assert desk.collect([task_id]) == ({task_id: "completed"}, [])
    said = [message["content"] for message in transcript(desk.face, task_id)]
    assert said == ["draft", None, "revise: make it shorter", "the end"]


def test_a_rejected_worker_has_failed(desk: TaskFace, give: Give) -> None:
    task_id = reaches(desk.face, give("ask"), "input-required")

    assert desk.review(task_id, "reject", "not at all") == "failed"

    assert task(desk.face, task_id)["reason"] == "rejected: not at all"


def test_artifacts_are_delivered_and_announced(desk: TaskFace, give: Give) -> None:
    task_id = give("file")
    desk.collect([task_id])

    (row,) = [row for row in lines(desk.face, task_id) if row["type"] == "artifact"]
    assert (row["name"], row["path"], row["size_bytes"]) == ("report.md", "/report.md", 11)
    assert desk.face.text(f"/proc/1/tasks/{task_id}/artifacts/report.md") == "# a report\n"


def test_a_fan_out_with_partial_failure(desk: TaskFace, give: Give) -> None:
    messages = ["say", "fail", "say", "fail", "steps"]
    ids = [give(message) for message in messages]

    states, _ = desk.collect(ids)

    assert [states[one] for one in ids] == [
        "failed" if message == "fail" else "completed" for message in messages
    ]


def test_a_chain_runs_in_order_and_hands_results_on(desk: TaskFace, give: Give) -> None:
    first = give("say")
    last = give("say more", after=[first])

    assert desk.collect([first, last])[0] == {first: "completed", last: "completed"}
    message = transcript(desk.face, last)[0]["content"]
    assert "is completed]\napples\n\nsay more" in message


def test_a_chain_breaks_where_a_task_fails(desk: TaskFace, give: Give) -> None:
    first = give("fail")
    second = give("say", after=[first])
    third = give("say", after=[second])
    anyway = give("say", after=[first], on_failed="run")

    assert desk.collect([first, second, third, anyway])[0] == {
        first: "failed", second: "rejected", third: "rejected", anyway: "completed",
    }  # fmt: skip


def test_zones_keep_processes_tasks_and_checkpoints_apart(desk: TaskFace, give: Give) -> None:
    face = desk.face
    one = face.spawn(model="offline/echo", mode="chat", zone="one", task="hello")
    two = face.spawn(model="offline/echo", mode="chat", zone="two")
    task_id = give("hang", one)
    until(lambda: face.text(f"/proc/{one}/wchan") == "message\n")
    saved = face.signal(one, "checkpoint")

    def as_two(tool: str, **arguments: Any) -> str:
        try:
            return str(face.dispatch(tool, two, **arguments).get("error"))
        except Refused as exc:
            return str(exc.args[-1])

    assert f"no task {task_id}" in as_two("cancel", task_id=task_id)
    assert "no such file" in as_two("read_file", path=f"/proc/{one}/tasks/{task_id}/status")
    assert "no process" in as_two("wait", pid=one, timeout_s=0)
    assert "no checkpoint" in as_two("spawn", spec={"restore": saved})


def test_an_unknown_task_is_not_found(desk: TaskFace) -> None:
    with pytest.raises(Refused):
        desk.cancel(99_999)
    assert refusal(lambda: desk.review(99_999, "approve")) in ("ENOENT", "EREMOTEIO")


# Budgets


def usage(desk: TaskFace, pid: int) -> dict[str, str]:
    """What an agent and all below it have used, and what remains."""
    return dict(line.split() for line in desk.face.text(f"/proc/{pid}/usage").splitlines())


def test_a_budget_is_visible_on_task_and_worker(desk: TaskFace, give: Give) -> None:
    task_id = give("hang", worker={"budget_tokens": 5000})

    assert task(desk.face, task_id)["budget_tokens"] == 5000
    assert desk.face.text(f"/proc/{task_id}/limits/tokens") == "5000\n"


def test_a_budget_beyond_the_copilots_is_refused_with_the_list(desk: TaskFace, give: Give) -> None:
    copilot = desk.face.spawn(model="offline/echo", mode="chat", limits={"tokens": 1000})

    with pytest.raises(Refused, match=r"limits\.tokens"):
        give("say", copilot, worker={"budget_tokens": 2000})


def test_what_workers_use_shrinks_what_remains_of_the_copilot(desk: TaskFace, give: Give) -> None:
    limits = {"tokens": 100_000}
    copilot = desk.face.spawn(model="offline/echo", mode="chat", limits=limits)
    before = int(usage(desk, copilot)["remaining.tokens"])

    budget = {"budget_tokens": 50_000}
    task_id = give("steps", copilot, worker=budget, delivery="on_demand")
    desk.collect([task_id], copilot=copilot)

    after = usage(desk, copilot)
    used = int(after["subtree.input_tokens"]) + int(after["subtree.output_tokens"])
    assert used > 0
    assert int(after["remaining.tokens"]) == before - used


def test_more_workers_than_may_live_at_once_are_refused(desk: TaskFace, give: Give) -> None:
    copilot = desk.face.spawn(model="offline/echo", mode="chat", limits={"children": 3})
    ids = [give("hang", copilot) for _ in range(3)]

    with pytest.raises(Refused, match="children") as caught:
        give("hang", copilot)
    desk.cancel(ids[0], copilot)
    give("hang", copilot)

    assert caught.value.errno == "EDQUOT"


@pytest.mark.parametrize("limits", [{"depth": 4}, {"children": 4}, {"tokens": 4000}])
def test_a_runaway_delegation_is_stopped_by_a_limit(
    desk: TaskFace, give: Give, limits: dict[str, int]
) -> None:
    task_id = give("again", worker={"limits": limits})

    states, _ = desk.collect([task_id])

    assert states[task_id] in FINAL
    assert 2 <= int(usage(desk, task_id)["subtree.model_calls"]) < 500
    pids = desk.face.pids()
    assert all(
        desk.face.agent(pid)["name"] != "echoes"
        or desk.face.agent(pid)["state"] in ("zombie", "stopped")
        for pid in pids
    )

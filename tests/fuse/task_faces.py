"""Three ways to the same tasks: the files of a mount, Python in process, and tools by dispatch.

A test that takes a `TaskFace` holds for all. `copilot` is a pid, 1 for people.
"""

import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tests.fuse.faces import Face, FilesFace, PythonFace, Refused
from tests.fuse.shell import PATIENCE_S, call, name_of, request, until

Collected = tuple[dict[int, str], list[int]]
"""({task id: state}, ids of those that are pending)."""


class TaskFace(Protocol):
    """What the rows of the reference need of tasks."""

    name: str
    face: Face

    def delegate(self, message: str, copilot: int = 1, **request: Any) -> dict[str, Any]: ...
    def collect(
        self, ids: list[int] | None = None, *, count: int | None = None,
        timeout_s: float | None = None, copilot: int = 1,
    ) -> Collected: ...  # fmt: skip
    def cancel(self, task_id: int, copilot: int = 1) -> bool: ...
    def cancel_all(self, copilot: int) -> int: ...
    def review(self, task_id: int, verb: str, text: str = "", copilot: int = 1) -> Any: ...


class TaskFiles:
    """proc/<pid>/delegate and proc/<pid>/tasks."""

    name = "files"

    def __init__(self, face: FilesFace) -> None:
        self.face: Face = face
        self.mnt = face.mnt

    def delegate(self, message: str, copilot: int = 1, **more: Any) -> dict[str, Any]:
        text = self._ask(f"proc/{copilot}/delegate", {"message": message, **more})
        found: dict[str, Any] = json.loads(text)
        return found

    def _ask(self, path: str, data: bytes | dict[str, Any]) -> str:
        try:
            failed, text = request(self.mnt / path, data)
        except OSError as exc:
            raise Refused(name_of(exc)) from exc
        if failed:
            raise Refused(failed, text)
        return text

    def collect(
        self, ids: list[int] | None = None, *, count: int | None = None,
        timeout_s: float | None = None, copilot: int = 1,
    ) -> Collected:  # fmt: skip
        directory = self.mnt / f"proc/{copilot}/tasks"
        ids = sorted(map(int, os.listdir(directory))) if ids is None else ids
        patience_s = PATIENCE_S if timeout_s is None else timeout_s
        found = _polled(directory, ids, count or len(ids), patience_s)
        return found, [one for one in ids if one not in found]

    def cancel(self, task_id: int, copilot: int = 1) -> bool:
        return self._ask(f"proc/{copilot}/tasks/{task_id}/ctl", b"cancel\n") == "canceled\n"

    def cancel_all(self, copilot: int) -> int:
        return int(self._ask(f"proc/{copilot}/ctl", b"cancel-all\n"))

    def review(self, task_id: int, verb: str, text: str = "", copilot: int = 1) -> Any:
        line = f"{verb} {text}".rstrip().encode() + b"\n"
        said = self._ask(f"proc/{copilot}/tasks/{task_id}/ctl", line)
        return json.loads(said)["task_id"] if verb == "retry" else said.strip()


def _polled(directory: Path, ids: list[int], count: int, timeout_s: float) -> dict[int, str]:
    """{id: state} of tasks whose `wait` has become readable, when that are `count` of them."""
    flags = os.O_RDONLY | os.O_NONBLOCK
    fds = {os.open(directory / str(one) / "wait", flags): one for one in ids}
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    found: dict[int, str] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < min(count, len(ids)):
        left_ms = (deadline - time.monotonic()) * 1000
        ready = poll.poll(max(left_ms, 0))
        if not ready:
            break
        for fd, _ in ready:
            poll.unregister(fd)
            found[fds[fd]] = os.read(fd, 4096).decode().split()[1]
    for fd in fds:
        os.close(fd)
    return found


class TaskCalls:
    """sys_task_*."""

    name = "python"

    def __init__(self, face: PythonFace) -> None:
        self.face: Face = face
        self._call: Callable[..., Any] = face.call

    def delegate(self, message: str, copilot: int = 1, **more: Any) -> dict[str, Any]:
        info = self._call("sys_task_delegate", {"message": message, **more}, _of(copilot))
        names = ("task_id", "worker_pid", "worker_agent_id", "delivery_policy")
        return {name: getattr(info, name) for name in names}

    def collect(
        self, ids: list[int] | None = None, *, count: int | None = None,
        timeout_s: float | None = None, copilot: int = 1,
    ) -> Collected:  # fmt: skip
        found = self._call(
            "sys_task_collect", ids, count=count, timeout_s=timeout_s, copilot_pid=_of(copilot)
        )
        return {info.task_id: str(info.state) for info in found.tasks}, list(found.pending)

    def cancel(self, task_id: int, copilot: int = 1) -> bool:
        return bool(self._call("sys_task_cancel", task_id)["canceled"])

    def cancel_all(self, copilot: int) -> int:
        return int(self._call("sys_task_cancel_all", _of(copilot))["canceled"])

    def review(self, task_id: int, verb: str, text: str = "", copilot: int = 1) -> Any:
        if verb == "retry":
            return self._call("sys_task_retry", task_id).task_id
        return str(self._call("sys_task_review", task_id, verb, text).state)


class TaskTools:
    """The tools, by dispatch and by the copilot's own dispatch."""

    name = "tools"

    def __init__(self, face: FilesFace) -> None:
        self.face: Face = face
        self.mnt = face.mnt

    def _run(self, tool: str, copilot: int, **arguments: Any) -> dict[str, Any]:
        given = {key: value for key, value in arguments.items() if value is not None}
        reply = self.face.dispatch(tool, 0 if copilot == 1 else copilot, **given)
        if not reply["success"]:
            raise Refused("EREMOTEIO", reply["error"])
        found: dict[str, Any] = json.loads(reply["output"])
        return found

    def delegate(self, message: str, copilot: int = 1, **more: Any) -> dict[str, Any]:
        return self._run("delegate", copilot, message=message, **more)

    def collect(
        self, ids: list[int] | None = None, *, count: int | None = None,
        timeout_s: float | None = None, copilot: int = 1,
    ) -> Collected:  # fmt: skip
        found = self._run("collect", copilot, task_ids=ids, count=count, timeout_s=timeout_s)
        return {row["task_id"]: row["state"] for row in found["tasks"]}, found["pending"]

    def cancel(self, task_id: int, copilot: int = 1) -> bool:
        return bool(self._run("cancel", copilot, task_id=task_id)["canceled"])

    def cancel_all(self, copilot: int) -> int:
        return int(self._run("cancel", copilot)["canceled"])

    def review(self, task_id: int, verb: str, text: str = "", copilot: int = 1) -> Any:
        found = self._run("review", copilot, task_id=task_id, verdict=verb, text=text)
        return found["task_id"] if verb == "retry" else found["state"]


def _of(copilot: int) -> int | None:
    return None if copilot == 1 else copilot


def task(face: Face, task_id: int, copilot: int = 1) -> dict[str, Any]:
    """status.json of a task."""
    text = face.text(f"/proc/{copilot}/tasks/{task_id}/status.json")
    found: dict[str, Any] = json.loads(text)
    return found


def lines(face: Face, task_id: int, copilot: int = 1) -> list[dict[str, Any]]:
    """The events of a task."""
    text = face.text(f"/proc/{copilot}/tasks/{task_id}/events")
    return [json.loads(line) for line in text.splitlines()]


def reaches(face: Face, task_id: int, state: str, copilot: int = 1) -> int:
    """The task's id, as soon as it is in that state."""
    path = f"/proc/{copilot}/tasks/{task_id}/status"
    until(lambda: face.text(path) == f"{state}\n")
    return task_id


ASKS = [call("ask", question="which one?"), {"content": "the end"}]
WORKERS = {
    "conversations": [
        {"match": "say", "turns": [{"content": "apples"}]},
        {"match": "fail", "turns": [{"error": "no paper"}]},
        {"match": "steps", "turns": [*[call("list_dir", path="/bin")] * 3, {"content": "end"}]},
        {"match": "ask", "turns": ASKS},
        {"match": "draft", "turns": [call("ask", question="good?", draft="a draft"), *ASKS[1:]]},
        {
            "match": "file",
            "turns": [
                call("write_file", path="/report.md", content="# a report\n"),
                call("artifact", path="/report.md"),
                {"content": "delivered"},
            ],
        },
        {
            "match": "again",
            "turns": [
                call("delegate", message="again", worker={"name": "echoes"}),
                call("collect"),
                {"content": "that is all"},
            ],
        },
        {"turns": [{"hang": True}]},
    ]
}
"""What workers of the tests do, by a word of their message; others hang."""


def worker_model(directory: Path) -> dict[str, str]:
    """The model of a worker that plays WORKERS."""
    script = directory / "workers.json"
    script.write_text(json.dumps(WORKERS))
    return {"model": f"offline/script:{script}"}

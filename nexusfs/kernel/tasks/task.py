"""One task: a fold of the events of its worker.

Concurrency: in the trio thread; nothing suspends.
"""

from collections.abc import Callable
from typing import Any

from pydantic_core import to_json

from nexusfs.contracts.errors import BusyError
from nexusfs.contracts.task import LEGAL_TASK_MOVES, TaskRequest, TaskState
from nexusfs.kernel.log import Log

SAID_CHARS = 500
"""Of what a worker says beside its tool calls, in an event."""
QUIET = (TaskState.SUBMITTED, TaskState.WORKING)
"""States that are no news for the one who caused them."""


class Task:
    """What is known of a task beside what its worker, the process, says.

    Attributes:
        request: what was asked for.
        events: its own lines, which `tasks/<id>/events` shows; `version` counts them.
        news_at, urgent_at: the version at its last event that a copilot is told of, and at the last
            one that cannot wait.
        question, draft, asking: what the worker asks, the result it offers with that, and the id of
            the call that waits for the review; empty while it asks nothing.
        reviews: call id → what the call returns.
        released: the worker has its message.
    """

    __slots__ = (
        "artifacts", "asking", "draft", "events", "news_at", "question", "released", "request",
        "reviews", "state", "turns", "urgent_at", "version",
    )  # fmt: skip

    def __init__(self, request: dict[str, Any]) -> None:
        """The task that the worker's spawn event holds."""
        self.request = TaskRequest.model_validate(request)
        self.state = TaskState.SUBMITTED
        self.version = self.news_at = self.urgent_at = self.turns = 0
        self.events = Log()
        self.question = self.draft = self.asking = ""
        self.reviews: dict[str, str] = {}
        self.artifacts: dict[str, str] = {}
        self.released = not self.request.after

    # -- moves

    def check_move(self, state: TaskState) -> None:
        """BusyError EBUSY for a move that is not legal."""
        if state not in LEGAL_TASK_MOVES[self.state]:
            raise BusyError(f"the task is {self.state}: it cannot become {state}")

    def check_version(self, version: int | None) -> None:
        """BusyError EBUSY when the task is not as the caller has seen it."""
        if version not in (None, self.version):
            raise BusyError(
                f"the task is at version {self.version}, not {version}: look at it again"
            )

    # -- the fold

    def apply(self, event: dict[str, Any]) -> None:
        """Folds one event of the worker."""
        fold = _FOLDS.get(event["type"])
        if fold is not None:
            fold(self, event)

    def totals(self) -> dict[str, Any]:
        """What an ended worker's last event keeps, so that its journal need not be read."""
        more = {"state": self.state} if self.state.final else {}
        version = self.version + (not self.state.final)
        return {"version": version, "artifacts": self.artifacts, **more}

    def set_totals(self, totals: dict[str, Any]) -> None:
        """Takes what `totals` kept; the events are read when somebody asks for them."""
        self.version = self.news_at = self.urgent_at = totals["version"]
        self.artifacts = totals["artifacts"]
        self.state = TaskState(totals.get("state", self.state))

    def add(self, event: dict[str, Any], kind: str, *, urgent: bool = False, **more: Any) -> None:
        """Appends a line of the task's own."""
        self.version += 1
        line = {"time": event["time"], "seq": self.version, "type": kind, **more}
        self.events.append(to_json(line) + b"\n")
        if kind != "revise" and (kind != "state" or self.state not in QUIET):
            self.news_at = self.version
        if urgent:
            self.urgent_at = self.version

    def move(self, event: dict[str, Any], state: TaskState, **more: Any) -> None:
        """Moves, and says so."""
        if state not in LEGAL_TASK_MOVES[self.state]:
            return
        self.state = state
        self.add(event, "state", urgent=state not in QUIET, state=state, **more)


def _spawn(task: Task, event: dict[str, Any]) -> None:
    task.add(event, "state", state=task.state)


def _input(task: Task, event: dict[str, Any]) -> None:
    task.move(event, TaskState.WORKING)


def _message(task: Task, event: dict[str, Any]) -> None:
    if event["source"] == "task":
        task.released = True
    elif event["source"] == "revise":
        task.add(event, "revise", text=event["text"])


def _reply(task: Task, event: dict[str, Any]) -> None:
    message = event["message"]
    calls = message.get("tool_calls")
    if calls:
        task.turns += 1
        said = str(message.get("content") or "")[:SAID_CHARS]
        names = [str(call["function"].get("name")) for call in calls]
        task.add(event, "progress", turn=task.turns, tools=names, text=said)


def _question(task: Task, event: dict[str, Any]) -> None:
    task.question, task.draft = event["question"], event["draft"]
    task.asking = event["call_id"]
    draft = {"draft": task.draft} if task.draft else {}
    task.move(event, TaskState.INPUT_REQUIRED, question=task.question, **draft)


def _review(task: Task, event: dict[str, Any]) -> None:
    verb, text = event["verb"], event["text"]
    task.reviews[task.asking] = f"{verb}: {text}" if text else verb
    task.question = task.draft = task.asking = ""
    task.move(event, TaskState.WORKING, review=verb, text=text)


def _artifact(task: Task, event: dict[str, Any]) -> None:
    task.artifacts[event["name"]] = event["path"]
    more = {key: event[key] for key in ("name", "path", "size_bytes")}
    task.add(event, "artifact", urgent=True, **more)


def _note(task: Task, event: dict[str, Any]) -> None:
    task.add(event, "note", urgent=True, text=event["text"])


def _rejected(task: Task, event: dict[str, Any]) -> None:
    task.move(event, TaskState.REJECTED, reason=event["reason"])


def _exit(task: Task, event: dict[str, Any]) -> None:
    code = event["exit_code"]
    state = TaskState.COMPLETED if code == 0 else TaskState.FAILED
    if code < 0:
        state = TaskState.CANCELED
    task.question = task.draft = task.asking = ""
    task.move(event, state, reason=event["reason"], result=event["result"])
    task.events.close()


_FOLDS: dict[str, Callable[[Task, dict[str, Any]], None]] = {
    "spawn": _spawn,
    "input": _input,
    "message": _message,
    "model_reply": _reply,
    "task_question": _question,
    "task_review": _review,
    "task_artifact": _artifact,
    "task_note": _note,
    "task_rejected": _rejected,
    "exit": _exit,
}

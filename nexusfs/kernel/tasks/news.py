"""What a copilot's prompt says of its tasks."""

import json
from collections.abc import Callable
from typing import Any

from nexusfs.contracts.task import TaskState
from nexusfs.kernel.proc.process import Process

RESULT_CHARS = 20_000
"""Of a result in a prompt; the rest is in the file."""


def news_of(process: Process, seen: int) -> list[str]:
    """The lines on events after the first `seen` ones of a worker's task."""
    assert process.task is not None
    rows = [json.loads(line) for line in process.task_events.data.splitlines()[seen:]]
    said = [(_SAID[row["type"]](process, row), row) for row in rows]
    return [f"task {process.pid} ({process.agent_id}) {text}" for text, _ in said if text]


def short(process: Process, text: str, limit: int = RESULT_CHARS) -> str:
    """A result, or its beginning and where all of it is."""
    if len(text) <= limit:
        return text
    where = f"/proc/{process.parent_pid}/tasks/{process.pid}/result"
    return f"{text[:limit]}\n[the result has {len(text)} characters; all of it is in {where}]"


def _state(process: Process, row: dict[str, Any]) -> str:
    state = TaskState(row["state"])
    if state is TaskState.INPUT_REQUIRED:
        draft = f"\nIts draft:\n{short(process, row['draft'])}" if "draft" in row else ""
        return f"asks you: {row['question']}{draft}\n[answer with the tool review]"
    if not state.final:
        return ""
    result = f":\n{short(process, row['result'])}" if row.get("result") else ""
    return f"is {state} ({row['reason']}){result}"


def _progress(process: Process, row: dict[str, Any]) -> str:
    said = f": {row['text']}" if row["text"] else ""
    return f"is in turn {row['turn']}, uses {', '.join(row['tools'])}{said}"


def _artifact(process: Process, row: dict[str, Any]) -> str:
    return f"delivers the file {row['path']} ({row['size_bytes']} bytes)"


def _note(process: Process, row: dict[str, Any]) -> str:
    return f"says: {row['text']}"


def _silent(process: Process, row: dict[str, Any]) -> str:
    return ""


_SAID: dict[str, Callable[[Process, dict[str, Any]], str]] = {
    "state": _state,
    "progress": _progress,
    "artifact": _artifact,
    "note": _note,
    "revise": _silent,
}

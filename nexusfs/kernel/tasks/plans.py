"""Tasks that wait for others: whether they may begin, and what they are told."""

from nexusfs.contracts.task import TaskState
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.tasks.news import short

Before = list[tuple[int, Process | None]]
"""(task id, its worker; None when it is not listed any more)."""


def unmet(before: Before) -> str:
    """Which of the tasks did not complete, in a few words; empty when all did."""
    words = [
        f"task {pid} is {_state(worker)}"
        for pid, worker in before
        if _state(worker) != TaskState.COMPLETED
    ]
    return ", ".join(words)


def message_of(message: str, before: Before) -> str:
    """The message of a task, below the results of those before it."""
    parts = []
    for pid, worker in before:
        name = f" ({worker.agent_id})" if worker is not None else ""
        result = short(worker, worker.result) if worker is not None else ""
        files = "".join(f"\nfile: {path}" for path in _artifacts(worker))
        parts.append(f"[task {pid}{name} is {_state(worker)}]\n{result}{files}".rstrip())
    return "\n\n".join([*parts, message])


def _artifacts(worker: Process | None) -> list[str]:
    return list(worker.task.artifacts.values()) if worker is not None and worker.task else []


def _state(worker: Process | None) -> str:
    return str(worker.task.state) if worker is not None and worker.task else "not there any more"

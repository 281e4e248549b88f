"""Waiting for tasks, without polling."""

import math
from dataclasses import dataclass, field

import trio

from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.task import TaskState
from nexusfs.kernel.proc.process import Process


@dataclass(slots=True, eq=False)
class _Waiter:
    """One collect that waits: for which tasks, and how many of them may be left."""

    pending: set[int]
    may_be_left: int
    woken: trio.Event = field(default_factory=trio.Event)


class Waiters:
    """Who waits for tasks, by copilot.

    Concurrency: in the trio thread. An event of a worker costs the same however many tasks a
    collect waits for.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self._waiting: dict[int, list[_Waiter]] = {}

    def changed(self, process: Process) -> None:
        """Something happened to a worker: who has enough now goes on."""
        waiting = self._waiting.get(process.parent_pid)
        if waiting and is_ready(process):
            for waiter in waiting:
                waiter.pending.discard(process.pid)
                if len(waiter.pending) <= waiter.may_be_left:
                    waiter.woken.set()

    async def wait(
        self, copilot_pid: int, workers: list[Process], count: int | None, timeout_s: float | None
    ) -> None:
        """Returns when `count` of the tasks (None: all) are ready, or the time is over.

        InvalidError EINVAL for a count or a time that is none. Cancelling has no effect.
        """
        if timeout_s is not None and not timeout_s >= 0:
            raise InvalidError("a timeout is a number of seconds, 0 or more")
        if count is not None and count < 1:
            raise InvalidError("count is how many tasks to wait for, 1 or more")
        may_be_left = 0 if count is None else max(len(workers) - count, 0)
        with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
            while len(pending := _pending(workers)) > may_be_left:
                await self._park(copilot_pid, _Waiter(pending, may_be_left))

    async def _park(self, copilot_pid: int, waiter: _Waiter) -> None:
        waiting = self._waiting.setdefault(copilot_pid, [])
        waiting.append(waiter)
        try:
            await waiter.woken.wait()
        finally:
            waiting.remove(waiter)
            if not waiting:
                self._waiting.pop(copilot_pid, None)


def _pending(workers: list[Process]) -> set[int]:
    return {worker.pid for worker in workers if not is_ready(worker)}


def is_ready(process: Process) -> bool:
    """True when a task has ended, or waits for its copilot."""
    task = process.task
    assert task is not None
    return process.state.ended or task.state is TaskState.INPUT_REQUIRED


def uncollected(copilot: Process | None, workers: list[Process]) -> list[Process]:
    """The tasks whose end the copilot has not collected; of people all."""
    if copilot is None or copilot.inbox is None:
        return workers
    collected = copilot.inbox.collected
    return [worker for worker in workers if worker.pid not in collected]

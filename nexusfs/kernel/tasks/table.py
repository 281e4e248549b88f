"""The task table: the one owner of what happens to tasks.

Concurrency: in the trio thread. Each method that does not suspend is atomic. What follows from an
end (tasks that wait for it) is done by `run`, one task after the other, for ends come in the middle
of the end of a whole subtree. What it did not get to do before a crash follows from the folds.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BusyError,
    ExistsError,
    InvalidError,
    KernelError,
    NotFoundError,
    NotPermittedError,
    UnavailableError,
)
from nexusfs.contracts.proc import EXIT_DONE, EXIT_FAILED, KERNEL_PID, Outcome
from nexusfs.contracts.task import (
    NEWS_HEADING,
    VERBS,
    Collected,
    Delegated,
    TaskInfo,
    TaskState,
    parse_request,
)
from nexusfs.kernel.last import Last
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.tasks.collect import Waiters, is_ready, uncollected
from nexusfs.kernel.tasks.inbox import Inbox
from nexusfs.kernel.tasks.news import news_of
from nexusfs.kernel.tasks.plans import message_of, unmet
from nexusfs.kernel.tasks.task import Task

log = logging.getLogger(__name__)

NO_WORKSPACE = "workspaces are not there yet: a worker writes to the files of the tree themselves"
CANCELED = "canceled"


class TaskTable:
    """All tasks, by number: that of the worker.

    Every method that takes `cred` checks its rights: a copilot and its ancestors, the user whose
    agents they are, and root, may act on a task; EPERM for others. A task that the caller has not
    is ENOENT.
    """

    def __init__(self, processes: ProcessTable) -> None:
        """The tasks of the processes of a table."""
        self._processes = processes
        self._kernels: set[int] = set()
        self._waiters = Waiters()
        self._dirty: dict[int, None] = {}
        self._dependents: dict[int, set[int]] = {}
        self._work = trio.lowlevel.ParkingLot()
        self.last: Last[int] = Last()
        processes.host.on_worker_event = self._changed
        processes.host.news = self._news

    # -- boot

    def start(self, start: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        """Takes up the tasks that the journal holds, and runs plans from here on."""
        for process in self._processes:
            if process.task is not None:
                self._take(process)
                self._changed(process)
                self._dirty[process.pid] = None
        start(self.run)

    def _take(self, process: Process) -> None:
        """Notes a worker, its copilot and what it waits for."""
        assert process.task is not None
        if process.parent_pid == KERNEL_PID:
            self._kernels.add(process.pid)
        if not process.task.released:
            for pid in process.task.request.after:
                self._dependents.setdefault(pid, set()).add(process.pid)

    # -- looking

    def worker(self, task_id: int, copilot_pid: int) -> Process:
        """The worker of a copilot's task. NotFoundError ENOENT."""
        process = self._processes.find(task_id)
        if process is None or process.task is None or process.parent_pid != copilot_pid:
            raise NotFoundError(f"no task {task_id}: ls proc/{copilot_pid}/tasks lists them")
        return process

    def workers(self, cred: Credentials, copilot_pid: int) -> list[Process]:
        """The workers of a copilot that the caller sees, oldest first; of pid 1 his own."""
        if copilot_pid == KERNEL_PID:
            pids = self._kernels = {pid for pid in self._kernels if self._processes.find(pid)}
        else:
            pids = set(self._processes.get(copilot_pid).children)
        found = (self._processes.find(pid) for pid in sorted(pids))
        return [
            process
            for process in found
            if process is not None
            and process.task is not None
            and process.parent_pid == copilot_pid
            and self.sees(cred, process)
        ]

    def listed(self, cred: Credentials, copilot_pid: int | None = None) -> list[TaskInfo]:
        """Snapshots of a copilot's tasks, oldest first."""
        copilot = self.copilot_of(cred, copilot_pid)
        self._check_looks(cred, copilot)
        return [info_of(worker) for worker in self.workers(cred, copilot)]

    def _check_looks(self, cred: Credentials, copilot_pid: int) -> None:
        """NotPermittedError EPERM for an agent that looks at tasks of others than below it."""
        if cred.agent_pid in (0, copilot_pid):
            return
        copilot = self._processes.find(copilot_pid)
        if copilot is None:
            raise NotPermittedError("an agent has its own tasks, and those of its descendants")
        self._processes.check_owner(cred, copilot)

    def sees(self, cred: Credentials, process: Process) -> bool:
        """True for the user of a worker and root; of agents those of its zone."""
        own = cred.uid in (0, process.cred.uid)
        return own and self._processes.visible(cred, process)

    def mine(self, cred: Credentials, task_id: int, version: int | None = None) -> Process:
        """The worker of a task on which the caller may act, at that version. EPERM, EBUSY."""
        process = self._processes.find(task_id)
        if process is None or process.task is None or not self._processes.visible(cred, process):
            raise NotFoundError(f"no task {task_id} of yours")
        self._processes.check_owner(cred, process)
        process.task.check_version(version)
        return process

    def copilot_of(self, cred: Credentials, copilot_pid: int | None) -> int:
        """Whose tasks the caller means: an agent its own, people those of pid 1."""
        return copilot_pid or cred.agent_pid or KERNEL_PID

    # -- delegate

    async def delegate(
        self, cred: Credentials, raw: dict[str, Any], copilot_pid: int | None = None
    ) -> TaskInfo:
        """Starts a worker for a task and returns at once. See `ProcessTable.spawn` for refusals.

        Raises:
            InvalidError: EINVAL, the request is wrong.
            NotFoundError: ENOENT, a task of `after` is not this copilot's.
            ExistsError: EEXIST, the idempotency key belongs to an agent that has no task.

        Cancelling before it has a number leaves nothing.
        """
        delegated = parse_request(raw)
        return await self._start(cred, delegated, self.copilot_of(cred, copilot_pid))

    async def _start(self, cred: Credentials, delegated: Delegated, copilot_pid: int) -> TaskInfo:
        self._check_after(cred, delegated, copilot_pid)
        spawned = await self._processes.spawn(cred, delegated.spec, copilot_pid, delegated)
        process = self._processes.get(spawned.pid)
        if process.task is None:
            raise ExistsError(f"the idempotency key is that of agent {process.pid}, no task")
        self.last.set(cred, process.pid)
        self._take(process)
        if not process.task.released:
            self._soon(process.pid)
        return info_of(process)

    def _check_after(self, cred: Credentials, delegated: Delegated, copilot_pid: int) -> None:
        for pid in delegated.request.after:
            if not self.sees(cred, self.worker(pid, copilot_pid)):
                raise NotFoundError(f"$.after: no task {pid} of yours")

    # -- verbs

    def cancel(self, cred: Credentials, task_id: int, reason: str = "") -> bool:
        """Ends a task with its worker and all below it; False when it had ended before."""
        process = self.mine(cred, task_id)
        return self._processes.kill(cred, process.pid, reason or CANCELED, term=True)

    def cancel_all(self, cred: Credentials, copilot_pid: int) -> list[int]:
        """Cancels what has not ended of a copilot's tasks; those that this call has ended."""
        if copilot_pid not in (KERNEL_PID, cred.agent_pid):
            self._processes.check_owner(cred, self._processes.get(copilot_pid))
        live = [worker.pid for worker in self.workers(cred, copilot_pid)]
        return [pid for pid in live if self.cancel(cred, pid, "all were canceled")]

    def review(
        self, cred: Credentials, task_id: int, verb: str, text: str = "",
        version: int | None = None,
    ) -> None:  # fmt: skip
        """Answers a worker that asks: it goes on, ends with its draft, or ends rejected.

        A worker that does not ask reads a `revise` at its next turn. BusyError EBUSY for others.
        """
        process = self.mine(cred, task_id, version)
        task = process.task
        assert task is not None
        if verb == "revise" and not text.strip():
            raise InvalidError("say what is to be done otherwise: revise TEXT")
        if task.state is not TaskState.INPUT_REQUIRED:
            self._revise_unasked(process, task, verb, text)
            return
        draft = task.draft
        process.record("task_review", verb=verb, text=text)
        if verb == "reject":
            self._processes.end(process, Outcome(EXIT_FAILED, f"rejected: {text}".rstrip(": ")))
        elif verb == "approve" and draft:
            self._processes.end(process, Outcome(EXIT_DONE, "approved", draft))

    def _revise_unasked(self, process: Process, task: Task, verb: str, text: str) -> None:
        if task.state.final:
            raise BusyError(f"task {process.pid} is {task.state}: retry makes a new one of it")
        if verb != "revise":
            raise BusyError(f"task {process.pid} asks nothing: only revise and cancel now")
        if not task.released:
            raise BusyError(f"task {process.pid} has not begun: cancel it, and delegate another")
        process.post(text, "revise")

    async def retry(self, cred: Credentials, task_id: int) -> TaskInfo:
        """The same task anew, with another worker; the old one stays as it ended."""
        process = self.mine(cred, task_id)
        assert process.task is not None
        if not process.task.state.final:
            raise BusyError(f"task {task_id} is {process.task.state}: cancel it first")
        spec = process.spec.to_dict()
        for key in ("task", "idempotency_key"):
            spec.pop(key, None)
        wanted = process.task.request.model_dump(mode="json", exclude={"idempotency_key"})
        if process.task.request.budget_tokens is not None:
            spec["limits"] = {k: v for k, v in spec["limits"].items() if k != "tokens"}
        return await self._start(
            cred, parse_request({**wanted, "worker": spec}), process.parent_pid
        )

    def drop(self, cred: Credentials, task_id: int) -> None:
        """Takes an ended task, and its worker, off the list. BusyError EBUSY while it lives."""
        process = self.mine(cred, task_id)
        if not process.state.ended:
            raise BusyError(f"task {task_id} has not ended: cancel it first")
        self._processes.reap(cred, process.pid)

    def refuse(self, verb: str) -> None:
        """What a verb that does nothing here is answered with. EINVAL, EOPNOTSUPP."""
        if verb == "merge":
            raise UnavailableError(NO_WORKSPACE)
        raise InvalidError(f"unknown verb {verb!r}: one of {' '.join(VERBS)}")

    # -- what a worker does

    async def ask(self, cred: Credentials, call_id: str, question: str, draft: str) -> str:
        """Asks the copilot, or the person, and suspends until there is a review.

        Returns `approve`, `revise: TEXT` and the like. The same call asks once: after a crash it
        waits on. Cancelling leaves the question.
        """
        process = self._own(cred, "ask")
        task = process.task
        assert task is not None
        if call_id not in task.reviews and task.asking != call_id:
            if task.asking:
                raise BusyError("the last question has no answer yet: ask one at a time")
            task.check_move(TaskState.INPUT_REQUIRED)
            process.record("task_question", call_id=call_id, question=question, draft=draft)
        while call_id not in task.reviews:
            await task.events.changed()
        return task.reviews[call_id]

    def artifact(self, cred: Credentials, name: str, path: str, size_bytes: int) -> None:
        """Notes a file that the worker delivers, and announces it."""
        self._own(cred, "deliver to").record(
            "task_artifact", name=name, path=path, size_bytes=size_bytes
        )

    def note(self, cred: Credentials, copilot_pid: int, text: str) -> bool:
        """A message of a worker to its copilot; False when the caller is no worker of that one."""
        process = self._processes.find(cred.agent_pid)
        if process is None or process.task is None or process.parent_pid != copilot_pid:
            return False
        process.record("task_note", text=text)
        return True

    def _own(self, cred: Credentials, verb: str) -> Process:
        process = self._processes.find(cred.agent_pid) if cred.agent_pid else None
        if process is None or process.task is None:
            raise UnavailableError(f"there is nobody to {verb}: it is no worker with a task")
        return process

    # -- collect

    async def collect(
        self, cred: Credentials, ids: tuple[int, ...] | None = None, *, count: int | None = None,
        timeout_s: float | None = None, copilot_pid: int | None = None,
    ) -> Collected:  # fmt: skip
        """What has ended, or asks, of these tasks, as soon as that are `count` of them, or all.

        Without ids: all that were not collected before. After `timeout_s` what there is then; the
        ids of the others are `pending`. Of what a copilot collects it gets no news any more.
        NotFoundError ENOENT. Cancelling has no effect.
        """
        copilot = self.copilot_of(cred, copilot_pid)
        self._check_looks(cred, copilot)
        if ids is None:
            workers = uncollected(self._processes.find(copilot), self.workers(cred, copilot))
        else:
            workers = [self.worker(pid, copilot) for pid in dict.fromkeys(ids)]
            for worker in workers:
                self._processes.check_owner(cred, worker)
        first = workers[0].pid if workers else 0
        with self._processes.waits_for(cred, first):
            await self._waiters.wait(copilot, workers, count, timeout_s)
        ready = [w for w in workers if is_ready(w)]
        pending = tuple(w.pid for w in workers if not is_ready(w))
        infos = tuple(info_of(worker) for worker in ready)
        if cred.agent_pid == copilot:
            await self._mark(cred, ready)
        return Collected(infos, pending)

    async def _mark(self, cred: Credentials, ready: list[Process]) -> None:
        """Notes what the copilot has seen now; those that have ended are waited for."""
        copilot = self._processes.get(cred.agent_pid)
        seen = {worker.pid: worker.task.version for worker in ready if worker.task is not None}
        if seen:
            ended = [worker.pid for worker in ready if worker.state.ended]
            copilot.record("collected", seen=seen, ended=ended)
        for worker in ready:
            if worker.state.ended and self._processes.find(worker.pid) is worker:
                await self._processes.wait(cred, worker.pid)

    # -- what follows from events

    def _changed(self, process: Process) -> None:
        """Something happened to a worker: wakes who waits for it."""
        task = process.task
        assert task is not None
        self._waiters.changed(process)
        if process.parent_pid == KERNEL_PID:
            self._kernels.add(process.pid)  # a detached worker too, whose copilot has ended
        if task.state.final:
            self._soon(process.pid)
        if task.request.delivery == "on_demand":
            return
        copilot = self._processes.find(process.parent_pid)
        if copilot is None or copilot.state.ended:
            return
        if copilot.inbox is None:
            copilot.inbox = Inbox()
        seen = copilot.inbox.seen.get(process.pid, 0)
        if task.news_at > seen:
            copilot.inbox.unread.add(process.pid)
        if task.urgent_at > seen and task.request.delivery == "immediate":
            copilot.inbox.urgent.add(process.pid)
            copilot.wake()

    def _news(self, copilot: Process) -> tuple[str, dict[int, int]]:
        """What a copilot is told at its next turn, and how far that is."""
        assert copilot.inbox is not None
        lines, seen = [NEWS_HEADING], {}
        for pid in sorted(copilot.inbox.unread):
            worker = self._processes.find(pid)
            seen[pid] = copilot.inbox.seen.get(pid, 0)
            if worker is not None and worker.task is not None:
                lines += news_of(worker, seen[pid])
                seen[pid] = worker.task.version
        return "\n".join(lines), seen

    # -- plans

    def _soon(self, pid: int) -> None:
        self._dirty[pid] = None
        self._work.unpark_all()

    async def run(self) -> None:
        """Does what follows from ends, for as long as the kernel runs."""
        while True:
            while self._dirty:
                pid = next(iter(self._dirty))
                del self._dirty[pid]
                try:
                    self._follow(pid)
                except KernelError as exc:
                    log.error("what follows from task %d could not be done: %s", pid, exc)
                await trio.lowlevel.checkpoint()
            await self._work.park()

    def _follow(self, pid: int) -> None:
        process = self._processes.find(pid)
        if process is None or process.task is None or process.task.state.final:
            for dependent in sorted(self._dependents.pop(pid, ())):
                self._soon(dependent)
        if process is None or process.task is None or process.state.ended:
            return
        if process.task.state is TaskState.REJECTED:
            self._processes.end(process, Outcome(EXIT_FAILED, "rejected"))
        elif not process.task.released:
            self._release(process, process.task)

    def _release(self, process: Process, task: Task) -> None:
        """Gives a task its message when all that it waits for have ended."""
        before = [(pid, self._processes.find(pid)) for pid in task.request.after]
        if any(one is not None and not one.state.ended for _, one in before):
            return
        missing = unmet(before)
        if missing and task.request.on_failed == "reject":
            process.record("task_rejected", reason=missing)
            self._processes.end(process, Outcome(EXIT_FAILED, f"rejected: {missing}"))
            return
        process.post(message_of(task.request.message, before), "task")


def info_of(process: Process) -> TaskInfo:
    """A snapshot of a worker's task."""
    task = process.task
    assert task is not None
    request = task.request
    return TaskInfo(
        process.pid, process.pid, process.agent_id, process.parent_pid, task.state, task.version,
        request.delivery, request.message, process.result, process.reason, task.question,
        dict(task.artifacts), request.after, request.budget_tokens, process.spec.own_metadata(),
    )  # fmt: skip

"""The system calls on tasks; a part of `Syscalls`."""

import os
import posixpath
from contextlib import AbstractContextManager
from typing import Any

import trio

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import AccessError, InvalidError
from nexusfs.contracts.task import Collected, TaskInfo
from nexusfs.kernel import permission
from nexusfs.kernel.gate import Gate, syscall
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.tasks.table import TaskTable, info_of
from nexusfs.kernel.vfs.files import Vfs

LEAVE_S = 1.0
"""How long a kill waits for tasks that were cancelled; they need milliseconds."""


class TaskCalls:
    """What people and agents do with tasks. Errors are those of `TaskTable`."""

    gate: Gate
    vfs: Vfs
    processes: ProcessTable
    tasks: TaskTable

    def _watching(self, cred: Credentials, op: str, target: int) -> AbstractContextManager[None]:
        """Tells hooks of a refusal in the block."""
        raise NotImplementedError

    @syscall
    async def sys_task_delegate(
        self, cred: Credentials, request: dict[str, Any], copilot_pid: int | None = None
    ) -> TaskInfo:
        """Starts a worker for a task of the caller, or of an agent of his, and returns at once.

        `request` as a write to proc/<pid>/delegate. See `TaskTable.delegate`.
        """
        copilot = self.tasks.copilot_of(cred, copilot_pid)
        with self._watching(cred, "delegate", copilot):
            return await self.tasks.delegate(cred, request, copilot)

    @syscall
    async def sys_task_list(
        self, cred: Credentials, copilot_pid: int | None = None
    ) -> list[TaskInfo]:
        """The caller's tasks, or those of an agent of his, oldest first."""
        return self.tasks.listed(cred, copilot_pid)

    @syscall
    async def sys_task_collect(
        self, cred: Credentials, task_ids: list[int] | None = None, *, count: int | None = None,
        timeout_s: float | None = None, copilot_pid: int | None = None,
    ) -> Collected:  # fmt: skip
        """Waits for all of these tasks, or `count` of them. See `TaskTable.collect`."""
        ids = None if task_ids is None else tuple(task_ids)
        return await self.tasks.collect(
            cred, ids, count=count, timeout_s=timeout_s, copilot_pid=copilot_pid
        )

    @syscall
    async def sys_task_cancel(
        self, cred: Credentials, task_id: int, reason: str = ""
    ) -> dict[str, Any]:
        """Ends a task and its worker: {"task_id", "canceled": False when it had ended before}."""
        with self._watching(cred, "cancel", task_id):
            canceled = self.tasks.cancel(cred, task_id, reason)
        await self._left([task_id])
        return {"task_id": task_id, "canceled": canceled}

    @syscall
    async def sys_task_cancel_all(
        self, cred: Credentials, copilot_pid: int | None = None
    ) -> dict[str, Any]:
        """Ends all tasks that have not ended: {"canceled": how many this call has ended}."""
        copilot = self.tasks.copilot_of(cred, copilot_pid)
        with self._watching(cred, "cancel-all", copilot):
            canceled = self.tasks.cancel_all(cred, copilot)
        await self._left(canceled)
        return {"canceled": len(canceled), "task_ids": canceled}

    async def _left(self, pids: list[int]) -> None:
        """Waits until nothing of these workers runs, for `LEAVE_S` at most."""
        with trio.move_on_after(LEAVE_S):
            await self.processes.left(set(pids))

    @syscall
    async def sys_task_review(
        self, cred: Credentials, task_id: int, verb: str, text: str = "",
        version: int | None = None,
    ) -> TaskInfo:  # fmt: skip
        """`approve`, `revise` or `reject`; with a `version`, only of the task as it was then."""
        if verb not in ("approve", "revise", "reject"):
            raise InvalidError(f"unknown verb {verb!r}: one of approve, revise, reject")
        with self._watching(cred, verb, task_id):
            self.tasks.review(cred, task_id, verb, text, version)
        return info_of(self.tasks.mine(cred, task_id))

    @syscall
    async def sys_task_retry(self, cred: Credentials, task_id: int) -> TaskInfo:
        """The same task anew, with another number and worker. EBUSY while it has not ended."""
        with self._watching(cred, "retry", task_id):
            return await self.tasks.retry(cred, task_id)

    @syscall
    async def sys_task_drop(self, cred: Credentials, task_id: int) -> None:
        """Takes an ended task off the list. EBUSY while it has not ended."""
        with self._watching(cred, "drop", task_id):
            self.tasks.drop(cred, task_id)

    @syscall
    async def sys_task_ask(
        self, cred: Credentials, call_id: str, question: str, draft: str = ""
    ) -> str:
        """A worker's question to who gave it its task; suspends until there is a review.

        `call_id` names the question: asked again, it waits on, or gets the same answer.
        """
        return await self.tasks.ask(cred, call_id, question, draft)

    @syscall
    async def sys_task_artifact(self, cred: Credentials, path: str) -> str:
        """Announces a file as an artifact of the caller's task; the name it has there.

        ENOENT, EACCES: the worker could not read it itself. InvalidError EINVAL: no plain file.
        """
        node = await self.vfs.walker.node(cred, path)
        st = await node.stat()
        if not st.is_file or node.control:
            raise InvalidError(f"an artifact is an ordinary file, and {path!r} is none")
        if not permission.may(cred, st, os.R_OK):
            raise AccessError(f"permission denied: {path!r}")
        name = posixpath.basename(path)
        self.tasks.artifact(cred, name, path, st.size)
        return name

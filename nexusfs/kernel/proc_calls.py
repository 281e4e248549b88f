"""The system calls on agents and tools; a part of `Syscalls`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import trio

from nexusfs.contracts.agent import AgentSpec, parse_spec
from nexusfs.contracts.checkpoint import CheckpointInfo
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    ExistsError,
    InvalidError,
    KernelError,
    NotPermittedError,
    QuotaError,
    errno_of,
)
from nexusfs.contracts.hooks import RefusalContext
from nexusfs.contracts.proc import ExitStatus, ProcessInfo
from nexusfs.contracts.tool import Tool, ToolResult
from nexusfs.kernel.gate import Gate, syscall
from nexusfs.kernel.proc.approvals import Approvals
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.task_calls import LEAVE_S, TaskCalls
from nexusfs.kernel.tools import ToolTable
from nexusfs.kernel.vfs.files import Vfs

REFUSALS = (AccessError, NotPermittedError, ExistsError, QuotaError)
"""Errors that say that a rule was in the way, and not that the request was wrong."""


class ProcessCalls(TaskCalls):
    """The calls on agents and tools."""

    gate: Gate
    vfs: Vfs
    processes: ProcessTable
    tools: ToolTable
    approvals: Approvals

    @syscall
    async def sys_proc_spawn(
        self,
        cred: Credentials,
        spec: AgentSpec | dict[str, Any] | None = None,
        *,
        agent_id: str | None = None,
        zone_id: str | None = None,
        parent_pid: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> ProcessInfo:
        """Creates and starts an agent of a spec, or of its raw object. See ProcessTable.spawn.

        `agent_id` (an installed agent), `zone_id` and `metadata` stand for the fields `agent`,
        `zone` and `metadata`; a spec that has them too is EINVAL.
        """
        given = {"agent": agent_id, "zone": zone_id, "metadata": metadata}
        try:
            parsed = _spec_of(spec, {k: v for k, v in given.items() if v is not None})
            return await self.processes.spawn(cred, parsed, parent_pid)
        except KernelError as exc:
            self._refused(cred, "spawn", agent_id or _name_in(spec), exc)
            raise

    @syscall
    async def sys_proc_spawn_batch(
        self,
        cred: Credentials,
        specs: Sequence[AgentSpec | dict[str, Any]],
        parent_pid: int | None = None,
    ) -> list[ProcessInfo]:
        """Creates and starts all of these agents, or none. See ProcessTable.spawn_batch."""
        try:
            parsed = [_spec_of(spec, {}) for spec in specs]
            return await self.processes.spawn_batch(cred, parsed, parent_pid)
        except KernelError as exc:
            self._refused(cred, "spawn", " ".join(map(_name_in, specs)), exc)
            raise

    @syscall
    async def sys_proc_kill(
        self, cred: Credentials, pid: int, reason: str = "", *, term: bool = False
    ) -> dict[str, Any]:
        """Ends an agent and its subtree: {"pid", "terminated": False when it had ended before}.

        The end is atomic and comes first; then this waits until no task of the subtree is left,
        for `LEAVE_S` at most. Cancelling that wait undoes nothing.
        """
        process = self.processes.get(pid)
        subtree = {member.pid for member in self.processes.subtree(process)}
        with self._watching(cred, "kill", pid):
            terminated = self.processes.kill(cred, pid, reason, term=term)
        with trio.move_on_after(LEAVE_S):
            await self.processes.left(subtree)
        return {"pid": pid, "terminated": terminated}

    @syscall
    async def sys_proc_wait(
        self, cred: Credentials, pid: int, timeout_s: float | None = None
    ) -> ExitStatus:
        """Suspends until the agent has ended. ETIMEDOUT; the parent's wait reaps."""
        return await self.processes.wait(cred, pid, timeout_s)

    @syscall
    async def sys_proc_list(
        self, cred: Credentials, zone_id: str | None = None, state: str | None = None
    ) -> list[ProcessInfo]:
        """Snapshots of the agents that the caller sees, filtered by zone and state.

        InvalidError EINVAL for an unknown state.
        """
        return self.processes.snapshots(cred, zone_id, state)

    @syscall
    async def sys_proc_signal(self, cred: Credentials, pid: int, verb: str) -> None:
        """`int`, `stop`, `cont` or `reap`, as proc/<pid>/ctl. EINVAL, EBUSY, EPERM."""
        verbs = {
            "int": self.processes.interrupt,
            "stop": self.processes.stop,
            "cont": self.processes.cont,
            "reap": self.processes.reap,
        }
        if verb not in verbs:
            raise InvalidError(f"unknown verb {verb[:60]!r}: one of {', '.join(verbs)}")
        with self._watching(cred, verb, pid):
            verbs[verb](cred, pid)

    @syscall
    async def sys_proc_nice(self, cred: Credentials, pid: int, value: int) -> None:
        """Sets how much an agent gives way to others, -20 to 19; lower ones are root's. EPERM."""
        with self._watching(cred, "nice", pid):
            self.processes.nice(cred, pid, value)

    @syscall
    async def sys_proc_restrict(self, cred: Credentials, pid: int, cut: dict[str, Any]) -> None:
        """Cuts an agent's rights and those of its descendants. See `Verbs.restrict`."""
        with self._watching(cred, "restrict", pid):
            self.processes.restrict(cred, pid, cut)

    @syscall
    async def sys_proc_limit(
        self, cred: Credentials, pid: int, name: str, value: float | None
    ) -> None:
        """Sets a limit of an agent; None is as much as those above it give. EPERM, EINVAL."""
        with self._watching(cred, "limit", pid):
            self.processes.set_limit(cred, pid, name, value)

    @syscall
    async def sys_proc_send(self, cred: Credentials, pid: int, text: str) -> None:
        """A message for the agent's next turn. EPIPE when it has ended.

        A worker's message to its copilot is an event of its task, delivered as all of them.
        """
        if self.tasks.note(cred, pid, text):
            return
        with self._watching(cred, "send", pid):
            self.processes.send(cred, pid, text)

    @syscall
    async def sys_proc_steer(self, cred: Credentials, pid: int, text: str) -> None:
        """A message that changes the agent's course at its next turn. EBUSY when it has ended."""
        with self._watching(cred, "steer", pid):
            self.processes.steer(cred, pid, text)

    @syscall
    async def sys_proc_checkpoint(
        self, cred: Credentials, pid: int, *, automatic: bool = False
    ) -> CheckpointInfo:
        """Pauses an agent and writes a checkpoint of it. See `Verbs.checkpoint`."""
        with self._watching(cred, "checkpoint", pid):
            return await self.processes.checkpoint(cred, pid, automatic=automatic)

    @syscall
    async def sys_checkpoint_list(
        self, cred: Credentials, agent_id: str, limit: int | None = None
    ) -> list[CheckpointInfo]:
        """The checkpoints of one agent, newest first; an agent sees those of its zone."""
        return await self.processes.checkpoints_of(cred, agent_id, limit)

    @syscall
    async def sys_checkpoint_delete(
        self, cred: Credentials, agent_id: str, checkpoint_hash: str
    ) -> bool:
        """Removes a checkpoint; False when there was none."""
        return await self.processes.delete_checkpoint(cred, agent_id, checkpoint_hash)

    @contextlib.contextmanager
    def _watching(self, cred: Credentials, op: str, pid: int) -> Iterator[None]:
        """Tells hooks of a refusal in the block."""
        try:
            yield
        except KernelError as exc:
            self._refused(cred, op, str(pid), exc)
            raise

    def _refused(self, cred: Credentials, op: str, target: str, exc: KernelError) -> None:
        """Tells hooks of what rights, a rule or a hook refused; other errors are none."""
        if isinstance(exc, REFUSALS) and self.processes.hooks.on("refused"):
            who = self.processes.identity(cred)
            self.processes.hooks.now(
                "refused", RefusalContext(*who, op, target, errno_of(exc), str(exc))
            )

    # -- tools

    @syscall
    async def sys_dispatch(
        self, cred: Credentials, name: str, arguments: dict[str, Any], call_id: str | None = None
    ) -> ToolResult:
        """Runs a tool with the caller's rights. See ToolTable.dispatch.

        What the tool changed is seen at every door once this returns.
        """
        try:
            return await self.tools.dispatch(cred, name, arguments, call_id)
        except KernelError as exc:
            self._refused(cred, "dispatch", name, exc)
            raise
        finally:
            await self.vfs.watch.settled()

    @syscall
    async def sys_permit(
        self, cred: Credentials, name: str, arguments: dict[str, Any], call_id: str,
        *, wait: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """Decides a call before it runs. See ToolTable.permit."""
        try:
            return await self.tools.permit(cred, name, arguments, call_id, wait=wait)
        except KernelError as exc:
            self._refused(cred, "dispatch", name, exc)
            raise

    @syscall
    async def sys_proc_answer(
        self, cred: Credentials, pid: int, question: int, answer: str
    ) -> None:
        """Answers a question of an agent. See `Approvals.answer`."""
        with self._watching(cred, "answer", pid):
            await self.approvals.answer(cred, self.processes.get(pid), question, answer)

    @syscall
    async def sys_tools(self, cred: Credentials) -> list[Tool]:
        """The tools that the caller may use, by name."""
        return self.tools.usable(cred)


def _spec_of(spec: AgentSpec | dict[str, Any] | None, more: dict[str, Any]) -> AgentSpec:
    """The spec of an object or of its raw form, with more fields. InvalidError EINVAL."""
    if isinstance(spec, AgentSpec):
        if not more and spec.model_fields_set:
            return spec
        spec = {name: getattr(spec, name) for name in spec.model_fields_set}
    raw = dict(spec or {})
    twice = sorted(raw.keys() & more.keys())
    if twice:
        raise InvalidError(f"{twice[0]!r} is given twice: in the spec and beside it")
    if not {**raw, **more}.keys() - {"zone", "metadata", "idempotency_key"}:
        raise InvalidError(
            'say what to run: "agent" names one of /bin; or give a "task", "instructions", a '
            '"model" or a "mode"; or a checkpoint to "restore"'
        )
    return parse_spec({**raw, **more})


def _name_in(spec: AgentSpec | dict[str, Any] | None) -> str:
    """What a spec calls the agent, whatever else is wrong with it."""
    if isinstance(spec, AgentSpec):
        return spec.name or spec.agent or ""
    return str((spec or {}).get("name") or (spec or {}).get("agent") or "")

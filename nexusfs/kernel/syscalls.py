"""The one syscall layer: every door ends here, and nothing else has an effect.

Each `sys_*` takes credentials first, passes the gate, and raises KernelError with an errno.
`where` is a path from the root of the tree, `At(node, name)`, or a node.
"""

import contextlib
import os
import stat as _stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import trio

from nexusfs.contracts.agent import AgentSpec, parse_spec
from nexusfs.contracts.checkpoint import CheckpointInfo
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    AccessError,
    BadFileError,
    ExistsError,
    InvalidError,
    KernelError,
    NotDirectoryError,
    NotPermittedError,
    QuotaError,
    UnknownToolError,
    errno_of,
)
from nexusfs.contracts.hooks import RefusalContext
from nexusfs.contracts.node import At, Change, DirEntry, File, Node, Stat, StatFs, Where
from nexusfs.contracts.proc import ExitStatus, ProcessInfo
from nexusfs.contracts.tool import Tool, ToolResult
from nexusfs.kernel import permission
from nexusfs.kernel.errorlog import ErrorLog
from nexusfs.kernel.gate import Gate, syscall
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.task_calls import LEAVE_S, TaskCalls
from nexusfs.kernel.tasks.table import TaskTable
from nexusfs.kernel.tools import ToolTable
from nexusfs.kernel.vfs.files import Descriptors, DirFile, Listed, Vfs

READ_SIZE_MAX = 16 << 20
"""Bytes of one read; more is a short read, so that no caller makes the kernel allocate at will."""


REFUSALS = (AccessError, NotPermittedError, ExistsError, QuotaError)
"""Errors that say that a rule was in the way, and not that the request was wrong."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What an open gives: the descriptor, the node and the open file."""

    fd: int
    node: Node
    file: File


class Syscalls(TaskCalls):
    """Every system call of the kernel.

    Calls on files may suspend only where the file or node does; see `contracts.node`.
    """

    def __init__(self, vfs: Vfs, processes: ProcessTable, tools: ToolTable) -> None:
        """The calls over a VFS, a process table and a tool table."""
        self.gate = Gate()
        self.vfs = vfs
        self.processes = processes
        self.tasks = TaskTable(processes)
        self.tools = tools
        self.error_log = ErrorLog()
        self.descriptors = Descriptors()

    # -- names and attributes

    @syscall
    async def sys_lookup(self, cred: Credentials, where: Where) -> tuple[Node, Stat]:
        """The node of `where` and its attributes; a last symlink is not followed."""
        node = await self.vfs.walker.node(cred, where, follow=False)
        return node, await node.stat()

    @syscall
    async def sys_find(self, cred: Credentials, at: At) -> tuple[Node, Stat] | None:
        """As `sys_lookup` of one name, but None for one that does not exist: cheaper."""
        node = await self.vfs.walker.find(cred, at.parent, at.name)
        return None if node is None else (node, await node.stat())

    @syscall
    async def sys_stat(self, cred: Credentials, where: Where, *, follow: bool = True) -> Stat:
        """The attributes of `where`."""
        return await (await self.vfs.walker.node(cred, where, follow=follow)).stat()

    @syscall
    async def sys_setattr(
        self, cred: Credentials, where: Where, change: Change, *, follow: bool = True
    ) -> Stat:
        """Sets attributes and returns the new ones. EPERM, EACCES as chmod(2) and its kin."""
        await self.vfs.admit()
        node = await self.vfs.walker.node(cred, where, follow=follow)
        return await self.vfs.setattr(cred, node, change)

    @syscall
    async def sys_fsetattr(self, cred: Credentials, fd: int, change: Change) -> Stat:
        """Sets attributes of an open file; its size by the right that the open was given.

        InvalidError EINVAL: the size of a file that is not open for writing, as ftruncate(2).
        """
        await self.vfs.admit()
        file = self.descriptors.get(fd)
        if change.size is None:
            return await self.vfs.setattr(cred, file.node, change)
        if file.flags & os.O_ACCMODE == os.O_RDONLY:
            raise InvalidError("the file is not open for writing")
        return await self.vfs.truncate(file, change)

    @syscall
    async def sys_access(self, cred: Credentials, where: Where, mask: int) -> bool:
        """True when the caller may (os.R_OK | W_OK | X_OK); ENOENT when there is nothing."""
        node = await self.vfs.walker.node(cred, where)
        return permission.may(cred, await node.stat(), mask)

    @syscall
    async def sys_readlink(self, cred: Credentials, where: Where) -> bytes:
        """The text of a symlink. EINVAL for anything else."""
        node = await self.vfs.walker.node(cred, where, follow=False)
        return await self.vfs.walker.readlink(cred, node)

    @syscall
    async def sys_readdir(self, cred: Credentials, where: Where) -> list[DirEntry]:
        """All names of a directory but . and .. ."""
        node = await self.vfs.walker.node(cred, where)
        st = await node.stat()
        if not st.is_dir:
            raise NotDirectoryError("not a directory")
        permission.check(cred, st, os.R_OK)
        return await self.vfs.mounts.entries(cred, node)

    @syscall
    async def sys_statfs(self, cred: Credentials, where: Where = "/") -> StatFs:
        """Size and use of the filesystem of `where`."""
        return await (await self.vfs.walker.node(cred, where)).statfs()

    @syscall
    async def sys_mkdir(self, cred: Credentials, where: Where, mode: int = 0o777) -> Node:
        """Makes a directory; `mode` as the caller's umask left it, its set-id bits not taken."""
        await self.vfs.admit()
        return await self.vfs.create(cred, where, 0o040000 | (mode & 0o1777))

    @syscall
    async def sys_mknod(self, cred: Credentials, where: Where, mode: int, rdev: int = 0) -> Node:
        """Makes a file, fifo, socket or device; `mode` has the type bits, none is a file's.

        NotPermittedError EPERM for a directory, InvalidError EINVAL for a symlink.
        """
        await self.vfs.admit()
        kind = _stat.S_IFMT(mode) or _stat.S_IFREG
        if kind == _stat.S_IFDIR:
            raise NotPermittedError("a directory is made with mkdir")
        if kind == _stat.S_IFLNK:
            raise InvalidError("a symlink is made with symlink")
        mode = kind | _stat.S_IMODE(mode)
        return await self.vfs.create(cred, where, mode, rdev=rdev)

    @syscall
    async def sys_symlink(self, cred: Credentials, target: bytes, where: Where) -> Node:
        """Makes a symlink with the text `target`."""
        await self.vfs.admit()
        if not target:
            raise InvalidError("a symlink needs a target")
        return await self.vfs.create(cred, where, 0o120777, target=target)

    @syscall
    async def sys_link(self, cred: Credentials, old: Where, new: Where) -> Node:
        """Adds the hard link `new` to `old`."""
        await self.vfs.admit()
        return await self.vfs.link(cred, old, new)

    @syscall
    async def sys_unlink(self, cred: Credentials, where: Where) -> None:
        """Removes a name; open files live on."""
        await self.vfs.admit()
        await self.vfs.unlink(cred, where)

    @syscall
    async def sys_rmdir(self, cred: Credentials, where: Where) -> None:
        """Removes an empty directory."""
        await self.vfs.admit()
        await self.vfs.rmdir(cred, where)

    @syscall
    async def sys_rename(self, cred: Credentials, old: Where, new: Where, flags: int = 0) -> None:
        """Moves a name, atomically."""
        await self.vfs.admit()
        await self.vfs.rename(cred, old, new, flags)

    @syscall
    async def sys_getxattr(self, cred: Credentials, where: Where, name: bytes) -> bytes:
        """One extended attribute. ENODATA; EOPNOTSUPP for namespaces other than user."""
        return await self.vfs.getxattr(cred, await self.vfs.walker.node(cred, where), name)

    @syscall
    async def sys_setxattr(
        self, cred: Credentials, where: Where, name: bytes, value: bytes
    ) -> None:
        """Sets one extended attribute. EPERM, EOPNOTSUPP, ERANGE, ENOSPC."""
        await self.vfs.admit()
        await self.vfs.setxattr(cred, await self.vfs.walker.node(cred, where), name, value)

    @syscall
    async def sys_listxattr(self, cred: Credentials, where: Where) -> list[bytes]:
        """Names of the extended attributes."""
        return await (await self.vfs.walker.node(cred, where)).listxattr()

    @syscall
    async def sys_removexattr(self, cred: Credentials, where: Where, name: bytes) -> None:
        """Removes one extended attribute. ENODATA."""
        await self.vfs.admit()
        await self.vfs.setxattr(cred, await self.vfs.walker.node(cred, where), name, None)

    # -- open files

    @syscall
    async def sys_open(
        self, cred: Credentials, where: Where, flags: int, mode: int = 0o666
    ) -> Opened:
        """Opens a file or directory; `flags` and `mode` as open(2), the umask already applied.

        The descriptor keeps `cred`, whoever uses it later. Cancelling leaves nothing open.
        """
        if flags & (os.O_CREAT | os.O_TRUNC):
            await self.vfs.admit()
        try:
            node, file = await self.vfs.open(cred, where, flags, mode)
        except UnknownToolError as exc:
            self.error_log.add(cred, "/dispatch", "open", exc)
            raise
        return Opened(self.descriptors.add(file), node, file)

    @syscall
    async def sys_read(self, fd: int, size: int, offset: int) -> bytes:
        """Bytes [offset, offset + size). Suspends on blocking files only."""
        file = self.descriptors.get(fd)
        if file.flags & os.O_ACCMODE == os.O_WRONLY:
            raise BadFileError("the file was opened for writing only")
        return await self.vfs.read(file, min(size, READ_SIZE_MAX), offset)

    @syscall
    async def sys_write(self, fd: int, data: bytes, offset: int) -> int:
        """Writes at `offset`, at the end with O_APPEND; on control files, a piece of a request."""
        file = self.descriptors.get(fd)
        if file.flags & os.O_ACCMODE == os.O_RDONLY:
            raise BadFileError("the file was opened for reading only")
        if not file.node.control:
            await self.vfs.admit()
        return await self.vfs.write(file, data, offset)

    @syscall
    async def sys_flush(self, fd: int) -> None:
        """What close(2) does first, at each descriptor of the file."""
        await self.descriptors.get(fd).flush()

    @syscall
    async def sys_fsync(self, fd: int, *, datasync: bool = False) -> None:
        """Returns when the file is on disk."""
        await self.descriptors.get(fd).fsync(datasync=datasync)

    @syscall
    async def sys_readdir_fd(self, fd: int, start: int, count: int) -> list[Listed | None]:
        """Up to `count` names from position `start` on of an open directory, with attributes.

        None stands for a name that has vanished since the listing began. Empty at the end. The
        right to list is the handle's; no name needs search permission.
        """
        directory = self.descriptors.get(fd)
        if not isinstance(directory, DirFile):
            raise NotDirectoryError("not an open directory")
        return await directory.listed(start, count)

    async def sys_close(self, fd: int) -> None:
        """Ends a descriptor; also while the kernel shuts down, so it does not pass the gate."""
        await self.descriptors.pop(fd).release()

    # -- processes

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
            raise InvalidError(f"unknown verb {verb!r}: one of {', '.join(verbs)}")
        with self._watching(cred, verb, pid):
            verbs[verb](cred, pid)

    @syscall
    async def sys_proc_nice(self, cred: Credentials, pid: int, value: int) -> None:
        """Sets how much an agent gives way to others, -20 to 19; lower ones are root's. EPERM."""
        with self._watching(cred, "nice", pid):
            self.processes.nice(cred, pid, value)

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
        """The checkpoints of one agent, newest first."""
        return await self.processes.checkpoints.listed(cred, agent_id, limit)

    @syscall
    async def sys_checkpoint_delete(
        self, cred: Credentials, agent_id: str, checkpoint_hash: str
    ) -> bool:
        """Removes a checkpoint; False when there was none."""
        return await self.processes.checkpoints.delete(cred, agent_id, checkpoint_hash)

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
            denied = isinstance(exc, UnknownToolError) and name in self.tools.all_names()
            self._refused(cred, "dispatch", name, AccessError(f"denied: {name}") if denied else exc)
            raise
        finally:
            await self.vfs.watch.settled()

    @syscall
    async def sys_tools(self, cred: Credentials) -> list[Tool]:
        """The tools that the caller may use, by name."""
        return [self.tools.get(cred, name) for name in self.tools.names(cred)]


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

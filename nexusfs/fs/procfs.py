"""/proc: a directory for each agent, and spawn.

A file of proc/<pid>/ is one row of the table that `_agent_table` fills.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import cache, partial
from typing import Any

from nexusfs.contracts.agent import parse_spec, spec_schema
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import BusyError, InvalidError, NotFoundError, StaleError
from nexusfs.contracts.limits import LIMITS, MAX, WHOLE
from nexusfs.contracts.node import DirEntry, Node, Stat
from nexusfs.contracts.proc import KERNEL_PID
from nexusfs.fs import proc_render as render
from nexusfs.fs.approvalfs import ApprovalFs
from nexusfs.fs.taskfs import SteadyDir, TaskFs
from nexusfs.kernel.agentfile import agent_from_markdown
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.kernel.vfs.control import Control, Request, control, text_of
from nexusfs.kernel.vfs.kernfs import (
    Background,
    DirNode,
    Dynamic,
    Owner,
    Row,
    Table,
    TextNode,
    Waiter,
)

PROC_INO = 1 << 56
LIMITS_ROW = 128
"""Inode numbers of the files of `limits` begin after those of the rows of an agent's directory."""
PRIVATE, PUBLIC = 0o400, 0o444
VERBS = (
    "term", "kill", "int", "stop", "cont", "checkpoint", "steer", "nice", "reap", "cancel-all",
)  # fmt: skip


class ProcFs:
    """The tree at /proc."""

    def __init__(
        self, calls: Syscalls, background: Background, kernel_uid: int, dispatch_dir: Any
    ) -> None:
        """`dispatch_dir` makes the directory of an agent's own tools: (process, ino) → node."""
        self._calls = calls
        self._background = background
        self._born = Owner(kernel_uid, 0, now_ns())
        self._dispatch_dir = dispatch_dir
        self._verbs: dict[str, Callable[[int, Credentials, str], Awaitable[bytes]]] = {
            "term": self._term,
            "kill": self._kill,
            "steer": self._steer,
            "nice": self._nice,
            "checkpoint": self._checkpoint,
            "cancel-all": self._cancel_all,
        }
        self._tasks = TaskFs(calls, background, self._born)
        self._limits = self._limit_table()
        self._approvals = ApprovalFs(calls, background)
        self._agents = self._agent_table()
        self._kernel = self._kernel_table()
        self.root: Node = SteadyDir(
            self._root_table(), None, PROC_INO, dynamic=Dynamic(self._lookup_pid, self._pids)
        )
        calls.processes.on_remove = self._removed

    # -- /proc

    def _root_table(self) -> Table:
        table = Table(lambda _: self._born, self._background)
        spawn = Control(
            frozenset({"object", "line", "markdown"}), self._spawn, _schema, lambda _: "/proc/spawn"
        )
        control(table, "spawn", 0o666, spawn)
        table.link(".last", lambda _, cred: _pid_text(self._calls.processes.last_pid(cred)))
        table.link("self", lambda _, cred: _pid_text(cred.agent_pid))
        return table

    async def _spawn(self, _: Any, cred: Credentials, request: Request) -> bytes:
        spec = await _spec_of(request)
        info = await self._calls.sys_proc_spawn(cred, spec)
        return b"%d\n" % info.pid

    async def _lookup_pid(self, cred: Credentials, name: bytes) -> Node:
        pid = int(name) if name.isdigit() and len(name) < 12 and name[:1] != b"0" else 0
        processes = self._calls.processes
        process = processes.find(pid)
        if process is not None and processes.visible(cred, process):
            return AgentDir(self._agents, process, PROC_INO | (pid << 8), processes)
        if pid == KERNEL_PID:
            return SteadyDir(self._kernel, None, PROC_INO | (pid << 8))
        raise NotFoundError(f"no process {name.decode('utf-8', 'replace')!r}: ls /proc lists them")

    def _removed(self, pid: int) -> None:
        """Linux may drop what it knows of a reaped agent; it asks anyway, see AgentDir."""
        self._calls.vfs.watch.name(self.root, b"%d" % pid, "kernel")

    async def _pids(self, cred: Credentials) -> Iterable[DirEntry]:
        self._calls.processes.prune()
        pids = [KERNEL_PID, *self._calls.processes.visible_pids(cred)]
        return [DirEntry(b"%d" % pid, PROC_INO | (pid << 8), 0o040000) for pid in pids]

    # -- /proc/1

    def _kernel_table(self) -> Table:
        table = Table(lambda _: self._born, self._background)
        table.text("status")(lambda _: render.kernel_status(self._born.uid))
        table.text("children")(
            lambda _: render.pids(
                p.pid for p in self._calls.processes if p.parent_pid == KERNEL_PID
            )
        )
        ctl = Control(
            frozenset({"lines"}), self._kernel_ctl, lambda _: b"cancel-all\n",
            lambda _: f"/proc/{KERNEL_PID}/ctl",
        )  # fmt: skip
        control(table, "ctl", 0o600, ctl)
        self._tasks.add_to(table, everybody=True)
        table.sub(
            "approvals",
            lambda _, ino: self._approvals.all_dir(self._born, ino),
        )
        return table

    async def _kernel_ctl(self, _: Any, cred: Credentials, request: Request) -> bytes:
        verb, _, rest = text_of(request.data).strip().partition(" ")
        if verb != "cancel-all":
            raise InvalidError(f"unknown verb {verb!r}: the kernel takes cancel-all")
        return await self._cancel_all(KERNEL_PID, cred, rest)

    # -- /proc/<pid>

    def _agent_table(self) -> Table:
        processes = self._calls.processes
        table = Table(_owner_of, self._background, processes.visible)
        table.text("status", PUBLIC, StatusNode)(lambda p: render.status(p, processes.sandbox))
        table.text("status.json", PUBLIC)(lambda p: render.status_json(p, processes.sandbox))
        table.text("spec", PRIVATE)(render.spec)
        self._add_controls(table)
        table.log("stdout", PRIVATE, lambda p: p.stdout)
        table.pipe("stdout_pipe", PRIVATE, lambda p: p.stdout)
        table.log("events", PRIVATE, lambda p: p.events)
        table.pipe("events_pipe", PRIVATE, lambda p: p.events)
        table.log("messages.jsonl", PRIVATE, lambda p: p.messages)
        table.wait("wait", PUBLIC, Waiter(render.exit_line, lambda p: p.ending))
        table.text("result", PRIVATE)(render.result)
        table.text("exit_code", PUBLIC)(render.exit_code)
        table.text("wchan", PUBLIC)(render.wchan)
        table.text("usage", PRIVATE)(render.usage)
        table.text("children", PUBLIC)(lambda p: render.pids(p.children))
        table.link("cwd", lambda p, _: b"../.." + p.spec.cwd.encode(), 0o500)
        table.link("exe", lambda p, _: _exe(p), 0o500)
        table.link("checkpoints", _checkpoints_link, 0o500)
        table.sub("dispatch", self._dispatch_dir, 0o500)
        self._tasks.add_to(table, everybody=False)
        table.sub("limits", self._limits_dir, 0o500)
        table.sub("approvals", self._approvals.agent_dir, 0o500)
        return table

    def _limits_dir(self, process: Process, ino: int) -> Node:
        return DirNode(self._limits, process, (ino & ~0xFF) | LIMITS_ROW, 0o500)

    def _limit_table(self) -> Table:
        table = Table(_owner_of, self._background, self._calls.processes.visible)
        for name in LIMITS:
            control(table, name, 0o600, Control(
                frozenset({"line"}),
                partial(self._set_limit, name),
                partial(render.limit, name),
                partial(_limit_path, name),
            ))  # fmt: skip
        return table

    async def _set_limit(
        self, name: str, process: Process, cred: Credentials, request: Request
    ) -> bytes:
        value = _limit_of(name, text_of(request.data).strip())
        await self._calls.sys_proc_limit(cred, process.pid, name, value)
        return render.limit(name, process)

    def _add_controls(self, table: Table) -> None:
        ctl = Control(
            frozenset({"lines"}), self._ctl, lambda _: _VERB_LIST, lambda p: f"/proc/{p.pid}/ctl"
        )
        control(table, "ctl", 0o622, ctl)
        stdin = Control(
            frozenset({"message"}),
            self._stdin,
            lambda _: b"",
            lambda p: f"/proc/{p.pid}/stdin",
            lambda p, cred: self._calls.processes.check_listens(cred, p.pid),
        )
        control(table, "stdin", 0o600, stdin)
        grants = Control(
            frozenset({"object"}), self._restrict, self._grants, lambda p: f"/proc/{p.pid}/grants"
        )
        control(table, "grants", 0o600, grants)

    def _grants(self, process: Process) -> bytes:
        return render.as_json(process.rights.shown(self._calls.tools.all_names()))

    async def _restrict(self, process: Process, cred: Credentials, request: Request) -> bytes:
        await self._calls.sys_proc_restrict(cred, process.pid, request.value)
        return self._grants(process)

    async def _stdin(self, process: Process, cred: Credentials, request: Request) -> bytes:
        text = text_of(request.data).removesuffix("\n")
        await self._calls.sys_proc_send(cred, process.pid, text)
        return b""

    async def _ctl(self, process: Process, cred: Credentials, request: Request) -> bytes:
        verb, _, rest = text_of(request.data).strip().partition(" ")
        if verb not in VERBS:
            raise InvalidError(f"unknown verb {verb[:60]!r}: one of {' '.join(VERBS)}")
        with_words = self._verbs.get(verb)
        if with_words is not None:
            return await with_words(process.pid, cred, rest)
        if rest.strip():
            raise InvalidError(f"{verb} takes no more words")
        await self._calls.sys_proc_signal(cred, process.pid, verb)
        return b""

    async def _term(self, pid: int, cred: Credentials, reason: str) -> bytes:
        return await self._end(pid, cred, reason, term=True)

    async def _kill(self, pid: int, cred: Credentials, reason: str) -> bytes:
        return await self._end(pid, cred, reason, term=False)

    async def _end(self, pid: int, cred: Credentials, reason: str, *, term: bool) -> bytes:
        done = await self._calls.sys_proc_kill(cred, pid, reason.strip(), term=term)
        if not done["terminated"]:
            raise BusyError(f"process {pid} has ended")
        return b""

    async def _steer(self, pid: int, cred: Credentials, text: str) -> bytes:
        if not text.strip():
            raise InvalidError("steer needs a text: steer TEXT")
        await self._calls.sys_proc_steer(cred, pid, text)
        return b""

    async def _nice(self, pid: int, cred: Credentials, word: str) -> bytes:
        if not re.fullmatch(r"[+-]?\d{1,3}", word.strip()):
            raise InvalidError("nice needs a number from -20 to 19: nice 10")
        await self._calls.sys_proc_nice(cred, pid, int(word))
        return b""

    async def _checkpoint(self, pid: int, cred: Credentials, rest: str) -> bytes:
        if rest.strip():
            raise InvalidError("checkpoint takes no more words; its hash is the reply")
        info = await self._calls.sys_proc_checkpoint(cred, pid)
        return info.checkpoint_hash.encode() + b"\n"

    async def _cancel_all(self, pid: int, cred: Credentials, rest: str) -> bytes:
        if rest.strip():
            raise InvalidError("cancel-all takes no more words; how many it ended is the reply")
        return await self._tasks.cancel_all(pid, cred)


class AgentDir(DirNode):
    """The directory of one agent; it goes when the agent is reaped.

    Linux may keep the name, since a pid is not used twice, but asks for the attributes at each
    walk through it. The answer for a reaped agent is ESTALE, at which Linux looks the name up
    again and finds it gone, so the end is seen at once and not when a notification arrives.
    Source: Linux fs/namei.c, retry_estale().
    """

    __slots__ = ("_processes",)

    def __init__(self, table: Table, process: Process, ino: int, processes: ProcessTable) -> None:
        """The directory of `process`, for as long as it is in `processes`."""
        self.table = table
        self.row = _AGENT_ROW
        self.obj = process
        self.ino = ino
        self.dynamic = None
        self._processes = processes

    async def stat(self) -> Stat:
        """Attributes. StaleError ESTALE when the agent was reaped."""
        process: Process = self.obj
        if self._processes.find(process.pid) is not process:
            raise StaleError(f"agent {process.pid} was reaped")
        t = process.changed_at_ns
        cred = process.cred
        return Stat(self.ino, _AGENT_ROW.mode, 2, cred.uid, cred.gid, 0, t, t, t)


class StatusNode(TextNode):
    """A status, rendered once for each version of the process.

    Linux asks for the size before each open, and the open asks again, so an unchanged status
    would be rendered three times for one read.
    """

    __slots__ = ("_bytes", "_version")

    def __init__(
        self, table: Table, row: Row, obj: Any, ino: int, render: Callable[[Any], bytes]
    ) -> None:
        """`render` shows nothing that changes without the process's version."""
        super().__init__(table, row, obj, ino, render)
        self._version = -1
        self._bytes = b""

    def rendered(self) -> bytes:
        """What an open now would read."""
        if self._version != self.obj.version:
            self._bytes, self._version = self.render(self.obj), self.obj.version
        return self._bytes


def _no_row(row: Row, obj: Any, ino: int) -> Node:
    raise NotFoundError("not a row of a table")


_AGENT_ROW = Row(b"", 0o040555, _no_row)
"""What the directories of all agents share: `ls proc` makes 10,000 of them."""

_VERB_LIST = (" ".join(VERBS) + "\n").encode()


@cache
def _schema(_: None) -> bytes:
    """The manual of spawn, made once: it costs 1 ms, and each stat of spawn asks for its size."""
    return spec_schema()


async def _spec_of(request: Request) -> Any:
    """The spec of a request in any of its three forms."""
    if request.kind == "object":
        return parse_spec(request.value)
    if request.kind == "markdown":
        return (await agent_from_markdown(request.data))[0]
    name, _, task = text_of(request.data).strip().partition(" ")
    if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
        raise InvalidError(
            "write one JSON object {...}, Markdown that starts with ---, or one line: the name of "
            f"an agent in /bin, without .md, and its task (given {name[:60]!r})"
        )
    return parse_spec({"agent": name, **({"task": task.strip()} if task.strip() else {})})


def _limit_path(name: str, process: Process) -> str:
    return f"/proc/{process.pid}/limits/{name}"


def _limit_of(name: str, word: str) -> float | None:
    """A ceiling as it is written: one value, or `max`."""
    if word == MAX:
        return None
    pattern = r"\d{1,15}" if name in WHOLE else r"\d{1,15}(\.\d{1,9})?"
    if not re.fullmatch(pattern, word):
        what = "a whole number" if name in WHOLE else "a number"
        raise InvalidError(f"{name} takes {what}, or max (given {word[:60]!r})")
    return int(word) if name in WHOLE else float(word)


def _exe(process: Process) -> bytes | None:
    return f"../../bin/{process.installed}.md".encode() if process.installed else None


def _checkpoints_link(process: Process, cred: Credentials) -> bytes:
    return f"../../home/{process.agent_id}/checkpoints".encode()


def _owner_of(process: Process) -> Owner:
    return Owner(process.cred.uid, process.cred.gid, process.changed_at_ns)


def _pid_text(pid: int | None) -> bytes | None:
    return b"%d" % pid if pid and pid > 0 else None

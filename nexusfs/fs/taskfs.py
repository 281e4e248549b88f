"""Delegation in /proc: a file to delegate by, and a directory for each task."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import InvalidError, NotFoundError, UnavailableError
from nexusfs.contracts.node import DirEntry, File, Node
from nexusfs.contracts.proc import KERNEL_PID
from nexusfs.contracts.task import VERBS, TaskInfo, request_schema
from nexusfs.fs.proc_render import result
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.kernel.tasks.collect import is_ready
from nexusfs.kernel.tasks.table import NO_WORKSPACE, info_of
from nexusfs.kernel.vfs.control import Control, Request, control, text_of
from nexusfs.kernel.vfs.kernfs import (
    STATIC_TTL_S,
    Background,
    DirNode,
    Dynamic,
    KernNode,
    LinkNode,
    Owner,
    PipeNode,
    Row,
    Table,
    Waiter,
    refuse_write,
)

TASKS_ROW = 192
"""Inode numbers of `tasks` and its rows begin after those of `limits`; see procfs."""
TASKS_INO = (1 << 56) | (1 << 48)
ARTIFACTS_INO = (1 << 56) | (2 << 48)
_DIR = 0o040500
_VERB_LIST = (" ".join(VERBS) + "\n").encode()


class TaskFs:
    """The files of delegation, for the tables of proc/<pid> and of proc/1."""

    def __init__(self, calls: Syscalls, background: Background, born: Owner) -> None:
        """`born` owns what belongs to the kernel."""
        self._calls = calls
        self._born = born
        self._background = background
        self._dirs = Table(_owner_or(born), background)
        self._dirs.link(".last", self._last_link)
        self._files = self._task_table()
        self._links = Table(_owner_or(born), background)
        self._schema = json.dumps(request_schema(), indent=2).encode() + b"\n"

    def add_to(self, table: Table, *, everybody: bool) -> None:
        """Adds `delegate` and `tasks` to a table whose objects are copilots (None: the kernel)."""
        delegate = Control(
            frozenset({"object"}),
            self._delegate,
            lambda _: self._schema,
            lambda copilot: f"/proc/{_pid_of(copilot)}/delegate",
        )
        control(table, "delegate", 0o666 if everybody else 0o600, delegate)
        table.sub("tasks", self._tasks_dir, 0o555 if everybody else 0o500)

    async def cancel_all(self, copilot_pid: int, cred: Credentials) -> bytes:
        """The verb of ctl; how many tasks it has ended."""
        done = await self._calls.sys_task_cancel_all(cred, copilot_pid)
        return b"%d\n" % done["canceled"]

    async def _delegate(self, copilot: Any, cred: Credentials, request: Request) -> bytes:
        info = await self._calls.sys_task_delegate(cred, request.value, _pid_of(copilot))
        return reply_of(info)

    # -- tasks/

    def _tasks_dir(self, copilot: Any, ino: int) -> Node:
        pid = _pid_of(copilot)
        tasks = self._calls.tasks

        async def lookup(cred: Credentials, name: bytes) -> Node:
            wanted = name.decode("utf-8", "replace")
            if not (wanted.isdecimal() and len(wanted) < 12 and wanted[0] != "0"):
                raise NotFoundError(f"no task {wanted!r}: ls proc/{pid}/tasks lists them")
            worker = tasks.worker(int(wanted), pid)
            if not tasks.sees(cred, worker):
                raise NotFoundError(f"no task {wanted} of yours")
            return TaskDir(self._files, worker, TASKS_INO | (worker.pid << 8))

        async def entries(cred: Credentials) -> Iterable[DirEntry]:
            workers = tasks.workers(cred, pid)
            return [DirEntry(b"%d" % w.pid, TASKS_INO | (w.pid << 8), 0o040000) for w in workers]

        mode = 0o555 if copilot is None else 0o500
        own = (ino & ~0xFF) | TASKS_ROW
        return SteadyDir(self._dirs, copilot, own, mode, Dynamic(lookup, entries))

    def _last_link(self, copilot: Any, cred: Credentials) -> bytes | None:
        pid = self._calls.tasks.last.get(cred)
        worker = self._calls.processes.find(pid) if pid else None
        if worker is None or worker.parent_pid != _pid_of(copilot):
            return None
        return b"%d" % worker.pid

    # -- tasks/<id>/

    def _task_table(self) -> Table:
        table = Table(_owner_of, self._background)
        table.text("status", 0o400)(lambda w: str(_task(w).state).encode() + b"\n")
        table.text("status.json", 0o400)(_status_json)
        table.text("result", 0o400)(result)
        table.log("events", 0o400, lambda w: w.task_events)
        table.add(
            "events_pipe",
            0o100400,
            lambda row, w, ino: EventsPipeNode(table, row, w, ino, lambda o: o.task_events),
        )
        table.wait("wait", 0o400, Waiter(_wait_line, lambda w: w.task_events))
        table.sub("artifacts", self._artifacts_dir, 0o500)
        ctl = Control(
            frozenset({"object", "lines"}), self._ctl, lambda _: _VERB_LIST,
            lambda w: f"/proc/{w.parent_pid}/tasks/{w.pid}/ctl",
        )  # fmt: skip
        control(table, "ctl", 0o600, ctl)
        table.add("diff", 0o100400, lambda row, w, ino: NoDiffNode(table, row, w, ino))
        table.link("worker", lambda w, _: b"../../../%d" % w.pid, 0o500)
        return table

    async def _ctl(self, worker: Process, cred: Credentials, request: Request) -> bytes:
        verb, text, version = _order(request)
        calls, pid = self._calls, worker.pid
        if verb == "cancel":
            done = await calls.sys_task_cancel(cred, pid, text)
            return b"canceled\n" if done["canceled"] else b"it had ended before\n"
        if verb in ("approve", "revise", "reject"):
            info = await calls.sys_task_review(cred, pid, verb, text, version)
            return f"{info.state}\n".encode()
        if verb == "retry":
            return reply_of(await calls.sys_task_retry(cred, pid))
        if verb == "drop":
            await calls.sys_task_drop(cred, pid)
            return b""
        calls.tasks.refuse(verb)
        return b""

    # -- artifacts/

    def _artifacts_dir(self, worker: Any, ino: int) -> Node:
        base = ARTIFACTS_INO | (worker.pid << 10)

        async def lookup(cred: Credentials, name: bytes) -> Node:
            names = list(_task(worker).artifacts)
            if (wanted := name.decode("utf-8", "surrogateescape")) not in names:
                raise NotFoundError(f"no artifact {wanted!r}")
            row = Row(name, 0o120500, _never)
            return LinkNode(self._links, row, worker, base + names.index(wanted), _target(wanted))

        async def entries(cred: Credentials) -> Iterable[DirEntry]:
            names = [os.fsencode(name) for name in _task(worker).artifacts]
            return [DirEntry(name, base + n, 0o120000) for n, name in enumerate(names)]

        return DirNode(self._links, worker, ino, 0o500, Dynamic(lookup, entries))


class SteadyDir(DirNode):
    """A directory whose mode and owner never change, so Linux need not ask at each walk."""

    __slots__ = ()
    attr_ttl_s = STATIC_TTL_S


class TaskDir(SteadyDir):
    """The directory of one task; it goes with its worker, so Linux asks for the name each time."""

    __slots__ = ()
    entry_ttl_s = 0.0

    def __init__(self, table: Table, worker: Process, ino: int) -> None:
        """The directory of a worker's task."""
        super().__init__(table, worker, ino, 0o500)


class EventsPipeNode(PipeNode):
    """The stream of a task's events; what is kept for a collect is no stream."""

    __slots__ = ()

    async def open(self, cred: Credentials, flags: int) -> File:
        """Opens the stream at its start. InvalidError EINVAL for a task on demand."""
        if _task(self.obj).request.delivery == "on_demand":
            raise InvalidError(
                "this task is delivered on demand: read events and result, or use the tool collect"
            )
        return await super().open(cred, flags)


class NoDiffNode(KernNode):
    """What a workspace would differ in."""

    __slots__ = ()

    async def open(self, cred: Credentials, flags: int) -> File:
        """UnavailableError EOPNOTSUPP."""
        refuse_write(flags)
        raise UnavailableError(NO_WORKSPACE)


def reply_of(info: TaskInfo) -> bytes:
    """What a delegation is answered with."""
    reply = {
        "task_id": info.task_id,
        "worker_pid": info.worker_pid,
        "worker_agent_id": info.worker_agent_id,
        "delivery_policy": info.delivery_policy,
    }
    return json.dumps(reply).encode() + b"\n"


def _order(request: Request) -> tuple[str, str, int | None]:
    """(verb, text, version) of a line, or of {"verb", "text", "version"}."""
    if request.kind != "object":
        verb, _, rest = text_of(request.data).strip().partition(" ")
        return verb, rest.strip(), None
    value = dict(request.value)
    verb, text, version = value.pop("verb", ""), value.pop("text", ""), value.pop("version", None)
    if value:
        raise InvalidError(f"unknown key {next(iter(value))!r}: write verb, text and version")
    if not isinstance(verb, str) or not isinstance(text, str) or type(version) not in (int, _NONE):
        raise InvalidError('write {"verb": "revise", "text": "…", "version": 3}')
    return verb, text, version


_NONE = type(None)


def _status_json(worker: Process) -> bytes:
    body = {**asdict(info_of(worker)), "draft": _task(worker).draft}
    return json.dumps(body, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _wait_line(worker: Process) -> bytes | None:
    """`<id> <state> <reason or question>`, or None while there is nothing to do about it."""
    if not is_ready(worker):
        return None
    task = _task(worker)
    words = f"{worker.pid} {task.state} {task.question or worker.reason}".replace("\n", " ")
    return words.rstrip().encode("utf-8", "replace") + b"\n"


def _target(name: str) -> Callable[[Any, Credentials], bytes | None]:
    def target(worker: Process, _: Credentials) -> bytes | None:
        path = _task(worker).artifacts.get(name)
        return b"../../../../.." + os.fsencode(path) if path else None

    return target


def _task(worker: Any) -> Any:
    return worker.task


def _pid_of(copilot: Any) -> int:
    return KERNEL_PID if copilot is None else int(copilot.pid)


def _owner_of(worker: Process) -> Owner:
    return Owner(worker.cred.uid, worker.cred.gid, worker.changed_at_ns)


def _owner_or(born: Owner) -> Callable[[Any], Owner]:
    return lambda copilot: born if copilot is None else _owner_of(copilot)


def _never(row: Row, obj: Any, ino: int) -> Node:
    raise NotFoundError("not a row of a table")

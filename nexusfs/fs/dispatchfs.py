"""/dispatch: a file for each tool that the caller may use. Write arguments, read the reply."""

import itertools
import json
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    KernelError,
    NotFoundError,
    NotPermittedError,
    ToolFailedError,
)
from nexusfs.contracts.node import DirEntry, Node
from nexusfs.contracts.store import CallLog
from nexusfs.contracts.tool import Tool, ToolResult, new_call_id
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.last import Last
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.kernel.vfs.control import Control, ControlNode, Request
from nexusfs.kernel.vfs.kernfs import Background, DirNode, Dynamic, Owner, Row, Table, TextNode

DISPATCH_INO = 2 << 56
CALLS_INO = DISPATCH_INO | (1 << 52)
TOOL_INO = DISPATCH_INO | (2 << 52)
TOOL_MODE = 0o100666
ROOT_MODE = 0o1777
"""Nothing can be made here, but Linux must ask us: an unknown tool is ENOENT, not EACCES."""


class DispatchFs:
    """The tree at /dispatch, and the same directory for each agent."""

    def __init__(
        self, calls: Syscalls, background: Background, call_log: CallLog, kernel_uid: int
    ) -> None:
        """Calls are kept in `call_log`."""
        self._calls = calls
        self._background = background
        self._call_log = call_log
        self._born = Owner(kernel_uid, 0, now_ns())
        self._last: Last[str] = Last()
        self._nodes: WeakValueDictionary[tuple[int, str], ToolNode] = WeakValueDictionary()
        self._inos = itertools.count(TOOL_INO)
        self._table = self._root_table()
        self._agent_table = Table(_owner_of, background)
        self._call_table = Table(lambda _: self._born, background)
        self.root: Node = DirNode(
            self._table,
            None,
            DISPATCH_INO,
            ROOT_MODE,
            Dynamic(self._lookup_tool, self._tool_entries),
        )

    def agent_dir(self, process: Process, ino: int) -> Node:
        """The tools of one agent, run as that agent whoever writes (its owner may)."""

        async def lookup(cred: Credentials, name: bytes) -> Node:
            return self._tool_node(cred, process, name)

        async def entries(cred: Credentials) -> Iterable[DirEntry]:
            return self._entries_of(process.cred)

        return DirNode(self._agent_table, process, ino, 0o500, Dynamic(lookup, entries))

    # -- tools

    def _root_table(self) -> Table:
        table = Table(lambda _: self._born, self._background)
        table.link(".last", self._last_link)
        table.sub(".calls", self._calls_dir)
        return table

    async def _lookup_tool(self, cred: Credentials, name: bytes) -> Node:
        return self._tool_node(cred, None, name)

    async def _tool_entries(self, cred: Credentials) -> Iterable[DirEntry]:
        return self._entries_of(cred)

    def _entries_of(self, cred: Credentials) -> list[DirEntry]:
        names = self._calls.tools.names(cred)
        return [DirEntry(name.encode(), TOOL_INO, 0o100000) for name in names]

    def _tool_node(self, cred: Credentials, process: Process | None, raw_name: bytes) -> Node:
        """The node of a tool: a fresh one, with a number of its own, for each thread that looks.

        Linux holds an inode's lock while a write to it waits for the tool, and would make every
        other writer of the same inode wait, unkillably. The same thread gets the same node until
        it has opened it to write, for cp compares the numbers of its stat and its open.
        """
        name = raw_name.decode("utf-8", "replace")
        tool = self._calls.tools.get(process.cred if process else cred, name)
        key = (process.pid if process else 0, name)
        node = self._nodes.get(key)
        if node is None or node.used or node.looker != cred.host_pid:
            table = self._agent_table if process else self._table
            row = Row(raw_name, TOOL_MODE if process is None else 0o100600, _never)
            node = ToolNode(table, row, process, next(self._inos), self._control(tool, process))
            node.looker = cred.host_pid
            self._nodes[key] = node
        return node

    def _control(self, tool: Tool, process: Process | None) -> Control:
        directory = f"/proc/{process.pid}/dispatch" if process else "/dispatch"

        async def act(obj: Any, cred: Credentials, request: Request) -> bytes:
            if process is None:
                return await self._run(tool, cred, cred, request)
            if cred.agent_pid not in (0, process.pid):
                raise NotPermittedError("an agent runs no tool as another agent")
            reply = b""
            with process.errand():
                reply = await self._run(tool, process.cred, cred, request)
            return reply

        manual = json.dumps(tool.manual(), indent=2).encode() + b"\n"
        return Control(
            frozenset({"object"}),
            act,
            lambda _: manual,
            lambda _: f"{directory}/{tool.name}",
            failed=lambda _, exc: ToolResult(new_call_id(), tool.name, "", str(exc), 0.0).to_json(),
        )

    async def _run(
        self, tool: Tool, cred: Credentials, caller: Credentials, request: Request
    ) -> bytes:
        call_id = new_call_id()
        failure: KernelError | None = None
        try:
            result = await self._calls.sys_dispatch(cred, tool.name, request.value, call_id)
        except KernelError as exc:
            failure = exc
            result = ToolResult(call_id, tool.name, "", str(exc), 0.0)
        reply = result.to_json()
        self._call_log.put(caller.uid, call_id, reply)
        self._last.set(caller, call_id)
        if failure is None and result.error is not None:
            failure = ToolFailedError(result.error)
        if failure is not None:
            failure.reply = reply
            raise failure
        return reply

    # -- .last and .calls

    def _last_link(self, _: Any, cred: Credentials) -> bytes | None:
        call_id = self._last.get(cred)
        return f".calls/{call_id}".encode() if call_id else None

    def _calls_dir(self, _: Any, ino: int) -> Node:
        return DirNode(
            self._call_table, None, ino, dynamic=Dynamic(self._lookup_call, self._call_entries)
        )

    async def _lookup_call(self, cred: Credentials, name: bytes) -> Node:
        reply = self._call_log.get(cred.uid, name.decode("utf-8", "replace"))
        if reply is None:
            raise NotFoundError("no such call of yours; the last 1,000 are kept")
        row = Row(name, 0o100400, _never)
        table = Table(lambda _: Owner(cred.uid, cred.gid, self._born.time_ns), self._background)
        return TextNode(table, row, None, _call_ino(name), lambda _: reply)

    async def _call_entries(self, cred: Credentials) -> Iterable[DirEntry]:
        names = [call_id.encode() for call_id in self._call_log.ids(cred.uid)]
        return [DirEntry(name, _call_ino(name), 0o100000) for name in names]


class ToolNode(ControlNode):
    """The control file of one tool, made for the thread `looker`; looked up at each open."""

    __slots__ = ("__weakref__", "looker")
    looker: int
    entry_ttl_s = 0.0


def _call_ino(name: bytes) -> int:
    """An inode number from the call's id, whose hex digits are random."""
    try:
        return CALLS_INO | int(name[-12:], 16)
    except ValueError:
        return CALLS_INO


def _owner_of(process: Process) -> Owner:
    return Owner(process.cred.uid, process.cred.gid, process.changed_at_ns)


def _never(row: Row, obj: Any, ino: int) -> Node:
    raise NotFoundError("not a row of a table")

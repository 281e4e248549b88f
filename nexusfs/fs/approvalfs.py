"""The questions to people: proc/<pid>/approvals, and proc/1/approvals with all that wait."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import InvalidError, NotFoundError
from nexusfs.contracts.node import DirEntry, Node
from nexusfs.fs.proc_render import as_json
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.question import Question
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.kernel.vfs.control import Control, ControlNode, Request
from nexusfs.kernel.vfs.kernfs import Background, DirNode, Dynamic, Owner, Row, Table

QUESTION_INO = 5 << 54
"""Between the numbers of /proc and those of /dispatch."""
MODE = 0o100600


class Asked(NamedTuple):
    """One question of one agent."""

    process: Process
    question: Question


class ApprovalFs:
    """The directories of questions."""

    def __init__(self, calls: Syscalls, background: Background) -> None:
        """Answers go to `calls`."""
        self._calls = calls
        self._background = background
        self._table = Table(_owner_of, background)
        self._dir_table = Table(_owner_of_dir, background)
        self._control = Control(
            frozenset({"line"}),
            self._answer,
            lambda one: as_json(one.question.to_json(one.process.pid, one.process.agent_id)),
            lambda one: f"/proc/{one.process.pid}/approvals/{one.question.number}",
        )

    def agent_dir(self, process: Process, ino: int) -> Node:
        """The questions of one agent, by number."""

        async def lookup(cred: Credentials, name: bytes) -> Node:
            return self._node(name, process, name)

        async def entries(cred: Credentials) -> Iterable[DirEntry]:
            return [_entry(b"%d" % q.number, process, q) for q in self._pending(process)]

        return DirNode(self._dir_table, process, ino, 0o500, Dynamic(lookup, entries))

    def all_dir(self, owner: Owner, ino: int) -> Node:
        """All questions that the caller may answer, as `<pid>.<number>`."""

        async def lookup(cred: Credentials, name: bytes) -> Node:
            pid, _, number = name.partition(b".")
            process = self._calls.processes.find(int(pid)) if pid.isdigit() else None
            if process is None or not _may_answer(cred, process):
                raise NotFoundError("no such question of an agent of yours waits")
            return self._node(name, process, number)

        async def entries(cred: Credentials) -> Iterable[DirEntry]:
            return [
                _entry(b"%d.%d" % (process.pid, question.number), process, question)
                for process in self._calls.processes
                if process.asked and _may_answer(cred, process)
                for question in self._pending(process)
            ]

        table = Table(lambda _: owner, self._background)
        return DirNode(table, None, ino, dynamic=Dynamic(lookup, entries))

    def _pending(self, process: Process) -> list[Question]:
        return self._calls.approvals.pending(process)

    def _node(self, name: bytes, process: Process, number: bytes) -> Node:
        for question in self._pending(process):
            if b"%d" % question.number == number:
                row, asked = Row(name, MODE, _never), Asked(process, question)
                return QuestionNode(self._table, row, asked, _ino(process, question), self._control)
        raise NotFoundError("no such question waits: ls shows those that do")

    async def _answer(self, asked: Asked, cred: Credentials, request: Request) -> bytes:
        try:
            line = request.data.decode().strip()
        except UnicodeDecodeError:
            raise InvalidError("an answer must be UTF-8") from None
        await self._calls.sys_proc_answer(cred, asked.process.pid, asked.question.number, line)
        return b""


class QuestionNode(ControlNode):
    """The file of one question, which goes with its answer."""

    __slots__ = ()
    entry_ttl_s = 0.0


def _may_answer(cred: Credentials, process: Process) -> bool:
    return not cred.agent_pid and cred.uid in (0, process.cred.uid)


def _entry(name: bytes, process: Process, question: Question) -> DirEntry:
    return DirEntry(name, _ino(process, question), 0o100000)


def _ino(process: Process, question: Question) -> int:
    return QUESTION_INO | (process.pid << 20) | (question.number & 0xFFFFF)


def _owner_of(asked: Asked) -> Owner:
    return _owner_of_dir(asked.process)


def _owner_of_dir(process: Process) -> Owner:
    return Owner(process.cred.uid, process.cred.gid, process.changed_at_ns)


def _never(row: Row, obj: Any, ino: int) -> Node:
    raise NotFoundError("not a row of a table")

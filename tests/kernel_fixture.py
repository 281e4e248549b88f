"""A kernel without mount, worker or network, and small things for tests of what runs in it."""

import contextlib
import json
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from nexusfs.boot.config import Config
from nexusfs.boot.kernel import Backing, Kernel
from nexusfs.contracts.agent import AgentSpec, parse_spec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import InvalidError, KernelError, ToolFailedError
from nexusfs.contracts.model import (
    Message,
    ModelCall,
    ModelObserver,
    ModelPort,
    ModelReply,
    Quote,
    Usage,
)
from nexusfs.contracts.proc import KERNEL_PID
from nexusfs.contracts.tool import Tool, ToolContext, ToolResult, tool
from nexusfs.drivers.store_local import open_store
from nexusfs.fs.storefs import StoreFS
from nexusfs.kernel.arguments import validate_arguments
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.tools import ToolTable
from nexusfs.services.agent.program import AgentProgram
from nexusfs.services.tools import BUILTIN
from tests.contract.host_files import HostFiles

ROOT = Credentials(0, 0)
ALICE = Credentials(1000, 1000)
BOB = Credentials(1001, 1001)


@contextlib.asynccontextmanager
async def booted(
    store_dir: Path, model: ModelPort | None = None, *, tools: Sequence[Tool] = BUILTIN
) -> AsyncIterator[Kernel]:
    """boot.Kernel over the store in `store_dir`, its agents run by `model`.

    At the end agents are cut where they are, so the next one over the store resumes them.
    Without a model the agent service is off.
    """
    store = open_store(store_dir)
    try:
        backing = Backing(StoreFS(store).root, store.journal, store.calls, 0, 0)
        kernel = Kernel(Config.model_validate({}), store_dir / "config.toml", backing)
        for one in warm(tools):
            kernel.tools.register(one)
        if model is None:
            kernel.processes.off = "agents are not available here (off)"
        else:
            kernel.processes.restore()
            kernel.processes.program = AgentProgram(model, kernel.syscalls)
        async with trio.open_nursery() as nursery:
            kernel.run_in(nursery)
            try:
                yield kernel
            finally:
                kernel.shut()
                nursery.cancel_scope.cancel()
    finally:
        store.close()


def spec(**fields: Any) -> AgentSpec:
    """A spec as a write to proc/spawn gives it."""
    return parse_spec(fields)


async def spawned(
    table: ProcessTable, parent: Process | None = None, cred: Credentials = ROOT, **fields: Any
) -> Process:
    """A new agent, child of `parent`."""
    info = await table.spawn(parent.cred if parent else cred, spec(**fields))
    return table.get(info.pid)


def says(text: str) -> Message:
    """A model's answer."""
    return {"role": "assistant", "content": text}


def wants(*calls: dict[str, Any], text: str | None = None) -> Message:
    """A model's wish for tools."""
    return {"role": "assistant", "content": text, "tool_calls": list(calls)}


def wish(call_id: str, name: str, arguments: str | None = None, /, **fields: Any) -> dict[str, Any]:
    """One tool call; `arguments` is raw text, else the fields as JSON."""
    text = json.dumps(fields) if arguments is None else arguments
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


class SlowModel:
    """Another model that takes its time first; `script` may hold errors to raise."""

    def __init__(self, *script: Message | KernelError, seconds: float = 1.0) -> None:
        self.script = list(script)
        self.seconds = seconds
        self.calls: list[ModelCall] = []
        self.usage: Usage | None = Usage(10, 5, 0.25)

    async def complete(self, call: ModelCall, observer: ModelObserver) -> ModelReply:
        self.calls.append(call)
        await trio.sleep(self.seconds / 2)
        found = self.script.pop(0)
        if isinstance(found, KernelError):
            observer.text("half an ans")
            raise found
        observer.text(found.get("content") or "")
        await trio.sleep(self.seconds / 2)
        return ModelReply(found, self.usage or Usage(), call.model)

    async def quote(self, call: ModelCall) -> Quote:
        return Quote(call.model, 0)

    def available(self) -> list[dict[str, Any]]:
        return []


def warm(tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """The tools, their schemas compiled: the first use is in a thread, which no clock awaits."""
    for one in (*tools, *tools):  # twice: the first pass may empty a cache that is full
        with contextlib.suppress(InvalidError):
            validate_arguments(one.input_schema, {})
    return tuple(tools)


class Workshop:
    """Tools whose calls leave a trace: `+mark` at the start, `-mark` at the end.

    `look` only reads, `act` does not; `fail` fails, `crash` is a bug, `raw` gives bytes.
    """

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.tools = warm(self._make())

    def _make(self) -> tuple[Tool, ...]:
        async def traced(name: str, seconds: float, mark: str) -> str:
            self.trace.append(f"+{mark or name}")
            await trio.sleep(seconds)
            self.trace.append(f"-{mark or name}")
            return f"{name} done {mark}".strip()

        @tool(read_only=True, idempotent=True, timeout_s=10)
        async def look(ctx: ToolContext, seconds: float = 0, mark: str = "") -> str:
            """Look at something."""
            return await traced("look", seconds, mark)

        @tool(timeout_s=10)
        async def act(ctx: ToolContext, seconds: float = 0, mark: str = "") -> str:
            """Change something."""
            return await traced("act", seconds, mark)

        @tool(read_only=True)
        async def fail(ctx: ToolContext) -> str:
            """Fail as a tool does."""
            raise ToolFailedError("it does not work")

        @tool(read_only=True)
        async def crash(ctx: ToolContext) -> str:
            """Fail as a bug does."""
            raise RuntimeError("a bug")

        @tool(read_only=True)
        async def raw(ctx: ToolContext) -> bytes:
            """Give bytes."""
            return b"caf\xe9"

        return look, act, fail, crash, raw


class BareDispatcher:
    """The system calls of a turn over a tool table alone, without files."""

    def __init__(self, *tools: Tool) -> None:
        nothing = HostFiles(Path("/nonexistent"))
        self.table = ToolTable(
            lambda _, call: ToolContext(nothing, "/", call), lambda _, names: names
        )
        for one in tools:
            self.table.register(one)

    async def sys_tools(self, cred: Credentials) -> list[Tool]:
        return [self.table.get(cred, name) for name in self.table.names(cred)]

    async def sys_permit(
        self,
        cred: Credentials,
        name: str,
        arguments: dict[str, Any],
        call_id: str,
        *,
        wait: bool = True,
    ) -> dict[str, Any]:
        return await self.table.permit(cred, name, arguments, call_id, wait=wait)

    async def sys_dispatch(
        self, cred: Credentials, name: str, arguments: dict[str, Any], call_id: str | None = None
    ) -> ToolResult:
        return await self.table.dispatch(cred, name, arguments, call_id)


class MemoryJournal:
    """A journal in memory: a fake of the store's."""

    def __init__(self) -> None:
        self.lines: dict[int, list[bytes]] = {}
        self.forgotten: set[int] = set()
        self.durable: dict[int, int] = {}
        """How many lines of each process a power cut would leave."""
        self._last_pid = 1

    def append(self, pid: int, line: bytes, *, last: bool = False) -> None:
        self.lines.setdefault(pid, []).append(line)

    def read(self, pid: int) -> list[bytes]:
        return list(self.lines.get(pid, ()))

    def edges(self, pid: int) -> tuple[bytes, list[bytes]]:
        return self.lines[pid][0], self.lines[pid][-2:]

    def pids(self) -> list[int]:
        return sorted(pid for pid in self.lines if pid not in self.forgotten)

    def allocate_pid(self) -> int:
        self._last_pid += 1
        return self._last_pid

    def forget(self, pid: int) -> None:
        self.forgotten.add(pid)

    def sync(self) -> None:
        self.durable = {pid: len(lines) for pid, lines in self.lines.items()}

    def cut_after(self, lines: int) -> "MemoryJournal":
        """What kill -9 leaves after the first `lines` of all lines, of one process only."""
        (pid,) = self.lines.keys() - {KERNEL_PID}
        left = MemoryJournal()
        left.lines[pid] = self.lines[pid][:lines]
        left._last_pid = self._last_pid
        return left


def events_of(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Events of journal lines, or of the bytes of an events log."""
    return [json.loads(line) for line in lines]


def check_history(transcript: Sequence[Message]) -> None:
    """Every call is answered once, in call order, before anything else is said."""
    due: list[str] = []
    for message in transcript:
        if message["role"] == "tool":
            assert due and message["tool_call_id"] == due.pop(0), transcript
        else:
            assert not due, f"calls without an answer: {due} in {transcript}"
            due = [call["id"] for call in message.get("tool_calls") or ()]
    assert not due, f"calls without an answer: {due} in {transcript}"


async def until(
    done: Callable[[], object],
    *,
    rounds: int = 1000,
    step: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Lets other tasks run until `done()` is true; fails after `rounds`, without sleeping."""
    for _ in range(rounds):
        if done():
            return
        await (step or trio.lowlevel.checkpoint)()
    raise AssertionError("it did not come to pass")


@contextlib.contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Fails a block that takes more processor time: what never ends must not hang the suite.

    For blocks that need a fiftieth of it at most, so that no slow machine fails them.
    """

    def give_up(*_: object) -> None:
        raise AssertionError(f"it takes over {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that leaves a log line at WARNING or above; `caplog.clear()` says expected."""
    yield
    loud = [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    assert not loud, [record.getMessage() for record in loud]

"""The process table: the one owner of spawning, signalling, waiting for and reaping agents."""

import json
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import trio

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BusyError,
    DisconnectedError,
    ExistsError,
    InvalidError,
    KernelError,
    NoProcessError,
    NotFoundError,
    NotPermittedError,
    PipeClosedError,
    TimeoutExpiredError,
    UnavailableError,
)
from nexusfs.contracts.proc import (
    EXIT_FAILED,
    KERNEL_PID,
    SIGINT_EXIT,
    SIGKILL_EXIT,
    SIGTERM_EXIT,
    ExitStatus,
    Outcome,
    ProcessInfo,
    ProcState,
    Program,
)
from nexusfs.contracts.sandbox import SandboxKind
from nexusfs.contracts.store import Journal
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.last import Last
from nexusfs.kernel.proc.narrow import effective_spec, narrowed
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.rights import may_use

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted: the call was cut off, its outcome is unknown"


AgentLoader = Callable[[Credentials, str], Awaitable[AgentSpec]]
"""Reads the spec of an installed agent with the caller's rights."""


@dataclass(frozen=True, slots=True)
class ProcSettings:
    """The configuration's part in processes.

    Attributes:
        default_model: what `inherit` means for a top-level agent.
        retain_seconds, retain_count: how long, and how many, ended agents stay listed.
    """

    default_model: str = "offline/demo"
    retain_seconds: float = math.inf
    retain_count: int = 1000


class ProcessTable:
    """All processes of a store, by pid.

    Every method that takes `cred` checks its rights: a person may signal his own agents, root
    all, an agent its descendants.
    """

    def __init__(
        self,
        journal: Journal,
        tool_names: Callable[[], list[str]],
        settings: "ProcSettings | None" = None,
    ) -> None:
        """`tool_names` are all registered tools. Boot sets the callables.

        `on_remove` is told the pid of each process that leaves the list.
        """
        self._journal = journal
        self._tool_names = tool_names
        self.program: Program = _no_program
        self.load_agent: AgentLoader = _no_agent
        self.check_cwd: Callable[[Credentials, str], Awaitable[None]] = _any_cwd
        self.check_spec: Callable[[Credentials, AgentSpec], None] = lambda _cred, _spec: None
        self.on_remove: Callable[[int], None] = _told_nobody
        self.off = ""
        self.sandbox: SandboxKind = "off"
        self._processes: dict[int, Process] = {}
        self._retired: dict[int, Process] = {}
        self._by_key: dict[tuple[int, str], int] = {}
        self._last: Last[int] = Last()
        self._nursery: trio.Nursery | None = None
        self._suspended = False
        self.settings = settings or ProcSettings()

    # -- boot and shutdown

    def start(self, nursery: trio.Nursery) -> None:
        """Takes the nursery of programs, and sets those going that the journal says are alive."""
        self._nursery = nursery
        for process in list(self._processes.values()):
            if not process.state.ended:
                try:
                    self._resume(process)
                except KernelError as exc:
                    log.error("agent %d cannot go on in this mount: %s", process.pid, exc)
                    continue
                nursery.start_soon(self._run, process, name=f"agent {process.pid}")
            elif process.state is ProcState.ZOMBIE and not self._lives(process.parent_pid):
                process.journal_if_possible()
                self._retire(process)

    def _lives(self, pid: int) -> bool:
        process = self._processes.get(pid)
        return process is not None and not process.state.ended

    def _resume(self, process: Process) -> None:
        """Prepares a process of the journal to run: its last calls may have been cut off."""
        process.record("resume")
        process.answer_open_calls(INTERRUPTED)

    def suspend(self) -> None:
        """Stops every program where it is, without an end: the journal lets it go on later."""
        self._suspended = True
        for process in self:
            process.scope.cancel()

    def restore(self) -> None:
        """Folds the journal into processes; runs nothing yet."""
        for pid in self._journal.pids():
            try:
                lines = self._journal.read(pid)
                if lines:
                    self._processes[pid] = self._folded(pid, lines)
            except (ValueError, KeyError, TypeError, KernelError):
                log.exception("the journal of agent %d cannot be read; it is not listed", pid)
        for process in self._processes.values():
            parent = self._processes.get(process.parent_pid)
            if parent is not None:
                parent.children.add(process.pid)
            if process.state is ProcState.STOPPED:
                self._retired[process.pid] = process
            if process.spec.idempotency_key:
                self._by_key[process.cred.uid, process.spec.idempotency_key] = process.pid

    def _folded(self, pid: int, lines: list[bytes]) -> Process:
        first = json.loads(lines[0])
        cred = Credentials(first["uid"], first["gid"], groups=frozenset(first["groups"])).as_agent(
            pid
        )
        spec = AgentSpec.model_validate_json(json.dumps(first["spec"]))
        process = Process(pid, first["ppid"], cred, spec, self._journal.append)
        process.rights = narrowed(tuple(first["rights"]))
        process.warnings = tuple(first["warnings"])
        for line in lines:
            process.apply(json.loads(line), line)
        if process.state.ended:
            process.close_streams()
        return process

    def _check_on(self) -> None:
        """UnavailableError EOPNOTSUPP while the agent service is not running; `off` says why."""
        if self.off:
            raise UnavailableError(self.off)

    # -- looking

    def get(self, pid: int) -> Process:
        """The process. NoProcessError ESRCH."""
        self._check_on()
        try:
            return self._processes[pid]
        except KeyError:
            raise NoProcessError(f"no process {pid}") from None

    def find(self, pid: int) -> Process | None:
        """The process, or None."""
        return self._processes.get(pid)

    def __iter__(self) -> Iterator[Process]:
        """All processes, by pid."""
        return iter(self._processes.values())

    def __len__(self) -> int:
        return len(self._processes)

    def last_pid(self, cred: Credentials) -> int | None:
        """What the caller's session spawned last."""
        return self._last.get(cred)

    def snapshots(self, zone: str | None = None, state: str | None = None) -> list[ProcessInfo]:
        """Snapshots, by pid. InvalidError EINVAL for an unknown state."""
        self._check_on()
        if state is not None and state not in set(ProcState):
            raise InvalidError(f"no state {state!r}: one of {', '.join(ProcState)}")
        self.prune()
        found = (p for p in self if zone in (None, p.spec.zone) and state in (None, p.state))
        return [process.info() for process in found]

    def tools_of(self, process: Process) -> list[str]:
        """Names of the tools that a process may use, sorted."""
        return [name for name in self._tool_names() if may_use(process.rights, name)]

    # -- spawn

    async def spawn(self, cred: Credentials, wanted: AgentSpec) -> ProcessInfo:
        """Creates and starts an agent; the parent is the caller's agent, or pid 1.

        Raises:
            NotFoundError, AccessError, NotSpecError: the installed agent is absent, not
                executable, no spec.
            NotPermittedError: EPERM, it asks for more than its parent has.
            ExistsError: EEXIST, a singleton of that name lives.

        Suspends only while the installed agent is read; cancelling before that leaves nothing.
        """
        self._check_on()
        base: AgentSpec | None = None
        if not self._by_idempotency_key(cred, wanted):
            await self.check_cwd(cred, wanted.cwd)
            base = await self.load_agent(cred, wanted.agent) if wanted.agent else None
        known = self._by_idempotency_key(cred, wanted)
        if known is not None:
            return self._remember(cred, known)
        parent = self._parent_of(cred)
        plan = effective_spec(wanted, base, parent, self._tool_names(), self.settings.default_model)
        self.check_spec(cred, plan.spec)
        if plan.spec.singleton:
            self._check_single(plan.spec.name or plan.spec.agent)
        self.prune()
        pid = self._journal.allocate_pid()
        process = Process(
            pid,
            parent.pid if parent else KERNEL_PID,
            cred.as_agent(pid),
            plan.spec,
            self._journal.append,
        )
        process.rights, process.warnings = plan.rights, plan.warnings
        process.record(
            "spawn", pid=pid, ppid=process.parent_pid, agent=process.agent_id,
            uid=cred.uid, gid=cred.gid,
            groups=sorted(cred.groups), time_ns=now_ns(), spec=plan.spec.to_dict(),
            rights=[[c.allowed, c.denied] for c in plan.rights], warnings=list(plan.warnings),
        )  # fmt: skip
        self._begin(process, parent)
        if wanted.idempotency_key:
            self._by_key[cred.uid, wanted.idempotency_key] = pid
        return self._remember(cred, process)

    def _by_idempotency_key(self, cred: Credentials, wanted: AgentSpec) -> Process | None:
        """The process that this user's same key made before."""
        pid = self._by_key.get((cred.uid, wanted.idempotency_key)) if wanted.idempotency_key else 0
        return self._processes.get(pid or 0)

    def _parent_of(self, cred: Credentials) -> Process | None:
        """The agent that asks; None for people. NoProcessError ESRCH for one that has ended."""
        if not cred.agent_pid:
            return None
        parent = self._processes.get(cred.agent_pid)
        if parent is None or parent.state.ended:
            raise NoProcessError(f"agent {cred.agent_pid} has ended: it starts nothing any more")
        return parent

    def _begin(self, process: Process, parent: Process | None) -> None:
        assert self._nursery is not None
        self._processes[process.pid] = process
        if parent is not None:
            parent.children.add(process.pid)
        self._nursery.start_soon(self._run, process, name=f"agent {process.pid}")

    def _remember(self, cred: Credentials, process: Process) -> ProcessInfo:
        self._last.set(cred, process.pid)
        return process.info()

    def _check_single(self, name: str | None) -> None:
        if not name:
            raise InvalidError("a singleton needs a name")
        for process in self:
            if process.agent_id == name and not process.state.ended:
                raise ExistsError(f"agent {name!r} already runs as pid {process.pid}")

    async def _run(self, process: Process) -> None:
        """Runs one program to its end; the edge where an agent's failure becomes an exit code."""
        outcome = Outcome(EXIT_FAILED, "the program was cancelled")
        with process.scope:
            try:
                outcome = await self.program(process)
            except DisconnectedError:
                return  # the kernel is going: the agent goes on at the next mount
            except KernelError as exc:
                outcome = Outcome(EXIT_FAILED, str(exc))
            except Exception as exc:
                log.exception("agent %d: the program failed", process.pid)
                outcome = Outcome(EXIT_FAILED, f"internal error: {type(exc).__name__}")
        if not (process.state.ended or process.scope.cancelled_caught or self._suspended):
            self._end(process, outcome)

    # -- the end

    def _end(self, process: Process, outcome: Outcome) -> None:
        """Ends a process and its owned children, deepest first. Atomic.

        It ends also when the journal can't say so (a full disk): then only for this mount.
        """
        subtree: list[Process] = []
        ahead = [process]
        while ahead:  # no recursion, however deep the tree
            parent = ahead.pop()
            subtree.append(parent)
            for child in self._live_children(parent):
                if child.spec.life == "owned":
                    ahead.append(child)
                else:
                    self._adopt(parent, child)
        for child in reversed(subtree[1:]):
            self._end_one(child, Outcome(SIGKILL_EXIT, "its parent ended"))
        self._end_one(process, outcome)

    def _end_one(self, process: Process, outcome: Outcome) -> None:
        process.scope.cancel()
        process.journal_if_possible()
        process.answer_open_calls(INTERRUPTED)
        waited_for = self._lives(process.parent_pid)
        state = ProcState.ZOMBIE if waited_for else ProcState.STOPPED
        process.end(state, outcome.exit_code, outcome.reason, outcome.result)
        if not waited_for:
            self._retired[process.pid] = process
        for pid in process.children:
            left = self._processes.get(pid)
            if left is not None and left.state is ProcState.ZOMBIE:
                self._retire(left)
        process.close_streams()

    def _adopt(self, parent: Process, child: Process) -> None:
        """Gives a detached child to the kernel."""
        child.journal_if_possible()
        child.record("adopted", ppid=KERNEL_PID)
        parent.children.discard(child.pid)

    def _live_children(self, process: Process) -> list[Process]:
        children = (self._processes.get(pid) for pid in sorted(process.children))
        return [child for child in children if child is not None and not child.state.ended]

    # -- signals

    def check_owner(self, cred: Credentials, process: Process) -> None:
        """NotPermittedError EPERM unless the caller may act on the process."""
        if cred.agent_pid:
            if not self._descends(process, cred.agent_pid):
                raise NotPermittedError(f"agent {cred.agent_pid} may only signal its own children")
        elif cred.uid not in (0, process.cred.uid):
            raise NotPermittedError(f"process {process.pid} is not yours")

    def _descends(self, process: Process, ancestor_pid: int) -> bool:
        parent = self._processes.get(process.parent_pid)
        while parent is not None:
            if parent.pid == ancestor_pid:
                return True
            parent = self._processes.get(parent.parent_pid)
        return False

    def kill(self, cred: Credentials, pid: int, reason: str = "", *, term: bool = False) -> bool:
        """Ends a process and its whole subtree at once; False when it had ended before.

        `term` ends it with -15 and the reason, else -9. Atomic: nothing of the subtree runs
        another step once this returns.
        """
        process = self.get(pid)
        self.check_owner(cred, process)
        if process.state.ended:
            return False
        word, code = ("terminated", SIGTERM_EXIT) if term else ("killed", SIGKILL_EXIT)
        self._end(process, Outcome(code, reason or word))
        return True

    def interrupt(self, cred: Credentials, pid: int) -> None:
        """Drops the current turn: a chat agent waits for a message, a oneshot ends with -2."""
        process = self.check_live(cred, pid)
        if process.spec.mode == "oneshot":
            self._end(process, Outcome(SIGINT_EXIT, "interrupted"))
        else:
            process.interrupt()

    def stop(self, cred: Credentials, pid: int) -> None:
        """Pauses a process at its next step."""
        self.check_live(cred, pid).move(ProcState.PAUSED)

    def cont(self, cred: Credentials, pid: int) -> None:
        """Lets a paused process go on."""
        process = self.check_live(cred, pid)
        process.move(ProcState.RUNNING)
        process.resume()

    def send(self, cred: Credentials, pid: int, text: str, source: str = "stdin") -> None:
        """A message for the next turn. PipeClosedError EPIPE when the process has ended."""
        self.check_listens(cred, pid).post(text, source)

    def check_listens(self, cred: Credentials, pid: int) -> Process:
        """The process, when the caller may talk to it and it lives. EPIPE, EPERM, ESRCH."""
        process = self.get(pid)
        self.check_owner(cred, process)
        if process.state.ended:
            raise PipeClosedError(f"process {pid} has ended")
        return process

    def steer(self, cred: Credentials, pid: int, text: str) -> None:
        """A message that changes the course of a living agent, delivered at its next turn."""
        self.check_live(cred, pid).post(text, "steer")

    def reap(self, cred: Credentials, pid: int) -> None:
        """Removes an ended process from the list; its journal stays. BusyError while it lives."""
        process = self.get(pid)
        self.check_owner(cred, process)
        if not process.state.ended:
            raise BusyError(f"process {pid} is {process.state}: kill it first")
        self._remove(process)

    async def wait(self, cred: Credentials, pid: int, timeout_s: float | None = None) -> ExitStatus:
        """The exit status, as soon as the process has ended; its parent's wait reaps it.

        Raises:
            TimeoutExpiredError: ETIMEDOUT.
            InvalidError: EINVAL, the timeout is no time.

        Cancelling has no effect on the process.
        """
        process = self.get(pid)
        if timeout_s is not None and not timeout_s >= 0:
            raise InvalidError("a timeout is a number of seconds, 0 or more")
        with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
            while not process.state.ended:
                await process.ending.changed()
        if not process.state.ended:
            raise TimeoutExpiredError(f"process {pid} has not ended yet")
        if process.state is ProcState.ZOMBIE and cred.agent_pid == process.parent_pid:
            self._retire(process)
        assert process.exit_code is not None
        return ExitStatus(pid, process.exit_code, process.reason, process.ended_at)

    def check_live(self, cred: Credentials, pid: int) -> Process:
        """The process, when the caller may act on it and it lives. EPERM, EBUSY, ESRCH."""
        process = self.get(pid)
        self.check_owner(cred, process)
        if process.state.ended:
            raise BusyError(f"process {pid} has ended")
        return process

    # -- retention

    def _retire(self, process: Process) -> None:
        """Nobody waits for the process any more; it is listed for as long as retention says."""
        process.move(ProcState.STOPPED)
        self._retired[process.pid] = process

    def _remove(self, process: Process) -> None:
        if process.state is ProcState.ZOMBIE:
            process.move(ProcState.STOPPED)
        self._retired.pop(process.pid, None)
        parent = self._processes.get(process.parent_pid)
        if parent is not None:
            parent.children.discard(process.pid)
        self._by_key.pop((process.cred.uid, process.spec.idempotency_key or ""), None)
        del self._processes[process.pid]
        self._journal.forget(process.pid)
        self.on_remove(process.pid)

    def prune(self) -> None:
        """Drops the retired processes that are over the limits, the first retired first."""
        oldest_ns = now_ns() - self.settings.retain_seconds * 1e9
        while self._retired:
            process = next(iter(self._retired.values()))
            over = len(self._retired) > self.settings.retain_count
            if not over and process.changed_at_ns >= oldest_ns:
                break
            self._remove(process)


def _told_nobody(pid: int) -> None:
    """Without a /proc nobody needs to know that a process left."""


async def _any_cwd(cred: Credentials, cwd: str) -> None:
    """Takes any directory: a bare table knows no files."""


async def _no_program(process: Any) -> Outcome:
    raise UnavailableError("the agent service is not running: see sys/services/agent")


async def _no_agent(cred: Credentials, name: str) -> AgentSpec:
    raise NotFoundError(f"no agent {name!r} is installed")

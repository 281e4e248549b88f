"""The process table: the one owner of spawning, ending, waiting for and reaping agents."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import trio

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BusyError,
    DisconnectedError,
    InvalidError,
    KernelError,
    NoProcessError,
    NotFoundError,
    TimeoutExpiredError,
    UnavailableError,
)
from nexusfs.contracts.hooks import TerminateContext
from nexusfs.contracts.proc import (
    EXIT_FAILED,
    EXIT_LIMIT,
    KERNEL_PID,
    SIGKILL_EXIT,
    SIGTERM_EXIT,
    ExitStatus,
    Outcome,
    ProcState,
    Program,
)
from nexusfs.contracts.sandbox import SandboxKind
from nexusfs.contracts.store import Journal
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.hooks import Hooks
from nexusfs.kernel.last import Last
from nexusfs.kernel.proc.budget import Totals
from nexusfs.kernel.proc.caveats import NOTHING
from nexusfs.kernel.proc.looking import Looking
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.purses import Purses
from nexusfs.kernel.proc.rebuild import restored
from nexusfs.kernel.proc.spawning import AgentLoader, ProcSettings
from nexusfs.kernel.proc.steps import Host
from nexusfs.kernel.proc.verbs import checked_text

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted: the call was cut off, its outcome is unknown"


class ProcessTable(Looking):
    """All processes of a store, by pid.

    Every method that takes `cred` checks its rights; see `Verbs`.
    """

    def __init__(
        self,
        journal: Journal,
        tool_names: Callable[[], list[str]],
        settings: "ProcSettings | None" = None,
        hooks: Hooks | None = None,
    ) -> None:
        """`tool_names` are all registered tools. Boot sets the callables.

        `on_remove` is told the pid of each process that leaves the list.
        """
        self._journal = journal
        self.host = Host(on_disk=self._sync_here, read=journal.read)
        self.hooks = hooks or Hooks()
        self._tool_names = tool_names
        self.program: Program = _no_program
        self.load_agent: AgentLoader = _no_agent
        self.check_cwd: Callable[[Credentials, str], Awaitable[None]] = _any_cwd
        self.settle_paths: Callable[[Credentials, AgentSpec], Awaitable[AgentSpec]] = _any_paths
        self.check_spec: Callable[[Credentials, AgentSpec], Awaitable[None]] = _any_spec
        self.on_remove: Callable[[int], None] = _told_nobody
        self.off = ""
        self.sandbox: SandboxKind = "off"
        self._processes: dict[int, Process] = {}
        self._ghosts: dict[int, Process] = {}
        self._retired: dict[int, Process] = {}
        self._by_key: dict[tuple[int, str], int] = {}
        self._last: Last[int] = Last()
        self._nursery: trio.Nursery | None = None
        self._running: set[int] = set()
        self._leaving = trio.lowlevel.ParkingLot()
        self._halting = self._suspended = False
        self.settings = settings or ProcSettings()
        self._purses = Purses(journal)
        self._purses.ceiling_usd = self.settings.cost_usd_per_user_day
        self.host.purse_of = self._purses.of
        self.host.append_last = partial(journal.append, last=True)

    async def _sync_here(self) -> None:
        """Makes the journal durable in this thread; boot puts a group commit in its place."""
        self._journal.sync()

    def configure(self, settings: ProcSettings) -> None:
        """Takes other settings into use."""
        self.settings = settings
        self._purses.ceiling_usd = settings.cost_usd_per_user_day

    # -- boot and shutdown

    def start(self, nursery: trio.Nursery) -> None:
        """Takes the nursery of programs, and sets those going that the journal says are alive."""
        self._nursery = nursery
        for process in list(self._processes.values()):
            if not process.state.ended:
                try:
                    process.record("resume")
                except KernelError as exc:
                    log.error("agent %d cannot go on in this mount: %s", process.pid, exc)
                    continue
                process.take_room()
                self.set_going(process)
            elif process.state is ProcState.ZOMBIE and not self._lives(process.parent_pid):
                self._retire(process)
        self.refill()

    def _lives(self, pid: int) -> bool:
        process = self._processes.get(pid)
        return process is not None and not process.state.ended

    async def settle(self, models_s: float, tools_s: float) -> None:
        """Lets steps under way come to their end, and begins no other; spawns nothing any more.

        Model calls get `models_s` and are then cut, tool calls `tools_s`. Everything that is cut
        is as after kill -9: the journal lets it go on later.
        """
        self._halting = True
        for process in self:
            process.halt()
        with trio.move_on_after(models_s):
            await self.left(self._running)
        for process in self:  # who is gone from here while its task is not was cut at its end
            in_tool = any(wait.startswith("tool:") for wait in process.waits)
            if process.pid in self._running and not in_tool:
                process.scope.cancel()
        with trio.move_on_after(tools_s):
            await self.left(self._running)
        self.suspend()

    def suspend(self) -> None:
        """Stops every program where it is, without an end: the journal lets it go on later."""
        self._suspended = True
        for process in self:
            process.scope.cancel()

    def restore(self) -> None:
        """Folds the journal into processes; runs nothing yet."""
        pids = self._journal.pids()
        if KERNEL_PID in pids:
            self._purses.fill()
        for pid in pids:
            if pid == KERNEL_PID:
                continue
            try:
                process, born_of = restored(self._journal, self.host, pid)
            except Exception:  # one journal that cannot be folded keeps nobody else's agent back
                log.exception("the journal of agent %d cannot be read; it is not listed", pid)
                continue
            (self._ghosts if process.reaped else self._processes)[pid] = process
            self._hang(process, born_of)
        for process in self._processes.values():
            parent = self._processes.get(process.parent_pid)
            if parent is not None:
                parent.add_child(process.pid)
            if process.state is ProcState.STOPPED:
                self._retired[process.pid] = process
            if process.spec.idempotency_key:
                self._by_key[process.cred.uid, process.spec.idempotency_key] = process.pid

    def _hang(self, process: Process, born_of: int) -> None:
        """Puts a restored process below the one that spawned it, which has a lower pid."""
        above = self._processes.get(born_of) or self._ghosts.get(born_of)
        process.be_born_of(above)
        if above is None and born_of != KERNEL_PID:
            process.rights.add(NOTHING)

    def check_on(self) -> None:
        """UnavailableError EOPNOTSUPP while the agent service is not running; `off` says why."""
        if self.off:
            raise UnavailableError(self.off)

    # -- looking

    def get(self, pid: int) -> Process:
        """The process. NoProcessError ESRCH."""
        self.check_on()
        try:
            return self._processes[pid]
        except KeyError:
            raise NoProcessError(f"no process {pid}") from None

    def find(self, pid: int) -> Process | None:
        """The process, or None."""
        return self._processes.get(pid)

    def __len__(self) -> int:
        return len(self._processes)

    def tools_of(self, process: Process) -> list[str]:
        """Names of the tools that a process may use, sorted."""
        return [name for name in self._tool_names() if process.rights.may_use(name)]

    def admit_tool(self, cred: Credentials, tool: str, call_id: str) -> None:
        """Counts a tool call of an agent; those that its model wants are counted with the wish.

        QuotaError EDQUOT, a limit of the agent or above it is reached.
        """
        process = self._processes.get(cred.agent_pid) if cred.agent_pid else None
        if process is not None and call_id not in (process.intents or ()):
            process.check_tool()
            process.record("dispatch", tool=tool, id=call_id)

    # -- running

    def set_going(self, process: Process) -> None:
        """Starts the program of a process in the kernel's nursery."""
        assert self._nursery is not None
        process.live = True
        self._running.add(process.pid)
        self._nursery.start_soon(self._run, process, name=f"agent {process.pid}")

    async def _run(self, process: Process) -> None:
        """Runs one program; the edge where an agent's failure becomes an exit code."""
        outcome: Outcome | None = None
        try:
            with process.scope:
                process.set_deadline()
                outcome = await self.program(process)
            if outcome is None and process.is_out_of_time:
                outcome = Outcome(EXIT_LIMIT, process.account.reached() or "wall_seconds reached")
        except DisconnectedError:
            pass  # the kernel is going: the agent goes on at the next mount
        except KernelError as exc:
            outcome = Outcome(EXIT_FAILED, str(exc))
        except Exception as exc:
            log.exception("agent %d: the program failed", process.pid)
            outcome = Outcome(EXIT_FAILED, f"internal error: {type(exc).__name__}")
        finally:
            self._running.discard(process.pid)
            self._leaving.unpark_all()
        if not (outcome is None or process.state.ended or self._suspended):
            try:
                self.end(process, outcome)
            except Exception:  # one agent's end is no reason for the end of all
                log.exception("agent %d did not end as it should", process.pid)

    async def left(self, pids: set[int]) -> None:
        """Returns when no task of these processes is left. Cancelling has no effect on them."""
        while self._running & pids:
            await self._leaving.park()

    # -- the end

    def end(self, process: Process, outcome: Outcome) -> None:
        """Ends a process and its owned children, deepest first. Atomic.

        It ends also when the journal can't say so (a full disk): then only for this mount.
        """
        subtree = self.subtree(process)
        for member in subtree:
            for child in self._live_children(member):
                if child.spec.life != "owned":
                    self._adopt(member, child)
        for child in reversed(subtree[1:]):
            self._end_one(child, Outcome(SIGKILL_EXIT, "its parent ended"))
        self._end_one(process, outcome)
        self.refill()

    def subtree(self, process: Process) -> list[Process]:
        """The process and all that would end with it, parents before children."""
        subtree: list[Process] = []
        ahead = [process]
        while ahead:  # no recursion, however deep the tree
            parent = ahead.pop()
            subtree.append(parent)
            ahead += [c for c in self._live_children(parent) if c.spec.life == "owned"]
        return subtree

    def _end_one(self, process: Process, outcome: Outcome) -> None:
        process.cancel(runs=process.pid in self._running)
        process.journal_if_possible()
        context = self._end_context(process, outcome)
        if context is not None:
            self.hooks.now("pre_terminate", context)
        process.answer_open_calls(INTERRUPTED)
        waited_for = self._lives(process.parent_pid)
        state = ProcState.ZOMBIE if waited_for else ProcState.STOPPED
        process.end(state, outcome.exit_code, outcome.reason, outcome.result)
        self.host.room.leave(process.pid)
        if not waited_for:
            self._retired[process.pid] = process
        for pid in process.children:
            left = self._processes.get(pid)
            if left is not None and left.state is ProcState.ZOMBIE:
                self._retire(left)
        process.close_streams()
        if context is not None:
            self.hooks.now("post_terminate", context)

    def _end_context(self, process: Process, outcome: Outcome) -> TerminateContext | None:
        if not (self.hooks.on("pre_terminate") or self.hooks.on("post_terminate")):
            return None
        return TerminateContext(
            process.agent_id, process.spec.zone, process.pid, process.parent_pid, process.cred.uid,
            process.spec.own_metadata(), outcome.exit_code, outcome.reason,
        )  # fmt: skip

    def _adopt(self, parent: Process, child: Process) -> None:
        """Gives a detached child to the kernel."""
        child.journal_if_possible()
        child.record("adopted", ppid=KERNEL_PID)
        parent.drop_child(child.pid)

    def _live_children(self, process: Process) -> list[Process]:
        children = (self._processes.get(pid) for pid in sorted(process.children))
        return [child for child in children if child is not None and not child.state.ended]

    def descends(self, process: Process, ancestor_pid: int) -> bool:
        """True when the process is a descendant of that one."""
        parent = self._processes.get(process.parent_pid)
        while parent is not None:
            if parent.pid == ancestor_pid:
                return True
            parent = self._processes.get(parent.parent_pid)
        return False

    # -- kill, wait, reap

    def kill(self, cred: Credentials, pid: int, reason: str = "", *, term: bool = False) -> bool:
        """Ends a process and its whole subtree at once; False when it had ended before.

        `term` ends it with -15 and the reason, else -9. Atomic: nothing of the subtree runs
        another step once this returns, but its tasks may still be on their way out: see `left`.
        """
        process = self.get(pid)
        self.check_owner(cred, process)
        if process.state.ended:
            return False
        word, code = ("terminated", SIGTERM_EXIT) if term else ("killed", SIGKILL_EXIT)
        self.end(process, Outcome(code, checked_text(reason) or word))
        return True

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
        if not self.visible(cred, process):
            raise NoProcessError(f"no process {pid}")
        if timeout_s is not None and not timeout_s >= 0:
            raise InvalidError("a timeout is a number of seconds, 0 or more")
        deadline = nullcontext() if timeout_s is None else trio.move_on_after(timeout_s)
        with self.waits_for(cred, pid), deadline:
            await process.has_ended()
        if not process.state.ended:
            raise TimeoutExpiredError(f"process {pid} has not ended yet")
        if process.state is ProcState.ZOMBIE and cred.agent_pid == process.parent_pid:
            self._retire(process)
        assert process.exit_code is not None
        return ExitStatus(pid, process.exit_code, process.reason, process.ended_at)

    def waits_for(self, cred: Credentials, pid: int) -> AbstractContextManager[None]:
        """Shows in the caller's wchan, where he is an agent, that he waits for a child."""
        process = self._processes.get(cred.agent_pid) if cred.agent_pid else None
        return nullcontext() if process is None else process.waiting_for(f"child:{pid}")

    # -- retention

    def _retire(self, process: Process) -> None:
        """Nobody waits for the process any more; it is listed for as long as retention says.

        Also when the journal can't say so: it has ended, and who ends with it must not hang.
        """
        process.journal_if_possible()
        process.move(ProcState.STOPPED)
        self._retired[process.pid] = process

    def _remove(self, process: Process) -> None:
        if process.state is ProcState.ZOMBIE:
            self._retire(process)
        self._retired.pop(process.pid, None)
        parent = self._processes.get(process.parent_pid)
        if parent is not None:
            parent.drop_child(process.pid)
        self._by_key.pop((process.cred.uid, process.spec.idempotency_key or ""), None)
        del self._processes[process.pid]
        self._forget(process)
        self.on_remove(process.pid)

    def _forget(self, process: Process) -> None:
        """Lets a process that left the list go, or keeps it while what it spawned is there.

        Its caveats and limits bind those it spawned, also when it is listed no more.
        """
        if process.heirs:
            self._ghosts[process.pid] = process
            process.journal_if_possible()
            process.record("reaped")
            return
        self._ghosts.pop(process.pid, None)
        self._journal.forget(process.pid)
        above = process.above
        if above is not None:
            above.heirs -= 1
            above.journal_if_ended()
            used = above.account.forget(process.account).to_json()
            try:
                above.record("settled", used=used)
            except KernelError as exc:
                above.account.settle(Totals(**used))
                log.error("what agent %d used is not in a journal: %s", process.pid, exc)
            if not above.heirs and above.pid in self._ghosts:
                self._forget(above)

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


async def _any_spec(cred: Credentials, spec: AgentSpec) -> None:
    """Takes any spec: a bare table knows no models."""


async def _any_paths(cred: Credentials, spec: AgentSpec) -> AgentSpec:
    """Takes paths as they are: a bare table knows no files."""
    return spec


async def _no_program(process: Any) -> Outcome:
    raise UnavailableError("the agent service is not running: see sys/services/agent")


async def _no_agent(cred: Credentials, name: str) -> AgentSpec:
    raise NotFoundError(f"no agent {name!r} is installed")

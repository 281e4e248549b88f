"""How an agent comes to be: its effective spec, what may refuse it, and its first record."""

import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.checkpoint import Snapshot
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    DisconnectedError,
    ExistsError,
    InvalidError,
    NoProcessError,
    NotFoundError,
    NotPermittedError,
)
from nexusfs.contracts.hooks import SpawnContext
from nexusfs.contracts.proc import KERNEL_PID, ProcessInfo
from nexusfs.contracts.store import Journal
from nexusfs.contracts.task import WORKER_MAX_TURNS, Delegated
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.hooks import Hooks
from nexusfs.kernel.last import Last
from nexusfs.kernel.proc.narrow import Plan, Settings, effective_spec
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.rebuild import restored_fields
from nexusfs.kernel.proc.steps import Host
from nexusfs.kernel.proc.verbs import Verbs

RESTORED = (
    "interrupted: the checkpoint was written before this call was done, its outcome is unknown"
)

AgentLoader = Callable[[Credentials, str], Awaitable[AgentSpec]]
"""Reads the spec of an installed agent with the caller's rights."""


@dataclass(frozen=True, slots=True)
class ProcSettings(Settings):
    """The configuration's part in processes.

    Attributes:
        retain_seconds, retain_count: how long, and how many, ended agents stay listed.
        cost_usd_per_user_day: what all agents of one user may cost in one day, UTC; inf: anything.
    """

    retain_seconds: float = math.inf
    retain_count: int = 1000
    cost_usd_per_user_day: float = math.inf


@dataclass(frozen=True, slots=True)
class _Wish:
    """A spawn under way: what is asked for, by whom, and what it starts from."""

    cred: Credentials
    wanted: AgentSpec
    base: AgentSpec | None
    snapshot: Snapshot | None
    delegated: Delegated | None = None


class Spawning(Verbs):
    """The part of the process table that makes processes."""

    hooks: Hooks
    host: Host
    settings: ProcSettings
    load_agent: AgentLoader
    check_cwd: Callable[[Credentials, str], Awaitable[None]]
    settle_paths: Callable[[Credentials, AgentSpec], Awaitable[AgentSpec]]
    check_spec: Callable[[Credentials, AgentSpec], None]
    _journal: Journal
    _tool_names: Callable[[], list[str]]
    _processes: dict[int, Process]
    _by_key: dict[tuple[int, str], int]
    _last: Last[int]
    _halting: bool

    def __iter__(self) -> Iterator[Process]:
        """All processes, by pid."""
        return iter(self._processes.values())

    def check_on(self) -> None:
        """UnavailableError EOPNOTSUPP while the agent service is not running; `off` says why."""
        raise NotImplementedError

    def prune(self) -> None:
        """Drops the retired processes that are over the limits."""
        raise NotImplementedError

    def set_going(self, process: Process) -> None:
        """Starts the program of a process."""
        raise NotImplementedError

    async def spawn(
        self, cred: Credentials, wanted: AgentSpec, parent_pid: int | None = None,
        delegated: Delegated | None = None,
    ) -> ProcessInfo:  # fmt: skip
        """Creates and starts an agent; the parent is the caller's agent, `parent_pid`, or pid 1.

        What is `delegated` to it makes it a worker; see `kernel.tasks`.

        Raises:
            NotFoundError, AccessError, NotSpecError: the installed agent is absent, not
                executable, no spec; the checkpoint is not there.
            NotPermittedError: EPERM, it asks for more than its parent has, or for another zone.
            ExistsError: EEXIST, a singleton of that name lives.
            NoProcessError: ESRCH, the parent has ended.
            QuotaError: EDQUOT, a limit of its parent, or above, is reached.
            KernelError: what a pre_spawn hook says; nothing is left behind.

        Suspends while the installed agent or the checkpoint is read, and in hooks; cancelling
        before it has a pid leaves nothing.
        """
        self.check_on()
        if parent_pid is not None:
            cred = self._as_parent(cred, parent_pid)
        known = self._by_idempotency_key(cred, wanted)
        if known is not None:
            return self._remember(cred, known)
        wish = await self._wish_of(cred, wanted)
        if delegated is not None:
            wish = replace(_as_worker(wish), delegated=delegated)
        plan = self._plan(wish)  # refused before any hook hears of it
        context = _spawn_context(cred, plan.spec)
        await self.hooks.before("pre_spawn", context)
        self._check_time(cred, plan.spec)  # the hooks may have taken long
        known = self._by_idempotency_key(cred, wanted)
        if known is not None:
            return self._remember(cred, known)
        process = self._create(wish, plan)
        self._remember(cred, process)
        context.pid = process.pid
        await self.hooks.after("post_spawn", context)
        for warning in context.warnings:
            if not process.state.ended:
                process.record("warning", text=warning)
        return process.info()

    async def _wish_of(self, cred: Credentials, wanted: AgentSpec) -> _Wish:
        await self.check_cwd(cred, wanted.cwd)
        wanted = await self.settle_paths(cred, wanted)
        if wanted.restore is None:
            base = await self.load_agent(cred, wanted.agent) if wanted.agent else None
            if base is not None:
                base = await self.settle_paths(cred, base)
            return _Wish(cred, wanted, base, None)
        snapshot = await self.checkpoints.load(cred, wanted.restore, wanted.name or wanted.agent)
        self._check_zone(cred, snapshot)
        base = AgentSpec.model_validate({**snapshot.spec, "restore": None}, strict=False)
        return _Wish(cred, wanted, base.model_copy(update={"name": snapshot.agent_id}), snapshot)

    def _check_zone(self, cred: Credentials, snapshot: Snapshot) -> None:
        """NotFoundError ENOENT for an agent that asks for a checkpoint of another zone."""
        caller = self._processes.get(cred.agent_pid) if cred.agent_pid else None
        if caller is not None and caller.spec.zone != snapshot.zone:
            raise NotFoundError(f"no checkpoint in zone {caller.spec.zone!r} has that hash")

    def _plan(self, wish: _Wish) -> Plan:
        """What the agent gets. All that can refuse a spawn, but for hooks, is in here."""
        plan = effective_spec(
            wish.wanted, wish.base, self._parent_of(wish.cred), self._tool_names(),
            self.settings,
        )  # fmt: skip
        self.check_spec(wish.cred, plan.spec)
        self._check_time(wish.cred, plan.spec)
        return plan

    def _check_time(self, cred: Credentials, spec: AgentSpec) -> None:
        """What can change from one moment to the next. ENOTCONN, ESRCH, EEXIST."""
        if self._halting:
            raise DisconnectedError("the kernel is going: it starts nothing any more")
        self._check_room(cred)
        if spec.singleton:
            self._check_single(spec.name or spec.agent)

    def _check_room(self, cred: Credentials) -> None:
        """QuotaError EDQUOT when limits of the parent, or of the user, admit no other agent."""
        parent = self._parent_of(cred)
        account = parent.account if parent else self.host.purse_of(cred.uid)
        if account is not None:
            account.check_spawn()

    def _create(self, wish: _Wish, plan: Plan) -> Process:
        """Makes the process and sets it going. Atomic."""
        self.prune()
        cred, parent = wish.cred, self._parent_of(wish.cred)
        pid = self._journal.allocate_pid()
        process = Process(
            pid,
            parent.pid if parent else KERNEL_PID,
            cred.as_agent(pid),
            plan.spec,
            self._journal.append,
            self.host,
        )
        process.warnings = plan.warnings
        restored = restored_fields(wish.snapshot, wish.wanted.task) if wish.snapshot else {}
        process.record(
            "spawn", pid=pid, ppid=process.parent_pid, agent=process.agent_id,
            uid=cred.uid, gid=cred.gid,
            groups=sorted(cred.groups), time_ns=now_ns(), spec=plan.spec.to_dict(),
            limits=plan.limits, caveats=[caveat.to_json() for caveat in plan.caveats],
            warnings=list(plan.warnings),
            **restored, **({"delegated": wish.delegated.to_dict()} if wish.delegated else {}),
        )  # fmt: skip
        process.be_born_of(parent)
        process.answer_open_calls(RESTORED)
        self._processes[pid] = process
        if parent is not None:
            parent.add_child(pid)
        if plan.spec.idempotency_key:
            self._by_key[cred.uid, plan.spec.idempotency_key] = pid
        self.set_going(process)
        return process

    def _by_idempotency_key(self, cred: Credentials, wanted: AgentSpec) -> Process | None:
        """The process that this user's same key made before."""
        pid = self._by_key.get((cred.uid, wanted.idempotency_key)) if wanted.idempotency_key else 0
        return self._processes.get(pid or 0)

    def _as_parent(self, cred: Credentials, parent_pid: int) -> Credentials:
        """The credentials of a parent that the caller names: pid 1, itself, or one of his agents.

        NoProcessError ESRCH, NotPermittedError EPERM.
        """
        if parent_pid == (cred.agent_pid or KERNEL_PID):
            return cred
        if parent_pid == KERNEL_PID:
            raise NotPermittedError("what an agent starts is its own child, or its descendants'")
        parent = self.get(parent_pid)
        self.check_owner(cred, parent)
        return parent.cred

    def _parent_of(self, cred: Credentials) -> Process | None:
        """The agent that asks; None for people. NoProcessError ESRCH for one that has ended."""
        if not cred.agent_pid:
            return None
        parent = self._processes.get(cred.agent_pid)
        if parent is None or parent.state.ended:
            raise NoProcessError(f"agent {cred.agent_pid} has ended: it starts nothing any more")
        return parent

    def _remember(self, cred: Credentials, process: Process) -> ProcessInfo:
        self._last.set(cred, process.pid)
        return process.info()

    def _check_single(self, name: str | None) -> None:
        if not name:
            raise InvalidError("a singleton needs a name")
        for process in self:
            if process.agent_id == name and not process.state.ended:
                raise ExistsError(f"agent {name!r} already runs as pid {process.pid}")


def _as_worker(wish: _Wish) -> _Wish:
    """A worker has its own number of turns, where neither the wish nor its agent says one."""
    said = wish.wanted.model_fields_set | (wish.base.model_fields_set if wish.base else set())
    if "max_turns" in said:
        return wish
    wanted = wish.wanted.model_copy(update={"max_turns": WORKER_MAX_TURNS})
    return replace(wish, wanted=wanted)


def _spawn_context(cred: Credentials, spec: AgentSpec) -> SpawnContext:
    return SpawnContext(
        spec.name or spec.agent or "", spec.zone, 0, cred.agent_pid or KERNEL_PID, cred.uid,
        spec.metadata, spec,
    )  # fmt: skip

"""How an agent comes to be: its effective spec, what may refuse it, and its first record."""

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.checkpoint import Snapshot
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BusyError,
    CorruptError,
    DisconnectedError,
    ExistsError,
    InvalidError,
    KernelError,
    NoProcessError,
    NotFoundError,
    NotPermittedError,
)
from nexusfs.contracts.hooks import SpawnContext
from nexusfs.contracts.proc import KERNEL_PID, SIGKILL_EXIT, Outcome, Priority, ProcessInfo
from nexusfs.contracts.store import Journal
from nexusfs.contracts.task import WORKER_MAX_TURNS, Delegated
from nexusfs.kernel.clock import now_ns
from nexusfs.kernel.hooks import Hooks
from nexusfs.kernel.last import Last
from nexusfs.kernel.proc.evicting import Evicting
from nexusfs.kernel.proc.kinds import shared
from nexusfs.kernel.proc.narrow import Plan, Settings, effective_spec
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.rebuild import restored_fields

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


@dataclass(frozen=True, slots=True)
class _Start:
    """One agent of a batch; nothing but `wanted` for one that its idempotency key has made."""

    wanted: AgentSpec
    wish: _Wish | None = None
    plan: Plan | None = None
    context: SpawnContext | None = None

    @property
    def has_work(self) -> bool:
        """True for a new agent that will ask for a slot by itself."""
        restored = self.wish is not None and self.wish.snapshot is not None
        return self.plan is not None and (restored or bool(self.plan.spec.task))


class Spawning(Evicting):
    """The part of the process table that makes processes."""

    hooks: Hooks
    settings: ProcSettings
    load_agent: AgentLoader
    check_cwd: Callable[[Credentials, str], Awaitable[None]]
    settle_paths: Callable[[Credentials, AgentSpec], Awaitable[AgentSpec]]
    check_spec: Callable[[Credentials, AgentSpec], Awaitable[None]]
    _journal: Journal
    _tool_names: Callable[[], list[str]]
    _processes: dict[int, Process]
    _by_key: dict[tuple[int, str], int]
    _last: Last[int]

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
            CorruptError: EIO, the checkpoint is not what an agent can go on from.
            NotPermittedError: EPERM, it asks for more than its parent has, or for another zone.
            ExistsError: EEXIST, a singleton of that name lives.
            CapacityError: EAGAIN, the queue is full, or there is no room.
            NoProcessError: ESRCH, the parent has ended.
            QuotaError: EDQUOT, a limit of its parent, or above, is reached.
            KernelError: what a pre_spawn hook says; nothing is left behind.

        Suspends while the installed agent or the checkpoint is read, in hooks, and while others
        make room; cancelling before it has a pid leaves nothing.
        """
        return (await self.spawn_batch(cred, [wanted], parent_pid, delegated))[0]

    async def spawn_batch(
        self, cred: Credentials, wanted: Sequence[AgentSpec], parent_pid: int | None = None,
        delegated: Delegated | None = None,
    ) -> list[ProcessInfo]:  # fmt: skip
        """Creates and starts all of these agents at once, or none. Raises what `spawn` raises."""
        self.check_on()
        if parent_pid is not None:
            cred = self._as_parent(cred, parent_pid)
        starts = [await self._start_of(cred, one, delegated) for one in wanted]
        for start in starts:
            if start.context is not None:
                await self.hooks.before("pre_spawn", start.context)
        specs = [start.plan.spec for start in starts if start.plan]
        self._check_queue(starts)  # before anybody makes room in vain
        try:
            await self.make_room(specs)
            processes = self._create_all(cred, starts)
        finally:
            self.refill()
        for (process, is_new), start in zip(processes, starts, strict=True):
            self._remember(cred, process)
            if is_new and start.context is not None:
                await self._after_spawn(process, start.context)
        return [process.info() for process, _ in processes]

    async def _start_of(
        self, cred: Credentials, wanted: AgentSpec, delegated: Delegated | None
    ) -> _Start:
        """What one of them gets; refused before any hook hears of it."""
        if self._by_idempotency_key(cred, wanted) is not None:
            return _Start(wanted)
        wish = await self._wish_of(cred, wanted)
        if delegated is not None:
            wish = replace(_as_worker(wish), delegated=delegated)
        plan = self._plan(wish)
        await self.check_spec(cred, plan.spec)
        return _Start(wanted, wish, plan, _spawn_context(cred, plan.spec))

    def _create_all(
        self, cred: Credentials, starts: Sequence[_Start]
    ) -> list[tuple[Process, bool]]:
        """Makes them all, or none; False for one that its key has made before. Atomic."""
        plans = [start.plan for start in starts if start.plan is not None]
        if plans:  # hooks and others may have taken long
            self._check_limits(cred, len(plans))
        for plan in plans:
            self._check_time(plan.spec)
        self._check_queue(starts)
        found: list[tuple[Process, bool]] = []
        try:
            for start in starts:
                known = self._by_idempotency_key(cred, start.wanted)
                found.append((known or self._create_one(cred, start), known is None))
        except KernelError:
            for process, is_new in found:
                if is_new:
                    self.end(process, Outcome(SIGKILL_EXIT, "its batch could not be started"))
            raise
        return found

    def _check_queue(self, starts: Sequence[_Start]) -> None:
        """CapacityError EAGAIN; who has nothing to do yet is not in the queue."""
        count = sum(start.has_work for start in starts)
        if count:
            self.host.room.check_queue(self.host.slots.waiting, count)

    def _create_one(self, cred: Credentials, start: _Start) -> Process:
        if start.plan is None or start.wish is None:
            raise BusyError("the agent of that idempotency_key is just gone: try again")
        self._check_time(start.plan.spec)  # of two singletons of a name one wins
        return self._create(start.wish, start.plan)

    async def _after_spawn(self, process: Process, context: SpawnContext) -> None:
        context.pid = process.pid
        await self.hooks.after("post_spawn", context)
        for warning in context.warnings:
            if not process.state.ended:
                process.record("warning", text=warning)

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
        said = {**snapshot.spec, "restore": None, "name": snapshot.agent_id}
        try:
            base = AgentSpec.model_validate(said, strict=False)
        except ValidationError as exc:
            raise CorruptError(f"the spec of the checkpoint is none: {exc}") from None
        return _Wish(cred, wanted, base, snapshot)

    def _check_zone(self, cred: Credentials, snapshot: Snapshot) -> None:
        """NotFoundError ENOENT for an agent that asks for a checkpoint of another zone."""
        if not self.sees(cred, snapshot.zone):
            zone = self.get(cred.agent_pid).spec.zone
            raise NotFoundError(f"no checkpoint in zone {zone!r} has that hash")

    def _plan(self, wish: _Wish) -> Plan:
        """What the agent gets. All that can refuse a spawn, but for hooks, is in here."""
        plan = effective_spec(
            wish.wanted, wish.base, self._parent_of(wish.cred), self._tool_names(),
            self.settings,
        )  # fmt: skip
        plan = _ranked(plan, wish, self._parent_of(wish.cred))
        self._check_limits(wish.cred)
        self._check_time(plan.spec)
        return plan

    def _check_time(self, spec: AgentSpec) -> None:
        """What can change from one moment to the next. ENOTCONN, EEXIST."""
        if self._halting:
            raise DisconnectedError("the kernel is going: it starts nothing any more")
        if spec.singleton:
            self._check_single(spec.name or spec.agent)

    def _check_limits(self, cred: Credentials, count: int = 1) -> None:
        """QuotaError EDQUOT when limits of the parent, or of the user, admit no more agents.

        NoProcessError ESRCH when the parent has ended.
        """
        parent = self._parent_of(cred)
        account = parent.account if parent else self.host.purse_of(cred.uid)
        if account is not None:
            account.check_spawn(count)

    def _create(self, wish: _Wish, plan: Plan) -> Process:
        """Makes the process and sets it going. Atomic."""
        self.prune()
        cred, parent = wish.cred, self._parent_of(wish.cred)
        said = plan.spec.to_dict()
        spec = shared(plan.spec, said)
        pid = self._journal.allocate_pid()
        process = Process(
            pid,
            parent.pid if parent else KERNEL_PID,
            cred.as_agent(pid),
            spec,
            self._journal.append,
            self.host,
        )
        process.warnings = plan.warnings
        more = restored_fields(wish.snapshot, wish.wanted.task) if wish.snapshot else {}
        if parent is not None and parent.nice:
            more["nice"] = parent.nice
        process.record(
            "spawn", pid=pid, ppid=process.parent_pid, agent=process.agent_id,
            uid=cred.uid, gid=cred.gid,
            groups=sorted(cred.groups), time_ns=now_ns(), spec=said,
            limits=plan.limits, caveats=[caveat.to_json() for caveat in plan.caveats],
            warnings=list(plan.warnings),
            **more, **({"delegated": wish.delegated.to_dict()} if wish.delegated else {}),
        )  # fmt: skip
        process.be_born_of(parent)
        self._processes[pid] = process
        if parent is not None:
            parent.add_child(pid)
        if spec.idempotency_key:
            self._by_key[cred.uid, spec.idempotency_key] = pid
        process.take_room()
        if process.has_mail:
            self.host.room.expected.add(pid)
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
        spec.own_metadata(), spec,
    )  # fmt: skip


def _ranked(plan: Plan, wish: _Wish, parent: Process | None) -> Plan:
    """The plan with a priority that is not above the parent's, which is the default.

    NotPermittedError EPERM when a higher one is asked for, unless it says clamp.
    """
    if parent is None:
        return plan
    asked = "priority" in wish.wanted.model_fields_set
    named = asked or (wish.base is not None and "priority" in wish.base.model_fields_set)
    most = Priority.of(parent.spec)
    if named and Priority.of(plan.spec) >= most:
        return plan
    if asked and wish.wanted.on_excess == "refuse":
        raise NotPermittedError(
            f"its priority may not be above its parent's, {most.word} "
            '(leave it out, or say "on_excess": "clamp")'
        )
    warnings = (*plan.warnings, f"priority: {most.word}, as its parent's") if named else ()
    spec = plan.spec.model_copy(update={"priority": most.word})
    return replace(plan, spec=spec, warnings=warnings or plan.warnings)

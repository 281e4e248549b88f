"""The running system: syscalls, the mounted trees and the services beside them."""

import json
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import trio

from nexusfs.boot.config import Config, show_config
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import KernelError, NotDirectoryError, NotFoundError, UnavailableError
from nexusfs.contracts.hooks import Identity
from nexusfs.contracts.node import Node
from nexusfs.contracts.rights import Grant
from nexusfs.contracts.sandbox import Programs
from nexusfs.contracts.store import CallLog, Journal
from nexusfs.contracts.tool import AgentCalls, ToolContext
from nexusfs.contracts.words import path_from_the_root
from nexusfs.fs.dispatchfs import DispatchFs
from nexusfs.fs.procfs import ProcFs
from nexusfs.fs.sched_render import sched
from nexusfs.fs.sysfs import SysFs
from nexusfs.kernel.agentfile import load_installed
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.hooks import Hooks
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.spawning import ProcSettings
from nexusfs.kernel.proc.table import ProcessTable
from nexusfs.kernel.realpath import with_real_paths
from nexusfs.kernel.syscalls import Syscalls
from nexusfs.kernel.tools import ToolTable
from nexusfs.kernel.vfs.files import Vfs
from nexusfs.kernel.vfs.mounts import MountTable
from nexusfs.kernel.vfs.watch import Watch
from nexusfs.services.metrics import render_metrics
from nexusfs.services.sandbox.asker import Asker
from nexusfs.services.sandbox.service import Sandboxes
from nexusfs.services.tools.search import WalkSearch

log = logging.getLogger(__name__)

MODEL_GRACE_S = 1.0
"""A clean stop waits so long for model calls: cutting one costs its tokens twice, no effect."""


@dataclass(frozen=True, slots=True)
class Backing:
    """What the kernel stands on: the root filesystem and the two logs; the owner is their uid."""

    root: Node
    journal: Journal
    call_log: CallLog
    uid: int
    gid: int


@dataclass
class Kernel:
    """Everything that runs in one process over one store.

    Attributes:
        syscalls: the one way in.
        watch: news of changes, for doors with a cache.
        services: name → `running`, `degraded: why` or `off`; sys/services shows it.
        mounts: one entry for each door of kind mount, for sys/mounts.
        gauges: numbers for sys/metrics and sys/sessions.
        models: what sys/models lists; set by the model service.
        sandboxes: runs programs; None while that service is off.
    """

    config: Config
    config_path: Path
    backing: Backing
    services: dict[str, str] = field(default_factory=dict)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    gauges: dict[str, Callable[[], float]] = field(default_factory=dict)
    models: Callable[[], list[dict[str, Any]]] = list
    on_reload: list[Callable[[Config], None]] = field(default_factory=list)
    sandboxes: Sandboxes | None = None

    def __post_init__(self) -> None:
        """Wires the parts; nothing runs yet."""
        self._nursery: trio.Nursery | None = None
        self._tool_limits = MappingProxyType(self.config.tools.model_dump())
        self.watch = Watch()
        table = MountTable(self.backing.root)
        self.hooks = Hooks()
        self.hooks.start = self.start
        self.tools = ToolTable(self._context_of, self._usable, self.hooks, self._identity)
        self.processes = ProcessTable(
            self.backing.journal, self.tools.all_names, self._proc_settings(), self.hooks
        )
        self._set_slots()
        self.syscalls = Syscalls(Vfs(table, self.watch), self.processes, self.tools)
        self.syscalls.approvals.all_three = self.config.rights.all_three_labels
        self.processes.load_agent = partial(load_installed, self.syscalls)
        self.processes.check_cwd = self._check_cwd
        self.processes.settle_paths = partial(with_real_paths, self.syscalls)
        self.syscalls.vfs.walker.guard.lists_of = self._lists_of
        uid = self.backing.uid
        dispatch = DispatchFs(self.syscalls, self, self.backing.call_log, uid)
        table.mount(b"proc", ProcFs(self.syscalls, self, uid, dispatch.agent_dir).root)
        table.mount(b"dispatch", dispatch.root)
        table.mount(
            b"sys", SysFs(self._sys_files(), self._own_files(), self.services, self, uid).root
        )
        self.gauges["open_handles"] = lambda: len(self.syscalls.descriptors.files)
        self.gauges["running_tools"] = lambda: self.tools.running
        self.gauges["model_slots_in_use"] = lambda: self.processes.host.slots.in_use
        self.gauges["model_slots_waiting"] = lambda: self.processes.host.slots.waiting
        self.gauges["agents_evicted"] = lambda: len(self.processes.host.room.evicted)

    # -- what control files need (kernfs.Background)

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` in the kernel's nursery; what it raises is a line of the log."""
        if self._nursery is None:
            raise UnavailableError("the kernel is not running")
        self._nursery.start_soon(_contained, work)

    def report(self, cred: Credentials, path: str, op: str, exc: KernelError) -> None:
        """Keeps a control error for sys/error_log."""
        self.syscalls.error_log.add(cred, path, op, exc)

    # -- life

    def run_in(self, nursery: trio.Nursery) -> None:
        """Sets the agents going."""
        self._nursery = nursery
        if not self.processes.off:
            self.processes.start(nursery)
            self.syscalls.tasks.start(self.start)

    def reload(self, config: Config) -> None:
        """Takes a new configuration into use (SIGHUP)."""
        self.config = config
        self._tool_limits = MappingProxyType(config.tools.model_dump())
        self.processes.configure(self._proc_settings())
        self.syscalls.approvals.all_three = config.rights.all_three_labels
        self._set_slots()
        self.processes.refill()
        for listener in self.on_reload:
            listener(config)
        log.info("configuration reloaded from %s", self.config_path)

    async def settle(self) -> None:
        """Lets steps under way come to their end, within the grace that the configuration gives."""
        grace_s = self.config.stop_grace_s
        with trio.CancelScope(shield=True):
            await self.processes.settle(min(grace_s, MODEL_GRACE_S), grace_s)

    def shut(self) -> None:
        """Stops agents where they are, and answers every further call with ENOTCONN."""
        self.processes.suspend()
        self.syscalls.gate.shut = True

    # -- parts

    def _proc_settings(self) -> ProcSettings:
        config = self.config
        seconds = math.inf if config.retain_seconds is None else config.retain_seconds
        limits = config.limits
        return ProcSettings(
            config.default_model,
            math.inf if limits.cost_usd_per_agent is None else limits.cost_usd_per_agent,
            limits.unknown_price == "allow",
            seconds,
            config.retain_count,
            math.inf if limits.cost_usd_per_user_day is None else limits.cost_usd_per_user_day,
        )

    def _set_slots(self) -> None:
        slots = self.processes.host.slots
        slots.total, slots.per_owner = self.config.model_slots, self.config.slots_per_owner
        slots.ageing_s = self.config.slot_ageing_s
        room = self.processes.host.room
        room.resident_max, room.queue_max = self.config.resident_max, self.config.queue_max
        slots.hand_on()

    def _identity(self, cred: Credentials) -> Identity:
        return self.processes.identity(cred)

    def _context_of(self, cred: Credentials, call_id: str) -> ToolContext:
        files = BoundSyscalls(self.syscalls, cred.through("tool"))
        process = self.processes.find(cred.agent_pid)
        cwd, key = "/", call_id
        if process is not None:
            cwd = process.spec.cwd
            key = f"{process.pid}-{process.started_ns:x}-{call_id}"
        return ToolContext(
            files, cwd, call_id, WalkSearch(files), self._tool_limits,
            self._mountpoints(), key, self._programs_of(cred, files, process, call_id),
            cast(AgentCalls, files),  # its system calls are made at need
        )  # fmt: skip

    def _programs_of(
        self, cred: Credentials, files: BoundSyscalls, process: Process | None, call_id: str
    ) -> Programs | None:
        if self.sandboxes is None:
            return None
        if process is None:
            asker = Asker(cred, files, "", call_id, _shown_to_nobody, _never)
        else:
            asker = Asker(
                cred, files, process.agent_id, call_id, process.show,
                partial(process.programs_are_over, process.rights.grants()), process.rights.paths,
            )  # fmt: skip
        return self.sandboxes.programs_of(asker)

    def held_by_sandboxes_alone(self) -> bool:
        """True when programs run over a mount that the host has no more."""
        return self.sandboxes is not None and self.sandboxes.are_left_over()

    def agent_of(self, host_pid: int) -> int:
        """The agent that a thread of the host asks for; 0 for people, -1 when that is unknown."""
        return self.sandboxes.callers.agent_of(host_pid) if self.sandboxes else 0

    def _mountpoints(self) -> tuple[str, ...]:
        return tuple(row["mountpoint"] for row in self.mounts)

    async def _check_cwd(self, cred: Credentials, cwd: str) -> None:
        """NotFoundError ENOENT, NotDirectoryError ENOTDIR: `cwd` is no directory of the tree."""
        rooted = path_from_the_root(cwd, self._mountpoints())
        hint = f": paths start at the mount point, write {rooted!r}" if rooted else ""
        try:
            st = await self.syscalls.sys_stat(cred, cwd)
        except NotFoundError:
            raise NotFoundError(f"$.cwd: no such directory: {cwd!r}{hint}") from None
        if not st.is_dir:
            raise NotDirectoryError(f"$.cwd: not a directory: {cwd!r}")

    def _usable(self, cred: Credentials, tools: tuple[str, ...]) -> tuple[str, ...]:
        pid = cred.agent_pid
        if not pid:
            return tools
        process = self.processes.find(pid)
        return () if process is None else process.rights.usable(tools)

    def _lists_of(self, pid: int) -> Sequence[Sequence[Grant]]:
        """What binds the file calls of an agent; nothing may be seen by one that is gone."""
        process = self.processes.find(pid)
        return ((),) if process is None else process.rights.grants()

    def _sys_files(self) -> dict[str, Callable[[], bytes]]:
        return {
            "version": lambda: version("nexusfs").encode() + b"\n",
            "metrics": lambda: render_metrics(self.syscalls, self.gauges),
            "config": lambda: show_config(self.config, self.config_path),
            "models": lambda: _json_lines(self.models()),
            "mounts": lambda: _json_lines(self.mounts),
            "sessions": self._sessions,
        }

    def _own_files(self) -> dict[str, Callable[[Credentials], bytes]]:
        return {
            "error_log": self.syscalls.error_log.lines,
            "sched": partial(sched, self.processes),
        }

    def _sessions(self) -> bytes:
        flat = {name: value() for name, value in self.gauges.items()}
        return "".join(f"{name} {value:g}\n" for name, value in flat.items()).encode()


async def _contained(work: Callable[[], Awaitable[None]]) -> None:
    """Runs what nobody waits for: an error of it would end every agent, and the mount."""
    try:
        await work()
    except Exception:
        log.exception("work beside the kernel failed")


async def _never() -> str:
    """Programs of people end when they end."""
    await trio.sleep_forever()
    return ""


def _shown_to_nobody(kind: str, **fields: Any) -> None:
    """A person has no events_pipe."""


def _json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

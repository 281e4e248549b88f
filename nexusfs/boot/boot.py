"""Boot: opens the store, wires the kernel, starts the services, and runs until told to stop."""

import contextlib
import importlib
import importlib.metadata
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from nexusfs.boot.config import Config
from nexusfs.boot.environment import daemon_environment
from nexusfs.boot.first_boot import make_tmp, mount_audit, own_credentials, populate
from nexusfs.boot.kernel import Backing, Kernel
from nexusfs.boot.schema_process import COMMAND
from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import KernelError, NotPermittedError, UnavailableError
from nexusfs.contracts.proc import Priority
from nexusfs.contracts.tool import LABELS
from nexusfs.drivers.audit_local import LocalAuditLog
from nexusfs.drivers.store_local import open_store
from nexusfs.fs.storefs import StoreFS
from nexusfs.kernel.proc.durable import Rounds
from nexusfs.services.agent.program import AgentProgram
from nexusfs.services.audit import AuditHook
from nexusfs.services.checkpoints import CheckpointFiles
from nexusfs.services.homes import Homes
from nexusfs.services.hook_programs import HookPrograms
from nexusfs.services.llm.client import WorkerClient, WorkerSetup
from nexusfs.services.llm.router import ModelRouter
from nexusfs.services.llm.settings import check_settings
from nexusfs.services.policy import Policy
from nexusfs.services.sandbox.service import Sandboxes
from nexusfs.services.schemas import SchemaChecks
from nexusfs.services.tools import BUILTIN

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BootOptions:
    """What boot needs to know.

    Attributes:
        store: directory of the store; made when absent.
        env_fd: memfd with the user's environment, for the model worker; None for an empty one.
        key_names: names of the keys in it.
        log_fd: where the worker's stderr goes; None: the kernel's own.
        mountpoint: where the tree will be mounted, symlinks resolved; empty for nowhere.
    """

    store: Path
    config: Config
    config_path: Path
    env_fd: int | None = None
    key_names: tuple[str, ...] = ()
    log_fd: int | None = None
    mountpoint: str = ""


@contextlib.asynccontextmanager
async def running_kernel(options: BootOptions) -> AsyncIterator[Kernel]:
    """A kernel over a store, with its services, while the block runs.

    At the end the steps of agents that are under way settle (`Kernel.settle`), their journals are
    complete, and the store is closed. A service that fails to start is `degraded: why` in
    sys/services; a store that cannot be opened is an error: KernelError.
    """
    store = open_store(options.store)
    try:
        cred = own_credentials()
        files = StoreFS(store)
        backing = Backing(files.root, store.journal, store.calls, cred.uid, cred.gid)
        kernel = Kernel(options.config, options.config_path, backing)
        await populate(kernel.syscalls, cred)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(files.write_back.run)
            await _Services(kernel, options, nursery).start()
            kernel.run_in(nursery)
            try:
                yield kernel
            finally:
                await kernel.settle()
                kernel.shut()
                nursery.cancel_scope.cancel()
    finally:
        store.close()


async def check_spec(
    router: ModelRouter, schemas: SchemaChecks, cred: Credentials, spec: AgentSpec
) -> None:
    """Refuses at spawn what the first model call, or its answer, would refuse.

    Raises:
        InvalidError: EINVAL, a model's name, a setting or the output_schema.
        NotPermittedError: EPERM, a script of the host, from another user than the kernel's own:
            the kernel would open it with its own rights; or a priority above normal.
    """
    if Priority.of(spec) < Priority.NORMAL and cred.uid not in (0, os.getuid()):
        raise NotPermittedError(
            "critical and high are for root and the user who mounted: they go before everybody's"
        )
    check_settings(spec.model_settings)
    for name in (spec.model, *spec.fallback_models):
        model = router.resolve(name)
        if model.startswith("offline/script:") and cred.uid != os.getuid():
            raise NotPermittedError(
                "offline/script is for the user who mounted: it reads host files"
            )
    if spec.output_schema is not None:
        await schemas.check_schema(spec.output_schema, cred.uid)


class _Services:
    """Starts each service; what fails is degraded and named, and the kernel boots without it."""

    def __init__(self, kernel: Kernel, options: BootOptions, nursery: trio.Nursery) -> None:
        self._kernel = kernel
        self._options = options
        self._nursery = nursery
        self._router: ModelRouter | None = None

    async def start(self) -> None:
        """Starts them in order; later ones may need earlier ones."""
        starts = {
            "audit": self._audit, "hooks": self._hooks, "tools": self._tools,
            "sandbox": self._sandbox, "models": self._models, "agents": self._agents,
        }  # fmt: skip
        for name, start in starts.items():
            self._kernel.services[name] = await self._state_of(name, start)
        agents = self._kernel.services["agents"]
        if agents != "running":
            self._kernel.processes.off = f"agents are not available here ({agents})"

    async def _state_of(self, name: str, start: Callable[[], Awaitable[str | None]]) -> str:
        """The state after `start`, which may say in a sentence what it has to do without."""
        if name in self._options.config.services_off:
            return "off"
        try:
            lacks = await start()
        except Exception as exc:
            log.exception("service %s failed at boot", name)
            return f"degraded: {exc}"
        return f"degraded: {lacks}" if lacks else "running"

    async def _audit(self) -> None:
        log_file = LocalAuditLog(self._options.store / "audit.jsonl")
        await mount_audit(self._kernel.syscalls, log_file, self._kernel.backing)
        self._kernel.hooks.register(AuditHook(log_file), "audit")

    async def _hooks(self) -> None:
        hooks = self._kernel.hooks
        for point in importlib.metadata.entry_points(group="nexusfs.hooks"):
            loaded = point.load()
            hooks.register(loaded() if isinstance(loaded, type) else loaded, point.name)
        uid = self._kernel.backing.uid
        programs = HookPrograms(
            self._kernel.syscalls, uid, daemon_environment(), self._kernel.start
        )
        hooks.register(programs, "hooks.json")
        programs.tell(lambda fault: self._show("hooks", fault))

    def _show(self, service: str, fault: KernelError | None) -> None:
        state = "running" if fault is None else f"degraded: {' '.join(str(fault).split())}"
        self._kernel.services[service] = state

    async def _tools(self) -> None:
        network = self._options.config.sandbox.network
        for tool in BUILTIN:
            goes_out = network and tool.annotations["openWorldHint"]
            self._kernel.tools.register(replace(tool, labels=LABELS) if goes_out else tool)
        for name in self._options.config.tool_modules:
            for tool in importlib.import_module(name).TOOLS:
                self._kernel.tools.register(tool)

    async def _sandbox(self) -> str:
        kernel = self._kernel
        sandboxes = Sandboxes(self._options.config.sandbox, self._options.mountpoint)
        lacks = await sandboxes.find()
        await make_tmp(kernel.syscalls, own_credentials())
        kernel.sandboxes, kernel.processes.sandbox = sandboxes, sandboxes.kind
        kernel.gauges["sandboxes"] = lambda: len(sandboxes.callers)

        def configure(config: Config) -> None:
            sandboxes.settings = config.sandbox

        kernel.on_reload.append(configure)
        return lacks

    async def _models(self) -> None:
        options = self._options
        worker = WorkerClient(WorkerSetup(options.env_fd, str(options.config_path), options.log_fd))
        await self._nursery.start(worker.run)
        self._router = router = ModelRouter(
            worker, aliases=options.config.model_aliases,
            default_model=options.config.default_model, key_names=options.key_names,
        )  # fmt: skip
        router.resolve(None)  # a default that is no model degrades the service, with a sentence
        self._kernel.models = router.available
        self._kernel.on_reload.append(
            lambda config: router.configure(config.model_aliases, config.default_model)
        )

    async def _agents(self) -> None:
        if self._router is None:
            raise UnavailableError("models are not running, and agents need them")
        processes, calls = self._kernel.processes, self._kernel.syscalls
        calls.approvals.policy = Policy(calls, self._kernel.backing.uid)
        journal, limiter = self._kernel.backing.journal, trio.CapacityLimiter(1)
        sync = partial(trio.to_thread.run_sync, journal.sync, limiter=limiter)
        processes.host.on_disk = Rounds(sync).reached
        homes = Homes(calls, self._options.config.tools.output_chars)
        self._kernel.on_reload.append(lambda config: homes.configure(config.tools.output_chars))
        processes.checkpoints = CheckpointFiles(calls, homes)
        processes.restore()
        schemas = SchemaChecks(COMMAND)
        await self._nursery.start(schemas.run)
        processes.program = AgentProgram(self._router, calls, homes, schemas.check_answer)
        processes.check_spec = partial(check_spec, self._router, schemas)

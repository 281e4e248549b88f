"""A whole kernel with all its services, without a mount, and agents that play scripts."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from nexusfs.boot.boot import BootOptions, running_kernel
from nexusfs.boot.config import Config
from nexusfs.boot.kernel import Kernel
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.proc import ExitStatus
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.proc.process import Process
from tests.kernel_fixture import ROOT, events_of


class World:
    """A kernel, and what tests do with it as root."""

    def __init__(self, kernel: Kernel, directory: Path) -> None:
        self.kernel = kernel
        self.calls = kernel.syscalls
        self.files = BoundSyscalls(kernel.syscalls, ROOT)
        self._directory = directory

    def script(self, *turns: dict[str, Any]) -> str:
        """The model that plays these turns."""
        path = self._directory / f"script-{len(list(self._directory.glob('script-*')))}"
        path.write_text(json.dumps(turns))
        return f"offline/script:{path}"

    async def play(
        self, *turns: dict[str, Any], cred: Credentials = ROOT, **fields: Any
    ) -> Process:
        """A new agent whose model plays these turns; offline/echo when there are none."""
        model = self.script(*turns) if turns else "offline/echo"
        raw = {"model": model, "task": "go", **fields}
        return self.process((await self.calls.sys_proc_spawn(cred, raw)).pid)

    def process(self, pid: int) -> Process:
        return self.kernel.processes.get(pid)

    async def end_of(self, process: Process) -> ExitStatus:
        return await self.calls.sys_proc_wait(ROOT, process.pid, 30)

    async def text(self, path: str) -> str:
        return (await self.files.read_file(path)).decode()


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A turn that calls one tool."""
    return {"tool_calls": [{"name": name, "arguments": arguments}]}


async def happened(process: Process, kind: str, count: int = 1) -> None:
    """Returns when the process has had so many events of a kind."""
    while len(events(process, kind)) < count:
        await process.events.changed()


def events(process: Process, kind: str) -> list[dict[str, Any]]:
    """Events of one kind."""
    found = events_of(bytes(process.events.data).splitlines())
    return [event for event in found if event["type"] == kind]


@contextlib.asynccontextmanager
async def world(directory: Path, store: str = "store", **config: Any) -> AsyncIterator[World]:
    """A kernel over the store of that name in `directory`."""
    options = BootOptions(
        directory / store, Config.model_validate(config), directory / "config.toml"
    )
    async with running_kernel(options) as kernel:
        assert set(kernel.services.values()) <= {"running", "off"}, kernel.services
        yield World(kernel, directory)

"""What the loop needs of the world, as narrow as it goes: tools to run, and an agent's home."""

from typing import Any, Protocol

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.proc import ProgramProcess
from nexusfs.contracts.tool import Tool, ToolResult


class Dispatcher(Protocol):
    """The system calls that a turn needs; `Syscalls` has them."""

    async def sys_tools(self, cred: Credentials) -> list[Tool]:
        """The tools that the agent may use."""
        ...

    async def sys_permit(
        self, cred: Credentials, name: str, arguments: dict[str, Any], call_id: str,
        *, wait: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """The arguments with which a call may run; a person may have to be asked."""
        ...

    async def sys_dispatch(
        self, cred: Credentials, name: str, arguments: dict[str, Any], call_id: str | None = None
    ) -> ToolResult:
        """Runs one."""
        ...


class Home(Protocol):
    """An agent's own files: /home/<agent>."""

    async def prepare(self, process: ProgramProcess) -> None:
        """Makes the home of an agent that has paths of its own; it could not do that itself."""
        ...

    async def memory(self, process: ProgramProcess) -> str:
        """What MEMORY.md says; empty when there is none that the agent may trust."""
        ...

    async def fitted(self, process: ProgramProcess, call_id: str, output: str) -> str:
        """The output of a tool, or its beginning and where the whole of it was put."""
        ...

    async def checkpoint(self, process: ProgramProcess) -> None:
        """Writes a checkpoint and records it; a failure is recorded too and raises nothing."""
        ...


class NoHome:
    """An agent without files: the bare loop's."""

    async def prepare(self, process: ProgramProcess) -> None:
        """There is nothing to make."""

    async def memory(self, process: ProgramProcess) -> str:
        """Nothing."""
        return ""

    async def fitted(self, process: ProgramProcess, call_id: str, output: str) -> str:
        """All of it."""
        return output

    async def checkpoint(self, process: ProgramProcess) -> None:
        """There is nowhere to write one."""

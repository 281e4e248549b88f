"""Agents' homes: /home/<agent>, with MEMORY.md, checkpoints/ and outputs/, all ordinary files.

A home is made when it is first needed, by the kernel, for the agent's user alone (0700); what is in
it is written with the agent's own rights. So a home of another user's agent of the same name is
EACCES, and a memory that its user did not write is not read.
"""

import logging
import os

from nexusfs.contracts.agent import NAME
from nexusfs.contracts.cred import KERNEL_CRED, Credentials
from nexusfs.contracts.errors import (
    AccessError,
    ExistsError,
    InvalidError,
    KernelError,
    NotFoundError,
)
from nexusfs.contracts.node import Change
from nexusfs.contracts.proc import ProgramProcess
from nexusfs.kernel.bound import BoundSyscalls
from nexusfs.kernel.syscalls import Syscalls

log = logging.getLogger(__name__)

HOME_MODE = 0o700
MEMORY_BYTES = 64 << 10
"""As much of MEMORY.md joins the prompt."""
SHOWN_PART = 4
"""Of an output over the limit, the first 1/4 of the limit is shown."""


class Homes:
    """The homes in one tree."""

    def __init__(self, calls: Syscalls, output_chars: int = 100_000) -> None:
        """Outputs of tools over `output_chars` characters go to files."""
        self._calls = calls
        self._output_chars = output_chars

    def configure(self, output_chars: int) -> None:
        """Takes another limit into use."""
        self._output_chars = output_chars

    async def directory(self, cred: Credentials, agent_id: str, name: str) -> str:
        """The path of a directory in an agent's home; both are made where they are absent.

        AccessError EACCES: the home is another user's. NoSpaceError ENOSPC. InvalidError EINVAL:
        `agent_id` is no name, so what it names may be anywhere.
        """
        if not NAME.fullmatch(agent_id):
            raise InvalidError(f"no name of an agent: {agent_id!r}")
        home = f"/home/{agent_id}"
        files = BoundSyscalls(self._calls, cred)
        try:
            await files.sys_mkdir(f"{home}/{name}", HOME_MODE)
        except ExistsError:
            pass
        except NotFoundError:
            await self._make_home(cred, home)
            await files.sys_mkdir(f"{home}/{name}", HOME_MODE)
        except AccessError:
            raise AccessError(
                f"{home} belongs to another user: give the agent a name of its own"
            ) from None
        return f"{home}/{name}"

    async def _make_home(self, cred: Credentials, home: str) -> None:
        for path, mode in (("/home", 0o755), (home, HOME_MODE)):
            try:
                await self._calls.sys_mkdir(KERNEL_CRED, path, mode)
            except ExistsError:
                continue
            if path == home:
                owner = Change(uid=cred.uid, gid=cred.gid)
                await self._calls.sys_setattr(KERNEL_CRED, path, owner)

    # -- what the agent's loop needs

    async def prepare(self, process: ProgramProcess) -> None:
        """Makes the home of an agent whose paths name it: it may write in it, but not make it."""
        spec = process.spec
        if spec.paths is not None and (spec.name or spec.agent):
            try:
                await self._make_home(process.cred, f"/home/{process.agent_id}")
            except KernelError as exc:
                log.warning("agent %d has no home: %s", process.pid, exc)

    async def memory(self, process: ProgramProcess) -> str:
        """What MEMORY.md says; empty when there is none that the agent's user, or root, wrote."""
        path = f"/home/{process.agent_id}/MEMORY.md"
        files = BoundSyscalls(self._calls, process.cred)
        try:
            st = await files.stat(path)
            if st.uid not in (0, process.cred.uid):
                return ""
            data = await files.read_file(path, size=MEMORY_BYTES)
        except KernelError:
            return ""
        text = data.decode("utf-8", "replace").strip()
        return f"{text}\n[the rest is left out]" if st.size > MEMORY_BYTES else text

    async def fitted(self, process: ProgramProcess, call_id: str, output: str) -> str:
        """The output of a tool, or its beginning and the path of the file that has all of it."""
        if len(output) <= self._output_chars:
            return output
        shown = output[: self._output_chars // SHOWN_PART]
        try:
            directory = await self.directory(process.cred, process.agent_id, "outputs")
            path = f"{directory}/{process.pid}-{_file_name(call_id)}.txt"
            data = output.encode("utf-8", "replace")
            await BoundSyscalls(self._calls, process.cred).write_file(path, data)
        except KernelError as exc:
            where = f"and could not be kept: {exc}"
        else:
            where = f"and is whole in {path}: read it there, in parts"
        return f"{shown}\n[the output has {len(output)} characters, {where}]"

    async def checkpoint(self, process: ProgramProcess) -> None:
        """Writes a checkpoint by the agent's own wish; a failure is in its events."""
        try:
            await self._calls.sys_proc_checkpoint(process.cred, process.pid, automatic=True)
        except KernelError as exc:
            log.info("agent %d has no checkpoint: %s", process.pid, exc)


def _file_name(call_id: str) -> str:
    """A call's id, which a model's provider made, as a file name."""
    kept = "".join(char if char.isalnum() or char in "-_" else "_" for char in call_id[:100])
    return kept or os.urandom(8).hex()

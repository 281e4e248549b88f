"""What one does to a living agent: the verbs of proc/<pid>/ctl but its end, and messages.

Each takes `cred` and checks it: a person may act on his own agents, root on all, an agent on its
descendants. EPERM for others, EBUSY in a state that does not allow it, ESRCH for an unknown pid.
"""

from collections.abc import Iterator
from typing import Any

from nexusfs.contracts.agent import parse_spec
from nexusfs.contracts.checkpoint import CheckpointInfo, Checkpoints, NoCheckpoints
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import (
    BusyError,
    InvalidError,
    KernelError,
    NotPermittedError,
    PipeClosedError,
)
from nexusfs.contracts.limits import LIMITS, shown
from nexusfs.contracts.proc import NICE_MAX, NICE_MIN, SIGINT_EXIT, Outcome, ProcState
from nexusfs.kernel.proc.caveats import Caveat
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.rebuild import snapshot_of

CUTS = frozenset({
    "tools", "disallowed_tools", "paths", "delegate", "permission_mode", "rules",
})  # fmt: skip
"""Fields of a spec that say what it may use or hand on."""


class Verbs:
    """The verbs, over a table that knows processes, descent and how to end one."""

    checkpoints: Checkpoints = NoCheckpoints()

    def __iter__(self) -> Iterator[Process]:
        """All processes."""
        raise NotImplementedError

    def get(self, pid: int) -> Process:
        """The process. NoProcessError ESRCH."""
        raise NotImplementedError

    def descends(self, process: Process, ancestor_pid: int) -> bool:
        """True when the process is a descendant of that one."""
        raise NotImplementedError

    def end(self, process: Process, outcome: Outcome) -> None:
        """Ends a process and its subtree."""
        raise NotImplementedError

    # -- who may

    def check_owner(self, cred: Credentials, process: Process) -> None:
        """NotPermittedError EPERM unless the caller may act on the process."""
        if cred.agent_pid:
            if not self.descends(process, cred.agent_pid):
                raise NotPermittedError(f"agent {cred.agent_pid} may only signal its own children")
        elif cred.uid not in (0, process.cred.uid):
            raise NotPermittedError(f"process {process.pid} is not yours")

    def check_live(self, cred: Credentials, pid: int) -> Process:
        """The process, when the caller may act on it and it lives. EPERM, EBUSY, ESRCH."""
        process = self.get(pid)
        self.check_owner(cred, process)
        if process.state.ended:
            raise BusyError(f"process {pid} has ended")
        return process

    def check_listens(self, cred: Credentials, pid: int) -> Process:
        """The process, when the caller may talk to it and it lives. EPIPE, EPERM, ESRCH."""
        process = self.get(pid)
        self.check_owner(cred, process)
        if process.state.ended:
            raise PipeClosedError(f"process {pid} has ended")
        return process

    # -- verbs

    def interrupt(self, cred: Credentials, pid: int) -> None:
        """Drops the current turn: a chat agent waits for a message, a oneshot ends with -2."""
        process = self.check_live(cred, pid)
        if process.spec.mode == "oneshot":
            self.end(process, Outcome(SIGINT_EXIT, "interrupted"))
        else:
            process.interrupt()

    def stop(self, cred: Credentials, pid: int) -> None:
        """Pauses a process before its next step."""
        self.check_live(cred, pid).move(ProcState.PAUSED)

    def cont(self, cred: Credentials, pid: int) -> None:
        """Lets a paused process go on."""
        process = self.check_live(cred, pid)
        process.move(ProcState.RUNNING)
        process.resume()

    def send(self, cred: Credentials, pid: int, text: str, source: str = "stdin") -> None:
        """A message for the next turn. PipeClosedError EPIPE when the process has ended."""
        self.check_listens(cred, pid).post(text, source)

    def steer(self, cred: Credentials, pid: int, text: str) -> None:
        """A message that changes the course of a living agent, delivered at its next turn."""
        self.check_live(cred, pid).post(text, "steer")

    def nice(self, cred: Credentials, pid: int, value: int) -> None:
        """Sets how much a process gives way to others: -20 to 19; only root may lower it.

        Source: nice(2).
        """
        process = self.check_live(cred, pid)
        if not NICE_MIN <= value <= NICE_MAX:
            raise InvalidError(f"nice takes a number from {NICE_MIN} to {NICE_MAX}")
        if value < process.nice and (cred.uid != 0 or cred.agent_pid):
            raise NotPermittedError(f"only root may lower the nice value below {process.nice}")
        process.record("nice", value=value)

    # -- rights

    def restrict(self, cred: Credentials, pid: int, cut: dict[str, Any]) -> None:
        """Cuts a living agent's rights, and with them those of all its descendants, at once.

        `cut` has what a spec has of rights: tools, disallowed_tools, paths, delegate. Nothing
        that it says gives anything back. InvalidError EINVAL for any other key, or none.
        """
        process = self.check_live(cred, pid)
        unknown = sorted(cut.keys() - CUTS)
        if unknown or not cut:
            fault = f"unknown key {unknown[0]!r}" if unknown else "it cuts nothing"
            raise InvalidError(f"{fault}: write {', '.join(sorted(CUTS))} as a spec has them")
        process.record("restrict", caveat=Caveat.of(parse_spec(cut)).to_json())

    # -- limits

    def set_limit(self, cred: Credentials, pid: int, name: str, value: float | None) -> None:
        """Sets a ceiling of a living agent, up to that above it; None is as much as that gives.

        What is below what is used stops it at its next check. NotPermittedError EPERM above that;
        InvalidError EINVAL, no limit of that name.
        """
        process = self.check_live(cred, pid)
        if name not in LIMITS:
            raise InvalidError(f"no limit {name!r}: one of {', '.join(LIMITS)}")
        above = process.account.above.given(name) if process.account.above else None
        if above is not None and (value is None or value > above):
            raise NotPermittedError(f"{name} can be {shown(above)} at most: so it is above it")
        process.record("limit", name=name, value=value)
        if name == "wall_seconds":
            for one in self:
                one.set_deadline()

    # -- checkpoints

    async def checkpoint(
        self, cred: Credentials, pid: int, *, automatic: bool = False
    ) -> CheckpointInfo:
        """Pauses a process and writes a checkpoint of it; it stays paused until `cont`.

        An `automatic` one is the process's own, and does not pause it. Cancelling, or a failure to
        write, lets a process that ran go on.
        """
        process = self.get(pid)
        if cred.agent_pid != pid:
            self.check_live(cred, pid)
        ran = process.state is ProcState.RUNNING and not automatic
        if ran:
            process.move(ProcState.PAUSED)
        try:
            info = await self.checkpoints.save(
                process.cred, snapshot_of(process), automatic=automatic
            )
        except BaseException as exc:
            if isinstance(exc, KernelError) and not process.state.ended:
                process.record("checkpoint_failed", error=str(exc))
            if ran and process.state is ProcState.PAUSED:
                process.move(ProcState.RUNNING)
                process.resume()
            raise
        if not process.state.ended:
            process.record(
                "checkpoint", hash=info.checkpoint_hash, turn=process.turns, automatic=automatic
            )
        return info

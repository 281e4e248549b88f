"""What callers see of the processes: snapshots, who somebody is, and zones."""

from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import InvalidError
from nexusfs.contracts.hooks import Identity
from nexusfs.contracts.proc import ProcessInfo, ProcState
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.spawning import Spawning


class Looking(Spawning):
    """The part of the process table that only looks."""

    def last_pid(self, cred: Credentials) -> int | None:
        """What the caller's session spawned last."""
        return self._last.get(cred)

    def identity(self, cred: Credentials) -> Identity:
        """Who a caller is, as hooks are told."""
        process = self._processes.get(cred.agent_pid) if cred.agent_pid else None
        if process is None:
            return Identity("", "", cred.agent_pid, 0, cred.uid, {})
        return Identity(
            process.agent_id, process.spec.zone, process.pid, process.parent_pid, cred.uid,
            process.spec.own_metadata(),
        )  # fmt: skip

    def visible(self, cred: Credentials, process: Process) -> bool:
        """False for an agent that looks at a process of another zone."""
        return self.sees(cred, process.spec.zone)

    def visible_pids(self, cred: Credentials) -> list[int]:
        """The processes that the caller sees, by pid."""
        if not cred.agent_pid:
            return list(self._processes)
        return [process.pid for process in self if self.visible(cred, process)]

    def sees(self, cred: Credentials, zone: str) -> bool:
        """False for an agent of another zone."""
        if not cred.agent_pid:
            return True
        caller = self._processes.get(cred.agent_pid)
        return caller is not None and caller.spec.zone == zone

    def snapshots(
        self, cred: Credentials, zone: str | None = None, state: str | None = None
    ) -> list[ProcessInfo]:
        """Snapshots of what the caller sees, by pid. InvalidError EINVAL for an unknown state."""
        self.check_on()
        if state is not None and state not in set(ProcState):
            raise InvalidError(f"no state {state!r}: one of {', '.join(ProcState)}")
        self.prune()
        found = (p for p in self if zone in (None, p.spec.zone) and state in (None, p.state))
        return [process.info() for process in found if self.visible(cred, process)]

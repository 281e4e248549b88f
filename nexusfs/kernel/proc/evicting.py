"""Who makes room, and who goes on when there is room again."""

import logging
from collections.abc import Sequence

from nexusfs.contracts.agent import AgentSpec
from nexusfs.contracts.cred import Credentials
from nexusfs.contracts.errors import CapacityError, KernelError
from nexusfs.contracts.proc import Priority
from nexusfs.kernel.proc.process import Process
from nexusfs.kernel.proc.steps import Host
from nexusfs.kernel.proc.verbs import Verbs

log = logging.getLogger(__name__)


class Evicting(Verbs):
    """The part of the process table that keeps the number of resident agents below its bound.

    Resident is who lives and was not evicted. An evicted agent is paused, has a checkpoint, and
    goes on by itself when there is room.
    """

    host: Host
    _halting: bool

    async def make_room(self, specs: Sequence[AgentSpec]) -> None:
        """Evicts until there is room for all of these, each for one that is less important.

        CapacityError EAGAIN, and nobody is evicted for good. Suspends while checkpoints are
        written; when it returns there is room until the caller suspends.
        """
        room = self.host.room
        priority = max((Priority.of(spec) for spec in specs), default=Priority.NORMAL)
        while specs and room.lacks(len(specs)):
            pid = room.victim(priority)
            if pid is None:
                raise CapacityError(
                    f"there is no room: {room.residents} agents live here, resident_max of the "
                    f"configuration is {room.resident_max}, and not enough of them are less "
                    f"important than {priority.word} and not immune; try again when one has ended"
                )
            await self._evict(self.get(pid))

    async def _evict(self, process: Process) -> None:
        process.evict()
        try:
            await self.checkpoint(process.cred, process.pid, automatic=True)
        except KernelError as exc:
            if process.evicted:
                process.go_on()
            raise CapacityError(
                f"agent {process.pid} was to make room and cannot be saved: {exc}"
            ) from exc

    def refill(self) -> None:
        """Lets evicted agents go on, the most important first, while there is room."""
        room = self.host.room
        while not self._halting and (pid := room.next_back()) is not None:
            try:
                self.get(pid).go_on()
            except KernelError as exc:
                log.error("agent %d cannot go on: %s", pid, exc)
                return

    def cont(self, cred: Credentials, pid: int) -> None:
        """Lets a paused process go on. CapacityError EAGAIN: it was evicted, and has no room."""
        process = self.check_live(cred, pid)
        if process.evicted and self.host.room.lacks():
            raise CapacityError(f"agent {pid} made room, and goes on by itself when there is some")
        process.go_on()
